"""ONNX files of the shapes of well-known networks, with random weights written straight to disk.

A network and its neighbour (the same weights, each changed by a hundredth) stand for a model and a
fine-tune of it. Weights lie in one file beside the graph, so none is ever held in memory whole.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 17, 8
TOKENS = 128
VOCABULARY = 30_522
CHANGE = 0.01  # of a weight, relative to its own spread


@dataclass(frozen=True, slots=True)
class Network:
    """A shape of network: how to build its graph, and what its inputs look like."""

    name: str
    build: Callable[[Builder], None]
    inputs: Callable[[np.random.Generator, int], NDArray[Any]]


class Builder:
    """Collects nodes and the shapes of their weights, then writes both."""

    def __init__(self, shape: Sequence[int | str], kind: int) -> None:
        self.input = helper.make_tensor_value_info("x", kind, shape)
        self.nodes: list[NodeProto] = []
        self.weights: dict[str, tuple[tuple[int, ...], float]] = {}  # shape, standard deviation
        self.constants: list[TensorProto] = []

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        out = f"{operator.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [out], **attributes))
        return out

    def weight(self, *shape: int, fan_in: int) -> str:
        name = f"w{len(self.weights)}"
        self.weights[name] = (shape, 1 / math.sqrt(fan_in))
        return name

    def constant(self, value: Any, dtype: type = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def conv(self, x: str, into: int, out: int, kernel: int, *, stride: int = 1) -> str:
        weight = self.weight(out, into, kernel, kernel, fan_in=into * kernel**2)
        bias = self.weight(out, fan_in=1_000)
        return self.add(
            "Conv", x, weight, bias, strides=[stride] * 2, pads=[kernel // 2] * 4,
            kernel_shape=[kernel] * 2,
        )  # fmt: skip

    def linear(self, x: str, into: int, out: int) -> str:
        product = self.add("MatMul", x, self.weight(into, out, fan_in=into))
        return self.add("Add", product, self.weight(out, fan_in=1_000))

    def norm(self, x: str, width: int) -> str:
        scale, shift = self.constant(np.ones(width)), self.constant(np.zeros(width))
        return self.add("LayerNormalization", x, scale, shift, axis=-1)

    def save(self, path: Path, *, seed: int, changed: bool) -> Path:
        """The file, its weights in `path`.weights. changed : the neighbour of the same seed."""
        base, change = np.random.default_rng(seed), np.random.default_rng(seed + 1)
        stored, offset = [], 0
        beside = path.with_suffix(".weights")
        with beside.open("wb") as stream:
            for name, (shape, spread) in self.weights.items():
                values = base.standard_normal(shape, np.float32)
                if changed:
                    values += np.float32(CHANGE) * change.standard_normal(shape, np.float32)
                stream.write((values * np.float32(spread)).data)
                stored.append(_external(name, shape, beside.name, offset, values.nbytes))
                offset += values.nbytes
        out = helper.make_tensor_value_info(self.nodes[-1].output[0], TensorProto.FLOAT, None)
        graph = helper.make_graph(
            self.nodes, "shaped", [self.input], [out], [*stored, *self.constants]
        )
        opsets = [helper.make_opsetid("", OPSET)]
        onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION), path)
        return path


def _external(
    name: str, shape: tuple[int, ...], location: str, offset: int, length: int
) -> TensorProto:
    tensor = TensorProto(
        name=name, dims=shape, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL
    )
    for key, value in {"location": location, "offset": offset, "length": length}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def _images(rng: np.random.Generator, count: int) -> NDArray[Any]:
    return rng.standard_normal((count, 3, 224, 224), np.float32)


def _sentences(rng: np.random.Generator, count: int) -> NDArray[Any]:
    return rng.integers(0, VOCABULARY, (count, TOKENS))


def _classifier(net: Builder, x: str, widths: Sequence[int]) -> None:
    for i, (into, out) in enumerate(pairwise(widths)):
        x = net.linear(x if i == 0 else net.add("Relu", x), into, out)


def alexnet(net: Builder) -> None:
    """Krizhevsky 2014, as in torchvision."""
    x, into = "x", 3
    for i, (out, kernel) in enumerate([(64, 11), (192, 5), (384, 3), (256, 3), (256, 3)]):
        x = net.add("Relu", net.conv(x, into, out, kernel, stride=4 if i == 0 else 1))
        into = out
        if i in (0, 1, 4):
            x = net.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2])
    _classifier(net, net.add("Flatten", x), (into * 36, 4096, 4096, 1000))


def vgg19(net: Builder) -> None:
    """Simonyan and Zisserman 2015, configuration E."""
    x, into = "x", 3
    for out, repeats in ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)):
        for _ in range(repeats):
            x, into = net.add("Relu", net.conv(x, into, out, 3)), out
        x = net.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    _classifier(net, net.add("Flatten", x), (512 * 49, 4096, 4096, 1000))


def resnet50(net: Builder) -> None:
    """He et al. 2016 with the normalisation folded into the convolutions."""
    x = net.add("Relu", net.conv("x", 3, 64, 7, stride=2))
    x, into = net.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4), 64
    for stage, repeats in enumerate((3, 4, 6, 3)):
        width = 64 * 2**stage
        for i in range(repeats):
            stride = 2 if stage and not i else 1
            inner = net.add("Relu", net.conv(x, into, width, 1))
            inner = net.add("Relu", net.conv(inner, width, width, 3, stride=stride))
            inner = net.conv(inner, width, 4 * width, 1)
            beside = x if i else net.conv(x, into, 4 * width, 1, stride=stride)
            x, into = net.add("Relu", net.add("Add", inner, beside)), 4 * width
    _classifier(net, net.add("Flatten", net.add("GlobalAveragePool", x)), (into, 1000))


def bert(layers: int, width: int) -> Callable[[Builder], None]:
    """Devlin et al. 2019: an encoder with a classifier on its first token."""

    def build(net: Builder) -> None:
        words = net.add("Gather", net.weight(VOCABULARY, width, fan_in=1), "x")
        x = net.norm(net.add("Add", words, net.weight(TOKENS, width, fan_in=1)), width)
        for _ in range(layers):
            x = _encoder(net, x, width)
        first = net.add("Gather", x, net.constant(0, np.int64), axis=1)
        net.linear(net.add("Tanh", net.linear(first, width, width)), width, 2)

    return build


def _encoder(net: Builder, x: str, width: int) -> str:
    heads = width // 64
    split = net.constant([0, TOKENS, heads, 64], np.int64)
    queries, keys, values = (
        net.add("Transpose", net.add("Reshape", net.linear(x, width, width), split), perm=perm)
        for perm in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3])
    )
    scores = net.add("Mul", net.add("MatMul", queries, keys), net.constant(1 / 8))
    mixed = net.add("MatMul", net.add("Softmax", scores, axis=-1), values)
    joined = net.add("Transpose", mixed, perm=[0, 2, 1, 3])
    joined = net.add("Reshape", joined, net.constant([0, TOKENS, width], np.int64))
    x = net.norm(net.add("Add", x, net.linear(joined, width, width)), width)
    inner = net.linear(x, width, 4 * width)
    gate = net.add("Erf", net.add("Div", inner, net.constant(math.sqrt(2))))
    half = net.add("Mul", inner, net.add("Add", gate, net.constant(1)))
    inner = net.add("Mul", half, net.constant(0.5))
    return net.norm(net.add("Add", x, net.linear(inner, 4 * width, width)), width)


NETWORKS = (
    Network("alexnet", alexnet, _images),
    Network("resnet50", resnet50, _images),
    Network("vgg19", vgg19, _images),
    Network("bert_base", bert(12, 768), _sentences),
    Network("bert_large", bert(24, 1024), _sentences),
)


def write(network: Network, folder: Path, *, seed: int) -> tuple[Path, Path]:
    """The network and its neighbour."""
    example = network.inputs(np.random.default_rng(seed), 1)
    kind = helper.np_dtype_to_tensor_dtype(example.dtype)
    net = Builder(["N", *example.shape[1:]], kind)
    network.build(net)
    return (
        net.save(folder / "reference.onnx", seed=seed, changed=False),
        net.save(folder / "candidate.onnx", seed=seed, changed=True),
    )
