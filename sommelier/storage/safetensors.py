"""The header of a safetensors file: which tensors it holds, of what type, and where they lie.

Format: 8 bytes little-endian length, JSON {tensor: {dtype, shape, data_offsets}}, then the data
(https://huggingface.co/docs/safetensors). Nothing in it can be executed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from sommelier.errors import first_line

LENGTH_BYTES = 8  # of the number that says how long the header is
MAX_HEADER_BYTES = 25 << 20
"""The format's own reader takes up to 100 MB, which as Python objects are gigabytes; a model of
100 000 tensors has a header of half this size."""
MAX_DIMENSIONS = 32  # of a weight, as NumPy had it until 2.0
MAX_ELEMENTS = 1 << 63


@dataclass(frozen=True, slots=True)
class Dtype:
    """bits : of an element. name : what torch calls it, None where it has no such type."""

    bits: int
    name: str | None


DTYPES: Mapping[str, Dtype] = MappingProxyType(
    {
        "F64": Dtype(64, "float64"), "F32": Dtype(32, "float32"), "F16": Dtype(16, "float16"),
        "BF16": Dtype(16, "bfloat16"), "I64": Dtype(64, "int64"), "I32": Dtype(32, "int32"),
        "I16": Dtype(16, "int16"), "I8": Dtype(8, "int8"), "U64": Dtype(64, "uint64"),
        "U32": Dtype(32, "uint32"), "U16": Dtype(16, "uint16"), "U8": Dtype(8, "uint8"),
        "BOOL": Dtype(8, "bool"), "C64": Dtype(64, "complex64"),
        "F8_E4M3": Dtype(8, "float8_e4m3fn"), "F8_E4M3FNUZ": Dtype(8, "float8_e4m3fnuz"),
        "F8_E5M2": Dtype(8, "float8_e5m2"), "F8_E5M2FNUZ": Dtype(8, "float8_e5m2fnuz"),
        "F8_E8M0": Dtype(8, "float8_e8m0fnu"), "F6_E2M3": Dtype(6, None),
        "F6_E3M2": Dtype(6, None), "F4": Dtype(4, None),
    }
)  # fmt: skip
"""The types of the format; another is not known here, but may be counted."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """An entry of the header. start : its first byte among the data, behind the header."""

    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def elements(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


def header_length(beginning: bytes) -> int:
    """Bytes of the header, from the first eight of the file. Raises ValueError."""
    length = int.from_bytes(beginning[:LENGTH_BYTES], "little")
    if len(beginning) < LENGTH_BYTES or not 2 <= length <= MAX_HEADER_BYTES:
        raise ValueError(f"its header says {length} bytes, {MAX_HEADER_BYTES} are the limit")
    return length


def stored_tensors(header: bytes) -> dict[str, StoredTensor]:
    """{name: tensor} of a header. Raises ValueError, and nothing else, if it is none."""
    try:
        return {
            str(name): _tensor(name, entry)
            for name, entry in json.loads(header).items()
            if name != "__metadata__"
        }
    except (TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"its header is not as it should be ({first_line(error)})") from error


def size_bytes(counts: Mapping[str, int]) -> int | None:
    """Bytes of that many elements of each dtype; None if one is unknown.

    >>> size_bytes({"F32": 10, "I8": 3})
    43
    """
    if not set(counts) <= set(DTYPES):
        return None
    return sum(-(-count * DTYPES[dtype].bits // 8) for dtype, count in counts.items())


def _tensor(name: str, entry: Mapping[str, object]) -> StoredTensor:
    """One entry, whose shape is one and whose offsets are those of its elements."""
    dtype, offsets = entry["dtype"], entry["data_offsets"]
    if not isinstance(dtype, str):
        raise ValueError(f"the type of {name[:80]!r} is no text")
    shape = _shape(name, entry["shape"])
    if not (isinstance(offsets, list) and [type(place) for place in offsets] == [int, int]):
        raise ValueError(f"{name[:80]!r} has no offsets")
    start, end = offsets
    found = StoredTensor(dtype, shape, start)
    size = size_bytes({dtype: found.elements})
    if start < 0 or end < start or size not in (None, end - start):
        raise ValueError(f"{name[:80]!r} has offsets that do not fit the shape")
    if end >= MAX_ELEMENTS:
        raise ValueError(f"{name[:80]!r} lies behind the end of any disk")
    return found


def _shape(name: str, shape: object) -> tuple[int, ...]:
    """Raises ValueError for a shape that no tensor has."""
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"{name[:80]!r} has no shape of at most {MAX_DIMENSIONS} dimensions")
    count = 1
    for side in shape:
        if type(side) is not int or not 0 <= side < MAX_ELEMENTS:
            raise ValueError(f"the shape of {name[:80]!r} holds {str(side)[:40]}")
        count *= side
        if count >= MAX_ELEMENTS:
            raise ValueError(f"{name[:80]!r} has more elements than any disk holds")
    return tuple(shape)
