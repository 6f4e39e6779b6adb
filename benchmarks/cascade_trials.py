"""Is the promise of a calibration kept? Draws of calibration samples, and what they promise.

Three questions, 500 draws each. *pool*: n samples are drawn with replacement from the answers there
are, so that they are independent draws of that pool, and its mean loss is the truth: this is what
was promised. *rest*: n are drawn without replacement and the promise is held against all others, as
a user would. That is not what was promised: the others are a sample too, with an error of its own,
and they lack the luck that the calibration had. *known*: a population whose true risk is a formula.
A promise is broken when the truth exceeds it. Five percent may be; a cell of `pool` or `known` with
V of D broken is within its risk unless P(Bin(D, 5 %) >= V) <= .01 / cells.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.cascade_zoo import Ladder
from sommelier.analysis.cascades import (
    Calibration,
    Member,
    Options,
    Target,
    accuracy_drop,
    calibrate,
    crossing,
    disagreement,
    gained_within,
    graded_within,
    kept_within,
)
from sommelier.analysis.cascades.paths import answering
from sommelier.analysis.cascades.thresholds import Threshold
from sommelier.cascade_records import CascadePlan, Loss
from sommelier.errors import AnalysisError

Floats = NDArray[np.float64]
Rule = tuple[Loss, Options | None]  # None: EBJR's crossing
Question = Literal["rest", "pool", "known"]

CONFIDENCE = 0.95
TEST_LEVEL = 0.01  # of all cells together
SIZES = {"trained": (2_000, 0.02), "CIFAR-10": (2_000, 0.02), "ImageNet": (400, 0.05)}
QUICK_SIZE = 600
KNOWN = (1_000, 0.02)


@dataclass(frozen=True, slots=True)
class Trial:
    """One cell: how often a promise was broken in a number of draws, and what it cost.

    flops_share : mean of the draws, of the teacher's; NaN where it is not a question.
    proved : its promise counts.
    """

    models: str
    rule: str
    question: Question
    broken: int
    draws: int
    flops_share: float
    proved: bool = True


RULES: dict[str, Rule] = {
    "best of 5 scores": ("disagreement", Options()),
    "best of 5, half the samples": ("disagreement", Options(correction="split")),
    "margin": ("disagreement", Options(("margin",))),
    "energy": ("disagreement", Options(("free_energy",))),
    "labels, best of 5": ("accuracy drop", Options()),
    "crossing of energies (paper)": ("disagreement", None),
}
DEFAULTS = ("best of 5 scores", "labels, best of 5")  # what `calibrate` does unasked
CHAINED: dict[str, Rule] = {
    "3 models, best of 15 chains": ("disagreement", Options()),
    "3 models, half the samples": ("disagreement", Options(correction="split")),
    "labels, 3 models, best of 15": ("accuracy drop", Options()),
}


def trials(ladder: Ladder, *, draws: int, quick: bool, seed: int) -> Iterator[Trial]:
    """All cells of a ladder: each student with the teacher, and three models."""
    size, at_most = SIZES[ladder.name]
    size = QUICK_SIZE if quick else size
    bare = [Member(m.name, m.ids, m.scores, m.flops) for m in ladder.members]
    students = bare[:1] if quick else bare[:-1]
    settings = (size, at_most, draws, seed)
    seen = {rule: RULES[rule] for rule in DEFAULTS}
    for place, student in enumerate(students):
        rules = seen if place else RULES
        yield from _cells(ladder, [student, bare[-1]], rules, "pool", settings)
        yield from _cells(ladder, [student, bare[-1]], seen, "rest", settings)
    three = [bare[0], bare[len(bare) // 2], bare[-1]]
    yield from _cells(ladder, three, CHAINED, "pool", settings)


def _cells(
    ladder: Ladder,
    members: list[Member],
    rules: dict[str, Rule],
    question: Question,
    settings: tuple[int, float, int, int],
) -> Iterator[Trial]:
    name = f"{ladder.name}: {' -> '.join(one.name for one in members)}"
    for rule, (loss, options) in rules.items():
        labelled = loss == "accuracy drop"
        losses = accuracy_drop(members, ladder.labels) if labelled else disagreement(members)
        broken, costs = 0, []
        size, at_most, draws, seed = settings
        for draw in range(draws):
            rng = np.random.default_rng([seed, draw])
            rows, others = _drawn(rng, len(ladder), size, question)
            some = [one.rows(rows) for one in members]
            target = Target(at_most, CONFIDENCE, loss)
            try:
                found = _calibrated(some, [lost[rows] for lost in losses], target, options, rng)
            except AnalysisError:  # too few of one kind for a density: all goes on
                continue
            truth, cost = _held_against(found.plan, members, losses, others)
            broken += truth > at_most
            costs.append(cost)
        yield Trial(name, rule, question, broken, draws, float(np.mean(costs)), options is not None)


def _calibrated(
    members: Sequence[Member],
    losses: Sequence[Floats],
    target: Target,
    options: Options | None,
    rng: np.random.Generator,
) -> Calibration:
    if options is None:
        return crossing(members, losses)
    return calibrate(members, losses, target, options=options, rng=rng)


def _drawn(
    rng: np.random.Generator, pool: int, size: int, question: Question
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(the calibration's samples, those its promise is held against)."""
    if question == "pool":
        return rng.integers(0, pool, size), np.arange(pool)
    order = rng.permutation(pool)
    return order[:size], order[size:]


