"""Which models can keep what a deployment promises; where none can, which is nearest."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sommelier.deployment_records import DeployedModel
from sommelier.engine.deployed_models import deviations, quantile_ms
from sommelier.engine.deployment_terms import Terms
from sommelier.engine.names import few
from sommelier.errors import BinderError, Span
from sommelier.units import Dimension, format_value, parse

if TYPE_CHECKING:
    from sommelier.cascade_records import CascadePlan
    from sommelier.engine.session import Session
    from sommelier.link_records import ActivationPlan

Left = tuple[list[DeployedModel], list[str]]

_LISTED = 5  # models that a hint names
_STEP = 5e-4  # less than what the last of three digits is worth


@dataclass(frozen=True, slots=True)
class Promise:
    """What UNDER says, on a device. memory_bytes : of all loaded models together.
    span : where it stands. fallback : the model of last resort, which need not keep it."""

    terms: Terms
    device: str
    memory_bytes: int | None
    span: Span | None
    fallback: str | None = None

    @property
    def at(self) -> str:
        """' at p99', nothing where all answers are meant."""
        quantile = self.terms.quantile
        return f" at p{quantile * 100:g}" if quantile < 1 else ""

    @property
    def written(self) -> str:
        """The same as the language writes it."""
        return self.at.replace("at", "AT")


def keeping(
    models: Sequence[DeployedModel], promise: Promise, session: Session
) -> tuple[tuple[DeployedModel, ...], tuple[str, ...]]:
    """(the models that can keep what is promised, why others are left out).

    The fallback stays, whatever it can keep. Raises BinderError if no other is left.
    """
    left, notes = _on_time(list(models), promise, session)
    left, told = _accurate(left, promise)
    notes += told
    left, told = _fitting(left, promise, session)
    notes += told
    names = {model.name for model in left}
    spared = [m for m in models if m.name == promise.fallback and m.name not in names]
    if spared:
        notes.append(
            f"{spared[0].name} answers only where no other can: it cannot keep the promise"
        )
    return (*left, *spared), tuple(notes)


def in_turn(models: Sequence[DeployedModel], promise: Promise, *, cascade: bool) -> tuple[str, ...]:
    """Notes on what a cascade or plan can keep, whose models run one after the other.

    Raises BinderError where the first model of a cascade, or a whole plan, is too late alone.
    """
    terms = promise.terms
    if terms.sla_ms is None:
        return ()
    times = [quantile_ms(model, terms.quantile) for model in models]
    known = [ms for ms in times if ms is not None]
    if len(known) < len(times) or not known:
        return ("whether it keeps the latency is not known: some models were never timed",)
    soonest, total = known[0] if cascade else sum(known), sum(known)
    if soonest > terms.sla_ms:
        least = f"promise latency < {_at_least(soonest, Dimension.TIME)}{promise.written} or more"
        seen = f"; an input that every model sees takes {_ms(total)}{promise.at}"
        raise BinderError(
            f"{'its first model alone takes' if cascade else 'its models take'} {_ms(soonest)}"
            f"{promise.at}, more than {_ms(terms.sla_ms)}",
            span=promise.span,
            hint=f"{least}{seen}" if total > soonest else least,
        )
    estimated = _estimated(terms.quantile)
    if total <= terms.sla_ms:
        return (estimated,)
    late = f"takes about {_ms(total)}, more than {_ms(terms.sla_ms)}"
    if promise.fallback in [model.name for model in models[:-1]]:
        then = f"the answer of {promise.fallback} stands, sure or not, where the next would be late"
    else:
        first = models[0].name
        then = f"it is refused or late; FALLBACK TO {first} lets an answer stand that is not sure"
    return (estimated, f"an input that every model sees {late}: {then}")


def as_accurate(
    models: Sequence[DeployedModel],
    promise: Promise,
    cascade: CascadePlan | None,
    plan: ActivationPlan | None,
) -> tuple[str, ...]:
    """A note on the accuracy that a cascade or an activation plan reaches as a whole.

    cascade : with a promise only where its thresholds stay as they were proved. Raises BinderError
    where it is not known to reach what is promised.
    """
    least = promise.terms.min_accuracy
    if least is None:
        return ()
    if plan is not None:
        reached, what = plan.accuracy, f"its models have {_share(plan.accuracy)} on average"
    else:
        reached, what = _proved_accuracy(models, promise, cascade)
    if reached < least:
        raise BinderError(
            f"it is not known to reach {_share(least)}: {what}",
            span=promise.span,
            hint="promise less, or deploy more accurate models",
        )
    return (f"an accuracy of {_share(reached)}, an estimate: {what}",)


def _proved_accuracy(
    models: Sequence[DeployedModel], promise: Promise, cascade: CascadePlan | None
) -> tuple[float, str]:
    """(that of the last model less what may be lost, the same in words)."""
    least, last = _share(promise.terms.min_accuracy), models[-1]
    if cascade is None or cascade.promise is None or cascade.promise.loss == "loss":
        raise BinderError(
            f"nothing is proved of this cascade's accuracy, so {least} cannot be promised",
            span=promise.span,
            hint="a cascade of CREATE CASCADE ... WITHIN 1% OF ACCURACY can promise it, deployed"
            " without ESCALATE",
        )
    if last.accuracy is None or not (last.basis or "").startswith("accuracy"):
        names = ", ".join(model.name for model in models)
        raise BinderError(
            f"no cascade is known to reach {least} whose models were not all measured on labels",
            span=promise.span,
            hint=f"ANALYZE {names} FOR ACCURACY on a dataset with labels",
        )
    lost = cascade.promise.at_most
    told = (
        f"{last.name} has {_share(last.accuracy)} ({last.basis}), of which at most {_share(lost)}"
    )
    return last.accuracy - lost, f"{told} may be lost"


def _on_time(models: list[DeployedModel], promise: Promise, session: Session) -> Left:
    terms = promise.terms
    if terms.sla_ms is None:
        return models, []
    times = {model.name: quantile_ms(model, terms.quantile) for model in models}
    known = {name: ms for name, ms in times.items() if ms is not None}
    if not known:
        raise BinderError(
            f"no latency of these models is known on '{promise.device}', so none can be promised",
            span=promise.span,
            hint=f"ANALYZE {', '.join(list(times)[:_LISTED])} FOR LATENCY",
        )
    late = {name: ms for name, ms in known.items() if ms > terms.sla_ms}
    if len(late) == len(models):
        nearest = min(_keeping_the_rest(models, promise, session), key=lambda name: late[name])
        least = f"latency < {_at_least(late[nearest], Dimension.TIME)}{promise.written}"
        raise BinderError(
            f"no model can answer within {_ms(terms.sla_ms)}{promise.at}: the nearest is {nearest}"
            f" with {_ms(late[nearest])}, waiting not counted",
            span=promise.span,
            hint=f"promise {least} or more, or ask for faster models",
        )
    left = [model for model in models if model.name not in late]
    notes = [_estimated(promise.terms.quantile)]
    why = f"they alone take longer than {_ms(terms.sla_ms)}{promise.at}"
    told = [f"{name} {_ms(ms)}" for name, ms in late.items() if name != promise.fallback]
    return left, [*notes, *_left_out(why, told)]


def _estimated(quantile: float) -> str:
    """What is held against a promised latency, as a note."""
    at = f"at p{quantile * 100:g}" if quantile < 1 else "without AT"
    return (
        f"whether the latency is kept is an estimate: {at} a model takes its mean and"
        f" {deviations(quantile):.3g} deviations, both reckoned from what ANALYZE measured;"
        " waiting is not in it"
    )


def _keeping_the_rest(
    models: Sequence[DeployedModel], promise: Promise, session: Session
) -> list[str]:
    """Names of the models that keep what is promised of accuracy and memory; all where none does,
    for then no latency would be enough."""
    least, budget = promise.terms.min_accuracy, promise.memory_bytes
    left = [m for m in models if least is None or _reaches(m, least)]
    if budget is not None:
        left = [m for m in left if (_memory(m, session) or 0.0) <= budget]
    return [model.name for model in left or models]


def _accurate(models: list[DeployedModel], promise: Promise) -> Left:
    least = promise.terms.min_accuracy
    if least is None:
        return models, []
    good = [m for m in models if _reaches(m, least)]
    if not good:
        raise _not_accurate(models, least, promise)
    worse = [
        f"{m.name} {'unknown' if m.accuracy is None else _share(m.accuracy)}"
        for m in models
        if m not in good and m.name != promise.fallback
    ]
    return good, _left_out(f"they are not known to reach {_share(least)}", worse)


def _reaches(model: DeployedModel, least: float) -> bool:
    return model.accuracy is not None and model.accuracy >= least


def _not_accurate(models: list[DeployedModel], least: float, promise: Promise) -> BinderError:
    known = [model for model in models if model.accuracy is not None]
    if not known:
        return BinderError(
            f"no model is known to reach {_share(least)}: the accuracy of none is known",
            span=promise.span,
            hint="ANALYZE them FOR ACCURACY on a dataset with labels",
        )
    best = max(known, key=lambda model: model.accuracy or 0.0)
    return BinderError(
        f"no model is known to reach {_share(least)}: the nearest is {best.name} with"
        f" {_share(best.accuracy)} ({best.basis})",
        span=promise.span,
        hint="promise less, or ask for more accurate models",
    )


def _fitting(models: list[DeployedModel], promise: Promise, session: Session) -> Left:
    budget = promise.memory_bytes
    if budget is None:
        return models, []
    needs = {model.name: _memory(model, session) for model in models}
    large = {name: need for name, need in needs.items() if need is not None and need > budget}
    if len(large) == len(models):
        nearest = min(large, key=lambda name: large[name])
        least = _at_least(math.ceil(large[nearest]), Dimension.BYTES)
        limit = "memory <" if budget == promise.terms.memory_bytes else "USING memory ="
        raise BinderError(
            f"no model fits into {_bytes(budget)}: the nearest is {nearest} with"
            f" {_bytes(large[nearest])}",
            span=promise.span,
            hint=f"promise {limit} {least} or more, or ask for smaller models",
        )
    left = [model for model in models if model.name not in large]
    why = f"they alone need more than {_bytes(budget)}"
    told = [f"{name} {_bytes(need)}" for name, need in large.items() if name != promise.fallback]
    return left, _left_out(why, told)


def _memory(model: DeployedModel, session: Session) -> float | None:
    """What one model takes: measured where it was, else weights and activations."""
    found = {m.metric: m.value for m in session.catalog.measurements(model.model_id)}
    return found.get("measured_memory", found.get("memory"))


def _left_out(why: str, models: Sequence[str]) -> list[str]:
    if not models:
        return []
    return [f"left out, for {why}: {few(models)}"]


def _at_least(value: float, dimension: Dimension) -> str:
    """The smallest value of three digits, as a statement writes it, that is not below this one.

    >>> _at_least(12.31, Dimension.TIME), _at_least(2.0, Dimension.TIME)
    ('12.4 ms', '2 ms')
    """
    above = itertools.count()
    written = (format_value(value * (1 + step * _STEP), dimension) for step in above)
    return next(text for text in written if parse(text, dimension) >= value)


def _ms(value: float) -> str:
    return format_value(value, Dimension.TIME)


def _bytes(value: float) -> str:
    return format_value(value, Dimension.BYTES)


def _share(value: float | None) -> str:
    return format_value(value, Dimension.FRACTION)
