"""A student for the classes that come most, with one class 'other' for all the rest.

It is distilled from the teacher's probabilities on inputs as they come, so it needs no labels;
where there are some, they are learned beside. Its last class tells what to send on. What gains is
that class and not the energy: route by `popular`, the largest probability of a popular class, which
sent on 28 % of the inputs where the paper's rule (energy, and 'other' is sent on) needs 36 % and a
general student 54 % (algorithms.md G.3); in benchmarks.cascade 37, 40 and 43 %, all
distilled, and nothing gained at a promised disagreement. A threshold needs samples that the student
did not see.
Source: EBJR sections 2.4 and 5.8; Hinton et al. 2015 (soft targets).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sommelier.analysis.cascades.members import Member
from sommelier.analysis.cascades.scores import free_energy, popular
from sommelier.analysis.probabilities import softmax
from sommelier.errors import AnalysisError

if TYPE_CHECKING:
    from torch import Tensor, nn

Array = NDArray[Any]
Floats = NDArray[np.float64]

SOFTNESS = 2.0  # temperature of the targets: algorithms.md G.3
LABELS_SHARE = 0.5  # of the loss, where labels are given
BATCH = 128
QUIET = -100.0  # all logits of a student that says 'other': its scores are the least there are
FAVOUR = 1e-4  # of the classes left to the teacher, so that one of them is the class it answers


@dataclass(frozen=True, slots=True)
class Training:
    """How a student learns: passes over the inputs, Adam's rate (falling to 0), a seed.

    relative : the rate is a share of each tensor's root mean square at the beginning, for weights
    that know something: what is a small step for one is a large one for another that takes pixels
    from 0 to 255. Source: Shazeer and Stern 2018, section 8.
    """

    epochs: int = 20
    rate: float = 3e-3
    seed: int = 0
    relative: bool = False


@dataclass(frozen=True, slots=True)
class SpecialisedStudent:
    """network : the trained torch module, inputs (n, ...) -> logits (n, len(classes) + 1), the last
    for 'other'. classes : the teacher's class of each other output."""

    network: nn.Module = field(repr=False)
    classes: tuple[int, ...]

    def logits(self, inputs: ArrayLike) -> Floats:
        """Its answers (n, len(classes) + 1)."""
        import torch

        given = torch.from_numpy(np.ascontiguousarray(inputs, dtype=np.float32))
        with torch.no_grad():
            parts = [self.network(part) for part in torch.split(given, 1024)]
        return np.asarray(torch.cat(parts).numpy(), dtype=np.float64)

    def member(self, name: str, inputs: ArrayLike, *, flops: float | None = None) -> Member:
        """Its answers as a member of a cascade: classes of the teacher, never 'other'.

        Scores: `popular`, and `paper`, the energy of the popular classes, NaN where 'other' is the
        likeliest (EBJR equations 16 and 17).
        """
        logits = self.logits(inputs)
        known = logits[:, :-1]
        ids = np.asarray(self.classes, dtype=np.int64)[known.argmax(axis=1)]
        other = logits[:, -1] > known.max(axis=1)
        scores = {
            "popular": popular(softmax(logits)),
            "paper": np.where(other, np.nan, -free_energy(known)),
        }
        return Member(name, ids, scores, flops)


def specialise(
    network: nn.Module,
    inputs: ArrayLike,
    teacher: ArrayLike,
    classes: Sequence[int],
    *,
    labels: ArrayLike | None = None,
    training: Training = Training(),
    told: Callable[[int], object] = int,
) -> SpecialisedStudent:
    """The network trained to answer `classes` as the teacher does, and 'other' for the rest.

    network : inputs (n, ...), real ones as float32, -> logits (n, len(classes) + 1); it is trained
    in place. teacher : its logits, or logarithms of its probabilities (n, all classes). labels :
    (n,), class numbers of the teacher, below 0 where unknown, or None to learn from the teacher
    alone. told : called with the epochs done after each. Deterministic by its seed.
    Raises AnalysisError where these do not fit together.
    """
    import torch
    from torch.nn import functional

    given = np.ascontiguousarray(inputs)
    if given.dtype.kind == "f":
        given = given.astype(np.float32)
    logits = np.asarray(teacher, dtype=np.float64)
    _check(given, logits, classes)
    targets = torch.from_numpy(grouped(softmax(logits / SOFTNESS), classes).astype(np.float32))
    truth = None if labels is None else torch.from_numpy(_renumbered(labels, classes))

    def loss(answers: Tensor, rows: Tensor) -> Tensor:
        soft = functional.log_softmax(answers / SOFTNESS, dim=1)
        distilled = functional.kl_div(soft, targets[rows], reduction="batchmean") * SOFTNESS**2
        if truth is None:
            return distilled
        taught = functional.cross_entropy(answers, truth[rows], reduction="sum") / len(rows)
        return LABELS_SHARE * taught + (1 - LABELS_SHARE) * distilled

    _train(network, torch.from_numpy(given), loss, training, told)
    return SpecialisedStudent(network, tuple(int(one) for one in classes))


