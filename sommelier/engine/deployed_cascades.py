"""DEPLOY CASCADE as a plan: thresholds that were proved, that a share sets, or a person.

Only those of a kept cascade are proved. Of the others the stored answers of the models give
estimates, where all of them answered the same samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from typing import TYPE_CHECKING

from sommelier.cascade_records import CascadePlan, CascadeStage, threshold_for_share
from sommelier.engine import deployed_models
from sommelier.engine.cascade_facts import class_fault, known_flops
from sommelier.engine.common_answers import CommonAnswers, common_answers
from sommelier.engine.deployed_models import Chosen
from sommelier.engine.deployment_terms import bind_escalation, bind_share
from sommelier.engine.names import few
from sommelier.engine.scope import located
from sommelier.engine.servable import check_servable
from sommelier.errors import AnalysisError, BinderError, UnknownNameError
from sommelier.grammar import nodes
from sommelier.grammar.formatter import format as format_statement
from sommelier.units import Dimension, format_value

if TYPE_CHECKING:
    from sommelier.analysis.cascades.calibration import Calibration
    from sommelier.cascade_records import KeptCascade
    from sommelier.engine.session import Session

UNSEEN = "margin"  # the score of models of which no answers are stored: algorithms.md G.1
_NOTHING = "nothing is proved of its accuracy"
_NO_ANSWERS = "no answers of {} to the same samples are stored (16 MB a model at most)"


def planned_cascade(
    what: nodes.DeployedCascade, session: Session, dataset: str | None = None
) -> tuple[CascadePlan, Chosen]:
    """(thresholds and what was proved of them, the models with notes).

    dataset : whose answers count, of thresholds that are not proved. Raises BinderError for a stale
    cascade, models that cannot be one, and models that are neither kept nor told when to send on.
    """
    named = [one for one in what.members if isinstance(one, nodes.ModelRef)]
    kept = _named_cascade(named[0], session) if len(named) == 1 else None
    if kept is None:
        chosen = _trusting_the_last(deployed_models.of_names(named, session))
        kept = kept_of(chosen, session)
    else:
        records = tuple(session.catalog.models([one.model_id for one in kept.members]))
        chosen = _trusting_the_last(Chosen(records, (named[0].span,) * len(records)))
    if what.when is None and kept is not None:
        return _proved(kept, what, chosen, session)
    _check(chosen, what)
    if what.when is not None:
        plan, notes = _by_hand(what, chosen, session, dataset, kept)
    elif what.at_most is not None:
        plan, notes = _by_share(what, chosen, session, dataset)
    else:
        raise _neither(what, chosen, session)
    return _called(plan, chosen), replace(chosen, notes=notes)


def share_of(what: object) -> float | None:
    """Of ESCALATE AT MOST, in [0, 1]; None where it is not said."""
    if not isinstance(what, nodes.DeployedCascade):
        return None
    assert not isinstance(what.at_most, nodes.Parameter), "refused before"
    return bind_share(what.at_most)


def kept_of(chosen: Chosen, session: Session) -> KeptCascade | None:
    """The kept cascade of exactly these models that is not stale."""
    ids = [record.id for record in chosen.records]
    for kept in session.catalog.cascades():
        if [member.model_id for member in kept.members] == ids and kept.stale is None:
            return kept
    return None


def _named_cascade(named: nodes.ModelRef, session: Session) -> KeptCascade:
    """Raises UnknownNameError, BinderError for a stale one."""
    try:
        kept = session.catalog.cascade(named.name)
    except UnknownNameError as error:
        raise located(error, named.span) from None
    if kept.stale is not None:
        raise BinderError(
            f"cascade '{kept.name}' is stale: {kept.stale}", span=named.span, hint=kept.statement
        )
    return kept


def _trusting_the_last(chosen: Chosen) -> Chosen:
    return replace(chosen, trusted=len(chosen.records) - 1)


def _called(plan: CascadePlan, chosen: Chosen) -> CascadePlan:
    """Its stages as the deployment calls them."""
    names = chosen.names.values()
    stages = [replace(one, model=name) for one, name in zip(plan.stages, names, strict=True)]
    return replace(plan, stages=tuple(stages))


def _check(chosen: Chosen, what: nodes.DeployedCascade) -> None:
    """Raises BinderError for models that cannot be a cascade, as CREATE CASCADE does."""
    for record, place in zip(chosen.records, chosen.spans, strict=True):
        fault = class_fault(record)
        if (
            fault is None
            and record.output_kind.value == "class_ids"
            and record != chosen.records[-1]
        ):
            fault = f"{record.name} answers classes without saying how sure it is"
        if fault is not None:
            raise BinderError(fault, span=place or what.span)
    check_servable(chosen, what.span)


# ---- a kept cascade


def _proved(
    kept: KeptCascade, what: nodes.DeployedCascade, chosen: Chosen, session: Session
) -> tuple[CascadePlan, Chosen]:
    """Thresholds as they were proved; ESCALATE AT MOST lowers them when it runs, not here."""
    plan = _called(kept.plan, chosen)
    notes = [plan.reason, *_kept_shares(kept, plan)]
    share = share_of(what)
    if share is None:
        return plan, replace(chosen, notes=tuple(notes))
    begin = begins_at(plan, share)
    lower = [
        stage.model
        for stage, threshold in zip(plan.stages, begin, strict=False)
        if threshold < stage.threshold
    ]
    at_most = format_value(share, Dimension.FRACTION)
    if lower:
        broken = (
            f"{_NOTHING}: cascade '{kept.name}' keeps its promise by sending on more than {at_most}"
            f" from {few(lower)}, so thresholds begin lower there"
        )
        notes = [broken, *_estimated(begin, kept, chosen, session)]
    notes.append(
        f"thresholds follow the traffic, below those of cascade '{kept.name}'; where one is lower,"
        " what was proved does not hold"
    )
    return plan, replace(chosen, notes=tuple(notes))


def _kept_shares(kept: KeptCascade, plan: CascadePlan) -> list[str]:
    answered = [one.answered for one in kept.members if one.answered is not None]
    if len(answered) < len(kept.members):
        return []
    where = "on its samples"
    if plan.promise is not None and kept.dataset is not None:
        where = f"on {plan.promise.samples} samples of '{kept.dataset}'"
    return [_shares(plan, answered, kept.flops_share, where)]


def begins_at(plan: CascadePlan, share: float) -> tuple[float, ...]:
    """The thresholds that ESCALATE AT MOST begins with; proved ones are lowered, never raised."""
    if share == 0:
        return (-inf,) * (len(plan.stages) - 1)
    return tuple(
        min(stage.threshold, threshold_for_share(stage, share))
        if plan.promise is not None and stage.quantiles
        else stage.threshold
        for stage in plan.stages[:-1]
    )


def _estimated(
    begin: Sequence[float], kept: KeptCascade, chosen: Chosen, session: Session
) -> list[str]:
    """What the stored answers say of a kept cascade with other thresholds; nothing without them."""
    from sommelier.analysis.cascades.unproved import by_hand

    scores = [str(stage.score) for stage in kept.plan.stages[:-1]]
    try:
        common = common_answers(chosen.records, session, kept.dataset)
        if common is None:
            return []
        found = by_hand(common.members, common.losses, list(zip(scores, begin, strict=True)))
    except AnalysisError:
        return []
    return [_estimates(found, common, chosen)]


# ---- models that are named


def _by_share(
    what: nodes.DeployedCascade, chosen: Chosen, session: Session, dataset: str | None
) -> tuple[CascadePlan, tuple[str, ...]]:
    """Thresholds by which each model sends on at most the share of the samples that reach it."""
    from sommelier.analysis.cascades.unproved import escalating

    share = share_of(what)
    assert share is not None, "asked only then"
    common = _common(what, chosen, session, dataset)
    at_most = format_value(share, Dimension.FRACTION)
    if common is None:
        names = list(chosen.names.values())
        stages = _unseen(chosen, session, UNSEEN, share)
        missing = (
            f"{_NOTHING}, nor is it estimated: {_NO_ANSWERS.format(few(names))}."
            f" ANALYZE {', '.join(names)} FOR EQUIVALENCE, ACCURACY stores them"
        )
        follow = (
            f"nothing is known of how sure they are: thresholds of {UNSEEN} begin at {share:g} and"
            f" follow the traffic, so that each sends on at most {at_most} of what it is asked"
        )
        return CascadePlan(stages, None, missing), (missing, follow)
    try:
        found = escalating(common.members, common.losses, share)
    except AnalysisError as error:
        raise _without_score(error, what) from error
    begin = (
        f"{_NOTHING}: thresholds by which each model sends on at most {at_most} of {common.data};"
        " they follow the traffic"
    )
    plan = _with_formats(found.plan, common)
    return plan, (begin, _estimates(found, common, chosen))


def _by_hand(
    what: nodes.DeployedCascade,
    chosen: Chosen,
    session: Session,
    dataset: str | None,
    kept: KeptCascade | None,
) -> tuple[CascadePlan, tuple[str, ...]]:
    """The threshold that was written, for every model but the last."""
    from sommelier.analysis.cascades.unproved import by_hand

    assert what.when is not None, "asked only then"
    score, threshold = bind_escalation(what.when)
    common = _common(what, chosen, session, dataset)
    condition = format_statement(what.when)
    said = f"{_NOTHING}: thresholds are set by hand, answers with {condition} go on"
    if common is None:
        stages = _unseen(chosen, session, score, threshold)
        if kept is not None:
            stages = tuple(
                replace(one, format=known.format, output=known.output)
                for one, known in zip(stages, kept.plan.stages, strict=True)
            )
        unknown = f"what share goes on is unknown: {_NO_ANSWERS.format('these models')}"
        return CascadePlan(stages, None, said), (said, unknown)
    try:
        found = by_hand(common.members, common.losses, [(score, threshold)] * len(common.losses))
    except AnalysisError as error:
        raise _without_score(error, what) from error
    plan = replace(found.plan, reason=said)
    return _with_formats(plan, common), (said, _estimates(found, common, chosen))


def _common(
    what: nodes.DeployedCascade, chosen: Chosen, session: Session, dataset: str | None
) -> CommonAnswers | None:
    try:
        return common_answers(chosen.records, session, dataset)
    except AnalysisError as error:
        raise BinderError(error.message, span=what.span, hint=error.hint) from error


def _unseen(
    chosen: Chosen, session: Session, score: str, threshold: float
) -> tuple[CascadeStage, ...]:
    """Stages of which no sample is known."""
    costs = known_flops(chosen.records, session.facts)
    names = chosen.names.values()
    stages = [
        CascadeStage(name, score, threshold, flops=cost)
        for name, cost in zip(names, costs, strict=True)
    ]
    return (*stages[:-1], replace(stages[-1], score=None, threshold=inf))


def _with_formats(plan: CascadePlan, common: CommonAnswers) -> CascadePlan:
    stages = [
        replace(one, format=format.to_json())
        for one, format in zip(plan.stages, common.formats, strict=True)
    ]
    return replace(plan, stages=tuple(stages))


# ---- what is told


def _shares(
    plan: CascadePlan, answered: Sequence[float], flops_share: float | None, where: str
) -> str:
    told = ", ".join(
        f"{stage.model} answers {format_value(share, Dimension.FRACTION)}"
        for stage, share in zip(plan.stages, answered, strict=True)
    )
    last = plan.stages[-1].model
    cost = ""
    if flops_share is not None:
        cost = f", {format_value(flops_share, Dimension.FRACTION)} of the FLOPs of {last}"
    return f"estimates {where}: {told}{cost}"


def _estimates(found: Calibration, common: CommonAnswers, chosen: Chosen) -> str:
    """Who answers how much, at what cost, how well."""
    plan = _called(found.plan, chosen)
    told = _shares(plan, found.answered, found.flops_share, f"on {common.data}")
    last = plan.stages[-1].model
    lost = format_value(found.loss, Dimension.FRACTION)
    if common.accuracy is None:
        return f"{told}; another answer than {last} gives to {lost}"
    together = format_value(common.accuracy - found.loss, Dimension.FRACTION)
    alone = format_value(common.accuracy, Dimension.FRACTION)
    return f"{told}; accuracy {together}, where {last} alone has {alone}"


def _without_score(error: AnalysisError, what: nodes.DeployedCascade) -> BinderError:
    """A model that does not say how sure it is, or not in this score."""
    span = what.span if what.when is None else what.when.span
    return BinderError(error.message, span=span, hint=error.hint)


def _neither(what: nodes.DeployedCascade, chosen: Chosen, session: Session) -> BinderError:
    """Nothing says when an answer is sent on."""
    names = list(chosen.names.values())
    ids = [record.id for record in chosen.records]
    kept = session.catalog.cascades()
    stale = [one for one in kept if [m.model_id for m in one.members] == ids]
    if stale:
        exists = f"cascade '{stale[0].name}' is stale: {stale[0].stale}"
    elif kept:
        listed = [f"{one.name} ({' -> '.join(one.names)})" for one in kept]
        exists = f"kept are {few(listed)}"
    else:
        exists = "no cascade is kept"
    between = " TO ".join(format_statement(reference) for reference in what.members)
    create = f"CREATE CASCADE FROM {between} WITHIN 1% OF ACCURACY"
    if stale:
        create = stale[0].statement
    return BinderError(
        f"nothing says when {few(names[:-1])} {'sends' if len(names) == 2 else 'send'} an input on:"
        f" {exists}",
        span=what.span,
        hint=f"{create} proves thresholds; ESCALATE AT MOST 10% sets them without a proof",
    )
