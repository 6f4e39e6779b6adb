"""DEPLOY as a plan: a question becomes models with what is known of them, or why they cannot serve.

Nothing is loaded and nothing is written; the catalog alone is asked. Routing policies are known to
the runtime, which this room does not see: `knobs` are theirs, with their kinds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

from sommelier.deployment_records import DeployedModel, Deployment, DeploymentOptions
from sommelier.engine import deployed_models
from sommelier.engine.deployed_cascades import planned_cascade, share_of
from sommelier.engine.deployed_models import Chosen, known_models
from sommelier.engine.deployment_promises import Promise, as_accurate, in_turn, keeping
from sommelier.engine.deployment_terms import Terms, bind_terms
from sommelier.engine.names import few
from sommelier.engine.options import Kind, bind_options, check_least
from sommelier.engine.scope import located
from sommelier.engine.servable import check_servable, naming_notes
from sommelier.errors import BinderError, UnknownNameError
from sommelier.grammar import nodes
from sommelier.grammar.formatter import format as format_statement
from sommelier.units import Dimension

if TYPE_CHECKING:
    from sommelier.cascade_records import CascadePlan
    from sommelier.engine.session import Session
    from sommelier.records import ModelRecord

DEPLOY_OPTIONS: dict[str, Kind] = {
    "queue": int,
    "servers": int,
    "memory": Dimension.BYTES,
    "keep_alive": Dimension.TIME,
    "warm": int,
    "batch": int,
    "threads": int,
    "device": str,
    "order": ("edf", "fifo"),
    "admission": bool,
    "hedge": bool,
    "batching": bool,
    "dataset": str,
}
"""What USING takes after DEPLOY, besides the knobs of the policy. dataset : whose labels tell the
accuracy; the others are DeploymentOptions."""

KEEP_ALIVE_MS = 1e3  # a model that goes sooner may be gone before the request it was loaded for
_LEAST = {"queue": 1, "servers": 1, "batch": 1, "threads": 1, "warm": 0}
_MOST = {"servers": 256, "threads": 256}  # each is a thread, or as many for each model


def plan_deployment(
    statement: nodes.Deploy, session: Session, knobs: Mapping[str, Kind] | None = None
) -> Deployment:
    """The deployment a statement means, by what the catalog knows now.

    Raises BinderError for models that cannot serve together, an SLA that none can keep (saying
    which is nearest), parameters (the statement is run again without them) and options there are
    not; UnknownNameError for names there are not.
    """
    _refuse_parameters(statement)
    terms = bind_terms(statement.under)
    given = bind_options(statement.options, {**DEPLOY_OPTIONS, **(knobs or {})})
    check_least(statement.options, given, _LEAST)
    _check_bounds(statement.options, given)
    options = _options(given, terms)
    cascade, chosen = _meant(statement.what, session, given.get("dataset"))
    fallback, chosen = _with_fallback(statement, chosen, session)
    plan = statement.what.name if isinstance(statement.what, nodes.DeployedPlan) else None
    wanted = given.get("dataset")
    models, dataset, notes = _models(statement, chosen, session, terms, options, wanted, fallback)
    return Deployment(
        name=statement.name,
        kind="cascade" if cascade else "plan" if plan else "models",
        statement=format_statement(replace(statement, or_replace=True)),
        models=models,
        cascade=cascade,
        plan=plan,
        escalate_at_most=share_of(statement.what),
        sla_ms=terms.sla_ms,
        quantile=terms.quantile,
        min_accuracy=terms.min_accuracy,
        policy=None if statement.policy is None else statement.policy.value,
        knobs={name: value for name, value in given.items() if name in (knobs or {})},
        fallback=fallback,
        options=options,
        task=_task(chosen.records),
        dataset=dataset,
        catalog_version=session.catalog.generation,
        notes=(*notes, *_as_accurate(statement, models, terms, cascade, session)),
    )


def _meant(
    what: nodes.DeployedGroup | nodes.DeployedCascade | nodes.DeployedPlan | nodes.Select,
    session: Session,
    dataset: str | None,
) -> tuple[CascadePlan | None, Chosen]:
    """(the cascade where it is one, the models)."""
    if isinstance(what, nodes.DeployedCascade):
        return planned_cascade(what, session, dataset)
    return None, _chosen(what, session)


def _models(
    statement: nodes.Deploy,
    chosen: Chosen,
    session: Session,
    terms: Terms,
    options: DeploymentOptions,
    dataset: str | None,
    fallback: str | None,
) -> tuple[tuple[DeployedModel, ...], str | None, tuple[str, ...]]:
    """(the models that can keep what is promised, the dataset of their accuracy, notes)."""
    what = statement.what
    notes = [*chosen.notes, *deployed_models.absent_notes(chosen)]
    if not isinstance(what, nodes.DeployedPlan):
        notes += check_servable(chosen, what.span)
    models, on, told = known_models(chosen, session, dataset=dataset, device=options.device)
    notes += told
    span = None if statement.under is None else statement.under.span
    promise = Promise(terms, options.device or "cpu", options.memory_bytes, span, fallback)
    if isinstance(what, nodes.DeployedCascade | nodes.DeployedPlan):
        cascade = isinstance(what, nodes.DeployedCascade)
        notes += in_turn(models, promise, cascade=cascade)
    else:
        left, told = keeping(models, promise, session)
        models = _with_stand_ins(_ranked(left))
        notes += told
    if models and not isinstance(what, nodes.DeployedPlan):
        known = {record.id: record for record in chosen.records}
        notes += naming_notes([known[model.model_id] for model in models], chosen.names)
    return models, on, tuple(dict.fromkeys(notes))


def _as_accurate(
    statement: nodes.Deploy,
    models: Sequence[DeployedModel],
    terms: Terms,
    cascade: CascadePlan | None,
    session: Session,
) -> tuple[str, ...]:
    """Whether a cascade or a plan reaches the accuracy that is promised, as a note."""
    what = statement.what
    promise = Promise(terms, "", None, None if statement.under is None else statement.under.span)
    if isinstance(what, nodes.DeployedPlan):
        return as_accurate(models, promise, None, session.catalog.plan(what.name).plan)
    if cascade is None:
        return ()  # each model was looked at
    if share_of(what) is not None:
        cascade = replace(cascade, promise=None)  # thresholds follow the traffic
    return as_accurate(models, promise, cascade, None)


def _refuse_parameters(statement: nodes.Deploy) -> None:
    found = next(_parameters(statement), None)
    if found is not None:
        raise BinderError(
            "a deployment is planned again whenever the catalog changes, without its parameters",
            span=found.span,
            hint="write the value itself",
        )


def _parameters(value: Any) -> Iterator[nodes.Parameter]:
    if isinstance(value, nodes.Parameter):
        yield value
    elif isinstance(value, tuple):
        for part in value:
            yield from _parameters(part)
    elif is_dataclass(value) and isinstance(value, nodes.Node):
        for field in fields(value):
            yield from _parameters(getattr(value, field.name))


def _check_bounds(written: Sequence[nodes.Option], given: Mapping[str, Any]) -> None:
    """Raises BinderError, at its place, for what no machine can run, or no model lives by."""
    for option in written:
        name = option.name.lower()
        if name in _MOST and given[name] > _MOST[name]:
            raise BinderError(
                f"{name} = {given[name]}; at most {_MOST[name]} are possible",
                span=option.span,
                hint="as many as the machine has cores is a good choice",
            )
        if name == "keep_alive" and given[name] < KEEP_ALIVE_MS:
            raise BinderError(
                "keep_alive must be at least 1 s",
                span=option.span,
                hint="leave it out to keep models loaded",
            )


def _options(given: Mapping[str, Any], terms: Terms) -> DeploymentOptions:
    names = {field.name for field in fields(DeploymentOptions)}
    known = {name: value for name, value in given.items() if name in names}
    if (alive := given.get("keep_alive")) is not None:
        known["keep_alive_s"] = alive / 1e3
    memory = [m for m in (given.get("memory"), terms.memory_bytes) if m is not None]
    if memory:
        known["memory_bytes"] = int(min(memory))
    return DeploymentOptions(**known)


# ---- which models


def _chosen(
    what: nodes.DeployedGroup | nodes.DeployedPlan | nodes.Select, session: Session
) -> Chosen:
    if isinstance(what, nodes.Select):
        return deployed_models.of_select(what, session)
    if isinstance(what, nodes.DeployedPlan):
        return _of_plan(what, session)
    if what.pool is not None:
        return deployed_models.of_pool(what.pool, session, what.span)
    return deployed_models.of_names(_named(what.models), session)


def _named(references: Sequence[nodes.ModelRef | nodes.Parameter]) -> list[nodes.ModelRef]:
    return [reference for reference in references if isinstance(reference, nodes.ModelRef)]


def _of_plan(what: nodes.DeployedPlan, session: Session) -> Chosen:
    """The models that a kept plan executes."""
    try:
        saved = session.catalog.plan(what.name)
    except UnknownNameError as error:
        raise located(error, what.span) from None
    if saved.stale is not None:
        raise BinderError(
            f"plan '{what.name}' is stale: {saved.stale}",
            span=what.span,
            hint=f"CREATE OR REPLACE PLAN {what.name} AS {saved.query}",
        )
    records = tuple(session.catalog.models([m.model_id for m in saved.plan.executed]))
    predicted = [model.name for model in saved.plan.predicted]
    note = (f"{few(predicted)} {'is' if len(predicted) == 1 else 'are'} predicted, not run",)
    return Chosen(
        records, (what.span,) * len(records), agreement={}, notes=note if predicted else ()
    )


def _with_fallback(
    statement: nodes.Deploy, chosen: Chosen, session: Session
) -> tuple[str | None, Chosen]:
    """(what the model of last resort is called, the models with it)."""
    reference = statement.fallback
    if reference is None:
        return None, chosen
    found = deployed_models.of_names(_named([reference]), session)
    record = found.records[0]
    if record.id not in [other.id for other in chosen.records]:
        if not isinstance(statement.what, nodes.Select | nodes.DeployedGroup):
            raise BinderError(
                f"{record.name} is no model of the {_kind_word(statement.what)}",
                span=reference.span,
                hint="FALLBACK TO takes one of its models there",
            )
        chosen = replace(
            chosen,
            records=(*chosen.records, record),
            spans=(*chosen.spans, reference.span),
        )
    return chosen.names[record.id], chosen


def _kind_word(what: object) -> str:
    return "plan" if isinstance(what, nodes.DeployedPlan) else "cascade"


# ---- parts


def _ranked(models: Sequence[DeployedModel]) -> tuple[DeployedModel, ...]:
    """The most accurate first, of equals the faster; unknown accuracies last."""

    def rank(model: DeployedModel) -> tuple[float, float, str]:
        unknown = float("inf")
        accuracy = -1.0 if model.accuracy is None else model.accuracy
        return -accuracy, unknown if model.mean_ms is None else model.mean_ms, model.name

    return tuple(sorted(models, key=rank))


def _with_stand_ins(models: Sequence[DeployedModel]) -> tuple[DeployedModel, ...]:
    names = [model.name for model in models]
    return tuple(
        replace(model, stand_ins=tuple(name for name in names if name != model.name))
        for model in models
    )


def _task(records: Sequence[ModelRecord]) -> str | None:
    tasks = {record.task for record in records}
    return tasks.pop() if len(tasks) == 1 else None
