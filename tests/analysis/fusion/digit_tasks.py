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

from sommelier.analysis.fusion import Blocks, FusedModule, Lessons, answer, divide
from sommelier.analysis.fusion.blocks import linearised_together
from sommelier.analysis.links.training import training_threads
from tests.analysis.fusion.nets import Vgg, export
from tests.analysis.fusion.toys import logits

Array = NDArray[Any]

NETS = {
    "digit": ((16, 16, 24, 24), (1, 3), 10),
    "parity": ((12, 12, 16, 16), (1, 3), 2),
    "large": ((16, 24), (0, 1), 2),
}  # widths, pools, classes (algorithms.md F.2, made smaller)
EPOCHS = 12


@dataclass(frozen=True)
class Digits:
    """The models in blocks, and lessons with or without labels."""

    protos: Mapping[str, ModelProto]
    models: Mapping[str, Blocks]
    labelled: Lessons
    unlabelled: Lessons


@cache
def digits() -> Digits:
    """Trained once a run, on the samples that are fine-tuned on."""
    pixels, labels = images_and_labels()
    rows = divide(len(pixels), 0).fine_tune
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
    splits = divide(len(pixels), 0)
    truths = tuple(labels[task] for task in NETS)
    found = [Lessons((pixels,), taught, formats, t, splits) for t in (truths, (None,) * 3)]
    return Digits(protos, models, *found)


def stored(folder: Path) -> Digits:
    """What `keep` kept."""
    return studied({task: onnx.load(folder / f"{task}.onnx") for task in NETS})


def keep(found: Digits, folder: Path) -> None:
    for task, proto in found.protos.items():
        onnx.save(proto, folder / f"{task}.onnx")


@cache
def images_and_labels() -> tuple[Array, dict[str, Array]]:
    """(1797, 1, 8, 8) in -1..1, and the truth of every task."""
    from sklearn.datasets import load_digits

    data = load_digits()
    y = data.target.astype(np.int64)
    pixels = (data.images[:, None] / 8 - 1).astype(np.float32)
    return pixels, {"digit": y, "parity": y % 2, "large": (y >= 5).astype(np.int64)}


def train(net: torch.nn.Module, x: Array, y: Array, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    inputs, truth = torch.from_numpy(x), torch.from_numpy(y)
    optimiser = torch.optim.Adam(net.parameters(), lr=5e-3)
    with training_threads(1):
        for _ in range(EPOCHS):
            for batch in torch.randperm(len(x), generator=draw).split(64):
                optimiser.zero_grad()
                torch.nn.functional.cross_entropy(net(inputs[batch]), truth[batch]).backward()
                optimiser.step()
