"""What a SavedModel says of itself, read from saved_model.pb without TensorFlow, never loaded.

The file is a protocol buffer (tensorflow/core/protobuf/saved_model.proto); the few fields that name
signatures are read here, everything else is skipped.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sommelier.connectors.naming import printable
from sommelier.connectors.options import MAX_MODEL_BYTES
from sommelier.errors import RejectedModelError
from sommelier.records import TensorSpec
from sommelier.storage.external_data import too_large

FILE = "saved_model.pb"
DEFAULTS = ("serving_default", "default")  # of TF2 and TF-Hub's own format
_DTYPES = {
    1: "float32", 2: "float64", 3: "int32", 4: "uint8", 5: "int16", 6: "int8", 7: "str",
    8: "complex64", 9: "int64", 10: "bool", 14: "bfloat16", 17: "uint16", 18: "complex128",
    19: "float16", 22: "uint32", 23: "uint64",
}  # fmt: skip
_VARINT, _BYTES, _FIXED = 0, 2, {1: 8, 5: 4}  # wire types; how many bytes the fixed ones have
_SHOWN = 100  # characters of a name
MAX_FIELDS = 200_000  # read on the way to the signatures; of 10 000 tensors it takes as many


@dataclass(frozen=True, slots=True)
class Signature:
    """A function of a SavedModel; str() reads as 'name(x:float32[?,8]) -> y:float32[?,3]'."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __str__(self) -> str:
        taken, given = (", ".join(map(str, specs)) for specs in (self.inputs, self.outputs))
        return f"{self.name}({taken}) -> {given}"


@dataclass(frozen=True, slots=True)
class SavedModelFacts:
    """What saved_model.pb states. version : of the TensorFlow that wrote it. Signatures by name."""

    version: str | None
    signatures: tuple[Signature, ...]

    def chosen(self, name: str | None) -> Signature:
        """The signature of that name; else the default, or the only one.

        Raises RejectedModelError, with those that exist, if that leaves none or several.
        """
        known = {signature.name: signature for signature in self.signatures}
        if name is None:
            usual = [default for default in DEFAULTS if default in known]
            only = list(known) if len(known) == 1 else []
            name = next(iter((*usual, *only)), None)
        if name in known:
            return known[name]
        if not known:
            raise RejectedModelError("it has no signature that could be called")
        asked = "several signatures" if name is None else f"no signature '{name}'"
        raise RejectedModelError(
            f"it has {asked}; USING signature = '...' chooses one of {', '.join(known)}"
        )


def read_facts(folder: Path) -> SavedModelFacts:
    """What the SavedModel in this folder states. Raises RejectedModelError if it is damaged, or has
    more than MAX_FIELDS fields on the way to its signatures."""
    path = folder / FILE
    try:
        size = path.stat().st_size
        if size > MAX_MODEL_BYTES:
            raise too_large(size, MAX_MODEL_BYTES)
        with path.open("rb") as file:
            # Graphs are skipped, and so never read from the disk; views of it close it in the end.
            content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return _facts(_Message(memoryview(content), iter(range(MAX_FIELDS))))
    except (OSError, ValueError) as error:
        raise RejectedModelError(f"{FILE} is damaged: {error}") from error


@dataclass(frozen=True, slots=True)
class _Message:
    """The bytes of a message. left : one item for each field that may still be read of the file."""

    content: memoryview
    left: Iterator[int]

    def fields(self) -> Iterator[tuple[int, int | memoryview]]:
        """Number and value of each field. Raises ValueError where the bytes are no message."""
        at = 0
        while at < len(self.content):
            if next(self.left, None) is None:
                raise ValueError(f"it has more than {MAX_FIELDS} fields")
            key, at = _varint(self.content, at)
            wire = key & 7
            if wire == _VARINT:
                value, at = _varint(self.content, at)
                yield key >> 3, value
                continue
            if wire == _BYTES:
                length, at = _varint(self.content, at)
            elif wire in _FIXED:
                length = _FIXED[wire]
            else:
                raise ValueError(f"field of type {wire} at byte {at}")
            if at + length > len(self.content):
                raise ValueError("it ends within a field")
            yield key >> 3, self.content[at : at + length]
            at += length

    def numbers(self, field: int) -> list[int]:
        """Every value of a field that holds numbers."""
        return [n for key, n in self.fields() if key == field and isinstance(n, int)]

    def messages(self, field: int) -> list[_Message]:
        """Every value of a field that holds bytes, text or another message."""
        return [
            _Message(value, self.left)
            for key, value in self.fields()
            if key == field and isinstance(value, memoryview)
        ]

    def texts(self, field: int) -> list[str]:
        """The beginning of every value of a field that holds text, in printable characters."""
        values = [bytes(value.content[: 4 * _SHOWN]) for value in self.messages(field)]
        return [printable(value.decode("utf-8", "replace"))[:_SHOWN] for value in values]

    def value(self) -> _Message:
        """What an entry of a map maps to, field 2 of it; an empty message if it has none."""
        (found,) = self.messages(2) or [_Message(memoryview(b""), self.left)]
        return found


def _facts(content: _Message) -> SavedModelFacts:
    version: str | None = None
    signatures: dict[str, Signature] = {}
    for graph in content.messages(2):  # SavedModel.meta_graphs
        for info in graph.messages(1):  # MetaGraphDef.meta_info_def
            version = next(iter(info.texts(5)), version)  # .tensorflow_version
        for entry in graph.messages(5):  # MetaGraphDef.signature_def, a map
            signature = _signature(entry)
            if not signature.name.startswith("__"):  # what TensorFlow keeps for itself
                signatures.setdefault(signature.name, signature)
    return SavedModelFacts(version, tuple(signatures[name] for name in sorted(signatures)))


def _signature(entry: _Message) -> Signature:
    body = entry.value()
    return Signature(next(iter(entry.texts(1)), ""), _tensors(body, 1), _tensors(body, 2))


def _tensors(signature: _Message, field: int) -> tuple[TensorSpec, ...]:
    """Inputs (field 1) or outputs (field 2) of a SignatureDef, by name."""
    found = []
    for entry in signature.messages(field):
        name, info = next(iter(entry.texts(1)), ""), entry.value()
        dtype = _DTYPES.get((info.numbers(2) or [0])[-1], "unknown")
        shapes = info.messages(3)
        found.append(TensorSpec(name, dtype, _shape(shapes[-1]) if shapes else None))
    return tuple(sorted(found, key=lambda spec: spec.name))


def _shape(shape: _Message) -> tuple[int | None, ...] | None:
    """Lengths of a TensorShapeProto; None for one that is open, and for a rank that is."""
    if any(shape.numbers(3)):  # unknown_rank
        return None
    sizes = [next(iter(dim.numbers(1)), 0) for dim in shape.messages(2)]
    # Negative numbers, of axes that are open, are in two's complement.
    return tuple(None if size >= 1 << 63 else size for size in sizes)


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    """A number in base 128, at most 64 bits, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(message):
            raise ValueError("it ends within a number")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (1 << 64) - 1, at
    raise ValueError(f"a number of more than 64 bits at byte {at}")
