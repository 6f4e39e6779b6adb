"""Models that are fused, trained on the spot: suites like B1 to B7 of GMorph, small or full size.

Spoken digits (which digit, who speaks, with which accent) and CIFAR-10 in groups (animal or not,
which kind, which class); with SOMMELIER_ZOO the real ones, without it synthetic samples with the
same dependences. The samples are divided once into four disjoint parts: `taught` trains the
originals and then, without labels, fused models, as in the paper; `select` and `certify` serve the
search, and `test` nothing at all. Source: GMorph 6.1, table 2.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from benchmarks.fusion_networks import POOL, Resnet, Vgg, Vit
from benchmarks.link_tasks import alone, recordings
from benchmarks.tuned_networks import ANIMALS, export
from sommelier.analysis.fusion.blocks import Blocks, linearised_together
from sommelier.analysis.fusion.distillation import answer
from sommelier.analysis.fusion.lessons import Lessons, Splits
from sommelier.analysis.fusion.module import FusedModule
from sommelier.analysis.links.formats import AnswerFormat

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]
Indices = NDArray[np.int64]
Data = Literal["spoken digits", "pictures"]

Network = Callable[..., nn.Module]  # of `channels` and `classes`

SIDE = 32
BATCH = 64
KINDS = (0, 1, 2, 3, 3, 3, 4, 3, 3, 0)  # the kind of each class of CIFAR-10
CHANNELS: Mapping[Data, int] = {"spoken digits": 1, "pictures": 3}
CLASSES = {"digit": 10, "speaker": 6, "accent": 4, "animal": 2, "kind": 5, "class": 10}
SHARES: Mapping[Data, tuple[float, float, float, float]] = {
    "spoken digits": (0.4, 0.2, 0.2, 0.2),
    "pictures": (0.4, 0.2, 0.2, 0.2),
}
# taught, select, certify, test; of 3 000 and of 10 000 samples. Where few select, they flatter:
# what lost .3 % of 600 pictures lost 3.6 % of those that certify
NOISE = 0.4  # on spoken digits, which are too easy without: a standard deviation of theirs
SHIFT = 2  # pixels by which a batch is moved at most while originals are trained


@dataclass(frozen=True, slots=True)
class Recipe:
    """A suite before its models are trained. networks : by task.

    epochs, rate : of training the originals. samples : at most, of all four parts together.
    lessons : how many of those that train the originals fused models see.
    """

    name: str
    data: Data
    networks: Mapping[str, Network]
    epochs: int = 8
    rate: float = 3e-3
    samples: int = 10_000
    lessons: int = 1_200


@dataclass(frozen=True, slots=True)
class Suite:
    """Originals and what they are asked. models : by task, of one input, (n, channels, 32, 32).

    test : positions of samples that no model was trained, chosen or certified by. seconds : of
    training the originals, 0 for those that were kept in a cache.
    """

    name: str
    data: str
    models: Mapping[str, onnx.ModelProto]
    blocks: Mapping[str, Blocks]
    lessons: Lessons
    test: Indices
    seconds: float

    @property
    def tested(self) -> Lessons:
        """The lessons with the test samples in the place of those that certify."""
        return replace(self.lessons, splits=replace(self.lessons.splits, certify=self.test))

    def accuracy(self, task: int) -> float:
        """Of an original on the test samples."""
        lessons = self.lessons
        return lessons.judge(tuple(a[self.test] for a in lessons.answers), self.test)[task].score


def _vgg(*widths: int, hidden: int) -> Network:
    return partial(Vgg, widths, hidden=hidden, side=SIDE)


def _vit(width: int, depth: int, heads: int, patch: int) -> Network:
    return partial(Vit, width, depth, heads, patch=patch, side=SIDE)


_SMALL_VGG = _vgg(12, POOL, 24, 24, POOL, 48, 48, POOL, hidden=48)
_DEEP_VGG = _vgg(16, POOL, 32, 32, 32, POOL, 64, 64, POOL, hidden=64)
_TINY_VGG = _vgg(8, POOL, 16, POOL, 32, POOL, hidden=32)
_VGG_13 = _vgg(
    64, 64, POOL, 128, 128, POOL, 256, 256, POOL, 512, 512, POOL, 512, 512, POOL, hidden=512
)
_VIT_BASE = _vit(768, 12, 12, 4)
SMALL = (
    Recipe(
        "3 VGG", "spoken digits",
        {"digit": _SMALL_VGG, "speaker": _SMALL_VGG, "accent": _SMALL_VGG}, epochs=12,
    ),
    Recipe(
        "VGG of 3 depths", "spoken digits",
        {
            "accent": _vgg(16, POOL, 32, POOL, 64, POOL, hidden=32),
            "speaker": _vgg(16, POOL, 32, 32, POOL, 48, 48, POOL, hidden=48),
            "digit": _DEEP_VGG,
        },
        epochs=12,
    ),
    Recipe(
        "2 ResNet", "spoken digits",
        {
            "digit": partial(Resnet, (16, 32, 64), (2, 2, 2)),
            "speaker": partial(Resnet, (24, 48, 96), (1, 1, 1)),
        },
        epochs=12, rate=1e-2,
    ),
    Recipe(
        "ResNet + VGG", "spoken digits",
        {"digit": partial(Resnet, (16, 32, 64), (1, 2, 2)), "speaker": _DEEP_VGG}, epochs=12,
    ),
    Recipe(
        "2 ViT", "spoken digits",
        {"digit": _vit(64, 4, 4, 8), "speaker": _vit(48, 4, 4, 8)}, epochs=40, rate=2e-3,
    ),
    Recipe(
        "VGG of 2 depths, pictures", "pictures",
        {
            "animal": _vgg(16, POOL, 32, POOL, 64, POOL, hidden=32),
            "kind": _vgg(16, POOL, 32, 32, POOL, 48, 48, POOL, hidden=48),
        },
        lessons=2_400,
    ),
    Recipe(
        "2 ResNet, pictures", "pictures",
        {
            "class": partial(Resnet, (16, 32, 64), (2, 2, 2)),
            "animal": partial(Resnet, (24, 48, 96), (1, 1, 1)),
        },
        rate=1e-2, lessons=2_400,
    ),
    Recipe(
        "ResNet + VGG, pictures", "pictures",
        {"kind": partial(Resnet, (16, 32, 64), (1, 2, 2)), "class": _DEEP_VGG}, lessons=2_400,
    ),
)  # fmt: skip
QUICK = (
    Recipe("2 small VGG", "spoken digits", {"digit": _TINY_VGG, "speaker": _TINY_VGG}, 5, 1e-2),
)
FULL = (
    Recipe(
        "3 VGG-13", "spoken digits",
        {"digit": _VGG_13, "speaker": _VGG_13, "accent": _VGG_13}, rate=1e-3,
    ),
    Recipe(
        "ResNet-34 + ResNet-18", "pictures",
        {
            "class": partial(Resnet, (64, 128, 256, 512), (3, 4, 6, 3)),
            "animal": partial(Resnet, (64, 128, 256, 512), (2, 2, 2, 2)),
        },
        epochs=15, rate=1e-3, lessons=4_000,
    ),
    Recipe(
        "2 ViT-Base", "spoken digits",
        {"digit": _VIT_BASE, "speaker": _VIT_BASE}, epochs=30, rate=1e-4,
    ),
)  # fmt: skip


def made(recipe: Recipe, seed: int, *, device: str = "cpu", cache: Path | None = None) -> Suite:
    """The suite with its originals trained, or read from the cache, a folder that may be empty."""
    name, x, labels = samples(recipe.data, recipe.samples, seed)
    taught, select, certify, test = _parts(len(x), SHARES[recipe.data], seed)
    start, trained_any, models = time.perf_counter(), False, {}
    for place, (task, network) in enumerate(recipe.networks.items()):
        kept = None if cache is None else cache / f"{_key(recipe, task, name, seed)}.onnx"
        if kept is not None and kept.exists():
            models[task] = onnx.load(kept)
            continue
        trained_any = True
        rows = x[taught], labels[task][taught]
        models[task] = _original(network, rows, recipe, seed + place, device)
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            onnx.save(models[task], kept)
    seconds = time.perf_counter() - start if trained_any else 0.0
    splits = Splits(np.sort(taught[: recipe.lessons]), select, certify)
    blocks = linearised_together(models)
    lessons = Lessons(
        (x,),
        answer(FusedModule.original(blocks), (x,), device=device),
        tuple(AnswerFormat("classes", CLASSES[task], "logits") for task in models),
        tuple(labels[task] for task in models),
        splits,
    )
    return Suite(recipe.name, name, models, blocks, lessons, test, seconds)


def samples(data: Data, most: int, seed: int) -> tuple[str, Floats, dict[str, Labels]]:
    """(name, x (n, channels, 32, 32), labels by task), n at most `most`, in random order."""
    rng = np.random.default_rng([seed, 5])
    if data == "spoken digits":
        heard = recordings(seed)
        noise = rng.normal(scale=NOISE, size=heard.x.shape).astype(np.float32)
        name, x, labels = heard.name, heard.x + noise, heard.labels
    else:
        name, x, labels = pictures(rng)
    order = rng.permutation(len(x))[:most]
    return name, x[order], {t: v[order] for t, v in labels.items() if t in CLASSES}


def pictures(rng: np.random.Generator) -> tuple[str, Floats, dict[str, Labels]]:
    """CIFAR-10's test images where SOMMELIER_ZOO is set, else synthetic ones of ten classes."""
    folder = os.environ.get("SOMMELIER_ZOO")
    if folder:
        stored = np.load(Path(folder) / "data" / "cifar10_test.npz")
        name, y = "CIFAR-10", stored["y"].astype(np.int64)
        x = (stored["x"].transpose(0, 3, 1, 2).astype(np.float32) / 255 - 0.5) * 4
    else:
        name, y = "synthetic pictures", np.arange(10_000) % 10
        x = _synthetic(y, rng)
    kinds = np.array(KINDS)
    animal = np.isin(y, ANIMALS).astype(np.int64)
    return name, x, {"class": y, "kind": kinds[y], "animal": animal}


