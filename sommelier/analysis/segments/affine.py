"""Weights as they act: Conv with bias and BatchNormalization, Gemm or MatMul with bias.

y = W x + b, whatever the file stores. Two files that store the same form are rebound tensor by
tensor; where one has folded its BatchNormalization and the other has not, the numbers that act are
written in the form the host has (algorithms.md B.1: fold BN before comparing weights).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.graph import Graph, Node
from sommelier.analysis.segments.constants import Constants

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Slot:
    """A learned constant as an operand: node `node` reads it at `position` as `tensor`."""

    node: int
    position: int
    tensor: str


@dataclass(frozen=True, slots=True)
class Affine:
    """kind 'Conv' or 'Linear'. norm : scale, shift, mean, variance of the BatchNormalization.

    transposed : the stored matrix is (out, in). alpha, beta : Gemm's factors.
    """

    kind: str
    nodes: tuple[int, ...]
    weight: Slot
    bias: Slot | None = None
    norm: tuple[Slot, Slot, Slot, Slot] | None = None
    epsilon: float = 1e-5
    transposed: bool = False
    alpha: float = 1.0
    beta: float = 1.0

    @property
    def slots(self) -> tuple[Slot, ...]:
        bias = () if self.bias is None else (self.bias,)
        return (self.weight, *bias, *(self.norm or ()))

    @property
    def has_bias(self) -> bool:
        return self.bias is not None or self.norm is not None

    @property
    def form(self) -> tuple[object, ...]:
        """Equal for weights that are stored alike, and can be exchanged one by one."""
        return (
            self.kind, self.bias is None, self.norm is None, self.transposed, self.alpha, self.beta,
            self.epsilon if self.norm else None,
        )  # fmt: skip

    def weight_kind(self, constants: Constants) -> tuple[int, tuple[int | None, ...]]:
        """Element type and shape of the matrix that acts."""
        dtype, shape = constants.dtype_and_shape(self.weight.tensor)
        return dtype, tuple(reversed(shape or ())) if self.transposed else tuple(shape or ())

    def acting(self, constants: Constants) -> tuple[Array, Array | None]:
        """(W, b) as they act, in the stored precision; b is None when there is none.

        W (out, in, ...) of a convolution, (in, out) of a matrix product; b (out,).
        """
        stored = constants.array(self.weight.tensor)
        dtype, weight = stored.dtype, stored.astype(np.float64) * self.alpha
        if self.transposed:
            weight = weight.T
        if not self.has_bias:
            return weight.astype(dtype), None
        width = weight.shape[0] if self.kind == "Conv" else weight.shape[-1]
        bias = np.zeros(width)
        if self.bias is not None:
            given = constants.array(self.bias.tensor).astype(np.float64).ravel()
            bias = bias + given * self.beta
        if self.norm is not None:
            scale, shift, mean, variance = (
                constants.array(slot.tensor).astype(np.float64) for slot in self.norm
            )
            factor = scale / np.sqrt(variance + self.epsilon)
            weight = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
            bias = (bias - mean) * factor + shift
        return weight.astype(dtype), bias.astype(dtype)

    def stored_as(
        self, weight: Array, bias: Array | None, constants: Constants
    ) -> Mapping[Slot, Array]:
        """The arrays that make this form act as (weight, bias). The inverse of `acting`."""
        matrix = weight.T if self.transposed else weight
        found = {self.weight: np.ascontiguousarray((matrix / self.alpha).astype(weight.dtype))}
        shift = np.zeros(0, weight.dtype) if bias is None else bias
        if self.norm is not None:
            ones = np.ones_like(shift)
            without = (ones, shift, np.zeros_like(shift), ones - ones.dtype.type(self.epsilon))
            found |= dict(zip(self.norm, without, strict=True))
            shift = np.zeros_like(shift)
        if self.bias is not None:
            _, shape = constants.dtype_and_shape(self.bias.tensor)
            sides = [d or 1 for d in shape or ()]
            full = np.broadcast_to(shift, (int(np.prod(sides)),)) / self.beta
            found[self.bias] = full.reshape(sides).astype(weight.dtype)
        return found


def absorb(
    position: int, graph: Graph, constants: Constants, sole_reader: Mapping[str, int]
) -> Affine | None:
    """The node with the bias and normalisation that follow it; None when it is neither kind.

    sole_reader : tensors that exactly one node reads -> that node.
    """
    node = graph.nodes[position]
    found = _start(position, node, constants)
    while found is not None:
        made = graph.nodes[found.nodes[-1]].outputs[0]
        follower = sole_reader.get(made)
        longer = None if follower is None else _extended(found, follower, made, graph, constants)
        if longer is None:
            break
        found = longer
    return found


def _start(position: int, node: Node, constants: Constants) -> Affine | None:
    if node.domain or len(node.inputs) < 2 or not _floating(node.inputs[1], constants):
        return None
    if node.inputs[0] in constants:
        return None
    weight = Slot(position, 1, node.inputs[1])
    _, shape = constants.dtype_and_shape(weight.tensor)
    if shape is None or None in shape:
        return None
    if node.op == "Conv" and len(shape) > 2:
        bias = _bias(position, node, shape[0], constants)
        return None if bias is False else Affine("Conv", (position,), weight, bias)
    if node.op == "MatMul" and len(shape) == 2:
        return Affine("Linear", (position,), weight)
    if node.op != "Gemm" or len(shape) != 2 or node.attributes.get("transA", 0):
        return None
    transposed = bool(node.attributes.get("transB", 0))
    alpha, beta = (float(node.attributes.get(key, 1.0)) for key in ("alpha", "beta"))
    bias = _bias(position, node, shape[0 if transposed else 1], constants)
    if bias is False or not alpha or not beta:
        return None
    return Affine(
        "Linear", (position,), weight, bias, transposed=transposed, alpha=alpha, beta=beta
    )


def _bias(
    position: int, node: Node, width: int | None, constants: Constants
) -> Slot | Literal[False] | None:
    """The third operand; None when omitted, False when it is not one constant a channel."""
    if len(node.inputs) < 3 or not node.inputs[2]:
        return None
    name = node.inputs[2]
    if not _floating(name, constants):
        return False
    _, shape = constants.dtype_and_shape(name)
    return Slot(position, 2, name) if shape in ((width,), (1, width)) else False


def _extended(
    found: Affine, follower: int, made: str, graph: Graph, constants: Constants
) -> Affine | None:
    """`found` with the bias or the normalisation that node `follower` adds."""
    node = graph.nodes[follower]
    nodes = (*found.nodes, follower)
    if node.domain:
        return None
    if node.op == "Add" and not found.has_bias:
        position = 1 - node.inputs.index(made) if made in node.inputs else -1
        name = node.inputs[position] if position >= 0 else ""
        if not _floating(name, constants) or not _per_channel(found, name, graph, constants):
            return None
        bias = Slot(follower, position, name)
        return Affine(
            found.kind, nodes, found.weight, bias, transposed=found.transposed, alpha=found.alpha
        )
    if node.op == "BatchNormalization" and found.kind == "Conv" and found.norm is None:
        names = node.inputs[1:5]
        trains = bool(node.attributes.get("training_mode", 0))
        if trains or len(names) != 4 or not all(_floating(n, constants) for n in names):
            return None
        a, b, c, d = (Slot(follower, i + 1, name) for i, name in enumerate(names))
        epsilon = float(node.attributes.get("epsilon", 1e-5))
        return Affine("Conv", nodes, found.weight, found.bias, (a, b, c, d), epsilon)
    return None


def _per_channel(found: Affine, name: str, graph: Graph, constants: Constants) -> bool:
    """Whether an added constant is one number per output channel."""
    _, shape = constants.dtype_and_shape(name)
    made = graph.tensor(graph.nodes[found.nodes[-1]].outputs[0]).shape
    _, weight = constants.dtype_and_shape(found.weight.tensor)
    if shape is None or made is None or weight is None or len(shape) > len(made):
        return False
    wanted: list[int | None] = [1] * len(made)
    axis = 1 if found.kind == "Conv" else len(made) - 1
    wanted[axis] = weight[0] if found.kind == "Conv" else weight[-1]
    return [1] * (len(made) - len(shape)) + list(shape) == wanted


def _floating(name: str, constants: Constants) -> bool:
    from onnx import TensorProto

    kinds = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
    return bool(name) and constants.learned(name) and constants.dtype_and_shape(name)[0] in kinds
