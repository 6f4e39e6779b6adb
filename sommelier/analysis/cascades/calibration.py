"""Thresholds of a cascade with a proved promise, from stored answers of its models.

`calibrate` has two ways, each proved for independent samples (docs/cascades.md):
* spend: all samples test every candidate, and the risk 1 - confidence is divided among them. The
  candidates of a student and a teacher are the scores (thresholds.py); those of more models are
  pairs of a score and a chain, along which all their thresholds fall together (chains.py).
* split: one half of the samples chooses scores, temperatures and a list of thresholds of all
  stages, from cautious to bold; the other half, which knows nothing of that choice, tests the list
  in its order until one fails (fixed-sequence testing). Nothing needs to be monotone.
Source: algorithms.md G.2; Angelopoulos et al. 2021, "Learn then Test".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sommelier.analysis.cascades.chains import FACTORS, lowest
from sommelier.analysis.cascades.members import Member, checked
from sommelier.analysis.cascades.paths import Route, answering, passing, path, shares
from sommelier.analysis.cascades.scores import SCORES
from sommelier.analysis.cascades.selection import aurc, crossing_threshold, fit_temperature
from sommelier.analysis.cascades.thresholds import (
    Threshold,
    gained_within,
    graded_within,
    kept_within,
    needed,
)
from sommelier.cascade_records import (
    CascadePlan,
    CascadePromise,
    CascadeStage,
    Loss,
    expected_flops,
)
from sommelier.errors import AnalysisError

Floats = NDArray[np.float64]
Correction = Literal["spend", "split"]

PERCENTILES = np.linspace(0, 1, 101)
WITHIN: dict[Loss, Callable[..., Threshold]] = {
    "disagreement": kept_within,
    "accuracy drop": gained_within,
    "loss": graded_within,
}
WORDS: dict[Loss, str] = {
    "disagreement": "a disagreement",
    "accuracy drop": "an accuracy drop",
    "loss": "a mean loss",
}


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be promised: a mean loss of at most `at_most`, with this confidence."""

    at_most: float
    confidence: float = 0.95
    loss: Loss = "disagreement"


@dataclass(frozen=True, slots=True)
class Options:
    """scores : the candidates; a member uses those it has. correction : None spends, but splits
    where a temperature is fitted. tempered : divide logits by a temperature fitted to the last
    model's answers. candidates : cascades that were chosen among on these samples, this one too;
    the promise of each then holds with the confidence for all of them at once."""

    scores: tuple[str, ...] = SCORES
    correction: Correction | None = None
    tempered: bool = False
    candidates: int = 1


@dataclass(frozen=True, slots=True)
class Calibration:
    """A plan, and what it does on the samples: estimates, without a promise.

    They are of the half that tested the plan, or flattered a little where all samples chose it.

    answered : share of inputs each stage answers. loss : mean loss. flops, flops_share : of one
    input, and as a share of the last model's; None when a model's are unknown.
    """

    plan: CascadePlan
    answered: tuple[float, ...]
    loss: float
    flops: float | None
    flops_share: float | None


def disagreement(members: Sequence[Member]) -> tuple[Floats, ...]:
    """Losses (n,) of each member but the last: 1 where its answer is not the last one's.

    No labels are needed, and the accuracy can fall by no more than the mean of it.
    """
    checked(members)
    last = members[-1].ids
    return tuple((one.ids != last).astype(np.float64) for one in members[:-1])


def accuracy_drop(members: Sequence[Member], labels: ArrayLike) -> tuple[Floats, ...]:
    """Losses (n,) of each member but the last: 1 where only the last is right, -1 where only it is
    wrong. labels (n,)."""
    truth = np.asarray(labels)
    if len(truth) != checked(members):
        raise AnalysisError(f"{len(truth)} labels for {len(members[0])} inputs")
    right = [(one.ids == truth).astype(np.float64) for one in members]
    return tuple(right[-1] - one for one in right[:-1])


def calibrate(
    members: Sequence[Member],
    losses: Sequence[ArrayLike],
    target: Target,
    *,
    options: Options = Options(),
    rng: np.random.Generator | None = None,
) -> Calibration:
    """The cheapest of the candidates whose mean loss is proved to be within the target.

    members : from the first asked to the one that is trusted, and `losses` (n,) of answering by
    each but the last: `disagreement`, `accuracy_drop`, or graded ones in [0, 1]. The samples are
    independent, in an order that says nothing, and none of the models was trained on them.
    rng : draws the halves of a split. Thresholds are inf where nothing can be promised; the plan's
    `reason` says why and how many samples are needed.
    Raises AnalysisError for answers or losses that do not fit together.
    """
    given = _checked_losses(members, losses, target)
    correction = options.correction or ("split" if options.tempered else "spend")
    if correction == "split":
        return _split(members, given, target, options, rng or np.random.default_rng(0))
    if options.tempered:
        raise AnalysisError(
            "the samples that a temperature was fitted to cannot prove a threshold",
            hint="split them: Options(correction='split')",
        )
    if len(members) > 2:
        return _chained(members, given, target, options)
    return _spend(members, given, target, options)


