"""Rows of two published lists of ONNX models, without their weights.

The catalog of onnxmodelzoo (params, opset, operators, size, input shapes) and the manifest of the
ONNX model hub (ONNX_HUB_MANIFEST.json: size, tags, inputs and outputs).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from sommelier.connectors.table_rows import Row, TableFile, number, words
from sommelier.metrics import METRICS
from sommelier.records import Artifact, Dim, Measurement, Provenance, TensorSpec

CATALOG = frozenset({"path", "name", "author", "opset", "params", "ops"})
MANIFEST = frozenset({"model", "model_path", "opset_version", "metadata"})

_TASKS = {"vision/classification": "image-classification"}
_DTYPES = {"float": "float32", "double": "float64", "string": "str"}


def recognises(table: TableFile) -> bool:
    """Whether the columns are those of one of the two lists."""
    columns = frozenset(table.columns)
    return columns >= CATALOG or columns >= MANIFEST


def artifact(table: TableFile, row: Row) -> Artifact:
    """The declared row. Raises ValueError saying what is wrong with it."""
    if frozenset(table.columns) >= CATALOG:
        return _from_catalog(table, row)
    return _from_manifest(table, row)


def _from_catalog(table: TableFile, row: Row) -> Artifact:
    """Named author/name: timm and torchvision publish different networks under one name."""
    cells = row.cells
    name, author = words(cells.get("name")), words(cells.get("author"))
    if name is None or author is None:
        raise ValueError("no name or no author")
    operators = _operators(cells.get("ops"))
    opset = _whole(cells.get("opset"), "opset")
    inputs = cells.get("inputs") or {}
    if not isinstance(inputs, Mapping):
        raise ValueError("inputs is not an object")
    declared = {
        "task": _slug(words(cells.get("task"))),
        "family": words(cells.get("cls")),
        "tags": (author, *([f"opset{opset}"] if opset is not None else [])),
        "opset": opset,
        "operators": operators or None,
        "inputs": tuple(TensorSpec(n, "unknown", _shape(s)) for n, s in inputs.items()),
    }
    return Artifact(
        f"{author}/{name}",
        None if opset is None else f"opset{opset}",
        "table",
        f"{table.path.name}:{row.number}:{cells['path']}",
        None,
        {key: value for key, value in declared.items() if value},
        _measurements(
            table,
            params=cells.get("params"),
            size=cells.get("lfs_bytes"),
            layers=sum(operators.values()) or None,
        ),
    )


def _from_manifest(table: TableFile, row: Row) -> Artifact:
    cells = row.cells
    name, metadata = words(cells.get("model")), cells.get("metadata")
    if name is None or not isinstance(metadata, Mapping):
        raise ValueError("no model name or no metadata")
    opset = _whole(cells.get("opset_version"), "opset_version")
    stated, ports = metadata.get("tags"), metadata.get("io_ports") or {}
    tags = tuple(tag for tag in map(words, stated) if tag) if isinstance(stated, list) else ()
    if not isinstance(ports, Mapping):
        raise ValueError("io_ports is not an object")
    declared = {
        "task": _TASKS.get("/".join(tags[:2]), _slug(tags[1] if len(tags) > 1 else None)),
        "family": _slug(tags[-1]) if len(tags) > 2 else None,
        "tags": tuple(_slug(tag) for tag in tags),
        "opset": opset,
        "inputs": _ports(ports.get("inputs")),
        "outputs": _ports(ports.get("outputs")),
        "output_kind": "classification" if tags[1:2] == ("classification",) else None,
    }
    return Artifact(
        name,
        None if opset is None else f"opset{opset}",
        "table",
        f"{table.path.name}:{row.number}:{cells['model_path']}",
        None,
        {key: value for key, value in declared.items() if value},
        _measurements(table, size=metadata.get("model_bytes")),
    )


def _measurements(table: TableFile, **values: object) -> tuple[Measurement, ...]:
    """Declared numbers of the row; what is missing is left out. `size` is that of the file."""
    found = []
    for metric, cell in values.items():
        value = number(cell)
        if value is None:
            continue
        if not METRICS[metric].allows(value):
            raise ValueError(f"{metric} is {value:g}")
        method = source = table.path.name
        found.append(Measurement("", metric, value, Provenance.DECLARED, method, source=source))
    return tuple(found)


def _operators(cell: Any) -> dict[str, int]:
    if cell is None:
        return {}
    if not isinstance(cell, Mapping) or not all(isinstance(n, int) for n in cell.values()):
        raise ValueError("ops is not an object of counts")
    return {str(operator): count for operator, count in cell.items()}


def _ports(ports: Any) -> tuple[TensorSpec, ...]:
    """Tensors of the manifest; sequences of tensors have no shape of ours."""
    return tuple(
        TensorSpec(str(port["name"]), _dtype(str(port["type"])), _shape(port.get("shape")))
        for port in (ports if isinstance(ports, list) else ())
        if isinstance(port, Mapping) and "name" in port and "type" in port
    )


def _dtype(text: str) -> str:
    """numpy's name of 'tensor(float)'.

    >>> _dtype("tensor(float)"), _dtype("seq(tensor(uint8))")
    ('float32', 'uint8')
    """
    inner = re.sub(r"^.*\(|\)+$", "", text)
    return _DTYPES.get(inner, inner)


def _shape(dims: Any) -> tuple[Dim, ...] | None:
    if not isinstance(dims, list):
        return None
    return tuple(dim if isinstance(dim, int | str) else None for dim in dims)


def _whole(cell: object, column: str) -> int | None:
    value = number(cell)
    if value is not None and value != int(value):
        raise ValueError(f"{column} is {cell!r}")
    return None if value is None else int(value)


def _slug(text: str | None) -> str | None:
    return re.sub(r"[\s_]+", "-", text.strip().lower()) if text else None
