"""Small networks for tests of segments: random graphs, blocks in a row, and how to run them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from tests.onnx_writer import FLOAT

Array = NDArray[Any]
WIDTH = 6


class Builder:
    """Collects nodes and weights; every method answers the name of what it makes."""

    def __init__(self, seed: int, names: str = "t") -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.weights: dict[str, Array] = {}
        self.names = names

    def add(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        out = f"{self.names}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [out], name=f"n_{out}", **attributes))
        return out

    def weight(self, *shape: int, scale: float = 0.5) -> str:
        name = f"{self.names}_w{len(self.weights)}"
        array = self.rng.standard_normal(shape) * scale
        self.weights[name] = np.asarray(array, np.float32)
        return name

    def gemm(self, x: str, width: int = WIDTH, out: int = WIDTH) -> str:
        return self.add("Gemm", [x, self.weight(width, out), self.weight(out)])

    def conv(self, x: str, channels: int, out: int, *, stride: int = 1, kernel: int = 3) -> str:
        weight, bias = self.weight(out, channels, kernel, kernel, scale=0.3), self.weight(out)
        pads = [kernel // 2] * 4
        return self.add("Conv", [x, weight, bias], pads=pads, strides=[stride, stride])

    def model(
        self, outputs: Sequence[str], shape: Sequence[int | str | None] = ("N", WIDTH),
        *, opset: int = 17, made: Sequence[int | str | None] | None = None,
    ) -> ModelProto:  # fmt: skip
        """A checked model from input 'x' to these outputs; made : their shape if not inferred."""
        graph = helper.make_graph(
            self.nodes,
            "toy",
            [helper.make_tensor_value_info("x", FLOAT, shape)],
            [helper.make_tensor_value_info(name, FLOAT, made) for name in outputs],
            [numpy_helper.from_array(array, name) for name, array in self.weights.items()],
        )
        imports = [helper.make_opsetid("", opset)]
        model = helper.make_model(graph, opset_imports=imports, ir_version=8)
        model = onnx.shape_inference.infer_shapes(model)
        onnx.checker.check_model(model)
        return model


def random_dag(seed: int, weight_seed: int, *, operators: int = 14) -> ModelProto:
    """A random graph of Gemm, Relu, Tanh, Add, Mul and Sub on vectors; its shape is drawn from
    `seed`, its weights from `weight_seed`. What nothing reads is added up to one output."""
    shape = np.random.default_rng(seed)
    net = Builder(weight_seed)
    made = ["x"]
    for _ in range(operators):
        # recent tensors more often: chains as well as skips
        near = made[max(0, len(made) - int(shape.integers(1, 5)))]
        far = made[int(shape.integers(0, len(made)))]
        op = shape.choice(["Gemm", "Gemm", "Relu", "Tanh", "Add", "Mul", "Sub"])
        if op == "Gemm":
            made.append(net.gemm(near))
        elif op in ("Relu", "Tanh"):
            made.append(net.add(op, [near]))
        else:
            made.append(net.add(op, [near, far]))
    read = {name for node in net.nodes for name in node.input}
    loose = [name for name in made[1:] if name not in read]
    while len(loose) > 1:
        loose = [*loose[2:], net.add("Add", loose[:2])]
    return net.model(loose)


def residual_net(
    blocks: Sequence[int], seed: int, *, widths: Sequence[int] = (4, 8), classes: int = 5,
    names: str = "t", opset: int = 17,
) -> ModelProto:  # fmt: skip
    """A residual net on (N, 3, 8, 8): a stem, stages of `blocks` blocks (each after the first
    halves the resolution), global mean, Gemm."""
    net = Builder(seed, names)
    x, channels = net.add("Relu", [net.conv("x", 3, widths[0])]), widths[0]
    for stage, (count, width) in enumerate(zip(blocks, widths, strict=True)):
        for block in range(count):
            stride = 2 if stage and not block else 1
            inner = net.add("Relu", [net.conv(x, channels, width, stride=stride)])
            inner = net.conv(inner, width, width)
            skip = x if stride == 1 else net.conv(x, channels, width, stride=2, kernel=1)
            x, channels = net.add("Relu", [net.add("Add", [inner, skip])]), width
    pooled = net.add("Flatten", [net.add("GlobalAveragePool", [x])])
    return net.model([net.gemm(pooled, channels, classes)], ("N", 3, 8, 8), opset=opset)


def images(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, 3, 8, 8)).astype(np.float32)


def vectors(count: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((count, WIDTH)).astype(np.float32)


def run(model: ModelProto, x: Array, outputs: Sequence[str] | None = None) -> list[Array]:
    """What ONNX Runtime answers; all inputs of the model get `x`."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    feed = {node.name: x for node in session.get_inputs()}
    return [np.asarray(value) for value in session.run(outputs, feed)]


def weights_of(model: ModelProto) -> dict[str, Array]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
