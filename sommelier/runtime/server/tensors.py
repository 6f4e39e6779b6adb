"""Tensors of the Open Inference Protocol v2: names of types, raw bytes, JSON numbers.

Raw bytes are little endian and row-major; a text (BYTES) is its length as uint32 and its bytes.
BF16, which numpy does not have, is given and taken as float32: its upper half.
"""

from __future__ import annotations

import math
import struct
from array import array as native_array
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.runtime.server.protocol import BAD_REQUEST, ProtocolError

Array = NDArray[Any]

BYTES, BF16 = "BYTES", "BF16"
DATATYPES = {
    "BOOL": "bool",
    "UINT8": "uint8",
    "UINT16": "uint16",
    "UINT32": "uint32",
    "UINT64": "uint64",
    "INT8": "int8",
    "INT16": "int16",
    "INT32": "int32",
    "INT64": "int64",
    "FP16": "float16",
    "FP32": "float32",
    "FP64": "float64",
    BF16: "bfloat16",
    BYTES: "str",
}
ONLY_BINARY = frozenset({"FP16", BF16})  # JSON has no numbers of these types
MAX_DIMENSIONS = 32  # numpy has 64; no model has as many
MOST_VALUES = 2**48  # numpy takes fewer than 2**63 bytes, and no memory holds as many
_NAMES = {name: datatype for datatype, name in DATATYPES.items()} | {"object": BYTES}
_TYPES = {
    datatype: np.dtype(name).newbyteorder("<")
    for datatype, name in DATATYPES.items()
    if datatype not in (BYTES, BF16)
}
_PLAIN: dict[object, np.dtype[Any]] = {
    key: dtype for name, dtype in _TYPES.items() if name != "BOOL" for key in (name, dtype)
}
_BY_TYPE: dict[object, str] = {dtype: datatype for datatype, dtype in _TYPES.items()}
_LENGTH = struct.Struct("<I")
_FLOATS = {float, int, type(None)}
_KINDS: dict[str, tuple[type, str]] = {"O": (str, "texts"), "b": (bool, "truth values")}


def datatype_of(dtype: np.dtype[Any] | str) -> str:
    """The protocol's name of a type of numpy or of a TensorSpec ('str', 'bfloat16').

    Raises ProtocolError for one the protocol has no name for (complex numbers).
    """
    if dtype in _BY_TYPE:
        return _BY_TYPE[dtype]
    name = str(dtype)
    if name not in _NAMES:
        raise ProtocolError(BAD_REQUEST, f"the protocol has no datatype for {name}")
    return _NAMES[name]


def numpy_type(datatype: str) -> np.dtype[Any]:
    """The type of the arrays that `decode_raw` returns. Raises ProtocolError for unknown names."""
    if datatype == BYTES:
        return np.dtype(object)
    if datatype == BF16:
        return np.dtype(np.float32)
    if datatype not in _TYPES:
        known = ", ".join(DATATYPES)
        raise ProtocolError(BAD_REQUEST, f"unknown datatype '{datatype}'; there are {known}")
    return _TYPES[datatype]


def plain_type(datatype: np.dtype[Any] | str) -> np.dtype[Any] | None:
    """The type, of numpy or by the protocol's name, if its raw bytes are those of the protocol
    whatever they are; None of texts, truth values and BF16."""
    return _PLAIN.get(datatype)


def checked_shape(name: str, shape: object) -> tuple[int, ...]:
    """A shape that a client sent, or ProtocolError: no negative, absurd or fractional numbers, also
    beside a 0, where no values would be missing."""
    if not isinstance(shape, Sequence) or isinstance(shape, str | bytes):
        raise ProtocolError(BAD_REQUEST, f"input '{name}' has no shape, a list of numbers")
    if len(shape) > MAX_DIMENSIONS:
        raise ProtocolError(BAD_REQUEST, f"input '{name}' has {len(shape)} dimensions")
    for size in shape:
        if type(size) is not int or not 0 <= size < 2**63:
            told = str(size)[:40]
            raise ProtocolError(BAD_REQUEST, f"input '{name}' has {told} in its shape")
    if math.prod(size or 1 for size in shape) > MOST_VALUES:
        raise ProtocolError(BAD_REQUEST, f"input '{name}' has the absurd shape {list(shape)}")
    return tuple(shape)


def decode_raw(datatype: str, shape: Sequence[int], buffer: bytes | memoryview) -> Array:
    """The tensor of raw bytes. It shares their memory where its type allows.

    Raises ProtocolError if the bytes are not as many as the shape says, or texts are cut short.
    """
    dtype = numpy_type(datatype)
    if datatype == BYTES:
        return _texts(shape, memoryview(buffer))
    size = 2 if datatype == BF16 else dtype.itemsize
    wanted = math.prod(shape) * size
    if len(buffer) != wanted:
        raise ProtocolError(
            BAD_REQUEST,
            f"{datatype} of shape {list(shape)} takes {wanted} bytes, got {len(buffer)}",
        )
    if datatype == BF16:
        halves = np.frombuffer(buffer, "<u2").astype(np.uint32) << 16
        values = halves.view(np.float32)
        return values.reshape(tuple(shape))
    if datatype == "BOOL":
        flags: Array = np.frombuffer(buffer, np.uint8) != 0
        return flags.reshape(shape)
    return np.frombuffer(buffer, dtype).reshape(shape)