def crossing(
    members: Sequence[Member], losses: Sequence[ArrayLike], *, score: str = "free_energy"
) -> Calibration:
    """The cascade with EBJR's thresholds, where two densities cross; it promises nothing."""
    given = [np.asarray(values, np.float64) for values in losses]
    chosen = [
        (score, 1.0, crossing_threshold(one.score(score), lost > 0))
        for one, lost in zip(members[:-1], given, strict=True)
    ]
    reason = f"thresholds where the densities of {score} cross; nothing is promised"
    return described(members, given, route_of(members, chosen), None, reason)


def ranking(
    one: Member, losses: ArrayLike, options: Options = Options()
) -> tuple[tuple[str, float], ...]:
    """(score, AURC) of a member's scores, the best first: how well they tell its losses (n,)."""
    areas = [(name, aurc(one.score(name), losses)) for name in _candidates(one, options)]
    return tuple(sorted(areas, key=lambda area: area[1]))


def available_scores(members: Sequence[Member], options: Options) -> tuple[str, ...]:
    """The scores that a cascade of these members is calibrated with. Raises AnalysisError."""
    asked = [_candidates(one, options) for one in members[:-1]]
    return tuple(name for name in asked[0] if all(name in own for own in asked))


# ---- the two ways


def _spend(
    members: Sequence[Member], losses: list[Floats], target: Target, options: Options
) -> Calibration:
    names = _candidates(members[0], options)
    alone = _part(target, len(names) * options.candidates)
    found = {
        name: WITHIN[target.loss](
            members[0].score(name), losses[0], at_most=alone.at_most, confidence=alone.confidence
        )
        for name in names
    }
    best = max(names, key=lambda name: found[name].kept)
    route = route_of(members, [(best, 1.0, found[best].value)])
    return _promised(members, losses, route, target, _enough(members, alone))


def _chained(
    members: Sequence[Member], losses: list[Floats], target: Target, options: Options
) -> Calibration:
    names = available_scores(members, options)
    if not names:
        raise AnalysisError(
            "the models have no score in common that a chain could follow",
            hint="split the samples: Options(correction='split')",
        )
    alone = _part(target, len(names) * len(FACTORS) * options.candidates)
    routes = []
    for name in names:
        route = route_of(members, [(name, 1.0, inf)] * len(losses))
        for factor in FACTORS:
            found = lowest(
                route.scores, losses, factor=factor,
                at_most=alone.at_most, confidence=alone.confidence, loss=alone.loss,
            )  # fmt: skip
            routes.append(replace(route, thresholds=found))
    best = min(routes, key=lambda one: one.cost)
    return _promised(members, losses, best, target, _enough(members, alone))