def _synthetic(y: Labels, rng: np.random.Generator) -> Floats:
    """A pattern of the class, one of its kind, and noise, shifted at random."""
    patterns = [
        np.kron(rng.normal(size=(count, 3, SIDE // 4, SIDE // 4)), np.ones((4, 4)))
        for count in (10, max(KINDS) + 1)
    ]
    x = (patterns[0][y] + patterns[1][np.array(KINDS)[y]]).astype(np.float32)
    for axis in (2, 3):
        shift = rng.integers(-2, 3, len(y))
        places = (np.arange(SIDE) + shift[:, None]) % SIDE  # (n, side)
        x = np.take_along_axis(x, np.expand_dims(places, (1, 5 - axis)), axis)
    x += 3 * rng.standard_normal(x.shape, dtype=np.float32)
    found: Floats = x / x.std()
    return found


def _parts(n: int, shares: Sequence[float], seed: int) -> list[Indices]:
    """Taught in random order; select, certify and test sorted."""
    order = np.random.default_rng([seed, 6]).permutation(n)
    ends = np.round(n * np.cumsum(shares[:-1])).astype(int)
    taught, *others = np.split(order, ends)
    return [taught, *(np.sort(part) for part in others)]


def _original(
    build: Network,
    rows: tuple[Floats, Labels],
    recipe: Recipe,
    seed: int,
    device: str,
) -> onnx.ModelProto:
    """A network trained on samples and labels."""
    x, y = (torch.from_numpy(part).to(device) for part in rows)
    with alone(seed) as shuffle:
        network = build(channels=x.shape[1], classes=int(rows[1].max()) + 1).to(device)
        steps = recipe.epochs * (len(x) // BATCH)
        optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.rate, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, recipe.rate, total_steps=steps)
        for _ in range(recipe.epochs):
            order = torch.randperm(len(x), generator=shuffle)
            for batch in order[: len(x) // BATCH * BATCH].split(BATCH):
                shift = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=shuffle).tolist()
                optimiser.zero_grad()
                answers = network(x[batch].roll(shift, (2, 3)))
                functional.cross_entropy(answers, y[batch]).backward()
                optimiser.step()
                schedule.step()
        return export(network.cpu().eval(), (2, x.shape[1], SIDE, SIDE))


def _key(recipe: Recipe, task: str, data: str, seed: int) -> str:
    """Changes with everything that decides an original's weights: its architecture too."""
    with alone(0):
        network = recipe.networks[task](channels=CHANNELS[recipe.data], classes=CLASSES[task])
    decisive: tuple[Any, ...] = (
        recipe.epochs, recipe.rate, recipe.samples, SHARES[recipe.data][0], seed, data, task,
        str(network),
    )  # fmt: skip
    return hashlib.blake2b(repr(decisive).encode(), digest_size=8).hexdigest()
