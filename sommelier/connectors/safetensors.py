"""What a safetensors file far away holds, from its header alone: a few kilobytes, whatever the file
has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from sommelier.errors import ConnectorError, first_line
from sommelier.storage.safetensors import (
    LENGTH_BYTES,
    MAX_ELEMENTS,
    header_length,
    stored_tensors,
)

GUESS_BYTES = 64 << 10  # most headers are smaller: one request instead of two

ReadRange = Callable[[int, int], bytes]
"""read(first, count): at most `count` bytes of the file from byte `first` on."""


def parameter_counts(read: ReadRange, where: str) -> dict[str, int]:
    """{dtype: elements} of all tensors of one file.

    Raises ConnectorError, naming `where`, if the bytes are no safetensors header.
    """
    start = read(0, GUESS_BYTES)
    try:
        length = header_length(start)
        text = start[LENGTH_BYTES : LENGTH_BYTES + length]
        if len(text) < length:
            text += read(len(start), length - len(text))
        return _counts(text)
    except ValueError as error:
        raise ConnectorError(f"{where} is no safetensors file: {first_line(error)}") from error


def _counts(header: bytes) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for tensor in stored_tensors(header).values():
        counts[tensor.dtype[:20]] += tensor.elements
    if sum(counts.values()) >= MAX_ELEMENTS:
        raise ValueError("its tensors have more elements than any disk holds")
    return dict(counts)
