"""Output types of one operator, from the types and known values of what it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sommelier.analysis import extension_operators as extension
from sommelier.analysis.graph import Tensor
from sommelier.analysis.onnx_types import attribute_value, tensor_of, type_of

if TYPE_CHECKING:
    from onnx import NodeProto, OperatorSetIdProto, TypeProto

_KEEP_SHAPE = frozenset({"Scaler", "Normalizer", "Binarizer", "Imputer"})

Types = Mapping[str, "TypeProto"]
Values = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Dialect:
    """What is the same in all graphs of a model: opsets by domain, and lengths of named axes."""

    opsets: Mapping[str, int]
    imports: tuple[OperatorSetIdProto, ...]
    ir_version: int
    symbols: Mapping[str, int]


def infer(node: NodeProto, types: Types, values: Values, dialect: Dialect) -> dict[str, TypeProto]:
    """Types by output name; {} when nothing can be said, which leaves them unknown.

    types : of every operand. values : small arrays known beforehand (shapes, axes, pads).
    """
    domain = "" if node.domain == "ai.onnx" else node.domain
    if domain.startswith("com.microsoft"):
        return _infer_extension(node, types, values, dialect)
    if domain == "ai.onnx.ml" and (made := _infer_learned(node, types)):
        return made
    from onnx import checker, defs, numpy_helper, shape_inference

    version = dialect.opsets.get(domain, 1)
    if not defs.has(node.op_type, version, domain):
        return {}
    schema = defs.get_schema(node.op_type, version, domain)
    data = {
        name: numpy_helper.from_array(np.asarray(values[name]), name)
        for name in node.input
        if name in values
    }
    try:
        return shape_inference.infer_node_outputs(
            schema, node, dict(types), data, None, list(dialect.imports), dialect.ir_version
        )
    except (
        shape_inference.InferenceError,
        checker.ValidationError,
        RuntimeError,
        ValueError,
        KeyError,
        TypeError,
    ):
        return {}  # counted as unknown by whoever needs the shape


def _infer_learned(node: NodeProto, types: Types) -> dict[str, TypeProto]:
    """Classical models (ai.onnx.ml), of which onnx infers next to nothing."""
    x = tensor_of(types[node.input[0]])
    attributes = {a.name: attribute_value(a) for a in node.attribute}
    rows = x.shape[0] if x.shape is not None and len(x.shape) > 1 else 1
    if node.op_type in _KEEP_SHAPE:
        return {node.output[0]: type_of(Tensor(extension.FLOAT, x.shape))}
    if node.op_type.endswith("Regressor"):
        targets = int(attributes.get("n_targets") or attributes.get("targets") or 1)
        return {node.output[0]: type_of(Tensor(extension.FLOAT, (rows, targets)))}
    for names, label_type in (("classlabels_strings", 8), ("classlabels_int64s", 7),
                              ("classlabels_ints", 7)):  # fmt: skip
        if attributes.get(names) and node.op_type.endswith("Classifier"):
            scores = Tensor(extension.FLOAT, (rows, len(attributes[names])))
            kinds = (type_of(Tensor(label_type, (rows,))), type_of(scores))
            return dict(zip(node.output, kinds, strict=False))
    return {}


def _infer_extension(
    node: NodeProto, types: Types, values: Values, dialect: Dialect
) -> dict[str, TypeProto]:
    """Operators of ONNX Runtime: the shape of a standard twin, of an operand, or of a rule."""
    tensors = [tensor_of(types[name]) if name else None for name in node.input]
    shapes = [None if t is None else t.shape for t in tensors]
    first = next((t for t in tensors if t is not None), None)
    element = extension.ELEMENT_TYPES.get(node.op_type, first.dtype if first else 0)
    shape: tuple[int | None, ...] | None = None
    if node.op_type in extension.TWINS:
        shape = _twin_shape(node, shapes, values, dialect)
    elif node.op_type in extension.SAME_AS_FIRST:
        shape = shapes[0] if shapes else None
    elif extension.has_rule(node.op_type):
        attributes = {a.name: attribute_value(a) for a in node.attribute}
        shape = extension.shape_of(node.op_type, shapes, attributes)
    outputs = {node.output[0]: type_of(Tensor(element, shape))}
    if node.op_type.startswith("Skip") and len(node.output) > 3 and node.output[3]:
        outputs[node.output[3]] = outputs[node.output[0]]  # the sum before normalisation
    return outputs


def _twin_shape(
    node: NodeProto, shapes: extension.Shapes, values: Values, dialect: Dialect
) -> extension.Shape | None:
    """The output shape of the standard twin, whose operands all pose as floats."""
    from onnx import NodeProto, defs

    op, operands = extension.TWINS[node.op_type]
    version = max(dialect.opsets.get("", 1), 13)
    known = set(defs.get_schema(op, version, "").attributes)
    twin = NodeProto(op_type=op, output=node.output[:1])
    twin.input.extend(node.input[i] for i in operands if i < len(node.input))
    twin.attribute.extend(a for a in node.attribute if a.name in known)
    posing = {
        node.input[i]: type_of(Tensor(extension.FLOAT, shapes[i]))
        for i in operands
        if i < len(node.input) and node.input[i]
    }
    twin_dialect = Dialect({"": version}, dialect.imports, dialect.ir_version, dialect.symbols)
    made = infer(twin, posing, values, twin_dialect).get(node.output[0])
    return None if made is None else tensor_of(made).shape
