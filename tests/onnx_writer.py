"""Writing and changing one toy ONNX file: what tests/factories.py is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import ArrayLike, NDArray
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)

OPSET = 17
IR_VERSION = 8
FLOAT = TensorProto.FLOAT
INT64 = TensorProto.INT64

Array = NDArray[np.generic]
Shape = Sequence[int | str | None]


def save_model(
    path: Path | str,
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, tuple[int, Shape | None]],
    outputs: Mapping[str, tuple[int, Shape | None]],
    weights: Mapping[str, ArrayLike] | None = None,
    *,
    opsets: Mapping[str, int] | None = None,
    metadata: Mapping[str, str] | None = None,
    functions: Sequence[onnx.FunctionProto] = (),
) -> Path:
    """Write any graph. inputs, outputs : name -> (element type, shape); weights -> initializers."""
    graph = helper.make_graph(
        list(nodes),
        "toy",
        _values(inputs),
        _values(outputs),
        [numpy_helper.from_array(np.asarray(w), name) for name, w in (weights or {}).items()],
    )
    return _write(path, graph, opsets=opsets, metadata=metadata, functions=functions)


def with_weights(model: ModelProto, replaced: Mapping[str, Array]) -> ModelProto:
    """A copy with other numbers in some initializers, by name."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name in replaced:
            tensor.CopyFrom(numpy_helper.from_array(replaced[tensor.name], tensor.name))
    return copy


def loop_node(trips: str, state: str, out: str, body: list[NodeProto], shape: Shape) -> NodeProto:
    graph = helper.make_graph(
        body,
        "body",
        [
            helper.make_tensor_value_info("i", INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", FLOAT, shape),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", FLOAT, shape),
        ],
    )
    return helper.make_node("Loop", [trips, "", state], [out], body=graph)


def constant_node(name: str, array: Array) -> NodeProto:
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array, name))


def _values(specs: Mapping[str, tuple[int, Shape | None]]) -> list[ValueInfoProto]:
    return [helper.make_tensor_value_info(n, kind, shape) for n, (kind, shape) in specs.items()]


def _write(
    path: Path | str,
    graph: GraphProto,
    *,
    opsets: Mapping[str, int] | None,
    metadata: Mapping[str, str] | None,
    functions: Sequence[onnx.FunctionProto],
) -> Path:
    imports = [helper.make_opsetid(d, v) for d, v in (opsets or {"": OPSET}).items()]
    model: ModelProto = helper.make_model(
        graph,
        opset_imports=imports,
        ir_version=IR_VERSION,
        producer_name="tests",
        functions=list(functions),
    )
    if metadata:
        helper.set_model_props(model, dict(metadata))
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return path
