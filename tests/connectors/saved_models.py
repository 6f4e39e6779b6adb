"""SavedModels without TensorFlow: the bytes of saved_model.pb, and tars as TF-Hub serves them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

FLOAT = 1  # DT_FLOAT

Tensors = Mapping[str, tuple[int, Sequence[int] | None]]
"""{name: (dtype, lengths; -1 is open)}; None for a tensor of open rank."""


def saved_model(
    signatures: Mapping[str, tuple[Tensors, Tensors]], version: str = "2.21.0"
) -> bytes:
    """A saved_model.pb with one graph that has these signatures and no operators."""
    graph = field(1, field(5, version))  # meta_info_def.tensorflow_version
    for name, (inputs, outputs) in signatures.items():
        body = _tensors(1, inputs) + _tensors(2, outputs)
        graph += field(5, field(1, name) + field(2, body))
    return varint(1 << 3) + varint(1) + field(2, graph)


def classifier(features: int = 8) -> bytes:
    """x[?,features] -> probs[?,3] as serving_default."""
    return saved_model(
        {"serving_default": ({"x": (FLOAT, [-1, features])}, {"probs": (FLOAT, [-1, 3])})}
    )


def tar_of(files: Mapping[str, bytes], *, compressed: bool = True) -> bytes:
    """A tar with entries for the folders too, as tensorflow_hub needs them."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz" if compressed else "w") as tar:
        for folder in sorted({str(Path(name).parent) for name in files}):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


def packed_folder(folder: Path) -> bytes:
    """The tar of everything below a folder."""
    files = {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    return tar_of(files)


def field(number: int, value: bytes | str) -> bytes:
    content = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _tensors(number: int, tensors: Tensors) -> bytes:
    found = b""
    for name, (dtype, lengths) in tensors.items():
        if lengths is None:
            shape = varint(3 << 3) + varint(1)
        else:
            shape = b"".join(field(2, varint(1 << 3) + varint(size)) for size in lengths)
        info = varint(2 << 3) + varint(dtype) + field(3, shape)
        found += field(number, field(1, name) + field(2, info))
    return found
