"""SHOW: what the database holds, one function a kind of thing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sommelier.engine import (
    settings,
    show_bounds,
    show_cascades,
    show_deployments,
    show_links,
    show_segments,
)
from sommelier.engine.moments import moment
from sommelier.engine.options import SETTINGS
from sommelier.engine.parameters import Parameters
from sommelier.engine.places import told
from sommelier.engine.plan import QueryOptions
from sommelier.engine.result import ColumnInfo, Table
from sommelier.engine.vocabulary import FUNCTIONS
from sommelier.errors import BinderError
from sommelier.grammar import nodes
from sommelier.like import like_pattern
from sommelier.metrics import METRICS
from sommelier.storage.rows import now
from sommelier.units import SPELLINGS, Dimension, format_value

if TYPE_CHECKING:
    from sommelier.engine.session import Session
    from sommelier.records import Job

Rows = list[tuple[object, ...]]
_COUNT, _BYTES = Dimension.COUNT, Dimension.BYTES


def show(statement: nodes.Show, session: Session, parameters: Parameters) -> Table:
    """The rows of SHOW, narrowed by LIKE and LIMIT; WHERE works for models only."""
    if statement.what == "models":
        return _models(statement, session, parameters)
    if statement.what == "links":
        return show_links.links(statement, session, parameters)
    if statement.where is not None:
        raise BinderError(
            f"SHOW {statement.what.upper()} takes LIKE; SHOW MODELS and SHOW LINKS take WHERE",
            span=statement.where.span,
        )
    if statement.what == "bounds":
        return show_bounds.bounds(statement, session, parameters)
    notes: tuple[str, ...] = ()
    if statement.what in _OF_PAIRS:
        columns, rows, notes = _OF_PAIRS[statement.what](statement.of, session, parameters)
    elif statement.of:
        columns, rows = _OF[statement.what](statement.of[0], session, parameters)
    else:
        columns, rows = _LISTS[statement.what](session)
    like = parameters.text(statement.like)
    if like is not None:
        pattern = like_pattern(like)
        named = "statement" if statement.what == "jobs" else columns[0].name
        place = [column.name for column in columns].index(named)
        rows = [row for row in rows if pattern.fullmatch(str(row[place]))]
    return Table(statement.what, columns, rows[: statement.limit], notes)


def _columns(*named: str | tuple[str, Dimension]) -> tuple[ColumnInfo, ...]:
    return tuple(ColumnInfo(*n) if isinstance(n, tuple) else ColumnInfo(n) for n in named)


def _models(statement: nodes.Show, session: Session, parameters: Parameters) -> Table:
    """SHOW MODELS is a SELECT MODELS ordered by name."""
    where = show_links.narrowed(statement)
    by_name = (nodes.OrderItem(nodes.Column("name")), nodes.OrderItem(nodes.Column("version")))
    select = nodes.Select(where=where, order_by=by_name, limit=statement.limit)
    result = session.run_bound(session.plan(select, parameters))
    return Table("models", result.columns, result.fetchall(), result.notes)


# ---- lists

Listed = tuple[tuple[ColumnInfo, ...], Rows]


def _tasks(session: Session) -> Listed:
    rows: Rows = [tuple(task) for task in session.facts.tasks()]
    return _columns("task", ("models", _COUNT), "reference"), rows


def _sources(session: Session) -> Listed:
    counts = Counter(str(word) for word in session.facts.text("source") if word is not None)
    return _columns("source", ("models", _COUNT)), [*sorted(counts.items())]


def _repositories(session: Session) -> Listed:
    """models : how many came from it."""
    counts = Counter(session.facts.text("source"))
    rows: Rows = [
        (r.name, r.connector, r.place and told(r.place), _said(r.options), counts[r.name])
        for r in session.catalog.repositories()
    ]
    return _columns("name", "type", "place", "options", ("models", _COUNT)), rows


def _said(options: Mapping[str, object]) -> str | None:
    return ", ".join(f"{name} = {told(value)}" for name, value in options.items()) or None


def _pools(session: Session) -> Listed:
    rows: Rows = [(p.name, len(p.ids), p.query) for p in session.catalog.pools()]
    return _columns("name", ("models", _COUNT), "query"), rows


def _views(session: Session) -> Listed:
    rows: Rows = [(view.name, view.query) for view in session.catalog.views()]
    return _columns("name", "query"), rows


def _datasets(session: Session) -> Listed:
    rows: Rows = [
        (d.name, d.kind, d.samples, d.labelled, d.held_out, str(d.path))
        for d in session.facts.datasets()
    ]
    return _columns("name", "kind", ("samples", _COUNT), "labelled", "held_out", "path"), rows


def _devices(session: Session) -> Listed:
    rows: Rows = [
        (d.name, d.memory_bytes, d.peak_flops_per_s, d.bandwidth_bytes_per_s, d.note)
        for d in session.facts.devices()
    ]
    known = {row[0] for row in rows}
    profiled = session.facts.context_names("latency", "device")
    rows += [(name, None, None, None, "profiled") for name in profiled if name not in known]
    columns = _columns(
        "name",
        ("memory", _BYTES),
        ("peak_per_s", Dimension.FLOPS),
        ("bandwidth_per_s", _BYTES),
        "note",
    )
    return columns, rows


def _metrics(session: Session) -> Listed:
    rows: Rows = [
        (
            metric.name,
            metric.dimension.value,
            "lower" if metric.lower_is_better else "higher",
            "ON, WHERE" if metric.resource else "WHERE",
            ", ".join(metric.context) or None,
            max((c.count for c in session.facts.contexts(metric.name)), default=0),
            metric.description,
        )
        for metric in METRICS.values()
    ]
    names = ("name", "measures", "better", "clauses", "context", ("models", _COUNT), "description")
    return _columns(*names), rows


def _settings(session: Session) -> Listed:
    stored, defaults = session.settings(), QueryOptions()
    rows: Rows = []
    for name in SETTINGS:
        default = getattr(defaults, name)
        value = stored.get(name, default)
        rows.append(
            (
                name,
                None if value is None else settings.shown(name, value),
                None if default is None else settings.shown(name, default),
            )
        )
    extra = {k: v for k, v in session.catalog.settings().items() if k not in SETTINGS}
    rows += [(name, value, None) for name, value in extra.items()]
    return _columns("name", "value", "default"), sorted(rows, key=lambda row: str(row[0]))


def _functions(_: Session) -> Listed:
    return _columns("name", "meaning"), list(FUNCTIONS.items())


def _units(_: Session) -> Listed:
    rows: Rows = [(d.value, ", ".join(names)) for d, names in SPELLINGS.items() if names]
    return _columns("measures", "units"), rows


def _jobs(session: Session) -> Listed:
    """The newest first: who limits them asks what was begun lately."""
    from sommelier.storage.tasks import TaskQueue

    rows: Rows = [
        (j.id, j.state, j.progress, j.doing, *_counts(j), j.started_at,
         _took_ms(j), j.statement, j.reason)
        for j in reversed(TaskQueue(session.catalog).jobs())
    ]  # fmt: skip
    progress = (("progress", Dimension.FRACTION), "now")
    counts = tuple((name, _COUNT) for name in ("total", "done", "failed", "skipped"))
    times = ("started", ("took_ms", Dimension.TIME))
    return _columns("id", "state", *progress, *counts, *times, "statement", "reason"), rows


def _counts(job: Job) -> tuple[int | None, ...]:
    """Its tasks: all, done, failed, skipped; None each where a job is one piece of work."""
    return (job.total, job.done, job.failed, job.skipped) if job.total else (None,) * 4


def _took_ms(job: Job) -> float | None:
    """How long a job ran, or has run until now; None where a killed one has no end."""
    end = now() if job.state == "running" else job.finished_at
    return None if end is None else (end - job.started_at).total_seconds() * 1e3


def _rejections(session: Session) -> Listed:
    rows: Rows = [(r.source, r.revision, r.reason) for r in session.catalog.rejections()]
    return _columns("source", "revision", "reason"), rows


def _labels(session: Session) -> Listed:
    rows: Rows = [
        (s.name, len(s.labels), ", ".join(s.labels[:5]), s.id)
        for s in session.catalog.label_spaces()
    ]
    return _columns("name", ("classes", _COUNT), "first", "id"), rows


def _indexes(session: Session) -> Listed:
    facts = session.facts
    known = [name for name in METRICS if facts.contexts(name)]
    rows: Rows = [("resource", len(facts.ids), f"columns of {', '.join(known) or 'nothing yet'}")]
    answered = Counter(entry.probe_set_id for entry in session.catalog.sketch_rows())
    for probe_set in facts.probe_sets():
        models = answered[probe_set.id]
        rows.append(("semantic", models, f"{probe_set.samples} probes of '{probe_set.name}'"))
    rows.append(("profile", len(session.catalog.profiles()), "weighted MinHash LSH, verified"))
    return _columns("index", ("models", _COUNT), "over"), rows


_LISTS: dict[str, Callable[[Session], Listed]] = {
    "tasks": _tasks,
    "sources": _sources,
    "repositories": _repositories,
    "pools": _pools,
    "views": _views,
    "datasets": _datasets,
    "devices": _devices,
    "metrics": _metrics,
    "settings": _settings,
    "functions": _functions,
    "units": _units,
    "jobs": _jobs,
    "rejections": _rejections,
    "labels": _labels,
    "indexes": _indexes,
    "plans": show_links.plans,
    "cascades": show_cascades.cascades,
    "deployments": show_deployments.deployments,
}


# ---- of one model


def _versions(of: Any, session: Session, parameters: Parameters) -> Listed:
    model = session.model(of, parameters)
    name = session.catalog.model(model.id).name
    records = [r for r in session.catalog.models() if r.name == name]
    rows: Rows = [(r.version, r.source, r.revision, moment(r.created), r.id) for r in records]
    return _columns("version", "source", "revision", "created", "id"), rows


def _profiles(of: Any, session: Session, parameters: Parameters) -> Listed:
    model = session.model(of, parameters)
    return PROFILE_COLUMNS, profile_rows(session, model.id)


PROFILE_COLUMNS = _columns(
    "metric",
    "value",
    "provenance",
    "method",
    "device",
    "batch",
    "percentile",
    "dataset",
    "range",
    "recorded",
)


def profile_rows(session: Session, model_id: str) -> Rows:
    """Every number the catalog holds about a model, printed in its unit."""
    rows: Rows = []
    for m in session.catalog.measurements(model_id):
        dimension = METRICS[m.metric].dimension
        interval = None
        if m.low is not None and m.high is not None:
            interval = _interval(m.low, m.high, dimension)
        percentile = None if m.percentile is None else f"p{m.percentile}"
        shown = format_value(m.value, dimension)
        rows.append(
            (m.metric, shown, m.provenance.value, m.method, m.device, m.batch, percentile,
             m.dataset, interval, None if m.recorded_at is None else f"{m.recorded_at:%Y-%m-%d}")
        )  # fmt: skip
    order = list(METRICS)
    return sorted(rows, key=lambda row: order.index(str(row[0])))


def _interval(low: float, high: float, dimension: Dimension) -> str | None:
    """From where to where a number may lie; None where that reads as one number.

    >>> _interval(1e6, 2e6, Dimension.BYTES), _interval(1e6, 1e6 + 1, Dimension.BYTES)
    ('1 MB to 2 MB', None)
    """
    least, most = format_value(low, dimension), format_value(high, dimension)
    return None if least == most else f"{least} to {most}"


_OF_PAIRS = {"segments": show_segments.segments, "lineage": show_segments.lineage}

_OF: dict[str, Callable[[Any, Session, Parameters], Listed]] = {
    "versions": _versions,
    "profiles": _profiles,
}
