"""A light, read-only view of an ONNX graph: operators in order, weights, shapes, subgraphs.

Weights are described, not loaded: external data stays on disk, and a weight found in an
initializer, a sparse initializer, a Constant node or an operator's attribute looks the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sommelier.errors import RejectedModelError, first_line
from sommelier.storage.external_data import element_bits

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto

MAX_NODES = 1_000_000


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value in the graph. dtype : ONNX element type, 0 unknown. shape None : rank unknown."""

    dtype: int
    shape: tuple[int | None, ...] | None

    @property
    def elements(self) -> int | None:
        """Number of elements, or None when an axis is unknown."""
        if self.shape is None or None in self.shape:
            return None
        return math.prod(d for d in self.shape if d is not None)

    @property
    def nbytes(self) -> int | None:
        """Bytes of the elements; 4-bit types take half a byte. None when unknown."""
        count, bits = self.elements, element_bits(self.dtype)
        return None if count is None or bits is None else -(-count * bits // 8)


@dataclass(frozen=True, slots=True)
class Weight:
    """A tensor stored in the file. proto is None for numbers kept in an operator's attributes."""

    name: str
    tensor: Tensor
    origin: str  # initializer, sparse, constant, attribute, generated
    stored: int  # elements stored: fewer than tensor.elements when sparse
    proto: TensorProto | SparseTensorProto | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """An operator. outer : names its subgraphs take from the graph around them."""

    op: str
    domain: str
    name: str
    inputs: tuple[str, ...]  # '' for an omitted optional one
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    subgraphs: Mapping[str, Graph] = field(default_factory=dict)
    outer: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """'Conv', or 'com.microsoft:FusedConv'."""
        return f"{self.domain}:{self.op}" if self.domain else self.op


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in topological order; Constant nodes have become weights.

    tensors : every value whose type is known, those of outer graphs included. values : small
    known arrays (shapes, axes). aliases : outputs of Identity on a weight -> that weight.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    weights: Mapping[str, Weight]
    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]
    opsets: Mapping[str, int]

    def tensor(self, name: str) -> Tensor:
        """The value's type, or one that says nothing is known."""
        return self.tensors.get(name, UNKNOWN)

    def walk(self) -> Iterator[tuple[Graph, Node]]:
        """Every operator with the graph it is in, subgraphs after the node that holds them."""
        for node in self.nodes:
            yield self, node
            for subgraph in node.subgraphs.values():
                yield from subgraph.walk()

    def all_weights(self) -> Iterator[Weight]:
        """Every stored weight once, those of subgraphs included."""
        yield from self.weights.values()
        for node in self.nodes:
            for subgraph in node.subgraphs.values():
                yield from subgraph.all_weights()


UNKNOWN = Tensor(0, None)


def read_named(path: Path) -> ModelProto:
    """As `read_model`, where several files are read: its reasons name the file."""
    try:
        return read_model(path)
    except RejectedModelError as error:
        raise RejectedModelError(f"{path}: {error.message}") from error


def read_model(path: Path) -> ModelProto:
    """The model in a file; external data is not loaded.

    Raises RejectedModelError if the file is empty, truncated, or not an ONNX model.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        data = path.read_bytes()
    except OSError as error:
        raise RejectedModelError(f"cannot be read: {error.strerror}") from error
    if not data:
        raise RejectedModelError("the file is empty")
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError) as error:
        raise RejectedModelError("not an ONNX model, or a truncated one") from error
    if not model.HasField("graph"):
        raise RejectedModelError("not an ONNX model: it holds no graph")
    return model


def opset_imports(model: ModelProto) -> dict[str, int]:
    """Opset by domain ('' for ai.onnx); a file that imports none means version 1 (onnx IR spec)."""
    opsets = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in model.opset_import}
    if "" not in opsets:
        opsets[""] = 1
    return opsets


def without_functions(model: ModelProto) -> ModelProto:
    """The model with calls of its local functions replaced by their bodies; itself if none."""
    if not model.functions:
        return model
    from onnx import inliner

    try:
        return inliner.inline_local_functions(model)
    except (ValueError, RuntimeError) as error:
        text = first_line(error)[:200]  # short enough for a catalog row
        raise RejectedModelError(f"its functions cannot be expanded: {text}") from error


def ordered_nodes(graph: GraphProto, available: Iterable[str]) -> list[NodeProto]:
    """Nodes so that each comes after those it reads from; the file's order when that holds.

    available : names that need no node: inputs, initializers, names of outer graphs.
    Raises RejectedModelError for a cycle, or a name that is read and never made.
    """
    if len(graph.node) > MAX_NODES:
        raise RejectedModelError(f"more than {MAX_NODES} operators")
    known = set(available)
    order: list[NodeProto] = []
    waiting = list(graph.node)
    while waiting:
        late = []
        for node in waiting:
            if all(name in known for name in reads(node)):
                order.append(node)
                known.update(node.output)
            else:
                late.append(node)
        if len(late) == len(waiting):
            _reject_unordered(late, known)
        waiting = late
    return order


def reads(node: NodeProto) -> set[str]:
    """Names a node needs: its inputs, and what its subgraphs take from outside themselves."""
    return {name for name in node.input if name} | set(captured(node))


def captured(node: NodeProto) -> tuple[str, ...]:
    """Names the node's subgraphs read from the graphs around them, in order of first use."""
    names: dict[str, None] = {}
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            inside = {value.name for value in graph.input}
            inside |= {tensor.name for tensor in graph.initializer}
            inside |= {tensor.values.name for tensor in graph.sparse_initializer}
            inside |= {name for inner in graph.node for name in inner.output}
            wanted = [name for inner in graph.node for name in (*inner.input, *captured(inner))]
            wanted += [value.name for value in graph.output]
            names.update(dict.fromkeys(name for name in wanted if name and name not in inside))
    return tuple(names)


def _reject_unordered(nodes: list[NodeProto], known: set[str]) -> None:
    made = {name for node in nodes for name in node.output}
    for node in nodes:
        for name in sorted(reads(node) - known):
            if name not in made:
                raise RejectedModelError(
                    f"operator {node.op_type} '{node.name}' reads '{name}', which nothing makes"
                )
    names = ", ".join(node.name or node.op_type for node in nodes[:3])
    raise RejectedModelError(f"its operators form a cycle: {names} ...")
