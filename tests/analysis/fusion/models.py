"""Sets of models that are fused in tests, exported once a run in several ways."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from onnx import ModelProto

from sommelier.analysis.fusion import Blocks, linearised_together
from tests.analysis.fusion.nets import (
    Array,
    Bert,
    Vgg,
    Vit,
    export,
    images,
    mobilenet,
    resnet,
)

DIGIT_NETS = (
    ((24, 24, 48, 48, 64), (1, 3), 10),
    ((16, 16, 32, 32, 48), (1, 3), 2),
    ((24, 32, 48), (0, 1), 2),
)  # widths, pools, classes: three tasks on 1 x 16 x 16 digits (algorithms.md F.2)
PICTURE = torch.zeros(2, 3, 16, 16)
WORDS = (torch.zeros(2, 8, dtype=torch.long), torch.ones(2, 8, dtype=torch.long))


@cache
def protos(family: str) -> dict[str, ModelProto]:
    """task -> model; exporters, opsets, fixed and open batches differ between the tasks."""
    torch.manual_seed(0)
    one = (PICTURE[:1],)
    if family == "digits":
        x = torch.zeros(2, 1, 16, 16)
        nets = (Vgg(w, p, c, channels=1) for w, p, c in DIGIT_NETS)
        ways = {f"digit{i}": net for i, net in enumerate(nets)}
        return {task: export(net, (x,), exporter="torchscript") for task, net in ways.items()}
    if family == "vgg":
        flat = Vgg([8, 12], [0, 1], 4, norm=True, flat=True)
        return {
            "a": export(Vgg([8, 8, 12], [1], 5), (PICTURE,)),
            "b": export(flat, (PICTURE,), exporter="torchscript", opset=16),
            "c": export(Vgg([6, 8, 12], [0], 3, norm=True), one, fixed=True, opset=20),
        }
    if family == "cnn":
        mobile = mobilenet([8, 12], 4)
        return {
            "resnet": export(resnet([8, 12], 4), (PICTURE,)),
            "mobilenet": export(mobile, one, fixed=True, exporter="torchscript"),
            "vgg": export(Vgg([8, 8, 12], [1], 5), (PICTURE,)),
        }
    if family == "vit":
        return {
            "a": export(Vit(16, 2, 4), (PICTURE,), exporter="torchscript", opset=16),
            "b": export(Vit(24, 2, 3), one, fixed=True, opset=17),
        }
    return {
        "a": export(Bert(16, 2, 4), WORDS, names=("ids", "mask")),
        "b": export(Bert(24, 2, 3), WORDS, exporter="torchscript", opset=16, names=("i", "m")),
    }


@cache
def in_blocks(family: str) -> dict[str, Blocks]:
    return linearised_together(protos(family))


def samples(family: str, count: int = 64) -> list[Array]:
    """Inputs of the family's models, in order."""
    if family == "bert":
        rng = np.random.default_rng(0)
        mask = np.ones((count, 8), np.int64)
        mask[:, 5:] = np.arange(count)[:, None] % 2
        return [rng.integers(0, 20, (count, 8)), mask]
    if family == "digits":
        return [images(count)[:, :1]]
    return [images(count)]
