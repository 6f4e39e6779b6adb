"""The questions that a model of TensorFlow and its conversion have to answer alike.

Runs in TensorFlow's environment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.conversion.tensorflow_models import Array, Loaded, Port
from sommelier.analysis.conversion.tolerance import allowance
from sommelier.errors import RejectedModelError, first_line

SEED = 20221
LENGTHS = (16, 64, 224)  # tried in turn for axes that the model leaves open
IDS = (1000, 100)  # tried in turn: integers may be ids of a vocabulary whose size is not said
MIN_IDS = 2  # where neither is accepted
ROUNDING = 1e-6  # relative change of inputs that are as good as equal
STEADY = 1e-5  # relative change of answers to those; a tenth of what a conversion may differ by

Floats = Callable[[np.random.Generator, Sequence[int]], NDArray[np.float64]]
Feed = dict[str, Array]


def _normal(rng: np.random.Generator, shape: Sequence[int]) -> NDArray[np.float64]:
    return rng.standard_normal(shape)


def _unit(rng: np.random.Generator, shape: Sequence[int]) -> NDArray[np.float64]:
    return rng.random(shape)


def _pixels(rng: np.random.Generator, shape: Sequence[int]) -> NDArray[np.float64]:
    return rng.uniform(0, 255, shape)


QUESTIONS: tuple[tuple[int, Floats], ...] = ((3, _normal), (4, _unit), (1, _pixels))
"""Batch, where the model leaves it open, and what floats are drawn from."""


def answers(loaded: Loaded) -> tuple[tuple[Feed, ...], tuple[tuple[Array, ...], ...]]:
    """Seeded inputs, and the original's answers to them.

    Open axes get the first length, and integers the largest range, that the original accepts. Left
    out is what it refuses, and what its own answers depend on by rounding: neither tells whether
    another model is the same. Raises RejectedModelError where nothing is left.
    """
    error: Exception | None = None
    for length in LENGTHS:
        ids = _ranges(loaded, length)
        feeds, truths = [], []
        for number, (batch, floats) in enumerate(QUESTIONS):
            feed = _feed(loaded.inputs, (batch, length), floats, ids, SEED + number)
            try:
                truth = tuple(loaded.answer(list(feed.values())))
                steady = floats is not _pixels or _is_steady(loaded, feed, truth)
            except Exception as failed:  # TensorFlow's errors have no common base class
                error = failed
                continue
            if steady:
                feeds.append(feed)
                truths.append(truth)
        if feeds:
            return tuple(feeds), tuple(truths)
    reason = first_line(error) if error else "its answers depend on rounding"
    raise RejectedModelError(f"the original fails on random inputs: {reason}")


def _ranges(loaded: Loaded, length: int) -> dict[str, int]:
    """How many ids each input of integers is given, as far as the original accepts them."""
    batch, floats = QUESTIONS[0]
    ids = {p.name: MIN_IDS for p in loaded.inputs if _has_ids(p)}
    for name in list(ids):
        for count in IDS:
            wider = {**ids, name: count}
            feed = _feed(loaded.inputs, (batch, length), floats, wider, SEED)
            try:
                loaded.answer(list(feed.values()))
            except Exception:  # TensorFlow's errors have no common base class
                continue
            ids = wider
            break
    return ids


def _is_steady(loaded: Loaded, feed: Feed, truth: Sequence[Array]) -> bool:
    """Whether inputs that differ by rounding get the same answers, which are finite."""
    near = [
        np.asarray(value.astype(float) * (1 + ROUNDING), value.dtype)
        if value.dtype.kind == "f"
        else value
        for value in feed.values()
    ]
    return all(map(_alike, loaded.answer(near), truth))


def _alike(ours: Array, theirs: Array) -> bool:
    if theirs.dtype.kind != "f":
        return np.array_equal(ours, theirs)
    found, wanted = ours.astype(float), theirs.astype(float)
    if not (np.isfinite(found).all() and np.isfinite(wanted).all()):
        return False
    return bool((np.abs(found - wanted) <= STEADY * allowance(wanted)).all())


def _feed(
    inputs: Sequence[Port],
    lengths: tuple[int, int],
    floats: Floats,
    ids: dict[str, int],
    seed: int,
) -> Feed:
    """lengths : of the first axis, and of the others, where they are open."""
    rng = np.random.default_rng(seed)
    feed = {}
    for port in inputs:
        shape = [lengths[axis > 0] if n is None else n for axis, n in enumerate(port.shape)]
        found = _random(port, shape, floats, ids.get(port.name, MIN_IDS), rng)
        feed[port.name] = np.asarray(found)  # of no axes numpy makes a number, not an array
    return feed


def _random(
    port: Port, shape: list[int], floats: Floats, ids: int, rng: np.random.Generator
) -> Array:
    if port.dtype.startswith("float"):
        return floats(rng, shape).astype(port.dtype)
    if port.dtype in ("uint8", "int8"):  # pixels
        info = np.iinfo(port.dtype)
        return rng.integers(info.min, info.max, shape, endpoint=True).astype(port.dtype)
    if _has_ids(port):
        return rng.integers(0, ids, shape).astype(port.dtype)
    if port.dtype == "bool":
        return rng.random(shape) < 0.5
    raise RejectedModelError(f"input '{port.name}' is {port.dtype}, which ONNX Runtime cannot feed")


def _has_ids(port: Port) -> bool:
    return port.dtype in ("int16", "int32", "int64", "uint16", "uint32", "uint64")
