"""Small random networks out of the blocks that real ones have."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from tests.analysis.propagation.twins import Host

Array = NDArray[Any]

SMOOTH = ("Relu", "Tanh", "Sigmoid", "Elu", "Selu", "LeakyRelu", "HardSwish", "Softplus", "Gelu",
          "Mish", "HardSigmoid", "Clip", "Silu")  # fmt: skip


class Network:
    """Writes nodes; remembers the shape of each tensor without its batch."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.nodes: list[Any] = []
        self.weights: dict[str, Array] = {}
        self.fixed: dict[str, Array] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}

    def weight(self, *shape: int, scale: float | None = None, around: float = 0.0) -> str:
        size = scale if scale is not None else 1 / np.sqrt(max(1, np.prod(shape[1:])))
        name = f"w{len(self.weights)}"
        values = around + size * self.rng.standard_normal(shape)
        self.weights[name] = values.astype(np.float32)
        return name

    def known(self, values: Any, kind: Any = np.int64) -> str:
        name = f"k{len(self.fixed)}"
        self.fixed[name] = np.array(values, kind)
        return name

    def add(
        self,
        op: str,
        inputs: Sequence[str],
        shape: tuple[int, ...],
        *,
        outputs: int = 1,
        **options: Any,
    ) -> str:
        names = [f"t{len(self.nodes)}" + (f"_{k}" if k else "") for k in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, **options))
        self.shapes[names[0]] = shape
        return names[0]

    def chance(self, *choices: Any) -> Any:
        return choices[int(self.rng.integers(0, len(choices)))]


def activation(net: Network, x: str) -> str:
    kind = net.chance(*SMOOTH)
    shape = net.shapes[x]
    if kind == "Silu":
        return net.add("Mul", [x, net.add("Sigmoid", [x], shape)], shape)
    if kind == "Clip":
        ends = [net.known(0, np.float32), net.known(6, np.float32)]
        return net.add("Clip", [x, *ends], shape)
    return net.add(kind, [x], shape)


