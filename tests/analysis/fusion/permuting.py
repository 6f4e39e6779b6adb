"""Networks with their hidden units in a random order: the same functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto
from torch import Tensor, nn

from sommelier.analysis.execution import open_session
from sommelier.analysis.fusion.hidden_units import hidden_units, permuted_weights, untied
from sommelier.analysis.segments.editing import copy_of, prune, store
from sommelier.analysis.segments.normalising import normal_form
from tests.analysis.fusion.nets import Bert, Exporter, Vgg, Vit, export, mobilenet, resnet

Array = NDArray[Any]

IMAGE = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
WORDS = torch.arange(32).reshape(4, 8) % 20
MASK = (torch.arange(32).reshape(4, 8) % 8 < 6).long()
FAMILIES = ("vgg", "flat vgg", "resnet", "mobilenet", "vit", "bert")


def net(family: str, seed: int, classes: int = 5) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A small network of the family with random weights and statistics, and inputs for it."""
    torch.manual_seed(seed)
    made: dict[str, Any] = {
        "vgg": lambda: Vgg((8, 12, 16), (0, 1), classes, norm=True),
        "flat vgg": lambda: Vgg((8, 12), (0, 1), classes, flat=True),
        "resnet": lambda: resnet((8, 12), classes),
        "mobilenet": lambda: mobilenet((8, 12), classes),
        "vit": lambda: Vit(16, 2, classes),
        "bert": lambda: Bert(16, 2, classes),
    }
    found = made[family]().eval()
    for value in [*found.parameters(), *found.buffers()]:  # no two numbers are alike
        if value.is_floating_point():
            value.data += 0.05 * torch.rand_like(value)
    return found, (WORDS, MASK) if family == "bert" else (IMAGE,)


def exported(
    family: str, seed: int, classes: int = 5, exporter: Exporter = "torchscript"
) -> ModelProto:
    module, inputs = net(family, seed, classes)
    names = ("ids", "mask") if family == "bert" else ("x",)
    return export(module, inputs, exporter=exporter, names=names)


def shuffled(model: ModelProto, seed: int) -> ModelProto:
    """The model with every group of hidden units in a random order."""
    form = normal_form(untied(model))
    rng = np.random.default_rng(seed)
    orders = {units: rng.permutation(units.size) for units in hidden_units(form)}
    copy = copy_of(form)
    for name, array in permuted_weights(form, orders).items():
        store(copy, name, array)
    prune(copy)
    return copy


def answers(model: ModelProto, inputs: Sequence[Array]) -> list[Array]:
    session = open_session(model.SerializeToString(), 1)
    names = [value.name for value in session.get_inputs()]
    found: list[Array] = session.run(None, dict(zip(names, inputs, strict=True)))
    return found


def inputs_of(family: str) -> list[Array]:
    return [given.numpy() for given in ((WORDS, MASK) if family == "bert" else (IMAGE,))]
