"""DESCRIBE: what is known of one thing, as properties and values."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from sommelier.engine import describe_links, show_cascades, show_deployments
from sommelier.engine.moments import moment
from sommelier.engine.names import nearest, unknown
from sommelier.engine.places import told
from sommelier.engine.result import ColumnInfo, Table
from sommelier.engine.show import profile_rows
from sommelier.engine.skipped import models
from sommelier.errors import UnknownNameError
from sommelier.grammar import nodes
from sommelier.grammar.spelling import write_name
from sommelier.metrics import METRICS
from sommelier.units import SPELLINGS, Dimension, format_value

if TYPE_CHECKING:
    from sommelier.engine.session import Session
    from sommelier.records import ModelRecord

Facts = list[tuple[str, object]]

_COLUMNS = (ColumnInfo("property"), ColumnInfo("value"))


def describe(statement: nodes.Describe, session: Session) -> Table:
    """The properties of what the name means: the first kind that has it, models first."""
    kinds = (statement.kind,) if statement.kind else tuple(_KINDS)
    for kind in kinds:
        if kind != "model" and statement.name.name not in session.names(kind):
            continue
        try:
            facts = _KINDS[kind](statement.name, session)
        except UnknownNameError as error:
            if statement.kind is not None or kind != "model":
                error.span = error.span or statement.name.span
                raise
            continue
        rows: list[tuple[object, ...]] = [(k, v) for k, v in facts if v is not None]
        return Table(f"{kind} {statement.name.name}", _COLUMNS, rows)
    raise _nothing(statement, session)


def _nothing(statement: nodes.Describe, session: Session) -> Exception:
    name, span = statement.name.name, statement.name.span
    if statement.kind is not None:
        return unknown(statement.kind, name, session.names(statement.kind), span)
    everything = [known for kind in _KINDS for known in session.names(kind)]
    return UnknownNameError(
        f"nothing is called '{name}'",
        span=span,
        suggestions=nearest(name, everything),
        hint=f"DESCRIBE knows {', '.join(_KINDS)}",
    )


def _model(reference: nodes.ModelRef, session: Session) -> Facts:
    record = session.facts.model(reference.name, reference.version)
    facts: Facts = [
        ("name", record.name),
        ("version", record.version),
        ("id", record.id),
        ("task", record.task),
        ("family", record.family),
        ("source", record.source),
        ("revision", record.revision),
        ("license", record.license),
        ("tags", ", ".join(record.tags) or None),
        ("aliases", ", ".join(record.aliases) or None),
        ("format", record.format or "none: metadata only"),
        ("converted from", _original(record.id, session)),
        ("inputs", ", ".join(map(str, record.inputs)) or None),
        ("outputs", ", ".join(map(str, record.outputs)) or None),
        ("output kind", _kind(record.output_kind.value, record.output_kind_inferred)),
        ("classes", _classes(record.label_space_id, session)),
        ("preprocessing", _preprocessing(record)),
        ("opset", record.opset),
        ("producer", record.producer),
        ("created", moment(record.created)),
        ("graph hash", record.graph_hash),
        ("weight hash", record.weight_hash),
        ("note", record.note),
        ("homepage", record.homepage),
        *_failures(record.id, session),
        *describe_links.of_model(record.id, session),
        *_fusion(record, session),
        *_student(record, session),
    ]
    for row in profile_rows(session, record.id):
        metric, value, provenance, method, device, batch, percentile, dataset, interval, date = row
        context = [w for w in (device, dataset, percentile, batch and f"batch {batch}") if w]
        words = f" ({', '.join(map(str, context))})" if context else ""
        spread = f", {interval}" if interval else ""
        spread += f", {date}" if date else ""
        facts.append((f"{metric}{words}", f"{value} ({provenance}, {method}{spread})"))
    return facts


def _preprocessing(record: ModelRecord) -> str | None:
    """The steps in one line: to_float(scale=255), layout(order='NCHW')."""
    if record.preprocessing is None:
        assumed = "none declared (assumed from shapes when analysed)"
        return assumed if record.format is not None else None
    steps = [
        name + (f"({', '.join(f'{k}={_plain(v)}' for k, v in values.items())})" if values else "")
        for name, values in record.preprocessing.steps
    ]
    words = ", ".join(steps) or "none: inputs as they are"
    return f"{words} (assumed from shapes)" if record.preprocessing.assumed else words


def _plain(value: object) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_plain, value))}]"
    return f"{value:g}" if isinstance(value, float) else repr(value)


def _failures(model_id: str, session: Session) -> Facts:
    """The newest analysis that failed or was skipped, unless it was done since."""
    from sommelier.storage.tasks import TaskQueue

    found = TaskQueue(session.catalog).setback(model_id)
    if found is None:
        return []
    word = "last failure" if found.state == "failed" else "last skipped"
    return [(word, f"{found.aspect}: {found.reason}")]


def _fusion(record: ModelRecord, session: Session) -> Facts:
    """Of a fused model what it was made of, and where all of that is told."""
    found = session.catalog.fusions(model_id=record.id)
    if not found:
        return []
    parts = ", ".join(task.name for task in found[0].tasks)
    stale = "" if found[0].stale is None else f"; stale: {found[0].stale}"
    return [("fused from", f"{parts}{stale} (EXPLAIN FUSION {record.name})")]


def _student(record: ModelRecord, session: Session) -> Facts:
    """Of a specialised student the model it was made of, and whose answers it learned."""
    relations = ("specialised from", "distilled from")
    parents = {
        link.relation: session.catalog.models([link.parent_id])
        for link in session.catalog.lineage(record.id)
        if link.model_id == record.id and link.relation in relations
    }
    return [
        (relation, parents[relation][0].name) for relation in relations if parents.get(relation)
    ]


def _kind(kind: str, inferred: bool) -> str:
    return f"{kind} (inferred)" if inferred else kind


def _classes(label_space_id: str | None, session: Session) -> str | None:
    if label_space_id is None:
        return None
    space = session.catalog.label_space(label_space_id)
    return f"{len(space.labels)} of '{space.name}': {', '.join(space.labels[:5])}, ..."


def _pool(reference: nodes.ModelRef, session: Session) -> Facts:
    pool = session.catalog.pool(reference.name)
    names = [record.name for record in session.catalog.models(pool.ids)]
    return [
        ("name", pool.name),
        ("models", len(names)),
        ("query", pool.query),
        ("members", ", ".join(names)),
    ]


def _view(reference: nodes.ModelRef, session: Session) -> Facts:
    view = session.catalog.view(reference.name)
    return [("name", view.name), ("query", view.query)]


def _metric(reference: nodes.ModelRef, session: Session) -> Facts:
    metric = METRICS[reference.name]
    facts: Facts = [
        ("name", metric.name),
        ("meaning", metric.description),
        ("measures", metric.dimension.value),
        ("units", ", ".join(SPELLINGS[metric.dimension]) or None),
        ("better", "lower" if metric.lower_is_better else "higher"),
        ("clauses", "ON and WHERE" if metric.resource else "WHERE"),
    ]
    for context in session.facts.contexts(metric.name):
        parts = [context.device, context.dataset]
        parts += [f"batch {context.batch}" if context.batch else None]
        parts += [f"p{context.percentile}" if context.percentile else None]
        words = ", ".join(part for part in parts if part) or "any context"
        facts.append((f"known ({words})", f"{context.count} models"))
    return facts


def _task(reference: nodes.ModelRef, session: Session) -> Facts:
    found = {task: (count, name) for task, count, name in session.facts.tasks()}
    count, name = found[reference.name]
    return [("task", reference.name), ("models", count), ("reference", name or "none yet")]


def _dataset(reference: nodes.ModelRef, session: Session) -> Facts:
    if reference.name not in {known.name for known in session.facts.datasets()}:
        return _mentioned("dataset", reference.name, session)
    dataset = session.catalog.dataset(reference.name)
    facts: Facts = [
        ("name", dataset.name),
        ("kind", dataset.kind),
        ("samples", dataset.samples),
        ("item shape", None if dataset.item_shape is None else str(dataset.item_shape)),
        ("dtype", dataset.dtype),
        ("labelled", dataset.labelled),
        ("classes", _classes(dataset.label_space_id, session)),
        ("held out", dataset.held_out),
        ("path", str(dataset.path)),
        ("id", dataset.id),
    ]
    return facts + [(f"option {name}", str(value)) for name, value in dataset.options.items()]


def _mentioned(kind: str, name: str, session: Session) -> Facts:
    """A device or dataset that is not registered: what is known on it."""
    facts: Facts = [("name", name), ("registered", "no")]
    for metric in METRICS:
        counts = [c.count for c in session.facts.contexts(metric) if getattr(c, kind) == name]
        if counts:
            facts.append((f"known ({metric})", models(max(counts))))
    return facts


def _device(reference: nodes.ModelRef, session: Session) -> Facts:
    if reference.name not in {known.name for known in session.facts.devices()}:
        return _mentioned("device", reference.name, session)
    device = session.catalog.device(reference.name)
    numbers = (
        ("memory", device.memory_bytes, Dimension.BYTES, ""),
        ("peak", device.peak_flops_per_s, Dimension.FLOPS, "/s"),
        ("bandwidth", device.bandwidth_bytes_per_s, Dimension.BYTES, "/s"),
    )
    facts: Facts = [("name", device.name)]
    for name, value, dimension, per in numbers:
        facts.append((name, None if value is None else format_value(value, dimension) + per))
    return [*facts, ("note", device.note)]


def _original(model_id: str, session: Session) -> str | None:
    found = session.catalog.original(model_id)
    if found is None:
        return None
    what = found.format if found.path is None else f"{found.format} {found.path}"
    said = (
        f"{name} = {told(value if isinstance(value, str) else json.dumps(value))}"
        for name, value in found.options.items()
        if value not in (None, {}, [])
    )
    return ", ".join((what, *said))


def _repository(reference: nodes.ModelRef, session: Session) -> Facts:
    found = session.catalog.repository(reference.name)
    came = sum(word == found.name for word in session.facts.text("source"))
    return [
        ("name", found.name),
        ("type", found.connector),
        ("place", found.place and told(found.place)),
        *((n, told(v) if isinstance(v, str | list) else v) for n, v in found.options.items()),
        ("models", f"{came} imported"),
        ("list", f"SHOW MODELS FROM {write_name(found.name)}"),
    ]


_KINDS: dict[str, Callable[[nodes.ModelRef, Session], Facts]] = {
    "model": _model,
    "pool": _pool,
    "view": _view,
    "dataset": _dataset,
    "device": _device,
    "metric": _metric,
    "task": _task,
    "link": describe_links.link,
    "plan": describe_links.plan,
    "cascade": show_cascades.describe,
    "deployment": show_deployments.describe,
    "repository": _repository,
}
