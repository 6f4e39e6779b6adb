"""What LSTM, GRU and RNN share: their packed weights, and measurements at every step.

The extended graph evaluates the gates' linear parts at all steps at once from the host's own
hidden states, which the operator outputs; only maxima and norms for each step come back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.propagation.extension import Array, Quantity
from sommelier.analysis.propagation.norm_requests import NormRequest
from sommelier.analysis.propagation.site import Reading, Site, UnboundedError

Values = NDArray[np.float64]
INITIAL_H, INITIAL_C = 5, 6  # operands


@dataclass(frozen=True, slots=True)
class Packed:
    """One direction's weights by gate: input (g, h, d), recurrent (g, h, h), two biases (g, h)."""

    inputs: Values
    recurrent: Values
    input_bias: Values
    recurrent_bias: Values

    def minus(self, other: Packed) -> Packed:
        """The differences."""
        return Packed(
            self.inputs - other.inputs,
            self.recurrent - other.recurrent,
            self.input_bias - other.input_bias,
            self.recurrent_bias - other.recurrent_bias,
        )


class Direction:
    """One direction of a recurrent operator: weights before and after, and its steps."""

    def __init__(self, site: Site, index: int, *, gates: int, reverse: bool) -> None:
        self.site, self.index, self.gates, self.reverse = site, index, gates, reverse
        self.steps, self.batch, _ = site.shape()
        self.before, self.after = (self._packed(k) for k in ("before", "after"))
        self.hidden = self.before.inputs.shape[1]
        self.differs = any(
            np.any(part)
            for part in (
                self.difference.inputs, self.difference.recurrent,
                self.difference.input_bias, self.difference.recurrent_bias,
            )
        )  # fmt: skip

    @property
    def difference(self) -> Packed:
        """after - before."""
        return self.after.minus(self.before)

    def _packed(self, which: str) -> Packed:
        w, r = (
            np.asarray(getattr(self.site.weight(k, "weight"), which)[self.index], np.float64)
            for k in (1, 2)
        )
        hidden = r.shape[-1]
        bias = np.zeros(2 * self.gates * hidden)
        if self.site.has(3):
            bias = np.asarray(getattr(self.site.weight(3, "bias"), which)[self.index], np.float64)
        halves = bias.reshape(2, self.gates, hidden)
        return Packed(
            w.reshape(self.gates, hidden, -1), r.reshape(self.gates, hidden, hidden), *halves
        )

    def norms(self, part: str, packed: Packed | None = None) -> list[NormRequest]:
        """Of each gate's matrix: part is 'inputs' or 'recurrent'."""
        return [self.site.norms.norm(m) for m in getattr(packed or self.after, part)]

    def previous(self, states: str) -> str:
        """The hidden state each step starts from, (steps, batch, hidden). states : the output Y."""
        ext = self.site.extension
        own = ext.node("Gather", [states, ext.constant(np.array(self.index))], axis=1)
        if self.site.has(INITIAL_H):
            which = ext.constant(np.array([self.index]))
            first = ext.node("Gather", [self.site.name(INITIAL_H), which], axis=0)
        else:
            first = ext.constant(np.zeros((1, self.batch, self.hidden), np.float32))
        if self.steps == 1:
            return first
        kept = np.arange(1, self.steps) if self.reverse else np.arange(self.steps - 1)
        others = ext.node("Gather", [own, ext.constant(kept)], axis=0)
        return ext.node("Concat", [others, first] if self.reverse else [first, others], axis=0)

    def affine(self, terms: list[tuple[str, Values]], shift: Values) -> str:
        """sum of tensor @ matrix^T over the terms, plus a shift: (steps, batch, g, hidden).

        matrices : (g, hidden, width) each; shift : (g, hidden).
        """
        ext, gates = self.site.extension, len(shift)
        total = ext.constant(shift.reshape(-1).astype(np.float32))
        for tensor, matrix in terms:
            flat = matrix.reshape(gates * self.hidden, -1).T.astype(np.float32)
            product = ext.node("MatMul", [tensor, ext.constant(flat)])
            total = ext.node("Add", [product, total])
        return ext.reshape(total, [self.steps, self.batch, gates, self.hidden])

    def each_step(self, operation: str, tensor: str) -> Quantity:
        """A reduction of a (steps, batch, g, hidden) tensor to (steps, g), in order of time."""
        return self.site.extension.vector(
            self.site.extension.reduce(operation, tensor, (1, 3)), "step"
        )

    def order(self) -> range:
        """Steps as they are computed."""
        return range(self.steps - 1, -1, -1) if self.reverse else range(self.steps)


def directions(site: Site, gates: int, activations: tuple[str, ...]) -> list[Direction]:
    """The operator's directions. Raises UnboundedError for what no rule covers."""
    kind = str(site.attribute("direction", "forward"))
    flags = {"forward": [False], "reverse": [True], "bidirectional": [False, True]}[kind]
    stated = tuple(str(a).lower() for a in site.attribute("activations", []))
    if stated and stated != activations * len(flags):
        raise UnboundedError(f"its activations are {', '.join(stated)}")
    if site.attribute("clip") is not None or int(site.attribute("input_forget", 0)):
        raise UnboundedError("it clips or couples its gates")
    if int(site.attribute("layout", 0)):
        raise UnboundedError("its batch comes first (layout 1)")
    if site.has(4):
        raise UnboundedError("its sequence lengths are an operand")
    if site.has(7) and np.any(site.fixed(7, "peepholes")):
        raise UnboundedError("it has peepholes")
    return [Direction(site, i, gates=gates, reverse=r) for i, r in enumerate(flags)]


def host_states(site: Site) -> str:
    """The host's hidden states at all steps, whether or not the model asks for them."""
    proto: Any = site.situation.protos[next(name for name in site.node.outputs if name)]
    return site.extension.copy(proto, [*proto.input])


def per_step(at: Reading, asked: Quantity) -> Array:
    """(n, steps, g)."""
    return at[asked]


def initial(at: Reading, site: Site, operand: int, size: Quantity | float) -> tuple[Array, Array]:
    """Bound of an initial state's change, and of the host's largest absolute value."""
    change = at.delta(operand) if site.has(operand) else at[0.0]
    return change, at[size]


def initial_size(site: Site, operand: int) -> Quantity | float:
    """The host's largest absolute value in an initial state."""
    if not site.has(operand):
        return 0.0
    constant = site.constant(operand)
    return float(np.abs(constant.before).max()) if constant is not None else site.largest(operand)
