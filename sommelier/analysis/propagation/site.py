"""What a rule sees of one operator: operands, weights, and what may be measured.

A rule plans: it asks for norms and measurements, and returns the function that computes the bound
once they are known. So everything is measured in one run, and norms are computed together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.graph import Graph, Node
from sommelier.analysis.propagation.extension import Array, Extension, Quantity
from sommelier.analysis.propagation.norm_requests import NormRequest, NormRequests
from sommelier.analysis.propagation.weights import Constant

ROUNDING = 1e-5  # relative: what float32 sums of a measurement may lack


class UnboundedError(Exception):
    """No finite bound holds for an operator; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Residual:
    """||operator with difference weights, at the host's input||; None: no weight differs.

    gain : how much it grows when the input moves by 1 in L2; None where the input stays.
    """

    measured: Quantity | None = None
    gain: NormRequest | float = 0.0
    tensor: str | None = None


Asked = Quantity | NormRequest | Residual | float


class Reading:
    """What was asked for at one operator, measured on all n samples."""

    def __init__(
        self, node: Node, deltas: Mapping[str, Array], measured: Mapping[str, Array],
        spread: Mapping[str, Array], samples: int,
    ) -> None:  # fmt: skip
        self._node, self._deltas = node, deltas
        self._measured, self._spread, self._samples = measured, spread, samples

    def delta(self, operand: int = 0) -> Array:
        """Bound of the operand's change, (n,)."""
        return self.delta_of(self._node.inputs[operand])

    def delta_of(self, tensor: str) -> Array:
        """Bound of a tensor's change, (n,)."""
        return self._deltas.get(tensor, np.zeros(self._samples))

    def spread(self, tensor: str) -> Array:
        """How far the tensor may be from the measured one, (n,): 0 when probes are meant."""
        return self._spread.get(tensor, np.zeros(self._samples))

    def __getitem__(self, asked: Asked) -> Array:
        """The number, on the safe side of rounding and spread: (n,), or (n, ...) for vectors."""
        if isinstance(asked, NormRequest):
            return np.full(self._samples, asked.value)
        if isinstance(asked, Residual):
            return self._residual(asked)
        if not isinstance(asked, Quantity):
            return np.full(self._samples, float(asked))
        value = self._measured[asked.output]
        up = 1.0 if asked.gain >= 0 else -1.0
        moved = asked.gain * self.spread(asked.tensor)
        shaped = moved.reshape(-1, *[1] * (value.ndim - 1))
        return np.asarray(value + up * ROUNDING * np.abs(value) + _no_nan(shaped), np.float64)

    def _residual(self, residual: Residual) -> Array:
        if residual.measured is None:
            return np.zeros(self._samples)
        spread = self.spread(residual.measured.tensor)
        grown = np.zeros(self._samples)
        if np.any(spread):
            grown = _no_nan(self[residual.gain] * spread)
        return np.asarray(self._measured[residual.measured.output] * (1 + ROUNDING) + grown)


def _no_nan(values: Array) -> Array:
    """0 * infinity is 0 here: what does not move adds nothing, however large its factor."""
    return np.where(np.isnan(values), 0.0, values)


Bound = Callable[[Reading], "Array | Sequence[Array]"]
"""Bounds of the outputs, (n,) each; one array is that of the first output."""


@dataclass(slots=True)
class Situation:
    """What is the same for all operators of one propagation."""

    graph: Graph
    protos: Mapping[str, Any]  # NodeProto by its first named output
    constants: Mapping[str, Constant]
    reached: set[str]
    extension: Extension
    norms: NormRequests
    ball: bool  # static mode: measurements are widened, residuals need a gain
    producers: Mapping[str, Node] = field(default_factory=dict)
    readers: Mapping[str, int] = field(default_factory=dict)
    order: Mapping[str, int] = field(default_factory=dict)  # place of the operator that makes it


