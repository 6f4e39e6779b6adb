"""CREATE LINK, CREATE PLAN and db.plan: links are fitted by a job, plans are chosen and kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sommelier.connection.naming import name_taken, underlined
from sommelier.errors import AnalysisError, BinderError, CancelledError, StorageError
from sommelier.grammar import nodes
from sommelier.grammar.builder import QueryBuilder, model_name
from sommelier.grammar.parser import parse_part
from sommelier.link_records import ActivationPlan, ModelLink, PlannedModel, SavedPlan
from sommelier.storage.tasks import TaskQueue
from sommelier.units import Dimension

if TYPE_CHECKING:
    from pathlib import Path

    from sommelier.analysis.jobs import AnalysisOptions
    from sommelier.analysis.links.fitting import LinkOptions
    from sommelier.analysis.links.formats import AnswerFormat
    from sommelier.analysis.links.profiles import Profile
    from sommelier.connection.connection import Connection
    from sommelier.connection.statements import Call
    from sommelier.records import ModelRecord
    from sommelier.runtime.collaborate import CollaborativePlan, Member

FITTING_OPTIONS: dict[str, Any] = {
    "method": ("auto", "linear", "network"),
    "hidden": int,
    "epochs": int,
    "held_out": Dimension.FRACTION,
    "screen": bool,
}
"""What of USING says how links are fitted, in CREATE LINK and in ANALYZE ... FOR LINKS."""

LINK_OPTIONS: dict[str, Any] = {
    **FITTING_OPTIONS,
    "dataset": str,
    "target_dataset": str,
    "samples": int,
    "sampling": ("random", "first"),
    "seed": int,
    "confidence": Dimension.FRACTION,
    "threads": int,
    "device": str,
    "time_limit": Dimension.TIME,
    "memory_limit": Dimension.BYTES,
}
_AMOUNTS = (
    nodes.Number,
    nodes.Quantity,
    nodes.Percent,
    nodes.Times,
    nodes.Arithmetic,
    nodes.Negative,
)
_JOB_OPTIONS = ("samples", "sampling", "seed", "threads", "device")


def fitting_options(given: Mapping[str, Any], **more: Any) -> LinkOptions:
    """How links are fitted, from the options of a statement; pops nothing.

    Raises BinderError for numbers that cannot be.
    """
    from sommelier.analysis.links.fitting import LinkOptions

    for name in ("hidden", "epochs"):
        if given.get(name) is not None and given[name] < 1:
            raise BinderError(f"option {name} must be at least 1")
    for name in ("held_out", "confidence"):
        if given.get(name) is not None and not 0 < given[name] < 1:
            raise BinderError(f"option {name} is a share between 0% and 100%, for example 30%")
    chosen = {k: given[k] for k in (*FITTING_OPTIONS, "confidence", "seed") if k in given}
    return LinkOptions(**{**chosen, **more})


# ---- CREATE LINK


def create_link(statement: nodes.CreateLink, call: Call) -> tuple[str, str, tuple[str, ...]]:
    """(status, the link's name, notes): created, replaced or exists.

    The row is there whatever came out; a pair that cannot be linked says why. Raises BinderError
    for a name that is taken, AnalysisError when no dataset fits all the models.
    """
    sources = [call.resolve(source) for source in statement.sources]
    target = call.resolve(statement.target)
    _check_models(statement, sources, target)
    catalog = call.db.catalog
    ids = tuple(source.id for source in sources)
    given = call.options(statement.options, LINK_OPTIONS)
    name = statement.name or catalog.new_link_name(ids, target.id, given.get("dataset"))
    taken = name in catalog.link_names()
    if taken and statement.if_not_exists:
        return "exists", name, ()
    if taken and not statement.or_replace:
        again = "fits it again; SHOW LINKS lists what there is"
        raise name_taken("link", name, statement.span, replacing=again)
    remarks = _fit(statement, sources, target, name, given, call)
    notes = (*link_notes(catalog.link(name)), *remarks)
    return ("replaced" if taken else "created"), name, notes


def _check_models(
    statement: nodes.CreateLink, sources: list[ModelRecord], target: ModelRecord
) -> None:
    for reference, record in zip(
        (*statement.sources, statement.target), (*sources, target), strict=True
    ):
        if record.artifact is None:
            raise BinderError(
                f"{record.name} is metadata only: there is no file whose answers could be learned",
                span=reference.span,
            )
    ids = [source.id for source in sources]
    if target.id in ids:
        raise BinderError(f"{target.name} cannot be linked to itself", span=statement.target.span)
    if len(set(ids)) < len(ids):
        raise BinderError("a source is named twice", span=statement.span)


def _fit(
    statement: nodes.CreateLink,
    sources: list[ModelRecord],
    target: ModelRecord,
    name: str,
    given: Mapping[str, Any],
    call: Call,
) -> list[str]:
    """Runs the job of one link; what should be known of its data.

    Raises AnalysisError with the reason when its task failed.
    """
    from sommelier.analysis.jobs import AnalysisPlan
    from sommelier.analysis.link_jobs import plan_link
    from sommelier.analysis.workers import Rooms, run_job
    from sommelier.grammar.formatter import format as format_statement

    plan = AnalysisPlan(analysis_options(given))
    db = call.db
    with underlined(statement.span):
        plan_link(
            db.catalog, sources, target, fitting_options(given), plan,
            name=name, target_dataset=given.get("target_dataset"),
        )  # fmt: skip
    tasks = TaskQueue(db.catalog)
    job = tasks.start_job(format_statement(statement), plan.tasks)
    rooms = Rooms(db.catalog, db.artifacts, db.sketches, tasks)
    try:
        run_job(rooms, job, plan, progress=call.progress, cancelled=call.cancelled)
    except CancelledError as error:
        raise CancelledError("CREATE LINK was cancelled", hint="nothing was changed") from error
    failed = [task.reason or "" for task in tasks.tasks(job.id) if task.state == "failed"]
    if failed:
        raise AnalysisError(f"the link could not be fitted: {failed[0]}")
    return plan.remarks


def analysis_options(given: Mapping[str, Any]) -> AnalysisOptions:
    """How models are run, of the options of CREATE LINK or CREATE CASCADE. Raises BinderError."""
    from sommelier.analysis.jobs import AnalysisOptions

    for name in ("samples", "threads"):
        if given.get(name) is not None and given[name] < 1:
            raise BinderError(f"option {name} must be at least 1")
    usual = AnalysisOptions()
    dataset = given.get("dataset")
    return AnalysisOptions(
        datasets=() if dataset is None else (dataset,),
        time_limit_s=given.get("time_limit", usual.time_limit_s * 1e3) / 1e3,
        memory_limit_bytes=given.get("memory_limit", usual.memory_limit_bytes),
        workers=1,
        **{name: given[name] for name in _JOB_OPTIONS if given.get(name) is not None},
    )


def link_notes(link: ModelLink) -> tuple[str, ...]:
    """How good a link is, in one line, and why it cannot be used where it cannot."""
    if link.performance is None:
        return (f"{link.state}: {link.reason}",)
    interval = ""
    if link.low is not None and link.high is not None:
        kind = "proved" if link.proved else "an estimate"
        interval = f" [{link.low:.1%}, {link.high:.1%}] ({kind})"
    skill = "" if link.skill is None else f", skill {link.skill:.1%}"
    line = (
        f"{link.metric}: performance {link.performance:.1%}{interval} on {link.held_out} held-out"
        f" samples; best constant answer {link.constant:.1%}{skill}; {link.method}"
    )
    return (line,) if link.state == "linked" else (line, f"{link.state}: {link.reason}")


# ---- plans


def create_plan(statement: nodes.CreatePlan, call: Call) -> tuple[str, tuple[str, ...]]:
    """(status, notes). The plan is kept with the question it answers."""
    from sommelier.engine.activation import activation_plan
    from sommelier.engine.parameters import as_parameters
    from sommelier.grammar.formatter import format as format_statement

    catalog, name = call.db.catalog, statement.name
    taken = name in catalog.plan_names()
    if taken and statement.if_not_exists:
        return "exists", ()
    if taken and not statement.or_replace:
        raise name_taken("plan", name, statement.span)
    plan = activation_plan(statement.select, call.db.session, as_parameters(call.parameters))
    catalog.save_plan(name, plan, format_statement(statement.select))
    ran = ", ".join(model.name for model in plan.executed) or "nothing"
    note = f"executes {ran}; expected output accuracy {plan.accuracy:.1%}"
    return ("replaced" if taken else "created"), (note,)


def plan_of(
    db: Connection,
    models: str | Sequence[str],
    budget: Mapping[str, str],
    options: dict[str, Any],
    profile: Profile | None = None,
) -> ActivationPlan:
    """The plan SELECT PLAN answers; of one name the plan, or the pool, that is called so.

    Raises BinderError for a saved plan that is stale, UnknownNameError for names there are not.
    """
    from sommelier.engine.activation import activation_plan
    from sommelier.engine.parameters import as_parameters

    if isinstance(models, str) and models in db.catalog.plan_names():
        if budget or options or profile is not None:
            raise BinderError(
                f"plan '{models}' is chosen already", hint="name the models to choose again"
            )
        return _fresh(db.catalog.plan(models))
    chosen = QueryBuilder().using(**options).query.options if options else ()
    group: dict[str, Any] = {"pool": models}
    if not isinstance(models, str):
        if not models:
            raise BinderError("no models are named", hint="db.plan(['a', 'b'], budget=...)")
        group = {"models": tuple(nodes.ModelRef(*model_name(name)) for name in models)}
    statement = nodes.SelectPlan(**group, on=_budget(budget), options=chosen)
    return activation_plan(statement, db.session, as_parameters(None), profile=profile)


def _fresh(saved: SavedPlan) -> ActivationPlan:
    if saved.stale is not None:
        raise BinderError(
            f"plan '{saved.name}' is stale: {saved.stale}",
            hint=f"CREATE OR REPLACE PLAN {saved.name} AS {saved.query}",
        )
    return saved.plan


def _budget(budget: Mapping[str, str]) -> nodes.Expression | None:
    """The limits as ON says them: {'memory': '5 MB', 'latency': '60%'}."""
    if not isinstance(budget, Mapping):
        raise BinderError(
            f"the budget is {budget!r}, which does not say of what",
            hint="write budget={'memory': '5 MB'}",
        )
    limits = [nodes.Comparison("<=", nodes.Column(m), _most(m, budget[m])) for m in budget]
    if len(limits) > 1:
        return nodes.And(tuple(limits))
    return limits[0] if limits else None


def _most(metric: str, most: str) -> nodes.Expression:
    """An amount with its unit, or a percentage; whether the metric has one is asked later."""
    hint = f"write budget={{'{metric}': '5 MB'}}, or '60%' of executing all models"
    if not isinstance(most, str):
        raise BinderError(f"the budget of {metric} is {most!r}, which has no unit", hint=hint)
    amount = parse_part(most, "expr")
    if not isinstance(amount, _AMOUNTS):
        raise BinderError(f"the budget of {metric} is {most!r}, which is no amount", hint=hint)
    return amount


def open_plan(db: Connection, plan: ActivationPlan, *, threads: int = 1) -> CollaborativePlan:
    """The plan, ready to run. Raises StorageError when a file it needs is gone."""
    from sommelier.runtime.collaborate import CollaborativePlan

    ids = {model.model_id for model in plan.models}
    used = {id_ for model in plan.models for id_ in model.link_ids}
    links = db.catalog.links()
    # of several links of one pair, that which the plan was chosen by tells how answers are written
    links.sort(key=lambda k: (k.id not in used, k.probe_set_id != plan.probe_set_id, not k.usable))
    members = [_member(db, model, links) for model in plan.models]
    between: dict[tuple[str, str], Path] = {}
    for link in links:
        pair = (link.source_ids[0], link.target_id)
        single = len(link.source_ids) == 1 and {*pair} <= ids
        if single and link.usable and link.artifact and pair not in between:
            with suppress(StorageError):  # one that the plan does not use; a profile lacks it
                between[pair] = _network(db, link)
    return CollaborativePlan(plan, members, between, threads=threads)


def _network(db: Connection, link: ModelLink) -> Path:
    """A link's ONNX file. Raises StorageError when it is gone or another."""
    try:
        return db.artifacts.path(str(link.artifact))
    except StorageError as error:
        sources = ", ".join(link.source_names)
        raise StorageError(
            f"the link '{link.name}' cannot be used: {error.message}",
            hint=f"DROP LINK {link.name}; ANALYZE {sources}, {link.target_name} FOR LINKS",
        ) from error


def _member(db: Connection, model: PlannedModel, links: Sequence[ModelLink]) -> Member:
    """links : all, the plan's own first."""
    from sommelier.runtime.collaborate import Member

    record = db.catalog.model(model.model_id)
    path = None if record.artifact is None else db.artifacts.path(record.artifact)
    own = {link.id: link for link in links}
    networks = tuple(_network(db, own[id_]) for id_ in model.link_ids)
    format_ = next((found for link in links if (found := _format(link, record.id))), None)
    return Member(model, record, path, networks, format_)


def _format(link: ModelLink, model_id: str) -> AnswerFormat | None:
    """How a model's answers are written, as a link from or to it knows."""
    from sommelier.analysis.links.formats import AnswerFormat

    written = None
    if link.target_id == model_id:
        written = link.target_format
    elif link.source_ids == (model_id,):
        written = link.source_format
    return None if written is None else AnswerFormat.from_json(written)
