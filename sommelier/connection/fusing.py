"""CREATE MODEL m AS FUSION OF a, b: names, limits and options bound here; a job does the rest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sommelier.connection.naming import underlined, why_no_file
from sommelier.engine.names import nearest
from sommelier.engine.options import bind_value, check_confidence, check_least
from sommelier.engine.parameters import as_parameters
from sommelier.errors import BinderError, CancelledError, SommelierError
from sommelier.grammar import nodes
from sommelier.storage.tasks import TaskQueue
from sommelier.units import Dimension, format_value

if TYPE_CHECKING:
    from sommelier.analysis.fusion_limits import CostLimit
    from sommelier.analysis.fusion_plans import FusionOptions, FusionRequest
    from sommelier.connection.background import BackgroundJob
    from sommelier.connection.connection import Connection
    from sommelier.connection.statements import Call
    from sommelier.fusion_records import FusedModel, FusionTask
    from sommelier.records import ModelRecord

FUSION_OPTIONS: dict[str, Any] = {
    "method": (
        "auto", "gain_first", "annealing", "random", "all_shared", "merged_weights", "equal_layers",
    ),
    "budget": Dimension.TIME,
    "epochs": int,
    "steps": int,
    "seed": int,
    "dataset": str,
    "labels": str,
    "samples": int,
    "upper_end": bool,
    "confidence": Dimension.FRACTION,
    "threads": int,
    "workers": int,
    "device": str,
    "time_limit": Dimension.TIME,
    "memory_limit": Dimension.BYTES,
}  # fmt: skip
"""What USING takes after CREATE MODEL ... AS FUSION OF. upper_end : WITHIN is held against the
upper end of the interval of each drop, not against the drop."""

DROP = 0.01  # what a task may lose where WITHIN does not say
_LIMITED = {"latency": Dimension.TIME, "flops": Dimension.FLOPS, "memory": Dimension.BYTES}
_LEAST = {"epochs": 1, "steps": 1, "samples": 1, "threads": 1, "workers": 1, "seed": 0}
_FLIPPED = {">": "<", ">=": "<="}


def create_fusion(
    statement: nodes.CreateModel, call: Call, replaced: ModelRecord | None
) -> tuple[str, tuple[str, ...], int | None]:
    """(status, notes, job): 'created', or 'started' with the job that does it in the background.

    replaced : the model of that name, which goes once the new one is there. Raises BinderError for
    names, limits and options that do not fit, AnalysisError for models that cannot be fused and
    when no fusion was found that is within what was asked.
    """
    from sommelier.analysis.fusion_plans import plan_fusion, sample_shortage

    recipe = statement.recipe
    assert isinstance(recipe, nodes.FusionRecipe), "a graft is made elsewhere"
    models = _models(recipe, call)
    if replaced is not None and replaced.id in {model.id for model in models}:
        raise BinderError(
            f"{replaced.name} is one of the models that are fused, and what it lost could not be"
            " looked at again without it",
            span=statement.name.span,
            hint="give the fused model a name of its own",
        )
    notes: list[str] = []
    options = _options(statement, recipe, models, call, notes)
    with underlined(recipe.span):
        request = plan_fusion(
            call.db.catalog, models, options, name=statement.name.name,
            version=statement.name.version, replaced=replaced,
        )  # fmt: skip
    shortage = sample_shortage(request)
    if shortage is not None:
        notes.append(shortage)
    if statement.background:
        return "started", tuple(notes), _in_background(statement, request, call)
    fused, said = _waited_for(statement, request, call)
    return "created", (*fusion_notes(fused), *notes, *said), None


# ---- what is asked


def _models(recipe: nodes.FusionRecipe, call: Call) -> list[ModelRecord]:
    """The models that are named, or those of the pool."""
    catalog = call.db.catalog
    if recipe.pool is not None:
        with underlined(recipe.span):
            models = catalog.models(catalog.pool(recipe.pool).ids)
        spans = [recipe.span] * len(models)
    else:
        models = [call.resolve(reference) for reference in recipe.models]
        spans = [reference.span for reference in recipe.models]
    if len(models) < 2:
        raise BinderError(
            f"a fusion makes one model of two or more, and here {'is' if models else 'are'}"
            f" {len(models)}",
            span=recipe.span,
            hint="FUSION OF a, b",
        )
    met: set[str] = set()
    for model, span in zip(models, spans, strict=True):
        if model.artifact is None:
            raise BinderError(f"{model.name} has no file to fuse: {why_no_file(model)}", span=span)
        if model.id in met:
            raise BinderError(f"{model.name} is named twice", span=span)
        met.add(model.id)
    return models


def _options(
    statement: nodes.CreateModel,
    recipe: nodes.FusionRecipe,
    models: Sequence[ModelRecord],
    call: Call,
    notes: list[str],
) -> FusionOptions:
    from sommelier.analysis.fusion_data import DataOptions
    from sommelier.analysis.fusion_plans import BUDGET_S, FusionOptions

    bound = call.options(statement.options, FUSION_OPTIONS)
    given = {name: value for name, value in bound.items() if value is not None}
    _check(given, statement)
    method = _method(given, recipe, statement)
    untrained = method in ("equal layers", "merged weights")
    if not untrained and not {"budget", "epochs", "steps"} & set(given):
        notes.append(f"budget {BUDGET_S / 60:.0f} min: USING budget = 20min gives more")
    usual = FusionOptions()
    budget, limit = given.get("budget"), given.get("time_limit")
    return FusionOptions(
        method,
        _tolerance(recipe, call, notes) if method != "equal layers" else 0.0,
        given.get("upper_end", False),
        given.get("confidence", usual.confidence),
        tuple(_limits(recipe.on, models, call)),
        None if budget is None else budget / 1e3,
        given.get("epochs"),
        given.get("steps"),
        DataOptions(
            given.get("dataset"), given.get("labels"), given.get("samples"), given.get("seed", 0)
        ),
        given.get("threads", usual.threads),
        given.get("device", usual.device),
        None if limit is None else limit / 1e3,
        given.get("memory_limit", usual.memory_limit_bytes),
        given.get("workers", usual.workers),
    )


def _method(
    given: Mapping[str, Any], recipe: nodes.FusionRecipe, statement: nodes.CreateModel
) -> str:
    method: str = given.get("method", "auto").replace("_", " ")
    if not recipe.memory_only:
        return method
    if method not in ("auto", "equal layers"):
        raise BinderError(
            "FOR MEMORY keeps equal layers once and searches for nothing",
            span=statement.span,
            hint="leave out FOR MEMORY, or the method",
        )
    return "equal layers"


def _check(given: Mapping[str, Any], statement: nodes.CreateModel) -> None:
    check_least(statement.options, given, _LEAST)
    for option in statement.options:
        name = option.name.lower()
        if name not in given:
            continue
        if name in ("budget", "time_limit", "memory_limit") and not given[name] > 0:
            raise BinderError(f"option {name} must be above 0", span=option.span)
        if name == "confidence":
            check_confidence(given[name], option.span)


def _tolerance(recipe: nodes.FusionRecipe, call: Call, notes: list[str]) -> float:
    """The fraction that each task may lose."""
    if recipe.within is None:
        notes.append(f"each task may lose {DROP:.0%}: WITHIN 2% OF ACCURACY allows more")
        return DROP
    found = bind_value(recipe.within, Dimension.FRACTION, call.parameters, name="WITHIN")
    if not 0 <= found < 1:
        raise BinderError(
            f"a task may lose from 0% to less than 100% of accuracy, not {found:.0%}",
            span=recipe.within.span,
            hint="WITHIN 1% OF ACCURACY",
        )
    return float(found)


# ---- limits


def _limits(
    on: nodes.Expression | None, models: Sequence[ModelRecord], call: Call
) -> Iterator[CostLimit]:
    """Upper limits joined by AND. Raises BinderError that says what is possible."""
    if isinstance(on, nodes.And):
        for part in on.operands:
            yield from _limits(part, models, call)
    elif on is not None:
        yield _limit(on, models, call)


def _limit(node: nodes.Expression, models: Sequence[ModelRecord], call: Call) -> CostLimit:
    from sommelier.analysis.fusion_limits import CostLimit

    if not isinstance(node, nodes.Comparison):
        raise _no_limit(node)
    column, value, operator = node.left, node.right, node.operator
    if not isinstance(column, nodes.Column):
        column, value, operator = value, column, _FLIPPED.get(operator, ">")
    if not isinstance(column, nodes.Column) or operator not in ("<", "<="):
        raise _no_limit(node)
    metric = column.name.lower()
    if metric not in _LIMITED:
        raise BinderError(
            f"a fusion cannot be limited by '{column.name}'",
            span=column.span,
            suggestions=nearest(metric, _LIMITED),
            hint=f"it can by {', '.join(_LIMITED)}; what a task may lose says WITHIN",
        )
    literal = as_parameters(call.parameters).literal(value)
    strict = operator == "<"
    if isinstance(literal, nodes.Percent | nodes.Times):
        factor = literal.fraction if isinstance(literal, nodes.Percent) else literal.factor
        return CostLimit(metric, factor, False, _task(literal.relative_to, models, call), strict)
    if isinstance(literal, tuple | nodes.Null):
        raise _no_limit(node)
    amount = bind_value(literal, _LIMITED[metric], call.parameters, name=metric)
    return CostLimit(metric, amount, True, None, strict)


def _task(
    reference: nodes.ModelRef | nodes.Parameter | None, models: Sequence[ModelRecord], call: Call
) -> str | None:
    """The task of the model a share is of; None for all models together."""
    from sommelier.analysis.fusion_data import task_names

    if reference is None:
        return None
    found = call.resolve(reference)
    for model, task in zip(models, task_names(models), strict=True):
        if model.id == found.id:
            return task
    raise BinderError(
        f"{found.name} is none of the models that are fused",
        span=reference.span,
        hint=f"a share is of all of them together, or of one: {', '.join(task_names(models))}",
    )


def _no_limit(node: nodes.Expression) -> BinderError:
    return BinderError(
        "a fusion is limited from above, by one limit or several joined by AND",
        span=node.span,
        hint="ON latency < 60% AND memory < 3 MB; a percentage is of the models together, or"
        " write memory < 80% OF one of them",
    )


# ---- the job


def _waited_for(
    statement: nodes.CreateModel, request: FusionRequest, call: Call
) -> tuple[FusedModel, tuple[str, ...]]:
    from sommelier.analysis.fusion_jobs import Stopping, run_fusion

    tasks = TaskQueue(call.db.catalog)
    job = tasks.start_job(_text(statement), ())
    try:
        fused, notes = run_fusion(
            _rooms(call.db), request, job_id=job.id, progress=call.progress,
            stopping=Stopping(call.cancelled),
        )  # fmt: skip
    except BaseException as error:
        state = "failed" if isinstance(error, SommelierError) else "interrupted"
        if isinstance(error, CancelledError):
            state = "cancelled"
        with suppress(SommelierError):  # what went wrong first is what is told
            tasks.finish_job(job.id, state, getattr(error, "message", None))
        raise
    tasks.finish_job(job.id, "done", _said(fused))
    return fused, notes


def _in_background(statement: nodes.CreateModel, request: FusionRequest, call: Call) -> int:
    from sommelier.analysis.fusion_jobs import Stopping, run_fusion

    rooms = _rooms(call.db)

    def work(job: BackgroundJob) -> str:
        stopping = Stopping(job.cancelled, lambda: job.stop_reason == "interrupted")
        fused, _ = run_fusion(
            rooms, request, job_id=job.id, progress=job.progress, stopping=stopping
        )
        return _said(fused)

    name = statement.name
    spelled = f"{name.name}@{name.version}" if name.version else name.name
    return call.db.background.start(_text(statement), work, makes=("model", spelled))


def _text(statement: nodes.CreateModel) -> str:
    from sommelier.grammar.formatter import format as format_statement

    return format_statement(statement)


def _rooms(db: Connection) -> Any:
    from sommelier.analysis.workers import Rooms

    return Rooms(db.catalog, db.artifacts, db.sketches, TaskQueue(db.catalog))


def _said(fusion: FusedModel) -> str:
    """One sentence on what came of it."""
    told = "; ".join(fusion_notes(fusion)[:2])
    return f"model {fusion.name}: {told}"


# ---- what came of it


def fusion_notes(fusion: FusedModel) -> tuple[str, ...]:
    """What a fused model costs beside its originals, what each task lost, and how it was found."""
    notes = [", ".join(_costs(fusion))]
    notes += [_loss(task) for task in fusion.tasks]
    if any(task.proved and task.samples for task in fusion.tasks):
        notes.append(f"each interval holds for its task alone, at {fusion.confidence or 0.95:.0%}")
    notes.append(_how(fusion))
    return tuple(notes)


def _costs(fusion: FusedModel) -> Iterator[str]:
    latency, base = fusion.latency_ms, fusion.base_latency_ms
    if latency and base:
        yield f"{base / latency:.2f}x as fast ({_of(latency, base, Dimension.TIME)})"
    for name, ours, theirs, unit in (
        ("FLOPs", fusion.flops, fusion.base_flops, Dimension.FLOPS),
        ("memory", fusion.memory, fusion.base_memory, Dimension.BYTES),
        ("parameters", fusion.params, fusion.base_params, Dimension.COUNT),
    ):
        if ours is not None and theirs:
            yield f"{ours / theirs:.0%} of the {name} ({_of(ours, theirs, unit)})"


def _of(ours: float, theirs: float, unit: Dimension) -> str:
    return f"{format_value(ours, unit)} of {format_value(theirs, unit)}"


def _loss(task: FusionTask) -> str:
    if task.drop is None or task.baseline is None:
        return f"{task.name}: what it lost was not measured"
    if not task.samples:
        return f"{task.name}: the same answers"
    interval = ""
    if task.drop_low is not None and task.drop_high is not None:
        kind = "proved" if task.proved else "an estimate"
        interval = f" [{task.drop_low:.2%}, {task.drop_high:.2%}] ({kind})"
    return (
        f"{task.name}: {task.metric} {task.baseline:.1%}, lost {task.drop:.2%}{interval} on"
        f" {task.samples} samples"
    )


def _how(fusion: FusedModel) -> str:
    if fusion.method != "search":
        return f"{fusion.method}: {fusion.reason}"
    took = format_value(fusion.elapsed_ms, Dimension.TIME)
    count = "1 candidate" if fusion.evaluations == 1 else f"{fusion.evaluations} candidates"
    told = (
        f"search of {took}: {count} trained on {fusion.training} samples of"
        f" '{fusion.dataset}', chosen on {fusion.selection}, measured on {fusion.held_out}"
    )
    return told if fusion.reason is None else f"{told}; {fusion.reason}"
