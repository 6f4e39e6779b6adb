"""Whole columns to and from PostgreSQL, as numpy arrays, without a Python object for each number.

To the server an array of numbers travels in PostgreSQL's binary form, which numpy can write as one
block. From the server a column comes as one value: of numbers the concatenation of their bytes, of
texts an array.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg import adapt, pq

_EPOCH = np.datetime64("2000-01-01", "us")  # PostgreSQL's zero
_MICROSECONDS = "datetime64[us]"


@dataclass(frozen=True, slots=True)
class Kind:
    """One of PostgreSQL's types. send : the function that gives a value's bytes (None: the values
    come as an array). dtype : of these bytes."""

    name: str
    send: str | None = None
    dtype: str | None = None
    zero: str = "0"


KINDS: Mapping[int, Kind] = {
    16: Kind("boolean", "boolsend", "?", "false"),
    21: Kind("smallint", "int2send", ">i2"),
    23: Kind("integer", "int4send", ">i4"),
    20: Kind("bigint", "int8send", ">i8"),
    700: Kind("real", "float4send", ">f4"),
    701: Kind("double precision", "float8send", ">f8"),
    1114: Kind("timestamp", "timestamp_send", ">i8", "timestamp '2000-01-01'"),
    25: Kind("text"),
    1043: Kind("character varying"),
}
"""By type id, those of which columns are read as a whole."""

_SENT: Mapping[str, tuple[int, str]] = {  # numpy's kind and size: type id, its name
    "b1": (16, "boolean"),
    "i4": (23, "integer"),
    "i8": (20, "bigint"),
    "f8": (701, "double precision"),
    "M8": (1114, "timestamp"),
}
_ARRAY_OF = {16: 1000, 23: 1007, 20: 1016, 701: 1022, 1114: 1115}


@dataclass(frozen=True, slots=True)
class Packed:
    """Numbers in PostgreSQL's binary form of an array, ready to be sent. element : type id."""

    data: bytes
    element: int


class PackedDumper(adapt.Dumper):
    """Sends a Packed as it is."""

    format = pq.Format.BINARY

    def __init__(self, cls: type, context: Any = None) -> None:
        super().__init__(cls, context)
        self.oid = 0

    def get_key(self, obj: Packed, format: Any) -> Any:  # noqa: ARG002
        return (self.cls, obj.element)

    def upgrade(self, obj: Packed, format: Any) -> PackedDumper:  # noqa: ARG002
        dumper = type(self)(self.cls)
        dumper.oid = _ARRAY_OF[obj.element]
        return dumper

    def dump(self, obj: Packed) -> bytes:
        return obj.data


def packed(array: NDArray[Any]) -> Packed:
    """An array of bools, int32, int64, float64 or datetime64[us], packed to be sent."""
    element, _ = _SENT[_sort_of(array)]
    if element == 1114:
        array = (array.astype(_MICROSECONDS) - _EPOCH).astype(np.int64)
    values = array.astype(np.dtype(KINDS[element].dtype))
    if not len(values):
        return Packed(np.array([0, 0, element], ">i4").tobytes(), element)
    body = np.empty(len(values), dtype=[("size", ">i4"), ("value", values.dtype)])
    body["size"], body["value"] = values.dtype.itemsize, values
    head = np.array([1, 0, element, len(values), 1], ">i4")
    return Packed(head.tobytes() + body.tobytes(), element)


def incoming(arrays: Mapping[str, NDArray[Any]]) -> str:
    """The WITH clause under which a statement reads `arrays` as the table `incoming`."""
    names = ", ".join(f'"{name}"' for name in arrays)
    places = ", ".join(f"%s::{_SENT[_sort_of(array)][1]}[]" for array in arrays.values())
    return f"WITH incoming AS MATERIALIZED (SELECT * FROM unnest({places}) AS t ({names})) "


def whole_columns(query: str, names: Sequence[str], kinds: Sequence[Kind]) -> str:
    """The query whose one row holds the columns of `query`, each as one value and where it is NULL.

    Aggregates take rows in the order the inner query gives them.
    """
    wanted = []
    for name, kind in zip(names, kinds, strict=True):
        column = f'q."{name}"'
        if kind.send is None:
            wanted.append(f"array_agg({column})")
        else:
            value = f"coalesce({column}, {kind.zero})"
            wanted.append(f"string_agg({kind.send}({value}), ''::bytea)")
        wanted.append(f"string_agg(boolsend({column} IS NULL), ''::bytea)")
    return f"SELECT {', '.join(wanted)} FROM ({query}) q"


def unpacked(
    row: Sequence[Any], names: Sequence[str], kinds: Sequence[Kind]
) -> dict[str, NDArray[Any]]:
    """The columns of the row that `whole_columns` asks for; one with NULLs is a masked array."""
    found: dict[str, NDArray[Any]] = {}
    for place, (name, kind) in enumerate(zip(names, kinds, strict=True)):
        values, nulls = row[2 * place], row[2 * place + 1]
        column = _texts(values or []) if kind.send is None else _numbers(values or b"", kind)
        mask = np.frombuffer(nulls or b"", dtype=bool)
        found[name] = np.ma.MaskedArray(column, mask=mask) if mask.any() else column
    return found


def of_rows(rows: Sequence[Sequence[Any]], names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The columns of rows as object arrays, masked where they hold None."""
    found: dict[str, NDArray[Any]] = {}
    for place, name in enumerate(names):
        column = _texts([row[place] for row in rows])
        mask = np.array([value is None for value in column], dtype=bool)
        found[name] = np.ma.MaskedArray(column, mask=mask) if mask.any() else column
    return found


def _sort_of(array: NDArray[Any]) -> str:
    return "M8" if array.dtype.kind == "M" else f"{array.dtype.kind}{array.dtype.itemsize}"


def _numbers(data: bytes, kind: Kind) -> NDArray[Any]:
    values = np.frombuffer(data, dtype=np.dtype(kind.dtype))
    if kind.name == "timestamp":
        return np.asarray(_EPOCH + values.astype("timedelta64[us]"))
    return values.astype(values.dtype.newbyteorder("="))


def _texts(values: Sequence[Any]) -> NDArray[Any]:
    column = np.empty(len(values), dtype=object)
    column[:] = values
    return column