def grouped(probabilities: Floats, classes: Sequence[int]) -> Floats:
    """Probabilities (n, len(classes) + 1): of these classes, and of all others together."""
    own = probabilities[:, list(classes)]
    rest = np.clip(1 - own.sum(axis=1, keepdims=True), 0.0, 1.0)
    return np.concatenate([own, rest], axis=1)


def popular_classes(answers: ArrayLike, width: int, share: float) -> tuple[int, ...]:
    """The fewest classes that a share of the answers are of, most frequent first.

    answers : class numbers (n,) below `width`. One class at least, and one is left to the teacher.
    """
    counts = np.bincount(np.asarray(answers, dtype=np.int64), minlength=width)
    order = np.argsort(-counts, kind="stable")
    reached = np.cumsum(counts[order]) >= share * counts.sum()
    return tuple(int(one) for one in order[: min(int(reached.argmax()) + 1, width - 1)])


@dataclass(frozen=True, slots=True)
class Spread:
    """How a student's logits (n, len(classes) + 1) become logits of the teacher's classes.

    Those of its classes stay; the probability of 'other' is shared out evenly over the classes left
    to the teacher: column places[k] plus offsets[k] is class k's. Where 'other' is the likeliest,
    all logits are `quiet` instead, so that no score of a classifier is lower, and one of the others
    by a hair the largest. With a single class left, 'other' is that class and is answered.
    """

    places: NDArray[np.int64]
    offsets: NDArray[np.float32]
    quiet: NDArray[np.float32] | None

    @classmethod
    def of(cls, classes: Sequence[int], width: int) -> Spread:
        """width : the teacher's classes."""
        places = np.full(width, len(classes), dtype=np.int64)
        places[list(classes)] = np.arange(len(classes))
        left = places == len(classes)
        offsets = np.where(left, -np.log(left.sum()), 0.0).astype(np.float32)
        quiet = (QUIET + FAVOUR * left).astype(np.float32) if left.sum() > 1 else None
        return cls(places, offsets, quiet)

    def __call__(self, logits: Floats) -> Floats:
        """(n, width) of a student's logits."""
        wide = logits[:, self.places] + self.offsets
        if self.quiet is None:
            return wide
        other = logits.argmax(axis=1) == logits.shape[1] - 1
        return np.where(other[:, None], self.quiet, wide)


def _train(
    network: nn.Module,
    inputs: Tensor,
    loss: Any,
    training: Training,
    told: Callable[[int], object],
) -> None:
    import torch

    shuffle = torch.Generator().manual_seed(training.seed)
    optimiser = torch.optim.Adam(_groups(network, training), lr=training.rate)
    steps = training.epochs * -(-len(inputs) // BATCH)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    network.train()
    for epoch in range(training.epochs):
        for rows in torch.split(torch.randperm(len(inputs), generator=shuffle), BATCH):
            optimiser.zero_grad()
            loss(network(inputs[rows]), rows).backward()
            optimiser.step()
            decay.step()
        told(epoch + 1)
    network.eval()


def _groups(network: nn.Module, training: Training) -> list[dict[str, Any]]:
    """Each tensor with its rate; one that begins as 0 has no size, and the rate as it is."""
    groups = []
    for weight in network.parameters():
        size = float(weight.detach().square().mean().sqrt()) if training.relative else 1.0
        groups.append({"params": [weight], "lr": training.rate * (size or 1.0)})
    return groups


def _renumbered(labels: ArrayLike, classes: Sequence[int]) -> NDArray[np.int64]:
    """Positions in `classes`, len(classes) for all other labels; torch's -100 where unknown."""
    truth = np.asarray(labels, dtype=np.int64)
    found = np.where(truth < 0, -100, len(classes)).astype(np.int64)
    for position, one in enumerate(classes):
        found[truth == one] = position
    return found


def _check(inputs: Array, teacher: Floats, classes: Sequence[int]) -> None:
    if teacher.ndim != 2 or len(teacher) != len(inputs) or not len(inputs):
        raise AnalysisError(f"answers of shape {list(teacher.shape)} to {len(inputs)} inputs")
    wide = teacher.shape[1]
    if not 0 < len(set(classes)) == len(classes) < wide or not all(0 <= c < wide for c in classes):
        raise AnalysisError(
            f"classes {', '.join(map(str, classes)) or 'none'} of a teacher of {wide}",
            hint="choose different ones, fewer than the teacher has",
        )