def _split(
    members: Sequence[Member],
    losses: list[Floats],
    target: Target,
    options: Options,
    rng: np.random.Generator,
) -> Calibration:
    order = rng.permutation(len(members[0]))
    first, second = order[: len(order) // 2], order[len(order) // 2 :]
    choosing, testing = ([one.rows(rows) for one in members] for rows in (first, second))
    chosen = []
    for one, lost in zip(choosing[:-1], losses, strict=True):
        best = ranking(one, lost[first], options)[0][0]
        warmth = 1.0
        if options.tempered and one.logits is not None:
            warmth = fit_temperature(one.logits, choosing[-1].ids)
        chosen.append((best, warmth, inf))
    route = route_of(choosing, chosen)
    listed = path(route, [lost[first] for lost in losses])
    tested = route_of(testing, chosen)
    held = [lost[second] for lost in losses]
    alone = _part(target, options.candidates)
    found = passing(tested, held, listed, alone.at_most, alone.confidence, alone.loss)
    enough = 2 * needed(alone.at_most, alone.confidence, loss=alone.loss)
    route = replace(tested, thresholds=found)
    return _promised(testing, held, route, target, (len(order), enough))


def _part(target: Target, candidates: int) -> Target:
    """The share of the risk that one of several candidates may use."""
    return replace(target, confidence=1 - (1 - target.confidence) / candidates)


def _enough(members: Sequence[Member], alone: Target) -> tuple[int, int]:
    """(samples given, samples that let any threshold pass)."""
    return len(members[0]), needed(alone.at_most, alone.confidence, loss=alone.loss)


def _candidates(one: Member, options: Options) -> tuple[str, ...]:
    names = tuple(name for name in options.scores if name in one.scores)
    if not names:
        raise AnalysisError(
            f"{one.name} has none of the scores {', '.join(options.scores)}",
            hint=f"it has {', '.join(one.scores) or 'none: it answers classes without saying how '}"
            + ("" if one.scores else "sure it is"),
        )
    return names


# ---- what is told of a route


def route_of(members: Sequence[Member], chosen: Sequence[tuple[str, float, float]]) -> Route:
    """chosen : (score, temperature, threshold) of each member but the last."""
    scores = [
        one.score(name, warmth) for one, (name, warmth, _) in zip(members[:-1], chosen, strict=True)
    ]
    return Route(
        tuple(scores),
        tuple(name for name, _, _ in chosen),
        tuple(warmth for _, warmth, _ in chosen),
        tuple(threshold for _, _, threshold in chosen),
        tuple(one.flops for one in members),
    )


def _promised(
    members: Sequence[Member],
    losses: list[Floats],
    route: Route,
    target: Target,
    samples: tuple[int, int],
) -> Calibration:
    """samples : how many were given, and how many let any threshold pass."""
    count, (given, enough) = len(members[0]), samples
    what = f"{WORDS[target.loss]} of at most {100 * target.at_most:g}% with confidence "
    what += f"{100 * target.confidence:g}%"
    promise = CascadePromise(target.loss, target.at_most, target.confidence, count)
    last = members[-1].name
    if any(value < inf for value in route.thresholds):
        reason = f"proved on {count} samples: {what}"
    elif given < enough:
        reason = (
            f"{given} samples are too few to promise {what}: at least {enough} are needed, "
            f"so every input goes on to {last}"
        )
    else:
        reason = f"not even the surest answers were shown to have {what}: all inputs go to {last}"
    return described(members, losses, route, promise, reason)


def described(
    members: Sequence[Member],
    losses: list[Floats],
    route: Route,
    promise: CascadePromise | None,
    reason: str,
) -> Calibration:
    """The plan of a route, and what it does on the samples."""
    stage = answering(route.scores, route.thresholds)
    answered = shares(stage, len(members))
    lost = sum(float(values[stage == k].sum()) for k, values in enumerate(losses)) / len(stage)
    known = [cost for cost in route.flops if cost is not None]
    flops = expected_flops(known, answered) if len(known) == len(members) else None
    share = None if flops is None or not known[-1] else flops / known[-1]
    stages = [
        CascadeStage(
            one.name, route.names[k], route.thresholds[k], route.temperatures[k], one.flops,
            _percentiles(route.scores[k][stage >= k]), int((stage >= k).sum()),
        )
        for k, one in enumerate(members[:-1])
    ]  # fmt: skip
    stages.append(CascadeStage(members[-1].name, flops=members[-1].flops))
    if share is not None and share >= 1 and min(route.thresholds) < inf:
        reason += f"; on average it costs more than {members[-1].name} alone"
    plan = CascadePlan(tuple(stages), promise, reason)
    return Calibration(plan, answered, lost, flops, share)


def _percentiles(scores: Floats) -> tuple[float, ...]:
    """Of scores that are NaN where no threshold keeps them; () of none."""
    if not len(scores):
        return ()
    rising = np.sort(np.where(np.isnan(scores), -inf, scores))
    at = np.ceil(PERCENTILES * len(rising)).astype(np.int64) - 1
    return tuple(rising[np.maximum(at, 0)].tolist())


def _checked_losses(
    members: Sequence[Member], losses: Sequence[ArrayLike], target: Target
) -> list[Floats]:
    count = checked(members)
    given = [np.asarray(values, dtype=np.float64) for values in losses]
    if len(given) != len(members) - 1 or any(values.shape != (count,) for values in given):
        raise AnalysisError(
            f"losses of shapes {[list(v.shape) for v in given]} for {len(members)} models and "
            f"{count} inputs",
            hint="one loss an input, of every model but the last",
        )
    least = -1.0 if target.loss == "accuracy drop" else 0.0
    whole = target.loss != "loss"
    for values in given:
        inside = (values >= least) & (values <= 1) & (~np.array(whole) | (values % 1 == 0))
        if not inside.all():
            raise AnalysisError(
                f"losses that are no {target.loss}: from {values.min():g} to {values.max():g}",
                hint="disagreements are 0 or 1, accuracy drops -1, 0 or 1, losses in [0, 1]",
            )
    return given
