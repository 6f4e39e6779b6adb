"""Identity of a model: of its bytes, of its graph, of its weights, and likeness of structure.

Three hashes answer three questions. Are these the same bytes? (content) Is it the same network,
whatever its names, producer and order of storage? (graph) Are these the same weights, however
they are stored? (weights) A MinHash over operator sequences tells how alike two graphs are.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sommelier.analysis.graph import Graph, Node, Weight
from sommelier.analysis.profiling import parameters
from sommelier.errors import RejectedModelError

if TYPE_CHECKING:
    from onnx import TensorProto

CHUNK = 2**20
STRUCTURAL = 64  # elements of an integer constant whose values are part of the structure


def content_fingerprint(path: Path, external: Sequence[Path] = ()) -> str:
    """'sha256:...' of the file's bytes and its external data: the artifact store's key.

    For a self-contained model it is what sha256sum prints.
    """
    from sommelier.storage.artifacts import fingerprint

    return fingerprint((path, *external))


def graph_hash(graph: Graph) -> str:
    """'graph:...', equal for graphs that are the same up to names and order of storage.

    Weisfeiler-Lehman on the operator graph: a label per operator from its type, its attributes
    with defaults filled in, and the labels of what it reads; refined once by who reads it. Weights
    enter by type and shape, small integers (axes, targets of Reshape) by value. The batch axis,
    names, producer and documentation do not enter.
    """
    return f"graph:{graph_digest(graph, {})}"


def weight_hash(graph: Graph, folder: Path) -> str:
    """'weights:...', equal for equal sets of weight tensors.

    A multiset of content hashes: names, order, and raw, typed or external storage do not matter.
    Scalars are left out, since exporters keep constants of formulas as scalars. folder : where
    external data lies. Raises RejectedModelError if a tensor's data cannot be read.
    """
    digests = sorted(
        _tensor_digest(weight, folder)
        for weight in parameters(graph)
        if weight.proto is not None and weight.tensor.shape != ()
    )
    return f"weights:{_digest(*digests)}"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\x00".join(parts).encode()).hexdigest()


def graph_digest(graph: Graph, outer: Mapping[str, str]) -> str:
    """The digest behind `graph_hash`. outer : labels of the names a subgraph takes from outside."""
    labels: dict[str, str] = dict(outer)
    for i, name in enumerate(graph.inputs):
        tensor = graph.tensor(name)
        shape = None if tensor.shape is None else (len(tensor.shape), *tensor.shape[1:])
        labels[name] = _digest("input", str(i), str(tensor.dtype), str(shape))
    upward: list[str] = []
    for node in graph.nodes:
        if node.op == "Identity" and not node.domain:
            labels[node.outputs[0]] = _operand(node.inputs[0], graph, labels)
            upward.append("")
            continue
        label = _node_label(node, graph, labels)
        upward.append(label)
        for i, name in enumerate(node.outputs):
            labels[name] = _digest(label, str(i))
    final = _refined(graph, upward)
    ends = [_operand(name, graph, labels) for name in graph.outputs]
    return _digest("graph", *ends, "nodes", *sorted(final))


def _node_label(node: Node, graph: Graph, labels: Mapping[str, str]) -> str:
    operands = [_operand(name, graph, labels) for name in node.inputs]
    inner = [
        f"{key}={graph_digest(subgraph, labels)}"
        for key, subgraph in sorted(node.subgraphs.items())
    ]
    return _digest(node.title, *_attributes(node, graph), "reads", *operands, "bodies", *inner)


def _operand(name: str, graph: Graph, labels: Mapping[str, str]) -> str:
    if not name:
        return "none"
    weight = graph.weights.get(name)
    if weight is None:
        return labels.get(name, "outside")
    value = graph.values.get(name)
    array = None if value is None or value.size > STRUCTURAL else np.asarray(value)
    if array is not None and array.dtype in (np.int64, np.uint64):
        return _digest("value", str(array.dtype), str(array.tolist()))
    return _digest("weight", str(weight.tensor.dtype), str(weight.tensor.shape))


def _refined(graph: Graph, upward: list[str]) -> list[str]:
    """Labels that also know their readers, so that equal branches wired differently differ."""
    downward: dict[str, list[str]] = {name: ["output"] for name in graph.outputs}
    final: list[str] = []
    for node, label in zip(reversed(graph.nodes), reversed(upward), strict=True):
        readers = sorted(text for name in node.outputs for text in downward.get(name, ()))
        if not label:  # Identity: its readers read what it reads
            downward.setdefault(node.inputs[0], []).extend(readers)
            continue
        down = _digest(label, *readers)
        final.append(down)
        for i, name in enumerate(node.inputs):
            if name:
                downward.setdefault(name, []).append(_digest(down, str(i)))
    return final


def _attributes(node: Node, graph: Graph) -> Iterator[str]:
    """'name=value' in order of name, defaults of the operator's definition filled in."""
    stated = {k: v for k, v in node.attributes.items() if k not in node.subgraphs}
    for name, value in sorted({**attribute_defaults(node, graph), **stated}.items()):
        yield f"{name}={plain_value(value)}"