class Site:
    """One operator of the host in its situation."""

    def __init__(self, node: Node, situation: Situation) -> None:
        self.node = node
        self.situation = situation
        self.extension = situation.extension
        self.norms = situation.norms

    def attribute(self, name: str, default: Any = None) -> Any:
        """The attribute's value, or the default where the node does not state it."""
        value = self.node.attributes.get(name)
        return default if value is None else value

    def has(self, operand: int) -> bool:
        """Whether the operand is given."""
        return operand < len(self.node.inputs) and bool(self.node.inputs[operand])

    def name(self, operand: int = 0) -> str:
        """The operand's name. Raises UnboundedError when it is not given."""
        if not self.has(operand):
            raise UnboundedError(f"operand {operand} is not given")
        return self.node.inputs[operand]

    def shape(self, operand: int = 0) -> tuple[int, ...]:
        """The operand's shape for one sample. Raises UnboundedError where data decide it."""
        return self._shape(self.name(operand))

    def output_shape(self, output: int = 0) -> tuple[int, ...]:
        """The output's shape, likewise."""
        return self._shape(self.node.outputs[output])

    def _shape(self, name: str) -> tuple[int, ...]:
        constant = self.situation.constants.get(name)
        if constant is not None:
            return tuple(constant.before.shape)
        shape = self.situation.graph.tensor(name).shape
        if shape is None or None in shape:
            raise UnboundedError(f"the shape of '{name}' depends on the data")
        return tuple(int(d) for d in shape if d is not None)

    def elements(self, operand: int = 0) -> int:
        """Number of elements of the operand."""
        return math.prod(self.shape(operand))

    def output_elements(self) -> int:
        """Number of elements of the first output."""
        return math.prod(self.output_shape())

    def constant(self, operand: int) -> Constant | None:
        """The operand where it needs no input; None for an activation or a missing operand."""
        return (
            self.situation.constants.get(self.node.inputs[operand]) if self.has(operand) else None
        )

    def weight(self, operand: int, role: str) -> Constant:
        """The operand, which must need no input. Raises UnboundedError otherwise."""
        constant = self.constant(operand)
        if constant is None:
            raise UnboundedError(f"its {role} is computed from the input")
        return constant

    def fixed(self, operand: int, role: str) -> NDArray[Any]:
        """The operand's value, which must be known and the same in the twin."""
        constant = self.weight(operand, role)
        if constant.changed:
            raise UnboundedError(f"its {role} differs in the twin")
        return constant.before

    def reached(self, operand: int) -> bool:
        """Whether the change reaches the operand."""
        return self.has(operand) and self.node.inputs[operand] in self.situation.reached

    def refuse_reached(self, operand: int, role: str) -> None:
        """Raise UnboundedError when the change reaches an operand that decides discretely."""
        if self.reached(operand):
            raise UnboundedError(f"its {role} may differ in the twin")

    def repeats(self, operand: int) -> float:
        """How often each element of the operand is used by an elementwise operator."""
        return self.output_elements() / max(1, self.elements(operand))

    def broadcast_axes(self, operand: int) -> tuple[int, ...]:
        """Axes of the output along which the operand is repeated."""
        out, own = self.output_shape(), self.shape(operand)
        padded = (1,) * (len(out) - len(own)) + own
        return tuple(i for i, (a, b) in enumerate(zip(padded, out, strict=True)) if a < b)

    def size(self, operand: int = 0) -> Quantity:
        """The operand's L2 norm."""
        return self.extension.size(self.name(operand))

    def largest(self, operand: int = 0) -> Quantity:
        """The operand's largest absolute value."""
        return self.extension.largest(self.name(operand))

    def differing(
        self, name: str, gain: NormRequest | float = 0.0, *, operand: int = 0
    ) -> Residual:
        """The norm of a tensor that was added to the extension; it moves with one operand."""
        found = self.extension.size(name)
        return Residual(Quantity(found.output, self.name(operand), 0.0), gain, name)

    def with_weights(
        self,
        arrays: Mapping[int, NDArray[Any] | None],
        gain: NormRequest | float = 0.0,
        *,
        operand: int = 0,
    ) -> Residual:
        """The operator's output with other weights, at the host's activations, in float32.

        arrays : operand -> its replacement; None leaves the operand out.
        """
        inputs = []
        given = self.node.inputs
        for i in range(max(len(given), 1 + max(arrays))):
            name = given[i] if i < len(given) else ""
            if i in arrays:
                array = arrays[i]
                stored = None if array is None else np.asarray(array, np.float32)
                inputs.append("" if stored is None else self.extension.constant(stored))
            elif name and self.situation.constants.get(name) is None:
                inputs.append(self.extension.single(name))
            else:
                inputs.append(name)
        while inputs and not inputs[-1]:
            inputs.pop()
        proto = self.situation.protos[self.node.outputs[0]]
        return self.differing(self.extension.copy(proto, inputs), gain, operand=operand)

    def residual_vector(self, residual: Residual) -> Quantity:
        """The difference itself instead of its norm, for what is small."""
        assert residual.tensor is not None, "nothing differs"
        return self.extension.vector(residual.tensor, "residual")

    def producer(self, operand: int = 0) -> Site | None:
        """The operator that makes the operand and whose output nothing else reads."""
        name = self.name(operand)
        node = self.situation.producers.get(name)
        if node is None or self.situation.readers.get(name, 0) != 1:
            return None
        return Site(node, self.situation)


Rule = Callable[[Site], Bound]
