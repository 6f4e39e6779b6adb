"""Putting right the weights' file that ONNX Runtime saves beside an optimised graph.

It writes one blob behind the other. Its kernels read prepacked weights with instructions that need
addresses divisible by 64, so where a blob happens to lie elsewhere a run dies of SIGSEGV (seen with
1.31.1: three hidden layers of 200 units); and a file with an empty blob, which depthwise quantised
convolutions have, does not load at all.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING

from sommelier.runtime.sessions import SavedAs
from sommelier.storage.external_data import read_model, tensors

if TYPE_CHECKING:
    from onnx import TensorProto

ALIGNMENT = 64  # bytes: MlasGetPreferredBufferAlignment, the widest register of AVX-512
_CHUNK = 1 << 20
_PREPACKED = "prepacked_"  # keys of entries 'kernel+hash|offset;length;checksum|...'

Copy = Callable[[int, int], int]  # (offset, length) in the old file -> offset in the new one


def align(saved: SavedAs) -> None:
    """Rewrite a saved session so that every weight and every prepacked blob starts at a multiple
    of 64 bytes. Weights with an empty blob are packed when they are loaded."""
    if not saved.weights.exists():
        return
    model = read_model(saved.path)
    aligned = saved.weights.with_suffix(".aligned")
    with saved.weights.open("rb") as old, aligned.open("wb") as new:

        def copy(offset: int, length: int) -> int:
            return _copied(old, new, offset, length)

        for tensor in tensors(model):
            if tensor.data_location == tensor.EXTERNAL:
                _move(tensor, copy)
    saved.path.write_bytes(model.SerializeToString())
    aligned.replace(saved.weights)


def prepacked_offsets(path: Path) -> list[int]:
    """Where the prepacked blobs of a saved session lie in its weights' file."""
    return [
        int(blob.split(";")[0])
        for tensor in tensors(read_model(path))
        for entry in tensor.external_data
        if entry.key.startswith(_PREPACKED)
        for blob in entry.value.split("|")[1:]
    ]


def _move(tensor: TensorProto, copy: Copy) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    entries["offset"] = str(copy(int(entries.get("offset", 0)), int(entries["length"])))
    for key in [key for key in entries if key.startswith(_PREPACKED)]:
        kernel, *blobs = entries.pop(key).split("|")
        places = [[int(number) for number in blob.split(";")] for blob in blobs]
        if all(length for _, length, _ in places):
            moved = [f"{copy(offset, length)};{length};{sum_}" for offset, length, sum_ in places]
            entries[key] = "|".join([kernel, *moved])
    del tensor.external_data[:]
    for key, value in entries.items():
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


def _copied(old: IO[bytes], new: IO[bytes], offset: int, length: int) -> int:
    new.write(bytes(-new.tell() % ALIGNMENT))
    start = new.tell()
    old.seek(offset)
    while length > 0 and (chunk := old.read(min(_CHUNK, length))):
        new.write(chunk)
        length -= len(chunk)
    return start
