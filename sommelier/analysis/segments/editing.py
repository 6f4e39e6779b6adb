"""Changing ONNX graphs: parts cut out, names made free, what nobody needs any more taken away.

All functions are deterministic, so that equal requests give equal bytes and equal fingerprints.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.graph import captured, reads
from sommelier.analysis.segments.normal_form import NormalForm

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

Array = NDArray[Any]


def copy_of(form: NormalForm) -> ModelProto:
    """A copy that may be changed; its nodes are in the order of `form.graph` but for constants."""
    from onnx import ModelProto

    model = ModelProto()
    model.CopyFrom(form.model)
    return model


def by_output(graph: GraphProto) -> dict[str, NodeProto]:
    """The node behind every name."""
    return {name: node for node in graph.node for name in node.output if name}


def tensor(name: str, array: Array) -> TensorProto:
    """The array as it is stored, little-endian."""
    from onnx import numpy_helper

    return numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)


def value_info(form: NormalForm, name: str, any_shape: bool) -> ValueInfoProto:
    """Name and type of a tensor of the graph; its first axis open and others as traced, or all."""
    from onnx import helper

    found = form.graph.tensor(name)
    shape: list[int | None] | None = None
    if found.shape is not None and not any_shape:
        shape = [None, *found.shape[1:]] if found.shape else []
    return helper.make_tensor_value_info(name, found.dtype, shape)


def store(model: ModelProto, name: str, array: Array) -> None:
    """Makes `name` a dense initializer with these numbers, wherever it was kept before."""
    graph = model.graph
    for i, old in enumerate(graph.initializer):
        if old.name == name:
            graph.initializer[i].CopyFrom(tensor(name, array))
            return
    for i, sparse in enumerate(graph.sparse_initializer):
        if sparse.values.name == name:
            del graph.sparse_initializer[i]
            break
    for i, node in enumerate(graph.node):
        if list(node.output) == [name]:
            del graph.node[i]
            break
    graph.initializer.append(tensor(name, array))


def prune(model: ModelProto) -> None:
    """Takes away operators, weights and type notes that no answer depends on; inputs stay."""
    graph = model.graph
    wanted = {value.name for value in graph.output}
    kept: list[NodeProto] = []
    for node in reversed(_ordered(graph)):
        if any(name in wanted for name in node.output):
            kept.append(node)
            wanted.update(reads(node))
    _set(graph.node, kept[::-1])
    stored = {t.name for t in graph.initializer}
    _set(graph.initializer, [t for t in graph.initializer if t.name in wanted])
    _set(
        graph.sparse_initializer,
        [t for t in graph.sparse_initializer if t.values.name in wanted],
    )
    _set(graph.input, [v for v in graph.input if v.name not in stored or v.name in wanted])
    made = {name for node in graph.node for name in node.output}
    _set(graph.value_info, [v for v in graph.value_info if v.name in made])


def renamed(node: NodeProto, name_of: Callable[[str], str]) -> NodeProto:
    """A copy of the node with all its tensors renamed, those in its subgraphs included."""
    from onnx import NodeProto

    copy = NodeProto()
    copy.CopyFrom(node)
    _rename(copy, name_of)
    return copy


@dataclass(frozen=True, slots=True)
class Part:
    """Nodes of a graph in order, the tensors they need from outside, and the weights they read."""

    nodes: tuple[NodeProto, ...]
    needs: tuple[str, ...]
    weights: tuple[str, ...]


def backward(form: NormalForm, ends: Sequence[str], starts: Iterable[str]) -> Part:
    """What makes `ends` out of `starts`; `needs` are the starts and model inputs it takes."""
    stops = set(starts)
    protos = by_output(form.model.graph)
    wanted, waiting = set(ends), list(ends)
    needs: dict[str, None] = {}
    weights: dict[str, None] = {}
    nodes: set[str] = set()
    while waiting:
        name = waiting.pop()
        node = protos.get(name)
        if name in stops:
            needs[name] = None
        elif form.graph.weights.get(name) is not None and form.graph.weights[name].name == name:
            weights[name] = None
        elif node is None:
            needs[name] = None
        else:
            nodes.update(out for out in node.output if out)
            for other in reads(node) - wanted:
                wanted.add(other)
                waiting.append(other)
    return Part(_in_order(form, nodes), tuple(sorted(needs)), tuple(sorted(weights)))


def forward(form: NormalForm, start: str) -> Part:
    """What depends on `start`; `needs` are the tensors it takes from before, shapes included."""
    made = {start}
    protos = [_proto(form, node.outputs) for node in form.graph.nodes]
    nodes: set[str] = set()
    for proto in protos:
        if reads(proto) & made and start not in proto.output:
            made.update(name for name in proto.output if name)
            nodes.update(name for name in proto.output if name)
    found = _in_order(form, nodes)
    outside = dict.fromkeys(n for p in found for n in sorted(reads(p)) if n not in nodes)
    weights = [n for n in outside if form.constants.learned(n)]
    needs = [n for n in outside if not form.constants.learned(n)]
    return Part(found, tuple(needs), tuple(weights))


def model_of(
    form: NormalForm, part: Part, outputs: Sequence[str], *, any_shape: bool = False
) -> ModelProto:
    """The part as a model of its own, from `part.needs` to `outputs`; all axes open or only the
    first one."""
    from onnx import helper

    constants = [tensor(name, form.constants.array(name)) for name in part.weights]
    graph = helper.make_graph(
        part.nodes,
        "part",
        [value_info(form, name, any_shape) for name in part.needs],
        [value_info(form, name, any_shape) for name in outputs],
        constants,
    )
    version = max(form.model.ir_version, 4)  # before 4 every weight had to be an input
    imports = list(form.model.opset_import) or [helper.make_opsetid("", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=version)


def _in_order(form: NormalForm, outputs: set[str]) -> tuple[NodeProto, ...]:
    names = (n for n in form.graph.nodes if any(out in outputs for out in n.outputs))
    return tuple(_proto(form, node.outputs) for node in names)


def _proto(form: NormalForm, outputs: Sequence[str]) -> NodeProto:
    return form.protos[next(name for name in outputs if name)]


def _ordered(graph: GraphProto) -> list[NodeProto]:
    from sommelier.analysis.graph import ordered_nodes

    known = {value.name for value in graph.input} | {t.name for t in graph.initializer}
    known |= {t.values.name for t in graph.sparse_initializer}
    return ordered_nodes(graph, known)


def _rename(node: NodeProto, name_of: Callable[[str], str]) -> None:
    """In place; '' stays ''."""
    for names in (node.input, node.output):
        for i, name in enumerate(names):
            if name:
                names[i] = name_of(name)
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
                value.name = name_of(value.name)
            for sparse in graph.sparse_initializer:
                sparse.values.name = name_of(sparse.values.name)
            for inner in graph.node:
                _rename(inner, name_of)


def _set(field: Any, items: Sequence[Any]) -> None:
    """Replaces a repeated field's content by some of its own items."""
    if len(items) == len(field) and all(a is b for a, b in zip(items, field, strict=True)):
        return
    copies = [type(item)() for item in items]
    for copy, item in zip(copies, items, strict=True):
        copy.CopyFrom(item)
    del field[:]
    field.extend(copies)


def free_names(prefix: str, taken: set[str], fixed: Mapping[str, str]) -> Callable[[str], str]:
    """A renaming: names in `fixed` as they say, all others behind a prefix that is not taken."""
    while any(name.startswith(f"{prefix}/") for name in taken):
        prefix += "_"
    return lambda name: fixed.get(name, f"{prefix}/{name}")


def all_names(graph: GraphProto) -> set[str]:
    """Every tensor name of the graph and of the subgraphs in it."""
    found = {v.name for v in (*graph.input, *graph.output, *graph.initializer)}
    for node in graph.node:
        found.update(node.input, node.output, captured(node))
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found |= all_names(attribute.g)
    return found
