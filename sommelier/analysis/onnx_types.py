"""Between onnx's type messages and our Tensor; what two statements about a type agree on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from sommelier.analysis.graph import Tensor

if TYPE_CHECKING:
    from onnx import AttributeProto, TypeProto


def attribute_value(attribute: AttributeProto) -> Any:
    """The value; graphs stay out (they are in Node.subgraphs), bytes become text."""
    from onnx import AttributeProto, helper

    if attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
        return None
    try:
        value = helper.get_attribute_value(attribute)
    except ValueError:
        return None  # a reference to a function's parameter that was never given
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if attribute.type == AttributeProto.STRINGS:
        return [text.decode("utf-8", "replace") for text in value]
    return list(value) if attribute.type in (AttributeProto.INTS, AttributeProto.FLOATS) else value


def best_type(
    made: TypeProto | None, hint: TypeProto | None, symbols: Mapping[str, int]
) -> TypeProto:
    """The inferred type; what the file states where inference is silent."""
    from onnx import TypeProto

    if made is not None and (made.WhichOneof("value") != "tensor_type" or _complete(made)):
        return made
    if hint is None or hint.WhichOneof("value") != "tensor_type":
        return made or hint or TypeProto()
    stated = hint.tensor_type
    shape: tuple[int | None, ...] | None = None
    if stated.HasField("shape"):
        shape = tuple(
            d.dim_value
            if d.HasField("dim_value") and d.dim_value >= 0
            else symbols.get(d.dim_param)
            for d in stated.shape.dim
        )
    partial = Tensor(0, None) if made is None else tensor_of(made)
    if partial.shape is not None and (shape is None or len(shape) != len(partial.shape)):
        shape = partial.shape
    elif partial.shape is not None and shape is not None:
        shape = tuple(b if a is None else a for a, b in zip(partial.shape, shape, strict=True))
    return type_of(Tensor(partial.dtype or stated.elem_type, shape))


def _complete(kind: TypeProto) -> bool:
    return bool(kind.tensor_type.elem_type) and tensor_of(kind).elements is not None


def common(tensors: list[Tensor]) -> Tensor:
    """What several values agree on."""
    first = tensors[0]
    dtype = first.dtype if all(t.dtype == first.dtype for t in tensors) else 0
    shapes = [t.shape for t in tensors]
    if any(s is None or len(s) != len(shapes[0] or ()) for s in shapes):
        return Tensor(dtype, None)
    axes = zip(*(s for s in shapes if s is not None), strict=True)
    return Tensor(dtype, tuple(a[0] if len(set(a)) == 1 else None for a in axes))


def tensor_of(kind: TypeProto) -> Tensor:
    if kind.WhichOneof("value") != "tensor_type":
        return Tensor(0, None)
    stated = kind.tensor_type
    if not stated.HasField("shape"):
        return Tensor(stated.elem_type, None)
    return Tensor(
        stated.elem_type,
        tuple(d.dim_value if d.HasField("dim_value") else None for d in stated.shape.dim),
    )


def type_of(tensor: Tensor) -> TypeProto:
    from onnx import TypeProto

    kind = TypeProto()
    kind.tensor_type.elem_type = tensor.dtype
    if tensor.shape is not None:
        kind.tensor_type.shape.SetInParent()  # a scalar has a shape too: the empty one
        for length in tensor.shape:
            dim = kind.tensor_type.shape.dim.add()
            if length is not None:
                dim.dim_value = length
    return kind
