"""From an ONNX file to a Graph in one pass in execution order: types, shapes, small values.

Each operator's shape comes from onnx's own inference for it; where the file hides a shape behind
arithmetic, the arithmetic is done (folding.py). An operator that cannot be inferred leaves its
outputs unknown and the pass goes on.
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from sommelier.analysis import folding, signature
from sommelier.analysis.graph import (
    Graph,
    Node,
    Tensor,
    Weight,
    captured,
    opset_imports,
    ordered_nodes,
    without_functions,
)
from sommelier.analysis.onnx_types import (
    attribute_value,
    best_type,
    common,
    tensor_of,
    type_of,
)
from sommelier.analysis.operator_inference import Dialect, infer
from sommelier.errors import RejectedModelError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto

_ML_WEIGHTS = frozenset(
    {
        "coefficients", "intercepts", "support_vectors", "rho", "prob_a", "prob_b", "nodes_values",
        "target_weights", "class_weights", "scale", "offset", "tree_leaf_weights", "leaf_weights",
        "nodes_splits",
    }
)  # fmt: skip
"""Attributes of ai.onnx.ml operators that hold what was learned."""


@dataclass(slots=True)
class _Scope:
    """Names visible in one graph; the first map of each is its own, the rest are outer graphs."""

    tensors: ChainMap[str, Tensor] = field(default_factory=ChainMap)
    types: ChainMap[str, TypeProto] = field(default_factory=ChainMap)
    values: ChainMap[str, Any] = field(default_factory=ChainMap)
    weights: ChainMap[str, Weight] = field(default_factory=ChainMap)

    def child(self) -> _Scope:
        return _Scope(
            self.tensors.new_child(),
            self.types.new_child(),
            self.values.new_child(),
            self.weights.new_child(),
        )

    def set_type(self, name: str, kind: TypeProto) -> None:
        self.types[name] = kind
        self.tensors[name] = tensor_of(kind)


def trace(
    model: ModelProto, *, batch: int = 1, dims: Mapping[str, int] | None = None
) -> tuple[Graph, signature.Binding]:
    """The graph with open input axes bound, and what they were bound to.

    Raises RejectedModelError for a graph that is no graph: cycles, undefined or doubled names.
    """
    from onnx import helper

    model = without_functions(model)
    binding = signature.bind(signature.input_specs(model.graph), batch=batch, dims=dims)
    opsets = opset_imports(model)
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    context = Dialect(opsets, tuple(imports), max(model.ir_version, 3), binding.symbols)
    scope = _Scope()
    for value in model.graph.input:
        shape = binding.shapes.get(value.name)
        kind = value.type.WhichOneof("value")
        if kind == "tensor_type" and shape is not None:
            element = value.type.tensor_type.elem_type
            scope.set_type(value.name, helper.make_tensor_type_proto(element, shape))
        else:
            scope.set_type(value.name, value.type)
    return _trace_graph(model.graph, scope, context), binding


def _trace_graph(proto: GraphProto, scope: _Scope, context: Dialect) -> Graph:
    for tensor in proto.initializer:
        _add_weight(tensor.name, tensor, "initializer", scope)
    for sparse in proto.sparse_initializer:
        shape = tuple(sparse.dims)
        described = Tensor(sparse.values.data_type, shape)
        stored = math.prod(sparse.values.dims)
        name = sparse.values.name
        scope.weights[name] = Weight(name, described, "sparse", stored, sparse)
        scope.set_type(name, type_of(described))
    hints = {value.name: value.type for value in (*proto.value_info, *proto.output)}
    nodes: list[Node] = []
    for node in ordered_nodes(proto, scope.types):
        _check_outputs(node, scope)
        if node.op_type == "Constant" and not node.domain:
            _constant(node, scope)
        else:
            nodes.append(_trace_node(node, scope, context, hints))
    stored_names = {tensor.name for tensor in proto.initializer}
    return Graph(
        nodes=tuple(nodes),
        inputs=tuple(v.name for v in proto.input if v.name not in stored_names),
        outputs=tuple(value.name for value in proto.output),
        weights=scope.weights.maps[0],
        tensors=scope.tensors,
        values=scope.values,
        opsets=context.opsets,
    )


def _check_outputs(node: NodeProto, scope: _Scope) -> None:
    for name in node.output:
        if name and name in scope.types.maps[0]:
            raise RejectedModelError(f"the name '{name}' is made twice")


def _trace_node(
    node: NodeProto, scope: _Scope, context: Dialect, hints: Mapping[str, TypeProto]
) -> Node:
    domain = "" if node.domain == "ai.onnx" else node.domain
    attributes = {a.name: attribute_value(a) for a in node.attribute}
    subgraphs, kinds = _subgraphs(node, attributes, scope, context)
    if not subgraphs:
        types = {name: scope.types[name] for name in node.input if name}
        kinds = infer(node, types, scope.values, context)
    for name in node.output:
        if name:
            scope.set_type(name, best_type(kinds.get(name), hints.get(name), context.symbols))
    made = Node(
        node.op_type, domain, node.name, tuple(node.input), tuple(node.output), attributes,
        subgraphs, captured(node) if subgraphs else (),
    )  # fmt: skip
    _learned_attributes(made, scope)
    if not subgraphs and not domain:
        _values(made, scope)
    return made


def _subgraphs(
    node: NodeProto, attributes: Mapping[str, Any], scope: _Scope, context: Dialect
) -> tuple[dict[str, Graph], dict[str, TypeProto]]:
    """The subgraphs of If, Loop and Scan, traced with the types that reach them."""
    protos = {a.name: a.g for a in node.attribute if a.HasField("g")}
    if not protos:
        return {}, {}
    if node.op_type == "Loop":
        graph, kinds = _loop(node, protos["body"], scope, context)
        return {"body": graph}, kinds
    if node.op_type == "Scan":
        graph, kinds = _scan(node, protos["body"], attributes, scope, context)
        return {"body": graph}, kinds
    graphs = {name: _trace_graph(proto, scope.child(), context) for name, proto in protos.items()}
    kinds = {}
    taken = chosen_branch(node.op_type, node.input, scope.values)
    ends = [graphs[taken]] if taken in graphs else list(graphs.values())
    for i, name in enumerate(node.output):
        branches = [g.tensor(g.outputs[i]) for g in ends if i < len(g.outputs)]
        if branches:
            kinds[name] = type_of(common(branches))
    return graphs, kinds


def _loop(
    node: NodeProto, body: GraphProto, scope: _Scope, context: Dialect
) -> tuple[Graph, dict[str, TypeProto]]:
    """Carried values keep their type only if the body returns the type it was given."""
    from onnx import TensorProto

    carried = [scope.tensors.get(name, Tensor(0, None)) for name in node.input[2:]]
    graph = _body(body, [Tensor(TensorProto.INT64, ()), Tensor(TensorProto.BOOL, ()), *carried],
                  scope, context)  # fmt: skip
    returned = [graph.tensor(name) for name in graph.outputs[1 : 1 + len(carried)]]
    stable = [common([a, b]) for a, b in zip(carried, returned, strict=False)]
    if stable != carried:
        graph = _body(
            body, [Tensor(TensorProto.INT64, ()), Tensor(TensorProto.BOOL, ()), *stable],
            scope, context,
        )  # fmt: skip
    trips = trip_count(node.input, graph, scope.values)
    kinds = dict(zip(node.output, (type_of(t) for t in stable), strict=False))
    for name, inner in zip(node.output[len(carried) :], graph.outputs[1 + len(carried) :],
                           strict=False):  # fmt: skip
        item = graph.tensor(inner)
        shape = None if item.shape is None else (trips, *item.shape)
        kinds[name] = type_of(Tensor(item.dtype, shape))
    return graph, kinds


def chosen_branch(op: str, inputs: Sequence[str], values: Mapping[str, Any]) -> str | None:
    """The branch an If takes when its condition is a known number; None when it is not."""
    condition = values.get(inputs[0]) if op == "If" and inputs else None
    if condition is None:
        return None
    return "then_branch" if np.asarray(condition).ravel()[:1].any() else "else_branch"


def trip_count(inputs: Sequence[str], body: Graph, values: Mapping[str, Any]) -> int | None:
    """How often a Loop runs; None when its count is not known, or when its condition may end it."""
    count, start = [values.get(name) for name in [*inputs, "", ""][:2]]
    if count is None or (start is None and len(inputs) > 1 and inputs[1]):
        return None
    if start is not None and not np.asarray(start).any():
        return 0
    goes_on = body.outputs[:1]
    for node in reversed(body.nodes):
        if node.op in ("Identity", "Cast") and node.outputs[:1] == goes_on:
            goes_on = node.inputs[:1]
    if goes_on != body.inputs[1:2]:
        known = body.values.get(goes_on[0]) if goes_on else None
        if known is None or not np.asarray(known).all():
            return None
    return max(0, int(np.asarray(count).ravel()[0]))


def _scan(
    node: NodeProto, body: GraphProto, attributes: Mapping[str, Any], scope: _Scope,
    context: Dialect,
) -> tuple[Graph, dict[str, TypeProto]]:  # fmt: skip
    """Scan (opset 9 on): states first, then one slice of every scanned input per step."""
    scanned = int(attributes.get("num_scan_inputs", 0))
    operands = [scope.tensors.get(name, Tensor(0, None)) for name in node.input]
    states = len(operands) - scanned
    axes = list(attributes.get("scan_input_axes", [0] * scanned))
    slices = []
    length: int | None = None
    for tensor, axis in zip(operands[states:], axes, strict=False):
        if tensor.shape is None or not -len(tensor.shape) <= axis < len(tensor.shape):
            slices.append(Tensor(tensor.dtype, None))
            continue
        length = tensor.shape[axis]
        axis %= len(tensor.shape)
        slices.append(Tensor(tensor.dtype, tensor.shape[:axis] + tensor.shape[axis + 1 :]))
    graph = _body(body, [*operands[:states], *slices], scope, context)
    kinds = {}
    for i, (name, inner) in enumerate(zip(node.output, graph.outputs, strict=False)):
        item = graph.tensor(inner)
        grown = i >= states and item.shape is not None
        shape = (length, *item.shape) if grown and item.shape is not None else item.shape
        kinds[name] = type_of(Tensor(item.dtype, shape))
    return graph, kinds


def _body(body: GraphProto, given: list[Tensor], scope: _Scope, context: Dialect) -> Graph:
    inner = scope.child()
    for i, value in enumerate(body.input):
        tensor = given[i] if i < len(given) else Tensor(0, None)
        inner.set_type(value.name, best_type(type_of(tensor), value.type, context.symbols))
    return _trace_graph(body, inner, context)


def _values(node: Node, scope: _Scope) -> None:
    """Record the values of small constant expressions."""
    first = scope.tensors.get(node.inputs[0]) if node.inputs and node.inputs[0] else None
    if node.op in ("Shape", "Size") and first is not None and first.elements is not None:
        shape = np.array(first.shape, np.int64)
        start, end = node.attributes.get("start", 0), node.attributes.get("end", len(shape))
        scope.values[node.outputs[0]] = shape[start:end] if node.op == "Shape" else shape.prod()
        return
    if node.op == "Identity" and node.inputs[0] in scope.weights:
        scope.weights[node.outputs[0]] = scope.weights[node.inputs[0]]
    if not folding.foldable(node.op):
        return
    if not all(not name or name in scope.values for name in node.inputs):
        return
    sizes = [scope.tensors[name].elements for name in node.outputs if name]
    if any(size is None or size > folding.LIMIT for size in sizes):
        return
    operands = [scope.values[name] if name else None for name in node.inputs]
    results = folding.fold(node.op, operands, node.attributes, len(node.outputs))
    for name, value in zip(node.outputs, results or (), strict=False):
        scope.values[name] = value


def _constant(node: NodeProto, scope: _Scope) -> None:
    """A Constant node becomes a weight, whichever of its attributes holds the value."""
    from onnx import AttributeProto, numpy_helper

    if not node.attribute:
        raise RejectedModelError(f"Constant '{node.name}' has no value")
    attribute, name = node.attribute[0], node.output[0]
    if attribute.type == AttributeProto.SPARSE_TENSOR:
        sparse = attribute.sparse_tensor
        described = Tensor(sparse.values.data_type, tuple(sparse.dims))
        stored = math.prod(sparse.values.dims)
        scope.weights[name] = Weight(name, described, "sparse", stored, sparse)
        scope.set_type(name, type_of(described))
    elif attribute.type == AttributeProto.TENSOR:
        _add_weight(name, attribute.t, "constant", scope)
    elif attribute.type in (AttributeProto.STRING, AttributeProto.STRINGS):
        count = () if attribute.type == AttributeProto.STRING else (len(attribute.strings),)
        scope.set_type(name, type_of(Tensor(8, count)))
    else:
        kind = np.int64 if attribute.name.startswith("value_int") else np.float32
        array = np.asarray(attribute_value(attribute), kind)
        _add_weight(name, numpy_helper.from_array(array, name), "constant", scope)


def _add_weight(name: str, tensor: TensorProto, origin: str, scope: _Scope) -> None:
    from onnx import TensorProto, numpy_helper

    if any(d < 0 for d in tensor.dims):
        raise RejectedModelError(f"weight '{name}' has a negative axis")
    if name in scope.weights.maps[0]:
        raise RejectedModelError(f"the name '{name}' is made twice")
    described = Tensor(tensor.data_type, tuple(tensor.dims))
    elements = described.elements or 0
    scope.weights[name] = Weight(name, described, origin, elements, tensor)
    scope.set_type(name, type_of(described))
    external = tensor.data_location == TensorProto.EXTERNAL
    if elements <= folding.LIMIT and not external and tensor.data_type != TensorProto.STRING:
        try:
            scope.values[name] = numpy_helper.to_array(tensor)
        except (ValueError, TypeError, KeyError) as error:
            raise RejectedModelError(
                f"the data of weight '{name}' does not fit its shape {list(tensor.dims)}"
            ) from error


def _learned_attributes(node: Node, scope: _Scope) -> None:
    """Weights that ai.onnx.ml operators keep in attributes."""
    if node.domain != "ai.onnx.ml":
        return
    for key in sorted(_ML_WEIGHTS & node.attributes.keys()):
        value = node.attributes[key]
        count = len(value) if isinstance(value, list) else math.prod(getattr(value, "dims", ()))
        name = f"{node.outputs[0]}.{key}"
        scope.weights[name] = Weight(name, Tensor(1, (count,)), "attribute", count)
