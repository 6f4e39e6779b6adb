"""What a model takes and gives: its inputs and outputs, and lengths for axes it leaves open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sommelier.records import Dim, TensorSpec

if TYPE_CHECKING:
    from onnx import GraphProto, TypeProto, ValueInfoProto

# What an open axis is taken to be when nobody says; the assumption is reported with the figures.
IMAGE_SIDE = 224  # ImageNet's customary side
IMAGE_CHANNELS = 3
SAMPLES = 16_000  # one second of speech
STEPS = 128  # a sentence or two of tokens, or frames

_ANONYMOUS = frozenset({"", "?", "-1", "None", "none"})
_SOUND = ("audio", "wav", "signal", "speech", "pcm", "samples")
_STATE = ("state", "hidden", "h0", "c0", "h_in", "c_in", "hx", "cx")
_SIDE = ("height", "width", "h", "w")


@dataclass(frozen=True, slots=True)
class Binding:
    """Concrete lengths for every axis of the inputs.

    shapes : by input name; None where the file states no rank. symbols : named axes and their
    lengths. assumed : what was chosen without being told, by axis name or 'input[axis]'.
    """

    shapes: dict[str, tuple[int, ...] | None]
    symbols: dict[str, int]
    assumed: dict[str, int]
    batch: int


def input_specs(graph: GraphProto) -> tuple[TensorSpec, ...]:
    """What a caller feeds: graph inputs without those that have a stored default (initializers)."""
    stored = {tensor.name for tensor in graph.initializer}
    stored |= {tensor.values.name for tensor in graph.sparse_initializer}
    return tuple(spec(value) for value in graph.input if value.name not in stored)


def output_specs(graph: GraphProto) -> tuple[TensorSpec, ...]:
    """What the model answers, in its own order."""
    return tuple(spec(value) for value in graph.output)


def spec(value: ValueInfoProto) -> TensorSpec:
    """Name, type and shape as the file states them; dynamic axes keep their name."""
    kind = value.type.WhichOneof("value")
    if kind not in ("tensor_type", "sparse_tensor_type"):
        return TensorSpec(value.name, type_name(value.type), None)
    tensor = getattr(value.type, kind)
    if not tensor.HasField("shape"):
        return TensorSpec(value.name, dtype_name(tensor.elem_type), None)
    dims: list[Dim] = []
    for dim in tensor.shape.dim:
        field = dim.WhichOneof("value")
        if field == "dim_value":
            dims.append(dim.dim_value if dim.dim_value > 0 else None)
        else:
            dims.append(dim.dim_param if field else None)
    return TensorSpec(value.name, dtype_name(tensor.elem_type), tuple(dims))


def type_name(kind: TypeProto) -> str:
    """A type in words: 'float32', 'sequence(map(int64,float32))', 'unknown'."""
    field = kind.WhichOneof("value")
    if field is None:
        return "unknown"
    if field in ("tensor_type", "sparse_tensor_type"):
        return dtype_name(getattr(kind, field).elem_type)
    if field == "map_type":
        return f"map({dtype_name(kind.map_type.key_type)},{type_name(kind.map_type.value_type)})"
    inner = getattr(kind, field)
    return f"{field.removesuffix('_type')}({type_name(inner.elem_type)})"


def dtype_name(element_type: int) -> str:
    """numpy's name of an ONNX element type; 'str' for strings, 'unknown' for none.

    >>> dtype_name(1), dtype_name(7), dtype_name(8), dtype_name(0)
    ('float32', 'int64', 'str', 'unknown')
    """
    from onnx import TensorProto, helper

    if element_type == TensorProto.STRING:
        return "str"
    try:
        return str(helper.tensor_dtype_to_np_dtype(element_type))
    except (KeyError, ValueError):
        return "unknown"


def bind(
    specs: Sequence[TensorSpec], *, batch: int = 1, dims: Mapping[str, int] | None = None
) -> Binding:
    """Lengths for all open axes.

    The open first axis of an input is the batch; an axis of the same name has the same length;
    dims : lengths by axis name or 'input[axis]'; what is left gets a customary length (`assumed`).

    >>> spec = TensorSpec("ids", "int64", ("N", "T"))
    >>> bind([spec], batch=8, dims={"T": 32}).shapes
    {'ids': (8, 32)}
    """
    given = dict(dims or {})
    symbols: dict[str, int] = {k: v for k, v in given.items() if not k.endswith("]")}
    for item in specs:
        for axis, name in enumerate(item.shape or ()):
            if isinstance(name, str) and name not in _ANONYMOUS and _is_batch(item, axis):
                symbols.setdefault(name, batch)
    binding = Binding({}, symbols, {}, batch)
    for item in specs:
        binding.shapes[item.name] = (
            None
            if item.shape is None
            else tuple(_length(item, axis, given, binding) for axis in range(len(item.shape)))
        )
    return binding


def _length(item: TensorSpec, axis: int, given: Mapping[str, int], binding: Binding) -> int:
    """The length of one axis; what had to be assumed is added to `binding`."""
    length = (item.shape or ())[axis]
    place = f"{item.name}[{axis}]"
    if isinstance(length, int):
        return length
    if place in given:
        return given[place]
    if isinstance(length, str) and length in binding.symbols:
        return binding.symbols[length]
    if _is_batch(item, axis):
        return binding.batch
    chosen = _customary(item, axis)
    named = isinstance(length, str) and length not in _ANONYMOUS
    binding.assumed[str(length) if named else place] = chosen
    if named:
        binding.symbols[str(length)] = chosen
    return chosen


def _is_batch(item: TensorSpec, axis: int) -> bool:
    """The first axis when it is open, and the middle one of a recurrent state."""
    shape = item.shape or ()
    if isinstance(shape[axis], int):
        return False
    if axis == 0:
        return True
    recurrent = any(word in item.name.lower() for word in _STATE)
    return axis == 1 and len(shape) == 3 and isinstance(shape[0], int) and recurrent


def _customary(item: TensorSpec, axis: int) -> int:
    shape = item.shape or ()
    name = str(shape[axis] or "").lower()
    if name in _SIDE:
        return IMAGE_SIDE
    if len(shape) == 4:
        channels = 3 if shape[3] in (1, 3, 4) and shape[1] not in (1, 3, 4) else 1
        return IMAGE_CHANNELS if axis == channels else IMAGE_SIDE
    if item.dtype.startswith("float") and any(
        word in text for word in _SOUND for text in (item.name.lower(), name)
    ):
        return SAMPLES
    return STEPS