def attribute_defaults(node: Node, graph: Graph) -> dict[str, Any]:
    """Default values of the operator's attributes in the opset the graph imports."""
    from onnx import defs, helper

    version = graph.opsets.get(node.domain, 1)
    if not defs.has(node.op, version, node.domain):
        return {}
    schema = defs.get_schema(node.op, version, node.domain)
    return {
        name: helper.get_attribute_value(attribute.default_value)
        for name, attribute in schema.attributes.items()
        if attribute.default_value.name
    }


def plain_value(value: Any) -> str:
    """An attribute's value as text that is equal for equal values."""
    from google.protobuf.message import Message

    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, Message):
        return hashlib.sha256(value.SerializeToString(deterministic=True)).hexdigest()
    if isinstance(value, float):
        return repr(float(np.float32(value)))
    if not isinstance(value, str) and hasattr(value, "__iter__"):
        return ",".join(plain_value(item) for item in value)
    return str(value)


def _tensor_digest(weight: Weight, folder: Path) -> str:
    from onnx import SparseTensorProto

    proto = weight.proto
    kind = f"{weight.tensor.dtype}{list(weight.tensor.shape or ())}"
    if isinstance(proto, SparseTensorProto):
        parts = (_bytes_digest(proto.values, folder), _bytes_digest(proto.indices, folder))
        return _digest("sparse", kind, *parts)
    assert proto is not None
    return _digest(kind, _bytes_digest(proto, folder))


def _bytes_digest(tensor: TensorProto, folder: Path) -> str:
    """sha256 of the elements as little-endian bytes, read in pieces where they are external."""
    from onnx import TensorProto, numpy_helper

    if tensor.data_location == TensorProto.EXTERNAL:
        return _external_digest(tensor, folder)
    if tensor.HasField("raw_data"):
        return hashlib.sha256(tensor.raw_data).hexdigest()
    array = np.asarray(numpy_helper.to_array(tensor))
    if array.dtype.itemsize * array.size != _stored_bytes(tensor.data_type, array.size):
        packed = numpy_helper.from_array(array)  # 4-bit types: two elements in a byte
        return hashlib.sha256(packed.raw_data).hexdigest()
    if sys.byteorder == "big":
        array = array.byteswap()
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def _stored_bytes(data_type: int, elements: int) -> int | None:
    from sommelier.analysis.graph import Tensor

    return Tensor(data_type, (elements,)).nbytes


def _external_digest(tensor: TensorProto, folder: Path) -> str:
    facts = {entry.key: entry.value for entry in tensor.external_data}
    offset, length = int(facts.get("offset", 0)), int(facts.get("length", -1))
    digest = hashlib.sha256()
    try:
        with (folder / facts["location"]).open("rb") as stream:
            stream.seek(offset)
            while length != 0:
                piece = stream.read(CHUNK if length < 0 else min(CHUNK, length))
                if not piece:
                    break
                digest.update(piece)
                length -= len(piece) if length > 0 else 0
    except OSError as error:
        raise RejectedModelError(
            f"external data '{facts['location']}' cannot be read: {error.strerror}"
        ) from error
    return digest.hexdigest()
