"""ALTER MODEL: names, tags, declared facts and numbers, class names, label maps, preprocessing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sommelier.engine.options import Many
from sommelier.errors import BinderError, SommelierError
from sommelier.grammar import nodes
from sommelier.metrics import METRICS
from sommelier.records import LabelSpace, Measurement, ModelRecord, Preprocessing, Provenance
from sommelier.storage.catalog_labels import UNNAMED
from sommelier.units import format_value

if TYPE_CHECKING:
    from sommelier.connection.statements import Call

TEXT_FIELDS = ("task", "family", "license", "note", "homepage", "producer")
_SCHEMA: dict[str, Any] = {
    **{name: metric.dimension for name, metric in METRICS.items()},
    **dict.fromkeys(TEXT_FIELDS, str),
    "batch": int,
    "labels": Many(str),
    "label_map": str,
    "preprocessing": str,
}


def alter_model(record: ModelRecord, statement: nodes.AlterModel, call: Call) -> tuple[str, ...]:
    """Changes one model; notes on what follows from it."""
    catalog, value = call.db.catalog, statement.value or ""
    if statement.action == "rename":
        catalog.rename_model(record.id, value)
    elif statement.action == "add_tag":
        catalog.update_model(replace(record, tags=tuple(dict.fromkeys((*record.tags, value)))))
    elif statement.action == "drop_tag":
        if value not in record.tags:
            raise SommelierError(
                f"'{record.name}' has no tag '{value}'",
                hint=f"its tags: {', '.join(record.tags) or 'none'}",
            )
        catalog.update_model(replace(record, tags=tuple(t for t in record.tags if t != value)))
    else:
        return _set(record, statement, call)
    return ()


def _set(record: ModelRecord, statement: nodes.AlterModel, call: Call) -> tuple[str, ...]:
    """SET metric = value declares a number, SET field = value changes the record."""
    options = call.options(statement.options, _SCHEMA)
    changes: dict[str, Any] = {name: options[name] for name in TEXT_FIELDS if name in options}
    catalog, context = call.db.catalog, statement.context
    with catalog.transaction():
        if "labels" in options:
            space = _label_space(record, options["labels"])
            catalog.add_label_space(space)
            changes["label_space_id"] = space.id
        if "preprocessing" in options:
            changes["preprocessing"] = _preprocessing(options["preprocessing"])
        if "label_map" in options:
            _add_label_map(record, options["label_map"], context, call)
        if changes:
            catalog.update_model(replace(catalog.model(record.id), **changes))
        catalog.add_measurements(
            _declared(record.id, name, number, context, options.get("batch"))
            for name, number in options.items()
            if name in METRICS
        )
    if {"labels", "label_map", "preprocessing"} & set(options):
        return ("what was measured before stays until the next ANALYZE",)
    return ()


def _declared(
    model_id: str, metric: str, value: float, context: str | None, batch: int | None
) -> Measurement:
    kinds = METRICS[metric].context
    if not METRICS[metric].allows(value):
        shown = format_value(value, METRICS[metric].dimension)
        raise BinderError(f"{metric} cannot be {shown}")
    if context is not None and not kinds:
        raise BinderError(f"'{metric}' does not depend on a device or a dataset: leave out ON")
    return Measurement(
        model_id,
        metric,
        value,
        Provenance.DECLARED,
        "ALTER MODEL",
        device=context if "device" in kinds else None,
        dataset=context if "dataset" in kinds else None,
        batch=batch,
    )


# ---- class names


def _label_space(record: ModelRecord, given: Sequence[str]) -> LabelSpace:
    """Class names in output order: a list, or one file with a name a line."""
    from sommelier.analysis.labels import label_space
    from sommelier.analysis.output_kinds import class_count

    names = list(given)
    if len(names) == 1:
        names = [line.strip() for line in _read(names[0]).splitlines() if line.strip()]
    classes = class_count(record.outputs, record.output_kind)
    if classes is not None and classes != len(names):
        raise SommelierError(
            f"{len(names)} labels are given, but '{record.name}' answers with {classes} classes",
            hint="list them in output order, 'background' included where the model has it",
        )
    return label_space(f"{UNNAMED}{record.name}", names)


def _add_label_map(record: ModelRecord, path: str, dataset: str | None, call: Call) -> None:
    """A JSON object {the model's label: the dataset's label}, for one dataset."""
    catalog = call.db.catalog
    if dataset is None:
        raise BinderError("a label map is for one dataset: add ON 'dataset'")
    target = catalog.dataset(dataset).label_space_id
    if record.label_space_id is None or target is None:
        nameless = f"model '{record.name}'" if record.label_space_id is None else f"'{dataset}'"
        raise SommelierError(
            f"{nameless} does not name its classes, so nothing can be mapped by name",
            hint="SET labels = 'names.txt' names a model's classes",
        )
    mapping = _json(path)
    if not isinstance(mapping, dict):
        raise SommelierError(f"'{path}' holds no JSON object of label names")
    wanted = {str(label): str(place) for label, place in mapping.items()}
    for space_id, names in ((record.label_space_id, wanted), (target, wanted.values())):
        space = catalog.label_space(space_id)
        missing = [name for name in names if name not in space.labels]
        if missing:
            raise SommelierError(
                f"'{missing[0]}' is not a label of '{space.name}'",
                hint=f"its labels: {', '.join(space.labels[:8])} ...",
            )
    catalog.add_label_map(record.label_space_id, target, wanted)


# ---- files


def _preprocessing(text: str) -> Preprocessing:
    """Steps [["resize_short", {"size": 256}], ...] as JSON text or in a JSON file."""
    from sommelier.analysis.preprocessing import validated

    steps = json.loads(text) if text.lstrip().startswith("[") else _json(text)
    return validated(steps)


def _json(path: str) -> Any:
    try:
        return json.loads(_read(path))
    except json.JSONDecodeError as error:
        raise SommelierError(f"'{path}' is not JSON: {error}") from error


def _read(path: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SommelierError(f"cannot read '{path}': {error}") from error
