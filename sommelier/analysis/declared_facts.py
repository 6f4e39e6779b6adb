"""Facts about a model that somebody stated: its source's card, or the file's own metadata."""

from __future__ import annotations

import ast
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sommelier.analysis.graph import Graph
from sommelier.records import OutputKind, Preprocessing, TensorSpec

if TYPE_CHECKING:
    from onnx import ModelProto

LABEL_KEYS = (
    "labels",
    "classes",
    "class_names",
    "class_labels",
    "names",
    "id2label",
    "label_names",
)
MAX_LABELS = 1_000_000
_LABEL_ATTRIBUTES = ("classlabels_strings", "classlabels_int64s", "classlabels_ints")


def metadata(model: ModelProto) -> dict[str, str]:
    """The file's own key-value notes."""
    return {prop.key: prop.value for prop in model.metadata_props}


def text(declared: Mapping[str, object], key: str) -> str | None:
    """A declared text, None when absent or blank."""
    value = declared.get(key)
    return str(value).strip() or None if value is not None else None


def texts(declared: Mapping[str, object], key: str) -> tuple[str, ...]:
    """A declared list of texts; a text of comma-separated words is one too."""
    value = declared.get(key)
    if value is None:
        return ()
    parts = value.split(",") if isinstance(value, str) else _items(value)
    return tuple(dict.fromkeys(str(part).strip() for part in parts if str(part).strip()))


def tensor_specs(declared: Mapping[str, object], key: str) -> tuple[TensorSpec, ...]:
    """A declared signature; empty when absent."""
    value = declared.get(key)
    return tuple(v for v in _items(value) if isinstance(v, TensorSpec)) if value else ()


def output_kind(declared: Mapping[str, object]) -> OutputKind | None:
    """The declared kind of answer; None when absent or not one we know."""
    value = declared.get("output_kind")
    if isinstance(value, OutputKind):
        return value
    try:
        return OutputKind(str(value).lower()) if value else None
    except ValueError:
        return None


def created(declared: Mapping[str, object]) -> datetime | None:
    """The declared date, in UTC; None when absent or unreadable."""
    value = declared.get("created")
    if not isinstance(value, datetime):
        try:
            value = datetime.fromisoformat(str(value)) if value else None
        except ValueError:
            return None
    if value is None:
        return None
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def preprocessing(declared: Mapping[str, object]) -> Preprocessing | None:
    """The declared steps, given as Preprocessing or as (name, arguments) pairs.

    None where nothing is declared; no steps at all (`[]`) say that items are taken as they are.
    """
    value = declared.get("preprocessing")
    if value is None or isinstance(value, Preprocessing):
        return value
    steps: list[tuple[str, Mapping[str, object]]] = []
    for step in _items(value):
        if isinstance(step, str):
            steps.append((step, {}))
            continue
        name, *rest = _items(step)
        arguments = rest[0] if rest and isinstance(rest[0], Mapping) else {}
        steps.append((str(name), dict(arguments)))
    return Preprocessing(tuple(steps))


def labels(
    declared: Mapping[str, object], notes: Mapping[str, str], graph: Graph
) -> tuple[str, ...] | None:
    """Class names in output order: declared, else noted in the file, else of its classifier."""
    stated = declared.get("labels")
    if stated is not None:
        return parse_labels(stated)
    for key in LABEL_KEYS:
        if key in notes and (found := parse_labels(notes[key])) is not None:
            return found
    for node in graph.nodes:
        for attribute in _LABEL_ATTRIBUTES:
            if node.attributes.get(attribute):
                return tuple(str(label) for label in node.attributes[attribute])
    return None


def parse_labels(value: object) -> tuple[str, ...] | None:
    """Names from a list, from {id: name} or {name: id}, or from either written as text.

    >>> parse_labels('{"1": "dog", "0": "cat"}')
    ('cat', 'dog')
    >>> parse_labels("{0: 'person', 1: 'bicycle'}"), parse_labels("cat, dog")
    (('person', 'bicycle'), ('cat', 'dog'))
    """
    if isinstance(value, str):
        value = _read(value)
    if isinstance(value, Mapping):
        return _ordered(value)
    if not isinstance(value, Sequence) or isinstance(value, str | bytes) or not value:
        return None
    if len(value) > MAX_LABELS or any(isinstance(v, Mapping | list | tuple) for v in value):
        return None
    return tuple(str(label) for label in value)


def _read(written: str) -> Any:
    """JSON, a Python literal (as YOLO files have), or names separated by lines or commas."""
    written = written.strip()
    if len(written) > 64 * MAX_LABELS:
        return None
    for reader in (json.loads, ast.literal_eval):
        try:
            found = reader(written)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if isinstance(found, list | tuple | dict):
            return found
    separator = "\n" if "\n" in written else ","
    parts = [part.strip() for part in written.split(separator)]
    return [part for part in parts if part] if len(parts) > 1 else None


def _ordered(names: Mapping[Any, Any]) -> tuple[str, ...] | None:
    """Names by class number, when the numbers are 0, 1, 2 ... without a gap."""
    for pairs in (names.items(), [(name, number) for number, name in names.items()]):
        try:
            found = {int(number): str(name) for number, name in pairs}
        except (ValueError, TypeError):
            continue
        if found and set(found) == set(range(len(names))):
            return tuple(found[i] for i in range(len(found)))
    return None


def _items(value: object) -> list[Any]:
    if isinstance(value, str) or not isinstance(value, Sequence | set | frozenset):
        return [value]
    return sorted(value) if isinstance(value, set | frozenset) else list(value)
