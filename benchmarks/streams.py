"""Streams whose content drifts, and the models that watch them.

A stream is made of visits: someone calls and dials, or something stands before a camera. Who and
what comes changes from period to period; in the first, from which links learn, all come as often.
Consecutive frames resemble each other: each recording or picture is seen in three of them, and a
visit has several. Nothing that links learn from, or that a network was trained on, comes again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.zoo_pairs import prepared

Array = NDArray[Any]
Floats = NDArray[np.float32]
Rows = NDArray[np.int64]

PERIODS = 10  # links learn from the first: a tenth of the time, as in the paper
FRAMES = 3  # of one recording or picture
CONCENTRATION = 0.5  # Dirichlet's, of a period's mix: a few make most of it
SHOWN = 0.8  # of all samples; the others are left so that the last periods have a choice too

IMAGES = 5_000
IN_A_ROW = (1, 5)  # pictures of one class
SHAKE = 2  # pixels by which a picture moves between frames, at most
LIGHT = 0.1  # by which it becomes brighter or darker, at most
LADDER = (
    "cifar10_resnet20",
    "cifar10_resnet32",
    "cifar10_resnet44",
    "cifar10_resnet56",
    "ic_resnet8",
    "ic_resnet8_int8",
    "resnet_large_f",
    "ic_resnet_large_int8",
)


@dataclass(frozen=True, slots=True)
class Watcher:
    """A model of a stream, in ONNX. prepare : frames (n, ...) as its input, `given`, wants them."""

    name: str
    file: bytes
    given: str
    prepare: Callable[[Array], Array]


@dataclass(frozen=True, slots=True)
class Stream:
    """frames : (n, ...) in the order of time. period : int64 (n,). pictures : from frames what a
    filter looks at, float32 (n, height, width), of a variance about 1."""

    name: str
    frames: Array
    period: Rows
    watchers: tuple[Watcher, ...]
    pictures: Callable[[Array], Floats]

    def __len__(self) -> int:
        return len(self.frames)


@dataclass(frozen=True, slots=True)
class Order:
    """Samples in the order they come: their rows, periods, and visits, int64 (n,)."""

    row: Rows
    period: Rows
    visit: Rows


def camera(seed: int, *, images: int = IMAGES) -> Stream:
    """CIFAR-10 test images before a camera that shakes, watched by eight classifiers of the zoo."""
    folder = Path(os.environ["SOMMELIER_ZOO"])
    stored = np.load(folder / "data" / "cifar10_test.npz")
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(stored["y"]))[:images]
    x, y = stored["x"][chosen], stored["y"][chosen].astype(np.int64)
    order = drawn(y, np.zeros_like(y), IN_A_ROW, rng)
    frames = np.concatenate([_shaken(picture, rng) for picture in x[order.row]])
    watchers = tuple(_classifier(folder, name) for name in LADDER)
    return Stream("camera (CIFAR-10)", frames, np.repeat(order.period, FRAMES), watchers, _grey)


def drawn(
    who: Rows, what: Rows, visits: tuple[int, int], rng: np.random.Generator, *, again: int = 1
) -> Order:
    """Visits of one `who` each, of least to most (excluded) samples.

    Who comes and what is shown follow the period's mix, as far as there are samples left. Samples
    of the first period come once and never later, the others up to `again` times.
    """
    rows = rng.permutation(len(who))
    first = len(rows) * again // (PERIODS - 1 + again)
    pools = [_pool(rows[:first], who, what), _pool(np.repeat(rows[first:], again), who, what)]
    found: list[tuple[int, int, int]] = []
    visit = 0
    for period in range(PERIODS):
        comes, shown = (_mix(len(np.unique(of)), period, rng) for of in (who, what))
        left, until = pools[period > 0], (period + 1) * int(SHOWN * first)
        while len(found) < until:
            visitor = _one(comes, [a for (a, _), several in left.items() if several], rng)
            for _ in range(int(rng.integers(*visits))):
                choice = [b for (a, b), several in left.items() if a == visitor and several]
                if choice and len(found) < until:
                    found.append((left[visitor, _one(shown, choice, rng)].pop(), period, visit))
            visit += 1
    return Order(*np.array(found, dtype=np.int64).T)


def _pool(rows: Rows, who: Rows, what: Rows) -> dict[tuple[int, int], list[int]]:
    """The rows of every `who` and `what`."""
    found: dict[tuple[int, int], list[int]] = {}
    for row in rows.tolist():
        found.setdefault((int(who[row]), int(what[row])), []).append(row)
    return found


def _mix(n: int, period: int, rng: np.random.Generator) -> Array:
    return rng.dirichlet(np.full(n, CONCENTRATION)) if period else np.full(n, 1 / n)


def _one(shares: Array, among: Sequence[int], rng: np.random.Generator) -> int:
    """One of those that are left, by their shares."""
    left = sorted(set(among))
    wanted = shares[left] + 1e-9  # the rarest come when nothing else is left
    return int(rng.choice(left, p=wanted / wanted.sum()))


def _classifier(folder: Path, name: str) -> Watcher:
    model = onnx.load(folder / "onnx" / f"{name}.onnx")
    given = model.graph.input[0].name
    return Watcher(name, model.SerializeToString(), given, partial(prepared, name))


def _shaken(picture: Array, rng: np.random.Generator) -> Array:
    """FRAMES frames of a picture uint8 (32, 32, 3), moved and lit differently."""
    wide = np.pad(picture, ((SHAKE, SHAKE), (SHAKE, SHAKE), (0, 0)), mode="edge")
    found = []
    for _ in range(FRAMES):
        top, left = rng.integers(0, 2 * SHAKE + 1, 2)
        moved = wide[top : top + 32, left : left + 32] * rng.uniform(1 - LIGHT, 1 + LIGHT)
        found.append(np.clip(moved, 0, 255).astype(np.uint8))
    return np.stack(found)


def _grey(frames: Array) -> Floats:
    return np.asarray(frames.mean(axis=3, dtype=np.float32) / 64 - 2, dtype=np.float32)
