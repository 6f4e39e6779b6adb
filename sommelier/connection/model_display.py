"""What is shown of a model: a line of text, and in a notebook its facts and its numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sommelier.errors import SommelierError
from sommelier.grammar.spelling import write_name
from sommelier.metrics import METRICS
from sommelier.notebook_tables import Bar, Head, count, html_facts, html_table
from sommelier.units import Dimension, format_value

if TYPE_CHECKING:
    from sommelier.records import Measurement, ModelRecord
    from sommelier.storage.catalog import Catalog

_SHOWN = 24  # numbers; DESCRIBE has all of them
_IN_LINE = ("params", "flops", "memory", "accuracy")
_COLUMNS = tuple(
    map(Head, ("metric", "value", "interval", "provenance", "method", "where", "when"))
)


def line(record: ModelRecord, catalog: Catalog) -> str:
    """The model in one line: its task, what goes in and out, and numbers without a context."""
    signature = ", ".join(map(str, record.inputs)) or "no signature"
    answers = ", ".join(map(str, record.outputs)) or "?"
    task = f" ({record.task})" if record.task else ""
    numbers = "".join(f"; {told}" for told in _numbers(record.id, catalog))
    return f"<Model {record.name}@{record.version}{task} {signature} -> {answers}{numbers}>"


def as_html(record: ModelRecord, catalog: Catalog) -> str:
    """The same as two small tables; all that comes from files and sources is escaped."""
    facts = html_facts(f"{record.name}@{record.version}", _facts(record, catalog))
    known = _known(record.id, catalog)
    if not known:
        return facts + html_table((Head("metric"),), (), notes=(_unknown(record),))
    rows = [_row(one) for one in known[:_SHOWN]]
    bars = {
        (place, 1): Bar(one.value, format_value(one.value, Dimension.FRACTION))
        for place, one in enumerate(known[:_SHOWN])
        if METRICS[one.metric].dimension is Dimension.FRACTION and 0 <= one.value <= 1
    }
    notes = [count(len(rows), len(known))]
    if len(known) > len(rows):
        notes.append(f"all of them: DESCRIBE {write_name(record.name)}")
    return facts + html_table(_COLUMNS, rows, notes=notes, bars=bars)


def _facts(record: ModelRecord, catalog: Catalog) -> list[tuple[str, object]]:
    kind = record.output_kind.value + (" (inferred)" if record.output_kind_inferred else "")
    came = f"{record.source}, {record.revision}" if record.revision else record.source
    return [
        ("task", record.task),
        ("family", record.family),
        ("source", came),
        ("license", record.license),
        ("tags", ", ".join(record.tags) or None),
        ("format", record.format or "none: metadata only"),
        ("inputs", ", ".join(map(str, record.inputs)) or None),
        ("outputs", ", ".join(map(str, record.outputs)) or None),
        ("answers", kind),
        ("classes", _classes(record, catalog)),
        ("id", record.id[:19]),
    ]


def _classes(record: ModelRecord, catalog: Catalog) -> str | None:
    if record.label_space_id is None:
        return None
    space = catalog.label_space(record.label_space_id)
    more = ", ..." if len(space.labels) > 5 else ""
    return f"{len(space.labels)}: {', '.join(space.labels[:5])}{more}"


def _known(model_id: str, catalog: Catalog) -> list[Measurement]:
    order = list(METRICS)
    return sorted(catalog.measurements(model_id), key=lambda one: order.index(one.metric))


def _row(one: Measurement) -> tuple[object, ...]:
    dimension = METRICS[one.metric].dimension
    interval = None
    if one.low is not None and one.high is not None and one.low < one.high:
        interval = f"{format_value(one.low, dimension)} to {format_value(one.high, dimension)}"
    at = None if one.percentile is None else f"p{one.percentile}"
    batch = None if one.batch is None else f"batch {one.batch}"
    where = ", ".join(word for word in (one.device, one.dataset, batch, at) if word)
    made = None if one.recorded_at is None else f"{one.recorded_at:%Y-%m-%d}"
    texts = (format_value(one.value, dimension), interval, one.provenance.value, one.method)
    return (one.metric, *(text or "" for text in (*texts, where, made)))


def _numbers(model_id: str, catalog: Catalog) -> Sequence[str]:
    """The first value of the metrics that say most; none where the catalog cannot be asked."""
    try:
        known = _known(model_id, catalog)
    except SommelierError:  # a closed connection still has a repr
        return ()
    first: dict[str, str] = {}
    for one in known:
        if one.metric in _IN_LINE:
            on = f" on {one.dataset}" if one.dataset else ""
            shown = format_value(one.value, METRICS[one.metric].dimension)
            first.setdefault(one.metric, f"{one.metric} {shown}{on}")
    return list(first.values())


def _unknown(record: ModelRecord) -> str:
    if record.format is None:
        return "no number is known of it, and there is no model file to measure"
    return f"no number is known of it yet: ANALYZE {write_name(record.name)} FOR RESOURCES"
