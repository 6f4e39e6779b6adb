"""What `db.plot.cascade` draws: a kept cascade with other thresholds, from stored answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from sommelier.cascade_records import expected_flops
from sommelier.engine.common_answers import CommonAnswers, common_answers
from sommelier.engine.plots.cascade import CascadeCurve, Working
from sommelier.engine.show_cascades import stands_where
from sommelier.errors import BinderError

if TYPE_CHECKING:
    from sommelier.analysis.cascades.paths import Route
    from sommelier.cascade_records import KeptCascade
    from sommelier.connection.connection import Connection

CHOICES = 200  # of thresholds, on the curve


def cascade_curve(db: Connection, name: str) -> CascadeCurve:
    """Raises UnknownNameError, BinderError for a cascade that is stale, whose models' answers are
    not kept, or whose FLOPs are unknown."""
    from sommelier.analysis.cascades.calibration import route_of

    kept = db.catalog.cascade(name)
    if kept.stale is not None:
        raise BinderError(f"cascade '{name}' is stale: {kept.stale}", hint=kept.statement)
    records = [db.catalog.model(member.model_id) for member in kept.members]
    found = common_answers(records, db.session, kept.dataset)
    if found is None:
        raise BinderError(
            f"what the models of '{name}' answered is not kept", hint=f"once more: {kept.statement}"
        )
    if unknown := [one.name for one in found.members if one.flops is None]:
        raise BinderError(
            f"FLOPs of {', '.join(unknown)} are unknown", hint="ANALYZE ALL FOR RESOURCES"
        )
    stages = kept.plan.stages[:-1]
    chosen = [(str(stage.score), stage.temperature, stage.threshold) for stage in stages]
    if any(
        score not in one.scores for one, (score, *_) in zip(found.members, chosen, strict=False)
    ):
        raise BinderError(
            f"the scores of '{name}' are not kept with the answers",
            hint=f"once more: {kept.statement}",
        )
    return _curve(kept, found, route_of(found.members, chosen))


def _curve(kept: KeptCascade, found: CommonAnswers, route: Route) -> CascadeCurve:
    losses = [np.asarray(values, dtype=np.float64) for values in found.losses]
    last = 1.0 if found.accuracy is None else found.accuracy
    flops = [one.flops or 0.0 for one in found.members]  # known, as was checked
    alone = [last - float(values.mean()) for values in losses] + [last]
    works = list(zip(kept.names, map(Working, flops, alone), strict=True))
    promise = kept.plan.promise
    return CascadeCurve(
        name=kept.name,
        quality="agreement" if found.accuracy is None else "accuracy",
        models=works,
        curve=[_working(choice, losses, last, flops) for choice in _choices(route, losses)],
        chosen=_working(route, losses, last, flops),
        thresholds=", ".join(f"{s.model} where {stands_where(s)}" for s in kept.plan.stages[:-1]),
        samples=len(found.members[0]),
        dataset=found.probes.name,
        loss=None if promise is None else promise.loss,
        at_most=None if promise is None else promise.at_most,
        confidence=None if promise is None else promise.confidence,
        notes=_notes(kept, found),
    )


def _choices(route: Route, losses: Sequence[Any]) -> Iterable[Route]:
    """Thresholds from the most cautious to the boldest; of several, those that nothing beats."""
    from sommelier.analysis.cascades.paths import path

    if len(losses) > 1:
        for thresholds in path(route, losses):
            yield replace(route, thresholds=thresholds)
        return
    scores = np.unique(route.scores[0][np.isfinite(route.scores[0])])[::-1]
    at = np.unique(np.linspace(0, len(scores) - 1, min(CHOICES, len(scores))).astype(int))
    for threshold in (np.inf, *scores[at].tolist()):
        yield replace(route, thresholds=(float(threshold),))


def _working(route: Route, losses: Sequence[Any], last: float, flops: Sequence[float]) -> Working:
    """What the thresholds of a route cost and give on the samples."""
    from sommelier.analysis.cascades.paths import answering, shares

    stage = answering(route.scores, route.thresholds)
    lost = sum(float(values[stage == k].sum()) for k, values in enumerate(losses)) / len(stage)
    return Working(expected_flops(flops, shares(stage, len(flops))), last - lost)


def _notes(kept: KeptCascade, found: CommonAnswers) -> tuple[str, ...]:
    told = []
    if found.probes.id != kept.probe_set_id:
        told.append(f"drawn on other samples than it was calibrated on: {found.data}")
    promise = kept.plan.promise
    if found.accuracy is None and promise is not None and promise.loss == "accuracy drop":
        told.append("no labels fit the models: drawn is agreement with the last one")
    return tuple(told)
