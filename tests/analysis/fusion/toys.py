"""Small nets and lessons with a known answer: seconds to train, or nothing to train at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sommelier.analysis.fusion.distillation import teach
from sommelier.analysis.fusion.lessons import Lessons, divide
from sommelier.analysis.links.formats import AnswerFormat

Array = NDArray[Any]

FEATURES = 6


class TwoTasks(nn.Module):
    """One trunk, two heads: what a fused model looks like from outside."""

    def __init__(self, seed: int, hidden: int = 16, outputs: Sequence[int] = (3, 4)) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.trunk = nn.Sequential(nn.Linear(FEATURES, hidden), nn.ReLU())
        self.heads = nn.ModuleList(nn.Linear(hidden, width) for width in outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        shared = self.trunk(x)
        return tuple(head(shared) for head in self.heads)


class TwoLinear(nn.Module):
    """Two linear maps of one input; the loss of learning one is convex."""

    def __init__(self, seed: int, outputs: Sequence[int] = (3, 4)) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.maps = nn.ModuleList(nn.Linear(FEATURES, width) for width in outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(one(x) for one in self.maps)


def logits(width: int) -> AnswerFormat:
    return AnswerFormat("classes", width, "logits")


def numbers(width: int) -> AnswerFormat:
    return AnswerFormat("numbers", width, "values")


def lessons(
    teachers: nn.Module,
    formats: Sequence[AnswerFormat],
    *,
    n: int = 1000,
    truths: Sequence[Array | None] | None = None,
    seed: int = 0,
) -> Lessons:
    """Standard normal inputs, and what a module with one output a task answers to them."""
    inputs = np.random.default_rng(seed).normal(size=(n, FEATURES)).astype(np.float32)
    answers = teach([_One(teachers, task) for task in range(len(formats))], [inputs])
    return Lessons(
        (inputs,), answers, tuple(formats), tuple(truths or [None] * len(formats)), divide(n, seed)
    )


class _One(nn.Module):
    """One of several outputs."""

    def __init__(self, module: nn.Module, task: int) -> None:
        super().__init__()
        self.module, self.task = module, task

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.module(x)[self.task]
        return made
