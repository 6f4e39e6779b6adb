"""Three small VGG-like networks trained on handwritten digits, and what a search needs of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto

from sommelier.analysis.computing import torch_threads
from sommelier.analysis.fusion import Blocks, FusedModule, Lessons, Splits, answer, divide
from sommelier.analysis.fusion.blocks import linearised_together
from tests.analysis.fusion.nets import Vgg, export
from tests.analysis.fusion.toys import logits

Array = NDArray[Any]

NETS = {
    "digit": ((24, 24, 48, 48), (0, 1), 10),
    "parity": ((16, 16, 32, 32), (0, 1), 2),
    "large": ((24, 32), (0, 1), 2),
}  # widths, pools, classes (algorithms.md F.2, made smaller)
EPOCHS = 6
COPIES = 1
FEW = 400
SHARES = {"select": 0.25, "certify": 0.25}


@dataclass(frozen=True)
class Digits:
    """The models in blocks, lessons with labels, and few without, for searches that only have to
    run."""

    protos: Mapping[str, ModelProto]
    models: Mapping[str, Blocks]
    labelled: Lessons
    few: Lessons


@cache
def digits() -> Digits:
    """Trained once a run, on the samples that are fine-tuned on."""
    pixels, labels = images_and_labels()
    rows = splits().fine_tune
    protos = {}
    for seed, (task, (widths, pools, classes)) in enumerate(NETS.items()):
        torch.manual_seed(seed)
        net = Vgg(widths, pools, classes, channels=1, side=8)
        train(net, pixels[rows], labels[task][rows], seed)
        protos[task] = export(net, (torch.zeros(2, 1, 8, 8),), exporter="torchscript")
    return studied(protos)


def studied(protos: Mapping[str, ModelProto]) -> Digits:
    """The same for models that are trained already."""
    pixels, labels = images_and_labels()
    models = linearised_together(protos)
    taught = answer(FusedModule.original(models), [pixels])
    formats = tuple(logits(classes) for _, _, classes in NETS.values())
    truths = tuple(labels[task] for task in NETS)
    whole = Lessons((pixels,), taught, formats, truths, splits())
    part = tuple(given[:FEW] for given in taught)
    few = Lessons((pixels[:FEW],), part, formats, (None,) * len(NETS), divide(FEW, 0))
    return Digits(protos, models, whole, few)


def stored(folder: Path) -> Digits:
    """What `keep` kept."""
    return studied({task: onnx.load(folder / f"{task}.onnx") for task in NETS})


def keep(found: Digits, folder: Path) -> None:
    for task, proto in found.protos.items():
        onnx.save(proto, folder / f"{task}.onnx")


@cache
def images_and_labels() -> tuple[Array, dict[str, Array]]:
    """(n, 1, 8, 8) in -1..1, and the truth of every task. The 1797 digits, and those that are
    fine-tuned on COPIES times again, moved by a pixel."""
    from sklearn.datasets import load_digits

    data = load_digits()
    rng = np.random.default_rng(0)
    rows = divide(len(data.target), 0, **SHARES).fine_tune
    again = np.concatenate([np.arange(len(data.target)), *[rows] * COPIES])
    y = data.target[again].astype(np.int64)
    pixels = (data.images[again, None] / 8 - 1).astype(np.float32)
    for i in range(len(data.target), len(pixels)):
        pixels[i] = np.roll(pixels[i], rng.integers(-1, 2, 2), (1, 2))
    return pixels, {"digit": y, "parity": y % 2, "large": (y >= 5).astype(np.int64)}


def splits() -> Splits:
    """Copies belong to what is fine-tuned on, as the samples they are copies of."""
    count = 1797
    found = divide(count, 0, **SHARES)
    copies = np.arange(count, count + COPIES * len(found.fine_tune))
    return Splits(np.concatenate([found.fine_tune, copies]), found.select, found.certify)


def train(net: torch.nn.Module, x: Array, y: Array, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    inputs, truth = torch.from_numpy(x), torch.from_numpy(y)
    optimiser = torch.optim.Adam(net.parameters(), lr=5e-3)
    with torch_threads(1):
        for _ in range(EPOCHS):
            for batch in torch.randperm(len(x), generator=draw).split(64):
                optimiser.zero_grad()
                torch.nn.functional.cross_entropy(net(inputs[batch]), truth[batch]).backward()
                optimiser.step()
