"""Which column of a table means what, when the table is none we know by its header.

A column is used when it is called like a metric or a piece of metadata ('params', 'latency_ms',
'task'), or when an option says so: USING name = 'id', latency = 'step_time ms', device = 'a100'.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from sommelier import units
from sommelier.connectors.cards import WELL_KNOWN_LABELS
from sommelier.connectors.licenses import spdx
from sommelier.connectors.options import nearest
from sommelier.connectors.table_rows import Row, TableFile, number, words
from sommelier.errors import ConnectorError
from sommelier.metrics import METRICS
from sommelier.records import Artifact, Measurement, OutputKind, Provenance
from sommelier.units import Dimension, UnitError

NAME_COLUMNS = ("name", "model", "model_name", "id")
TEXT = ("version", "task", "family", "license", "tags", "note", "output_kind", "producer",
        "created", "homepage", "labels")  # fmt: skip
CONTEXT = ("device", "dataset", "precision", "batch", "percentile")
_SCOPES = {
    "latency": ("device", "precision", "batch", "percentile"),
    "throughput": ("device", "precision", "batch"),
}

MAPPING_OPTIONS: dict[str, str] = {
    "name": "the column with the models' names",
    **{key: f"the column with the {key.replace('_', ' ')}" for key in TEXT},
    **{key: f"the {key} of the numbers: a column, or one value for all" for key in CONTEXT},
    **{
        metric.name: f"the column with {metric.description}; a unit may follow ('column ms')"
        for metric in METRICS.values()
    },
}
"""USING options of the table connector that map columns."""


@dataclass(frozen=True, slots=True)
class NumberColumn:
    """A column of numbers and the unit they are in; None: the unit stands in the cell, or none."""

    column: str
    unit: str | None


@dataclass(frozen=True, slots=True)
class TableMapping:
    """Where in a table to find what."""

    name: str
    texts: Mapping[str, str]
    numbers: Mapping[str, NumberColumn]
    context: Mapping[str, str | None]  # key -> column, for those in a column
    constants: Mapping[str, str]  # key -> the same value for every row


def mapping_for(table: TableFile, options: Mapping[str, object]) -> TableMapping:
    """The mapping of a table's columns. Raises ConnectorError if an option names none of them."""
    numbers = {m: c for c in table.columns if (m := metric_of(c)) is not None}
    found = {metric: _number_column(table, column, metric) for metric, column in numbers.items()}
    texts = {key: key for key in TEXT if key in table.columns}
    context: dict[str, str | None] = {key: key for key in CONTEXT if key in table.columns}
    constants: dict[str, str] = {}
    name = next((column for column in NAME_COLUMNS if column in table.columns), None)
    for key, value in options.items():
        if key not in MAPPING_OPTIONS:
            continue
        asked = str(value)
        if key in METRICS:
            found[key] = _number_column(table, asked, key)
        elif key in CONTEXT and asked not in table.columns:
            constants[key] = asked
            context.pop(key, None)
        elif key in CONTEXT:
            context[key] = asked
        elif key == "name":
            name = _column(table, asked, key)
        else:
            texts[key] = _column(table, asked, key)
    if name is None:
        raise ConnectorError(
            f"{table.path.name}: which column names the models?",
            hint=f"USING name = '...'; columns: {', '.join(table.columns)}",
        )
    return TableMapping(name, texts, found, context, constants)


def artifact(table: TableFile, row: Row, mapping: TableMapping) -> Artifact:
    """The declared row. Raises ValueError saying which cell is wrong."""
    name = words(row.cells.get(mapping.name))
    if name is None:
        raise ValueError(f"no model name in column '{mapping.name}'")
    declared: dict[str, object] = {}
    for key, column in mapping.texts.items():
        declared.update(text_fact(key, row.cells.get(column)))
    version = declared.pop("version", None)
    context = {key: words(row.cells.get(str(column))) for key, column in mapping.context.items()}
    context.update(mapping.constants)
    found = []
    for metric, source in mapping.numbers.items():
        value = _value(metric, source, row)
        if value is not None:
            found.append(_measurement(table, metric, value, context))
    revision = f"{table.path.name}:{row.number}"
    return Artifact(
        name, None if version is None else str(version), "table", revision, None, declared,
        tuple(found),
    )  # fmt: skip


def metric_of(column: str) -> str | None:
    """The metric a column is called after, with or without a unit: 'latency_ms' -> 'latency'."""
    if column in METRICS:
        return column
    stem, _, unit = column.rpartition("_")
    if stem in METRICS and unit_called(unit, METRICS[stem].dimension) is not None:
        return stem
    return None