def encode_raw(array: Array, datatype: str | None = None) -> bytes:
    """The raw bytes of a tensor. datatype : what it is to be written as; by its type if None."""
    datatype = datatype or datatype_of(array.dtype)
    if _TYPES.get(datatype) == array.dtype:
        return array.tobytes()
    if datatype == BYTES:
        parts = []
        for item in array.flat:
            text = item if isinstance(item, bytes) else str(item).encode()
            parts += [_LENGTH.pack(len(text)), text]
        return b"".join(parts)
    if datatype == BF16:
        return _rounded_halves(array).tobytes()
    return np.ascontiguousarray(array, numpy_type(datatype)).tobytes()


def decode_json(name: str, datatype: str, shape: Sequence[int], data: object) -> Array:
    """The tensor of JSON values: lists, flat or nested, or numbers that are an array already.

    Raises ProtocolError for values of another kind (1.5 for INT32, texts or truth values for
    numbers), those too large for their type (1e39 for FP32), another number of them than the shape
    says, and types that JSON does not have (FP16, BF16).
    """
    dtype = numpy_type(datatype)
    if datatype in ONLY_BINARY:
        raise ProtocolError(BAD_REQUEST, f"input '{name}': {datatype} is sent as binary data only")
    if not isinstance(data, (list, np.ndarray)):
        raise ProtocolError(BAD_REQUEST, f"input '{name}' has no data, a list")
    try:
        values = _values(data, dtype)
    except (ValueError, TypeError, OverflowError) as error:
        told = str(error)[:200]
        raise ProtocolError(
            BAD_REQUEST, f"input '{name}': its data is no {datatype}: {told}"
        ) from None
    if values.size != math.prod(shape):
        raise ProtocolError(
            BAD_REQUEST,
            f"input '{name}' of shape {list(shape)} takes {math.prod(shape)} values, "
            f"got {values.size}",
        )
    return values.reshape(shape)


def encode_json(array: Array) -> Any:
    """What goes into `data`: a flat array or a list. Numbers that JSON lacks (NaN) become null."""
    if array.dtype == object:
        return [item.decode() if isinstance(item, bytes) else str(item) for item in array.flat]
    return np.ascontiguousarray(array).reshape(-1)


def _values(data: list[Any] | Array, dtype: np.dtype[Any]) -> Array:
    """JSON values as a type that holds each of them; null is NaN. Raises ValueError.

    numpy is never left to find a type: a long text among many would make it take length x number
    bytes, and 1.5 would become the integer 1.
    """
    if dtype.kind == "f":
        return _floats(data, dtype)
    if isinstance(data, np.ndarray):
        return data.astype(dtype)
    return np.array(_flat(data, *_KINDS.get(dtype.kind, (int, "whole numbers"))), dtype)


def _floats(data: list[Any] | Array, dtype: np.dtype[Any]) -> Array:
    """numpy would read texts and truth values as numbers, and take what is too large for infinity,
    which JSON does not have."""
    values = data if isinstance(data, np.ndarray) else _floats_of(data)
    with np.errstate(over="ignore"):
        values = values.astype(dtype, copy=False)
    if np.isinf(values).any():
        raise ValueError("there are values that are too large for it")
    return values


def _floats_of(data: list[Any]) -> Array:
    values = _flat_floats(data)
    if values is None:
        _check_numbers(data)
        values = np.array(data, np.float64)
    return values


def _flat_floats(data: list[Any]) -> Array | None:
    """A flat list of numbers; None of one that is to be looked at more closely. An array of Python
    takes no texts, and a truth value only as 0 or 1; to look at the types of all takes as long."""
    try:
        values = np.frombuffer(native_array("d", data))
    except TypeError:
        return None
    return None if ((values == 0) | (values == 1)).any() else values


def _check_numbers(data: list[Any]) -> None:
    """Raises ValueError unless these are numbers, null, or lists of them."""
    level, kinds = data, set(map(type, data))
    while list in kinds:
        level = list(chain.from_iterable(item for item in level if type(item) is list))
        kinds = (kinds - {list}) | set(map(type, level))
    if kinds - _FLOATS:
        raise ValueError("there are values that are no numbers")


def _flat(data: list[Any], kind: type, called: str) -> list[Any]:
    """The values of lists in lists, in order, without recursion, all of one type."""
    found: list[Any] = []
    stack = [iter(data)]
    while stack:
        for item in stack[-1]:
            if type(item) is list:
                stack.append(iter(item))
                break
            if type(item) is not kind:
                raise ValueError(f"there are values that are no {called}")
            found.append(item)
        else:
            stack.pop()
    return found


def _texts(shape: Sequence[int], buffer: memoryview) -> Array:
    count = math.prod(shape)
    if count > len(buffer) // 4:
        raise ProtocolError(
            BAD_REQUEST, f"BYTES of shape {list(shape)} do not fit in {len(buffer)} bytes"
        )
    texts = np.empty(count, object)
    offset = 0
    for i in range(count):
        end = offset + 4
        length = _LENGTH.unpack_from(buffer, offset)[0] if end <= len(buffer) else len(buffer)
        offset, end = end, end + length
        if end > len(buffer):
            raise ProtocolError(BAD_REQUEST, f"BYTES of shape {list(shape)} are cut short")
        try:
            texts[i] = str(buffer[offset:end], "utf-8")
        except UnicodeDecodeError:
            raise ProtocolError(BAD_REQUEST, f"BYTES: element {i} is no UTF-8 text") from None
        offset = end
    if offset != len(buffer):
        raise ProtocolError(BAD_REQUEST, f"{len(buffer) - offset} bytes follow the last text")
    return texts.reshape(shape)


def _rounded_halves(array: Array) -> Array:
    """The upper halves of float32, rounded to even; NaN stays NaN."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return np.where(np.isnan(array), 0x7FC0, rounded).astype("<u2")
