"""The student a link competes with: a small network distilled from the target on the same samples.

Two convolutions, as in the MLink paper, which see the sample itself and not another model's answer.
It learns the target's own answers (soft labels), by Adam at a rate that suits it better than the
paper's RMSprop, and keeps its best state on the validation samples.
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from benchmarks.link_tasks import Floats, alone
from sommelier.analysis.links import LinkAnswers, Split

CHANNELS = 8  # of the first convolution, twice as many of the second
RATE, BATCH = 2e-3, 32
EPOCHS, STEPS = 100, 1_000  # at most: of many samples each is seen fewer times
CHECKS = 25  # of the validation samples; the best state is kept


def distilled(inputs: Floats, target: LinkAnswers, rows: Split, seed: int) -> Floats:
    """What the student answers to the held-out samples, natural (n, width).

    inputs : (n, channels, size, size). Only targets that choose a class have a student.
    """
    x, wanted = torch.from_numpy(inputs), torch.from_numpy(target.values)
    with alone(seed) as shuffle:
        student = _student(inputs.shape[1], inputs.shape[2], target.format.width)
        optimiser = torch.optim.Adam(student.parameters(), lr=RATE)
        steps = min(STEPS, EPOCHS * -(-len(rows.train) // BATCH))
        least, best = float("inf"), student
        for step in range(1, steps + 1):
            batch = _batch(rows.train, shuffle)
            optimiser.zero_grad()
            functional.cross_entropy(student(x[batch]), wanted[batch]).backward()
            optimiser.step()
            if step % max(1, steps // CHECKS) == 0:
                loss = _loss(student, x[rows.validation], wanted[rows.validation])
                if loss < least:
                    least, best = loss, copy.deepcopy(student)
        return _answers(best, x[rows.held_out])


def _student(channels: int, size: int, outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, CHANNELS, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(CHANNELS, 2 * CHANNELS, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(2 * CHANNELS * (size // 4) ** 2, outputs),
    )  # fmt: skip


def _batch(rows: NDArray[np.int64], shuffle: torch.Generator) -> NDArray[np.int64]:
    size = min(BATCH, len(rows))
    return rows[torch.randperm(len(rows), generator=shuffle)[:size].numpy()]


def _loss(student: nn.Module, x: torch.Tensor, wanted: torch.Tensor) -> float:
    with torch.no_grad():
        return float(functional.cross_entropy(student(x), wanted))


def _answers(student: nn.Module, x: torch.Tensor) -> Floats:
    with torch.no_grad():
        parts = [student(part).softmax(1) for part in x.split(256)]
    return torch.cat(parts).numpy()
