"""What tags and metrics of MLflow say of a model, in our words and units.

A metric counts when it is called like one of ours ('accuracy', 'latency_ms') or when an option says
which it is. Values that cannot be are left out and noted: a percentage is not guessed from 91.0.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from sommelier.connectors.mlflow_server import Logged, LoggedMetric, ModelVersion, RegisteredModel
from sommelier.connectors.naming import printable
from sommelier.connectors.table_mapping import (
    TEXT,
    NumberColumn,
    in_base_units,
    metric_of,
    text_fact,
    unit_called,
)
from sommelier.metrics import METRICS
from sommelier.notes import joined
from sommelier.records import Measurement, Provenance
from sommelier.units import Dimension

FACTS = frozenset(TEXT) - {"version", "tags", "created", "producer"}
"""Tags that state a fact; every other tag becomes a tag of ours."""

METRIC_OPTIONS: dict[str, str] = {
    **{
        metric.name: f"the MLflow metric with {metric.description}; a unit may follow ('acc %')"
        for metric in METRICS.values()
    },
    "dataset": "the dataset of accuracies that do not say theirs",
    "device": "the device of latencies and the like",
}
_TAG_LENGTH = 100


@dataclass(frozen=True, slots=True)
class MetricNames:
    """Which of MLflow's metrics is which of ours, by option; the rest goes by its name."""

    chosen: Mapping[str, NumberColumn]
    dataset: str | None
    device: str | None

    @classmethod
    def of(cls, options: Mapping[str, object]) -> MetricNames:
        """What the options say."""
        chosen = {m: _source(m, str(options[m])) for m in METRICS if options.get(m) is not None}
        dataset, device = (
            None if options.get(key) is None else str(options[key]) for key in ("dataset", "device")
        )
        return cls(chosen, dataset, device)

    def metric(self, key: str) -> tuple[str, str | None] | None:
        """Our metric and the unit of MLflow's metric `key`; None if it is none of ours."""
        for metric, source in self.chosen.items():
            if source.column == key:
                return metric, source.unit
        named = metric_of(key)
        if named is None or named in self.chosen:
            return None
        suffix = key.removeprefix(named).removeprefix("_")
        return named, unit_called(suffix, METRICS[named].dimension) if suffix else None


def measurements(
    logged: Iterable[LoggedMetric], names: MetricNames, source: str
) -> tuple[tuple[Measurement, ...], list[str]]:
    """Declared numbers in base units, and in words what was not found or left out."""
    items = list(logged)
    found: dict[tuple[str, str | None], Measurement] = {}
    keys = {item.key for item in items}
    left = [
        f"no metric '{source.column}' to be the {metric}"
        for metric, source in names.chosen.items()
        if source.column not in keys
    ]
    for item in items:
        known = names.metric(item.key)
        if known is None:
            continue
        metric, unit = METRICS[known[0]], known[1]
        value = in_base_units(item.value, unit, metric.dimension)
        fractional = metric.dimension is Dimension.COUNT and not value.is_integer()
        if fractional or not metric.allows(value):
            what = f"{printable(item.key)[:60]} = {item.value:g}"
            left.append(f"{what} is left out, it cannot be the {metric.name}")
            continue
        dataset = (item.dataset or names.dataset) if "dataset" in metric.context else None
        device = names.device if "device" in metric.context else None
        found[metric.name, dataset] = Measurement(
            "", metric.name, value, Provenance.DECLARED, "mlflow",
            device=device, dataset=dataset, source=source,
        )  # fmt: skip
    return tuple(found.values()), left


def declared(
    model: RegisteredModel, version: ModelVersion, logged: Logged, metadata: Mapping[str, object]
) -> dict[str, object]:
    """Facts in tags (the version's win over the model's, these over the run's) and metadata."""
    stated: dict[str, object] = {**metadata, **logged.tags, **model.tags, **version.tags}
    facts: dict[str, object] = {}
    notes = [text for text in (version.description or model.description,) if text]
    for key, value in stated.items():
        if key in FACTS:
            fact = _fact(key, value)
            notes += [str(fact.pop("note"))] if "note" in fact else []
            facts |= fact
    created = None if version.created_ms is None else _date(version.created_ms)
    if created is not None:
        facts["created"] = created
    if notes:
        facts["note"] = joined(notes)
    return {"family": version.name, **facts, "tags": _tags(model, version, stated)}


def registry_tags(model: RegisteredModel, version: ModelVersion) -> tuple[str, ...]:
    """The tags of a version as far as the registry says them; its run and its files may have more.

    They are written as `declared` has them.
    """
    return _tags(model, version, {**model.tags, **version.tags})


def _tags(
    model: RegisteredModel, version: ModelVersion, stated: Mapping[str, object]
) -> tuple[str, ...]:
    tags = ["mlflow", *(f"alias:{a}" for a, v in model.aliases.items() if v == version.version)]
    if version.stage not in (None, "None"):
        tags.append(f"stage:{version.stage}")
    for key, value in stated.items():
        ours = key in FACTS or key.startswith("mlflow.")
        if not ours and isinstance(value, str | int | float | bool):
            tags.append(printable(f"{key}:{value}" if str(value) else key)[:_TAG_LENGTH])
    return tuple(dict.fromkeys(tags))


def _fact(key: str, value: object) -> dict[str, object]:
    """The fact of a tag; a tag that cannot be one is noted."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return {"note": f"{key} is no list"}
    try:
        return text_fact(key, value)
    except ValueError as error:
        return {"note": str(error)}


def _date(milliseconds: int) -> str | None:
    """The ISO date, None for an instant that no calendar has."""
    try:
        return datetime.fromtimestamp(milliseconds / 1000, UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):
        return None


def _source(metric: str, asked: str) -> NumberColumn:
    """'val_acc', or 'val_acc %' with a unit; MLflow's names may hold spaces themselves."""
    name, _, last = asked.rpartition(" ")
    unit = unit_called(last, METRICS[metric].dimension) if name.strip() else None
    return NumberColumn(asked, None) if unit is None else NumberColumn(name.strip(), unit)