def conv(
    net: Network, x: str, out: int, *, kernel: int = 3, stride: int = 1, groups: int = 1
) -> str:
    c, h, w = net.shapes[x]
    inputs = [x, net.weight(out, c // groups, kernel, kernel)]
    if net.chance(True, False):
        inputs.append(net.weight(out, scale=0.1))
    pad = kernel // 2
    size = ((h + 2 * pad - kernel) // stride + 1, (w + 2 * pad - kernel) // stride + 1)
    y = net.add("Conv", inputs, (out, *size), pads=[pad] * 4, strides=[stride] * 2, group=groups)
    return batch_norm(net, y) if net.chance(True, False) else y


def batch_norm(net: Network, x: str) -> str:
    c = net.shapes[x][0]
    parts = [net.weight(c, scale=0.2, around=1.0), net.weight(c, scale=0.1),
             net.weight(c, scale=0.1), net.weight(c, scale=0.05, around=1.0)]  # fmt: skip
    return net.add("BatchNormalization", [x, *parts], net.shapes[x])


def residual(net: Network, x: str) -> str:
    c = net.shapes[x][0]
    y = conv(net, activation(net, conv(net, x, c)), c)
    return activation(net, net.add("Add", [x, y], net.shapes[x]))


def inception(net: Network, x: str) -> str:
    c, h, w = net.shapes[x]
    pooled = net.add("MaxPool", [x], (c, h, w), kernel_shape=[3, 3], strides=[1, 1], pads=[1] * 4)
    branches = [conv(net, x, 2, kernel=1), conv(net, x, 2), conv(net, pooled, 2, kernel=1)]
    return net.add("Concat", branches, (6, h, w), axis=1)


def squeeze(net: Network, x: str) -> str:
    c, _, _ = net.shapes[x]
    small = net.add("GlobalAveragePool", [x], (c, 1, 1))
    inner = net.add("Conv", [small, net.weight(c, c, 1, 1)], (c, 1, 1))
    return net.add("Mul", [x, net.add("Sigmoid", [inner], (c, 1, 1))], net.shapes[x])


def pool(net: Network, x: str) -> str:
    c, h, w = net.shapes[x]
    if min(h, w) < 4:
        return x
    kernel, stride = net.chance((2, 2), (3, 2), (3, 1))
    size = ((h - kernel) // stride + 1, (w - kernel) // stride + 1)
    op = net.chance("MaxPool", "AveragePool", "LpPool")
    return net.add(op, [x], (c, *size), kernel_shape=[kernel] * 2, strides=[stride] * 2)


def resized(net: Network, x: str) -> str:
    c, h, w = net.shapes[x]
    if h > 8:
        return x
    scales = net.known([1, 1, 2, 2], np.float32)
    mode = net.chance("nearest", "linear")
    return net.add("Resize", [x, "", scales], (c, 2 * h, 2 * w), mode=mode)


def normalised(net: Network, x: str) -> str:
    c = net.shapes[x][0]
    parts = [net.weight(c, scale=0.2, around=1.0), net.weight(c, scale=0.1)]
    if net.chance(True, False):
        return net.add("InstanceNormalization", [x, *parts], net.shapes[x])
    return net.add("LRN", [x], net.shapes[x], size=3, alpha=0.1)


IMAGE_BLOCKS = (residual, inception, squeeze, pool, resized, normalised, activation,
                lambda net, x: conv(net, x, 4, stride=net.chance(1, 2)),
                lambda net, x: conv(net, x, net.shapes[x][0], groups=net.shapes[x][0]))  # fmt: skip


def layer_norm(net: Network, x: str) -> str:
    width = net.shapes[x][-1]
    weights = [net.weight(width, scale=0.2, around=1.0), net.weight(width, scale=0.1)]
    return net.add("LayerNormalization", [x, *weights], net.shapes[x], axis=-1)


def dense(net: Network, x: str, out: int) -> str:
    shape = (*net.shapes[x][:-1], out)
    y = net.add("MatMul", [x, net.weight(net.shapes[x][-1], out)], shape)
    return net.add("Add", [y, net.weight(out, scale=0.1)], shape)


def attention(net: Network, x: str) -> str:
    steps, width = net.shapes[x]
    heads = 2
    split = (heads, steps, width // heads)
    parts = []
    for turn in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
        y = net.add("Reshape", [dense(net, x, width), net.known([0, steps, heads, -1])],
                    (steps, heads, width // heads))  # fmt: skip
        parts.append(net.add("Transpose", [y], split, perm=turn))
    scores = net.add("MatMul", parts[:2], (heads, steps, steps))
    root = net.known((width // heads) ** -0.5, np.float32)
    weights = net.add("Softmax", [net.add("Mul", [scores, root], net.shapes[scores])],
                      net.shapes[scores], axis=-1)  # fmt: skip
    mixed = net.add("Transpose", [net.add("MatMul", [weights, parts[2]], split)],
                    (steps, heads, width // heads), perm=[0, 2, 1, 3])  # fmt: skip
    flat = net.add("Reshape", [mixed, net.known([0, steps, width])], (steps, width))
    return net.add("Add", [x, dense(net, flat, width)], (steps, width))


def transformer(net: Network, x: str) -> str:
    x = attention(net, layer_norm(net, x) if net.chance(True, False) else x)
    width = net.shapes[x][-1]
    inner = activation(net, dense(net, layer_norm(net, x), 2 * width))
    return net.add("Add", [x, dense(net, inner, width)], net.shapes[x])


def recurrent(net: Network, x: str) -> str:
    steps, width = net.shapes[x]
    op, gates = net.chance(("LSTM", 4), ("GRU", 3), ("RNN", 1))
    direction, dirs = net.chance(("forward", 1), ("reverse", 1), ("bidirectional", 2))
    hidden = width // dirs
    weights = [net.weight(dirs, gates * hidden, width, scale=0.3),
               net.weight(dirs, gates * hidden, hidden, scale=0.2),
               net.weight(dirs, 2 * gates * hidden, scale=0.1)]  # fmt: skip
    first = net.add("Transpose", [x], (width,), perm=[1, 0, 2])
    states = net.add(op, [first, *weights], (), hidden_size=hidden, direction=direction)
    turned = net.add("Transpose", [states], (), perm=[2, 0, 1, 3])
    return net.add("Reshape", [turned, net.known([0, steps, width])], (steps, width))


TOKEN_BLOCKS = (transformer, recurrent, layer_norm, activation,
                lambda net, x: dense(net, x, net.shapes[x][-1]))  # fmt: skip


def random_network(rng: np.random.Generator) -> Host:
    """Some blocks on images or on tokens, and a linear head with or without a Softmax."""
    net = Network(rng)
    images = bool(rng.integers(0, 2))
    net.shapes["x"] = (3, 8, 8) if images else (5, 8)
    inputs = {"x": rng.standard_normal((2, *net.shapes["x"])).astype(np.float32)}
    x = conv(net, "x", 4) if images else dense(net, "x", 8)
    for _ in range(int(rng.integers(1, 5))):
        x = net.chance(*(IMAGE_BLOCKS if images else TOKEN_BLOCKS))(net, x)
    if images:
        x = net.add("GlobalAveragePool", [x], (net.shapes[x][0], 1, 1))
        x = net.add("Flatten", [x], (net.shapes[x][0],))
    else:
        x = net.add("ReduceMean", [x, net.known([1])], (8,), keepdims=0)
    head = [x, net.weight(net.shapes[x][0], 4), net.weight(4, scale=0.1)]
    x = net.add("Gemm", head, (4,))
    if net.chance(True, False):
        x = net.add("Softmax", [x], (4,), axis=-1)
    return Host(net.nodes, net.weights, inputs, net.fixed, [x], {"": 20})
