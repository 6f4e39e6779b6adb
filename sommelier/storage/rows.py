"""Records as rows of the tables and back: JSON for tuples and mappings, naive UTC for times."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from sommelier.records import ModelRecord, OutputKind, Preprocessing, TensorSpec


def now() -> datetime:
    """The present as the tables keep it: UTC without a time zone."""
    return datetime.now(UTC).replace(tzinfo=None)


def utc(moment: datetime | None) -> datetime | None:
    """A time as the tables keep it; one without a zone is taken for UTC."""
    if moment is None or moment.tzinfo is None:
        return moment
    return moment.astimezone(UTC).replace(tzinfo=None)


def known(value: Any) -> Any:
    """The value; None for a number that is NaN."""
    return None if isinstance(value, float) and math.isnan(value) else value


def to_json(value: object) -> str:
    """Compact JSON; tuples become lists."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


MODEL_COLUMNS: tuple[str, ...] = (
    "id", "name", "version", "source", "revision", "task", "family", "license", "tags", "aliases",
    "format", "inputs", "outputs", "output_kind", "output_kind_inferred", "label_space_id",
    "preprocessing", "opset", "producer", "graph_hash", "weight_hash", "minhash", "artifact",
    "note", "homepage", "created", "proposal",
)  # fmt: skip
"""What `model_from_row` reads, in its order."""


def model_to_row(record: ModelRecord) -> dict[str, Any]:
    """The columns of a model but its number and the time it was added."""
    return {
        "id": record.id,
        "name": record.name,
        "version": record.version,
        "source": record.source,
        "revision": record.revision,
        "task": record.task,
        "family": record.family,
        "license": record.license,
        "tags": list(record.tags),
        "aliases": list(record.aliases),
        "format": record.format,
        "inputs": _signature(record.inputs),
        "outputs": _signature(record.outputs),
        "input": "; ".join(map(str, record.inputs)),
        "output": "; ".join(map(str, record.outputs)),
        "output_kind": record.output_kind.value,
        "output_kind_inferred": record.output_kind_inferred,
        "label_space_id": record.label_space_id,
        "preprocessing": _preprocessing(record.preprocessing),
        "opset": record.opset,
        "producer": record.producer,
        "graph_hash": record.graph_hash,
        "weight_hash": record.weight_hash,
        "minhash": record.minhash,
        "artifact": record.artifact,
        "note": record.note,
        "homepage": record.homepage,
        "created": utc(record.created),
        "proposal": record.proposal,
    }


def model_from_row(row: tuple[Any, ...]) -> ModelRecord:
    """The record of a row of MODEL_COLUMNS."""
    fields = dict(zip(MODEL_COLUMNS, row, strict=True))
    fields["tags"] = tuple(fields["tags"])
    fields["aliases"] = tuple(fields["aliases"])
    fields["inputs"] = _specs(fields["inputs"])
    fields["outputs"] = _specs(fields["outputs"])
    fields["output_kind"] = OutputKind(fields["output_kind"])
    if fields["preprocessing"] is not None:
        spec = json.loads(fields["preprocessing"])
        steps = tuple((name, arguments) for name, arguments in spec["steps"])
        fields["preprocessing"] = Preprocessing(steps, assumed=spec["assumed"])
    return ModelRecord(**fields)


def mapping_from_json(text: str) -> Mapping[str, Any]:
    """A JSON object. Lists in it stay lists."""
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def _signature(specs: tuple[TensorSpec, ...]) -> str:
    return to_json([[spec.name, spec.dtype, spec.shape] for spec in specs])


def _specs(text: str) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name, dtype, None if shape is None else tuple(shape))
        for name, dtype, shape in json.loads(text)
    )


def _preprocessing(preprocessing: Preprocessing | None) -> str | None:
    if preprocessing is None:
        return None
    return to_json({"steps": preprocessing.steps, "assumed": preprocessing.assumed})
