"""What a safetensors file holds, from its header alone: a few kilobytes, whatever the file has.

Format: 8 bytes little-endian length, JSON {tensor: {dtype, shape, data_offsets}}, then the data
(https://huggingface.co/docs/safetensors). Nothing in it can be executed.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping

from sommelier.errors import ConnectorError, first_line

MAX_HEADER_BYTES = 25 << 20  # the format's reference reader takes no more than 100 MB
MAX_DIMENSIONS = 32  # of a weight, as NumPy had it until 2.0
MAX_ELEMENTS = 1 << 63
GUESS_BYTES = 64 << 10  # most headers are smaller: one request instead of two

ReadRange = Callable[[int, int], bytes]
"""read(first, count): at most `count` bytes of the file from byte `first` on."""

_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4, "U16": 16,
    "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64,
    "F64": 64,
}  # fmt: skip


def parameter_counts(read: ReadRange, where: str) -> dict[str, int]:
    """{dtype: elements} of all tensors of one file.

    Raises ConnectorError, naming `where`, if the bytes are no safetensors header.
    """
    start = read(0, GUESS_BYTES)
    length = int.from_bytes(start[:8], "little")
    if len(start) < 8 or not 2 <= length <= MAX_HEADER_BYTES:
        raise ConnectorError(f"{where} is no safetensors file: its header says {length} bytes")
    text = start[8 : 8 + length]
    if len(text) < length:
        text += read(len(start), length - len(text))
    try:
        counts = _counts(json.loads(text))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ConnectorError(
            f"{where} is no safetensors file: its header is not as it should be "
            f"({first_line(error)})"
        ) from error
    return counts


def size_bytes(counts: Mapping[str, int]) -> int | None:
    """Bytes of that many elements of each dtype; None if one is unknown.

    >>> size_bytes({"F32": 10, "I8": 3})
    43
    """
    if not set(counts) <= set(_BITS):
        return None
    return sum(-(-count * _BITS[dtype] // 8) for dtype, count in counts.items())


def _counts(header: Mapping[str, Mapping[str, object]]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        counts[str(tensor["dtype"])[:20]] += _elements(name, tensor["shape"])
    if sum(counts.values()) >= MAX_ELEMENTS:
        raise ValueError("its tensors have more elements than any disk holds")
    return dict(counts)


def _elements(name: str, shape: object) -> int:
    """How many a tensor has. Raises ValueError for a shape that no tensor has."""
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"{name[:80]!r} has no shape of at most {MAX_DIMENSIONS} dimensions")
    count = 1
    for side in shape:
        if type(side) is not int or not 0 <= side < MAX_ELEMENTS:
            raise ValueError(f"the shape of {name[:80]!r} holds {str(side)[:40]}")
        count *= side
        if count >= MAX_ELEMENTS:
            raise ValueError(f"{name[:80]!r} has more elements than any disk holds")
    return count
