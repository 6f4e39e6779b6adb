"""Bounds of a chain's change by other norms and rules than the product's, written out by hand.

For a chain of Conv, Relu and MaxPool, as algorithms.md B.2 tabulates them: the paper's rules, which
are no bound, and correct rules with the cheap norm sqrt(overlaps) * ||reshaped kernel||.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from benchmarks.exchanges import Floats, Tensors, norms

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Layer:
    """One operator of the chain. entry : the tensor it reads. arrays : weight and bias of host and
    twin, of a Conv."""

    op: str
    entry: str
    exit: str
    attributes: Mapping[str, list[int]]
    host: tuple[Array, Array] | None = None
    twin: tuple[Array, Array] | None = None

    @property
    def overlaps(self) -> int:
        """How many windows an element of the input is in at most."""
        kernel = self.attributes["kernel_shape"]
        strides = self.attributes.get("strides", [1] * len(kernel))
        return math.prod(math.ceil(k / s) for k, s in zip(kernel, strides, strict=True))


Norm = Callable[[Layer, Array], float]


def chain(host: onnx.ModelProto, replaced: Mapping[str, Array], end: str) -> list[Layer]:
    """The host's operators from its input to the tensor `end`."""
    layers: list[Layer] = []
    for node in host.graph.node:
        if node.op_type not in ("Conv", "Relu", "MaxPool"):
            raise SystemExit(f"{node.op_type} is no part of a chain")
        layers.append(_layer(host, node, replaced))
        if layers[-1].exit == end:
            return layers
    raise SystemExit(f"'{end}' is no tensor of the host")


def convolutions(host: onnx.ModelProto) -> list[Layer]:
    """Its convolutions, in order; the twin is the host itself."""
    return [_layer(host, node, {}) for node in host.graph.node if node.op_type == "Conv"]


def _layer(host: onnx.ModelProto, node: onnx.NodeProto, replaced: Mapping[str, Array]) -> Layer:
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    own = twin = None
    if node.op_type == "Conv":
        stored = {t.name: t for t in host.graph.initializer if t.name in node.input}
        weight, bias = (numpy_helper.to_array(stored[name]) for name in node.input[1:3])
        attributes.setdefault("kernel_shape", list(weight.shape[2:]))
        own = (weight, bias)
        twin = (replaced.get(node.input[1], weight), replaced.get(node.input[2], bias))
    return Layer(node.op_type, node.input[0], node.output[0], attributes, own, twin)


def reshaped(_: Layer, weight: Array) -> float:
    """Norm of the kernel as a matrix (out, in * taps): the paper's, and no upper bound."""
    return float(np.linalg.norm(weight.reshape(len(weight), -1).astype(np.float64), 2))


def overlapping(layer: Layer, weight: Array) -> float:
    """The same times the root of the overlaps: an upper bound."""
    return math.sqrt(layer.overlaps) * reshaped(layer, weight)


def paper(layers: list[Layer], tensors: Tensors) -> Floats:
    """Sommelier 4.2 as printed, (1,): dX' = ||W|| dX + ||dW|| |X|, |X'| = ||W|| |X|, else 1."""
    change, size = 0.0, float(norms(tensors[layers[0].entry]).max())
    for layer in layers:
        if layer.host and layer.twin:
            norm = reshaped(layer, layer.host[0])
            change = norm * change + reshaped(layer, layer.twin[0] - layer.host[0]) * size
            size *= norm
    return np.array([change])


def static(layers: list[Layer], tensors: Tensors, norm: Norm) -> Floats:
    """A bound for all inputs as large as the largest, from weights alone, (1,)."""
    change, size = 0.0, float(norms(tensors[layers[0].entry]).max())
    for layer in layers:
        if layer.host and layer.twin:
            places = math.prod(tensors[layer.exit].shape[2:])
            (weight, bias), (other, moved) = layer.host, layer.twin
            added = norm(layer, other - weight) * size
            added += math.sqrt(places) * float(np.linalg.norm(moved - bias))
            change = norm(layer, other) * change + added
            size = norm(layer, weight) * size + math.sqrt(places) * float(np.linalg.norm(bias))
        elif layer.op == "MaxPool":
            change, size = (math.sqrt(layer.overlaps) * v for v in (change, size))
    return np.array([change])


def probe(layers: list[Layer], tensors: Tensors, norm: Norm) -> Floats:
    """A bound for each sample, from the host's activations, (n,)."""
    change = np.zeros(len(tensors[layers[0].entry]))
    for layer in layers:
        if layer.host and layer.twin:
            (weight, bias), (other, moved) = layer.host, layer.twin
            pads = layer.attributes["pads"]
            added = torch.conv2d(
                torch.from_numpy(tensors[layer.entry]).double(),
                torch.from_numpy(other - weight).double(),
                torch.from_numpy(moved - bias).double(),
                stride=layer.attributes.get("strides", 1), padding=pads[:2],
            )  # fmt: skip
            change = norm(layer, other) * change + norms(added.numpy())
        elif layer.op == "MaxPool":
            change = math.sqrt(layer.overlaps) * change
    return change