def _held_against(
    plan: CascadePlan,
    members: Sequence[Member],
    losses: Sequence[Floats],
    rows: NDArray[np.int64],
) -> tuple[float, float]:
    """(mean loss, share of the teacher's FLOPs) of a plan on these samples."""
    scores = [
        one.scores[str(stage.score)][rows]
        for one, stage in zip(members[:-1], plan.stages, strict=False)
    ]
    stage = answering(scores, plan.thresholds)
    lost = sum(float(values[rows][stage == k].sum()) for k, values in enumerate(losses))
    spent = np.cumsum([float(one.flops or 0) for one in members])
    return lost / len(rows), float(spent[stage].mean() / (members[-1].flops or 1))


def known_trials(*, draws: int, seed: int) -> Iterator[Trial]:
    """The three proofs on a population of which the truth is known.

    A score is uniform in (0, 1) and the student differs with probability .4 (1 - s)^2, so that the
    risk of a threshold t is .4 (1 - t)^3 / 3. Seven of ten differences are lost, three won; a
    graded loss is uniform in (0, 1), its mean half of it.
    """
    size, at_most = KNOWN
    proofs: tuple[tuple[str, Callable[..., Threshold], float], ...] = (
        ("disagreement: exact", kept_within, 1.0),
        ("accuracy drop: fixed sequence", gained_within, 0.4),
        ("graded loss: fixed sequence, betting", graded_within, 0.5),
    )
    for name, within, factor in proofs:
        broken, kept = 0, []
        for draw in range(draws):
            rng = np.random.default_rng([seed, 77, draw])
            score = rng.uniform(size=size)
            differs = (rng.uniform(size=size) < 0.4 * (1 - score) ** 2).astype(np.float64)
            if factor == 0.4:
                differs *= np.where(rng.uniform(size=size) < 0.7, 1.0, -1.0)
            elif factor == 0.5:
                differs *= rng.uniform(size=size)
            found = within(score, differs, at_most=at_most, confidence=CONFIDENCE)
            truth = factor * 0.4 * (1 - min(max(found.value, 0.0), 1.0)) ** 3 / 3
            broken += truth > at_most
            kept.append(1 - found.kept)
        yield Trial("a known population", name, "known", broken, draws, float(np.mean(kept)))


def allowed(cells: Sequence[Trial], draws: int) -> int:
    """The most broken promises of one cell that the test of the stated risk lets pass."""
    level = TEST_LEVEL / max(1, sum(cell.proved for cell in cells))
    return int(stats.binom.isf(level, draws, 1 - CONFIDENCE))
