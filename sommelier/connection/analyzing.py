"""ANALYZE: which models, on which data, then the job that measures them and compares them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from sommelier.connection.agreement_edges import add_edges
from sommelier.connection.linking import FITTING_OPTIONS, fitting_options
from sommelier.connection.naming import underlined
from sommelier.engine.options import Many
from sommelier.errors import AnalysisError, BinderError, SommelierError, Span
from sommelier.grammar import nodes
from sommelier.records import AnalysisTask, ModelRecord
from sommelier.storage.tasks import DONE_BEFORE, TaskQueue
from sommelier.units import Dimension

if TYPE_CHECKING:
    from sommelier.analysis.jobs import AnalysisOptions, AnalysisPlan
    from sommelier.analysis.workers import JobSummary
    from sommelier.connection.statements import Call

ANALYZE_OPTIONS: dict[str, Any] = {
    "dataset": Many(str),
    "samples": int,
    "sampling": ("random", "first"),
    "seed": int,
    "batch": int,
    "threads": int,
    "runs": int,
    "device": str,
    "threshold": Dimension.FRACTION,
    "bound": ("auto", "anytime"),
    "workers": int,
    "time_limit": Dimension.TIME,
    "memory_limit": Dimension.BYTES,
}
ANYTIME_THRESHOLD = 0.95  # of agreement, which early stopping decides about
REASONS_SHOWN = 6
REASON_LENGTH = 200


def analyze(
    statement: nodes.Analyze, call: Call
) -> tuple[str, int, tuple[str, ...], AnalysisError | None]:
    """(what was analyzed, tasks done, notes, the error if every task failed); findings are kept
    task by task.

    Raises CancelledError when the user cancels; the same statement then goes on from there.
    """
    from sommelier.analysis.workers import Rooms, run_job
    from sommelier.grammar.formatter import format as format_statement

    db = call.db
    models, plan = planned(statement, call)
    tasks = TaskQueue(db.catalog)
    job = tasks.start_job(format_statement(statement), plan.tasks)
    db.catalog.publish()  # its first model may take long, and readers want to see the job
    rooms = Rooms(db.catalog, db.artifacts, db.sketches, tasks)
    summary = run_job(rooms, job, plan, progress=call.progress, cancelled=call.cancelled)
    ended = tasks.tasks(job.id)
    add_edges(db.session, tuple(plan.probes), ended, call.progress, call.cancelled)
    notes = notes_of(summary, ended, plan, models)
    return titled(models), summary.done, notes, failure_of(summary, ended)


def planned(statement: nodes.Analyze, call: Call) -> tuple[list[ModelRecord], AnalysisPlan]:
    """The models an ANALYZE is about, and what it will do; nothing is run."""
    from sommelier.analysis.jobs import plan_analysis

    models = _scope(statement, call)
    options, named = _options(statement, call), statement.scope != "all"
    if not models:
        raise SommelierError("there are no models yet", hint="IMPORT MODELS FROM folder './zoo'")
    _check_pairs(statement, models)
    with underlined(_span_of(statement, "dataset")):
        against = [call.resolve(name) for name in statement.against]
        plan = plan_analysis(
            call.db.catalog, models, statement.aspects, options, named=named, against=against
        )
    return models, plan


def _check_pairs(statement: nodes.Analyze, models: list[ModelRecord]) -> None:
    """What is learned of pairs needs two models."""
    if statement.scope != "models" or len(models) > 1:
        return
    for aspect in ("segments", "links"):
        if aspect in statement.aspects:
            raise BinderError(
                f"{aspect} are those of two models",
                hint=f"ANALYZE {models[0].name}, another_model FOR {aspect.upper()},"
                " or ANALYZE ALL",
            )


def _scope(statement: nodes.Analyze, call: Call) -> list[ModelRecord]:
    """The models to analyze, each once. Raises UnknownNameError."""
    catalog = call.db.catalog
    if statement.scope == "models":
        records = [call.resolve(name) for name in (*statement.models, *statement.against)]
        return list({record.id: record for record in records}.values())
    if statement.scope == "pool":
        with underlined(statement.span):
            ids = list(catalog.pool(str(statement.pool)).ids)
    else:
        ids = None
    records = catalog.models(ids)
    against = [call.resolve(name) for name in statement.against]
    return list({record.id: record for record in (*records, *against)}.values())


def _options(statement: nodes.Analyze, call: Call) -> AnalysisOptions:
    from sommelier.analysis.jobs import AnalysisOptions

    fitted = "links" in statement.aspects
    schema = {**ANALYZE_OPTIONS, **(FITTING_OPTIONS if fitted else {})}
    given = call.options(statement.options, schema)
    for name in ("samples", "batch", "threads", "runs", "workers"):
        if given.get(name) is not None and given[name] < 1:
            raise BinderError(f"option {name} must be at least 1")
    if given.get("bound") == "anytime":
        given.setdefault("threshold", ANYTIME_THRESHOLD)
        if statement.aspects != ("equivalence",) or not statement.against:
            raise BinderError(
                "bound = anytime decides about pairs",
                hint="ANALYZE m FOR EQUIVALENCE AGAINST r USING bound = 'anytime'",
            )
    links = fitting_options(given) if fitted else None
    for name in FITTING_OPTIONS:
        given.pop(name, None)
    renamed = {
        "links": links,
        "datasets": tuple(given.pop("dataset", None) or ()),
        "time_limit_s": given.pop("time_limit", AnalysisOptions().time_limit_s * 1e3) / 1e3,
        "memory_limit_bytes": given.pop("memory_limit", AnalysisOptions().memory_limit_bytes),
    }
    return AnalysisOptions(**given, **renamed)


def _span_of(statement: nodes.Analyze, option: str) -> Span | None:
    return next((o.span for o in statement.options if o.name.lower() == option), None)


# ---- what the footer says


def failure_of(summary: JobSummary, tasks: list[AnalysisTask]) -> AnalysisError | None:
    """The error if tasks failed and none was done, now or before."""
    failed = sum(count for (_, state), count in summary.outcomes.items() if state == "failed")
    if not failed or summary.done or any(task.reason == DONE_BEFORE for task in tasks):
        return None
    return AnalysisError(
        f"ANALYZE had {_counted(failed, 'task, which', 'tasks, and every one')} failed",
        hint="SELECT model, aspect, reason FROM job_tasks WHERE state = 'failed' lists them",
    )


def titled(models: list[ModelRecord]) -> str:
    """What was analyzed."""
    return models[0].name if len(models) == 1 else f"{len(models)} models"


def notes_of(
    summary: JobSummary,
    ended: list[AnalysisTask],
    plan: AnalysisPlan,
    models: list[ModelRecord],
) -> tuple[str, ...]:
    """What an ANALYZE did and left out, a line each."""
    names = {record.id: record.name for record in models}
    skipped = [(names[t.model_id], t.reason or "") for t in ended if t.state == "skipped"]
    lines = [_tally(summary)] if summary.outcomes else []
    lines += plan.remarks
    left_out = [(name, reason) for name, reason in skipped if reason != DONE_BEFORE]
    if len(left_out) < len(skipped):
        repeated = _counted(len(skipped) - len(left_out), "task was", "tasks were")
        lines.append(f"{repeated} done before and not repeated")
    if plan.without_file:
        without = _counted(plan.without_file, "model is", "models are")
        lines.append(f"{without} metadata only: there is no file to run")
    lines += _grouped(summary.reasons)
    if left_out:
        name, reason = left_out[0]
        misfits = _counted(len(left_out), "model fits", "models fit")
        lines.append(f"{misfits} no dataset, for example {name}: {_short(reason)}")
        lines.append("all reasons: SELECT model, reason FROM job_tasks WHERE state = 'skipped'")
    return tuple(lines)


def _counted(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _tally(summary: JobSummary) -> str:
    """Such as 'latency: 8 done; sketch: 7 done, 1 failed'."""
    by_aspect: dict[str, list[str]] = defaultdict(list)
    for (aspect, state), count in sorted(summary.outcomes.items()):
        by_aspect[aspect].append(f"{count} {state}")
    return "; ".join(f"{aspect}: {', '.join(counts)}" for aspect, counts in by_aspect.items())


def _grouped(reasons: Iterable[tuple[str, str]]) -> list[str]:
    """One line a reason, with the models it is true of."""
    by_reason: dict[str, dict[str, None]] = defaultdict(dict)
    for name, reason in reasons:
        by_reason[reason][name] = None
    lines = []
    for reason, found in list(by_reason.items())[:REASONS_SHOWN]:
        names = list(found)
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        lines.append(f"{shown}: {_short(reason)}")
    if len(by_reason) > REASONS_SHOWN:
        lines.append("more: SELECT model, reason FROM job_tasks WHERE reason IS NOT NULL")
    return lines


def _short(reason: str) -> str:
    return reason if len(reason) <= REASON_LENGTH else reason[: REASON_LENGTH - 1] + "…"