def _number_column(table: TableFile, asked: str, metric: str) -> NumberColumn:
    """The column and unit of 'column', 'column_ms', or 'column ms'."""
    dimension = METRICS[metric].dimension
    if asked in table.columns:
        stem, _, suffix = asked.rpartition("_")
        return NumberColumn(asked, unit_called(suffix, dimension) if stem else None)
    column, _, unit = asked.rpartition(" ")
    if column.strip() in table.columns:
        try:
            units.to_base(1.0, unit, dimension)
        except UnitError as error:
            raise ConnectorError(f"option {metric}: {error.message}", hint=error.hint) from error
        return NumberColumn(column.strip(), unit)
    return NumberColumn(_column(table, asked, metric), None)


def _column(table: TableFile, asked: str, option: str) -> str:
    if asked not in table.columns:
        raise ConnectorError(
            f"option {option}: {table.path.name} has no column '{asked}'",
            suggestions=nearest(asked, table.columns),
            hint=f"columns: {', '.join(table.columns)}",
        )
    return asked


def unit_called(text: str, dimension: Dimension) -> str | None:
    """`text` if it is a unit of the dimension ('percent' and 'pct' are read as '%')."""
    unit = "%" if text in ("percent", "pct") else text
    try:
        units.to_base(1.0, unit, dimension)
    except UnitError:
        return None
    return unit if unit else None


def _value(metric: str, source: NumberColumn, row: Row) -> float | None:
    """The cell in base units, None if it is empty."""
    cell, unit = row.cells.get(source.column), source.unit
    dimension = METRICS[metric].dimension
    stated = f"{source.column} is {str(cell)[:50]!r}"
    try:
        value = number(cell)
    except ValueError:
        value, unit = _quantity(str(cell), dimension, stated), None
    if value is None:
        return None
    value = in_base_units(value, unit, dimension)
    if value < 0:
        raise ValueError(f"{stated}, below 0")
    possible = METRICS[metric].allows(value)
    if dimension is Dimension.FRACTION and not possible:
        raise ValueError(
            f"{stated}, not a fraction; if it is a percentage, "
            f"say USING {metric} = '{source.column} %'"
        )
    if not possible:
        raise ValueError(f"{stated}, which cannot be the {metric}")
    if dimension is Dimension.COUNT and not value.is_integer():
        raise ValueError(
            f"{stated}, not a whole number; if it counts millions, "
            f"say USING {metric} = '{source.column} M'"
        )
    return value


def in_base_units(value: float, unit: str | None, dimension: Dimension) -> float:
    """A number in base units; 25.6 M is a whole count. unit : None where it is in base units."""
    return value if unit is None else _whole(units.to_base(value, unit, dimension), dimension)


def _quantity(text: str, dimension: Dimension, stated: str) -> float:
    """A number with its unit, both in the cell. Raises ValueError for anything else."""
    try:
        return _whole(units.parse(text, dimension), dimension)
    except UnitError as error:
        raise ValueError(f"{stated}: {error.message}") from error


def _whole(value: float, dimension: Dimension) -> float:
    """A count as the whole number that its rounded digits stand for."""
    counts = dimension is Dimension.COUNT and math.isfinite(value)
    return float(round(value)) if counts else value


def _measurement(
    table: TableFile, metric: str, value: float, context: Mapping[str, str | None]
) -> Measurement:
    scope = _SCOPES.get(metric, METRICS[metric].context)
    stated = {key: context.get(key) for key in scope}
    return Measurement(
        "", metric, value, Provenance.DECLARED, table.path.name,
        device=stated.get("device"),
        dataset=stated.get("dataset"),
        precision=stated.get("precision"),
        batch=_count(stated.get("batch"), "batch"),
        percentile=_count(stated.get("percentile"), "percentile"),
        source=table.path.name,
    )  # fmt: skip


def _count(text: str | None, key: str) -> int | None:
    if text is None:
        return None
    value = number(text.lower().removeprefix("p"))
    if value is None or value != int(value) or value < 1:
        raise ValueError(f"{key} is {text!r}, not a count")
    return int(value)


def text_fact(key: str, cell: object) -> dict[str, object]:
    """The declared fact in a cell; {} if it is empty."""
    if key in ("tags", "labels"):
        found = cell if isinstance(cell, list) else (words(cell) or "").replace(";", ",").split(",")
        items = tuple(text for item in found if (text := words(item)) is not None)
        if key == "labels" and len(items) == 1 and items[0] in WELL_KNOWN_LABELS:
            return {"labels": WELL_KNOWN_LABELS[items[0]], "label_space": items[0]}
        return {key: items} if items else {}
    text = words(cell)
    if text is None:
        return {}
    if key == "license":
        known = spdx(text)
        return {"license": known} if known else {"note": f"licence as stated: {text}"}
    if key == "output_kind" and text not in [kind.value for kind in OutputKind]:
        raise ValueError(
            f"output_kind is {text!r}, none of {', '.join(k.value for k in OutputKind)}"
        )
    return {key: text}
