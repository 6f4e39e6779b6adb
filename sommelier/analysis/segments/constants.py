"""What of a graph never depends on its inputs: stored weights and expressions over them.

`DequantizeLinear(int8 weights)`, `Transpose(weights)` or `Cast(weights)` are as constant as an
initializer; a comparison of two exporters' files must see the numbers that reach the operator.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.graph import Graph, Node, Weight
from sommelier.errors import AnalysisError, first_line

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

Array = NDArray[Any]

RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli",
     "Multinomial", "Dropout"}
)  # fmt: skip


class Constants:
    """The constants of a traced graph; arrays are computed when they are asked for."""

    def __init__(self, model: ModelProto, graph: Graph) -> None:
        self._graph = graph
        self._makers: dict[str, Node] = {}
        self._model = model
        self._protos: dict[str, NodeProto] = {}
        self._digests: dict[str, str] = {}
        pure: set[str] = set(graph.weights)  # no number of it comes from the shape of an input
        for node in graph.nodes:
            fixed = node.op not in RANDOM and not node.subgraphs and bool(node.inputs)
            if fixed and all(not name or name in self for name in node.inputs):
                self._makers.update((name, node) for name in node.outputs if name)
                if all(not name or name in pure for name in node.inputs):
                    pure.update(name for name in node.outputs if name)
        self._pure = frozenset(pure)

    def __contains__(self, name: str) -> bool:
        graph = self._graph
        return name in graph.weights or name in graph.values or name in self._makers

    def stored(self, name: str) -> Weight | None:
        """The weight as the file keeps it; None for an expression or what nobody stores."""
        return self._graph.weights.get(name)

    def learned(self, name: str) -> bool:
        """Whether all numbers come from the file, and none from the shapes of inputs."""
        return name in self._pure

    def leaves(self, name: str) -> tuple[str, ...]:
        """Names of the stored weights an expression is made of, in order of use, each once."""
        found: dict[str, None] = {}
        stack, seen = [name], set()
        while stack:
            current = stack.pop()
            if not current or current in seen:
                continue
            seen.add(current)
            weight = self._graph.weights.get(current)
            if weight is not None:
                found[weight.name] = None
            elif current in self._makers:
                stack.extend(reversed(self._makers[current].inputs))
        return tuple(found)

    def makers(self, name: str) -> tuple[Node, ...]:
        """The operators of the expression, the last one first; () for a stored weight."""
        found: dict[int, Node] = {}
        stack = [name]
        while stack:
            node = None if stack[-1] in self._graph.weights else self._makers.get(stack[-1])
            stack.pop()
            if node is not None and id(node) not in found:
                found[id(node)] = node
                stack.extend(node.inputs)
        return tuple(found.values())

    def structure(self, name: str) -> str:
        """The expression's operators in order; '' for a stored weight."""
        return " ".join(node.title for node in self.makers(name))

    def dtype_and_shape(self, name: str) -> tuple[int, tuple[int | None, ...] | None]:
        """ONNX element type and shape."""
        weight = self._graph.weights.get(name)
        tensor = self._graph.tensor(name) if weight is None else weight.tensor
        return tensor.dtype, tensor.shape

    def array(self, name: str) -> Array:
        """The numbers. Raises AnalysisError when they lie in another file or cannot be computed."""
        weight = self._graph.weights.get(name)
        if weight is not None:
            return _stored_array(weight)
        if name in self._graph.values:
            return np.asarray(self._graph.values[name])
        return self._computed(name)

    def digest(self, name: str) -> str:
        """A content hash, equal for equal numbers stored alike; expressions by what they are made
        of, without computing them."""
        if name not in self._digests:
            self._digests[name] = self._digest(name)
        return self._digests[name]

    def _digest(self, name: str) -> str:
        if name in self._pure and name not in self._graph.weights:
            parts = [self.structure(name), *(self.digest(leaf) for leaf in self.leaves(name))]
            return hashlib.blake2b(" ".join(parts).encode(), digest_size=16).hexdigest()
        array = self.array(name)
        found = hashlib.blake2b(f"{array.dtype}{array.shape}".encode(), digest_size=16)
        if array.dtype.hasobject:  # texts
            found.update(repr(array.tolist()).encode())
        else:
            found.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
        return found.hexdigest()

    def _computed(self, name: str) -> Array:
        """The expression, run by itself: ONNX Runtime knows every opset and its own operators."""
        from onnx import helper, numpy_helper

        from sommelier.analysis.execution import open_session

        nodes = [self._proto(node) for node in reversed(self._ordered(name))]
        made = {out for node in nodes for out in node.output}
        needed = dict.fromkeys(n for node in nodes for n in node.input if n and n not in made)
        stored = [numpy_helper.from_array(self.array(n), n) for n in needed]
        graph = helper.make_graph(nodes, "constant", [], [_untyped(name)], stored)
        imports = list(self._model.opset_import) or [helper.make_opsetid("", 1)]
        version = max(self._model.ir_version, 4)
        model = helper.make_model(graph, opset_imports=imports, ir_version=version)
        try:
            session = open_session(model.SerializeToString(), 1)
            return np.asarray(session.run([name], {})[0])
        except Exception as error:  # ONNX Runtime has no common base class for its errors
            text = first_line(error)[:200]
            raise AnalysisError(f"the constant '{name}' cannot be computed: {text}") from error

    def _ordered(self, name: str) -> list[Node]:
        """The expression's operators, readers before makers."""
        inside = {id(node) for node in self.makers(name)}
        return [node for node in reversed(self._graph.nodes) if id(node) in inside]

    def _proto(self, node: Node) -> NodeProto:
        if not self._protos:
            self._protos = {n.output[0]: n for n in self._model.graph.node if n.output}
        return self._protos[node.outputs[0]]


def _untyped(name: str) -> Any:
    from onnx import ValueInfoProto

    return ValueInfoProto(name=name)


def _stored_array(weight: Weight) -> Array:
    from onnx import SparseTensorProto, TensorProto, numpy_helper

    proto = weight.proto
    if isinstance(proto, SparseTensorProto):
        return _dense(proto)
    if proto is None:
        raise AnalysisError(f"weight '{weight.name}' is kept in an operator's attribute")
    if proto.data_location == TensorProto.EXTERNAL:
        raise AnalysisError(
            f"weight '{weight.name}' lies in another file",
            hint="give the model's path, or load it with onnx.load(path)",
        )
    return np.asarray(numpy_helper.to_array(proto))


def _dense(proto: Any) -> Array:
    """A sparse initializer written out; indices are linear, or one row per value."""
    from onnx import numpy_helper

    values, indices = numpy_helper.to_array(proto.values), numpy_helper.to_array(proto.indices)
    dense = np.zeros(tuple(proto.dims), values.dtype)
    flat = indices if indices.ndim == 1 else np.ravel_multi_index(indices.T.tolist(), dense.shape)
    dense.reshape(-1)[flat] = values
    return dense
