"""Whether the largest logit can change: the margin test (algorithms.md B.2, last line)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.graph import Node
from sommelier.analysis.propagation.extension import Array, Quantity
from sommelier.analysis.propagation.rules.attention import COERCING
from sommelier.analysis.propagation.site import ROUNDING, Site, Situation, UnboundedError
from sommelier.errors import AnalysisError

CLASSES = 100_000  # more are no logits; and a row of them would not be a small output


@dataclass(frozen=True, slots=True)
class Head:
    """Logits that are a product with a weight: how far pairs of classes can move apart.

    entry : the tensor the product reads, (.., features) with one row; residual : (classes,) what
    the weights' difference adds to each class; apart : (classes, classes) ||w'_i - w'_j||.
    """

    entry: str
    residual: Quantity
    apart: Array


@dataclass(frozen=True, slots=True)
class Margins:
    """What was measured at tensors whose largest element is an answer.

    values : (n, rows, classes); heads : those with their own comparison of pairs, and the measured
    residuals (n, classes); before : output of a Softmax -> what it is made from.
    """

    values: dict[str, Array] = field(default_factory=dict)
    spread: dict[str, Array] = field(default_factory=dict)
    heads: dict[str, tuple[Head, Array]] = field(default_factory=dict)
    before: dict[str, str] = field(default_factory=dict)

    def unchanged(self, logits: str, deltas: Mapping[str, Array]) -> NDArray[np.bool_]:
        """(n,) whether the largest element along the last axis is certainly the same."""
        if logits not in self.values:
            known = ", ".join(f"'{name}'" for name in self.values) or "none"
            raise AnalysisError(f"no margins were measured of '{logits}'", hint=f"of: {known}")
        found = self._plain(logits, deltas[logits])
        if logits in self.heads:
            found |= self._pairs(logits, deltas)
        earlier = self.before.get(logits)
        return found if earlier is None else found | self.unchanged(earlier, deltas)

    def _plain(self, logits: str, change: Array) -> NDArray[np.bool_]:
        values = self.values[logits]
        top = np.partition(values, -2, axis=-1)
        margin = (top[..., -1] - top[..., -2]).min(axis=-1)
        slack = self._slack(logits)
        return np.asarray(math.sqrt(2) * change < margin - slack)

    def _slack(self, logits: str) -> Array:
        """Rounding of the measured values, and how far a ball of inputs moves them."""
        magnitude = np.abs(self.values[logits]).max(axis=(1, 2))
        return np.asarray(ROUNDING * magnitude + math.sqrt(2) * self.spread.get(logits, 0.0))

    def _pairs(self, logits: str, deltas: Mapping[str, Array]) -> NDArray[np.bool_]:
        """y'_c - y'_j >= y_c - y_j + r_c - r_j - ||w'_c - w'_j|| delta, for all j."""
        head, residual = self.heads[logits]
        values = self.values[logits][:, 0, :]
        winner = values.argmax(axis=-1)
        rows = np.arange(len(values))
        gap = (values + residual)[rows, winner][:, None] - (values + residual)
        with np.errstate(invalid="ignore"):
            moved = np.nan_to_num(head.apart[winner] * deltas[head.entry][:, None], nan=0.0)
        spare = gap - moved - self._slack(logits)[:, None]
        spare[rows, winner] = np.inf
        return np.asarray((spare > 0).all(axis=-1))


@dataclass(frozen=True, slots=True)
class Plan:
    """What `plan` asked to be measured."""

    values: dict[str, tuple[Quantity, int]]
    heads: dict[str, Head]
    before: dict[str, str]

    def measured(self, measured: Mapping[str, Array], spread: Mapping[str, Array]) -> Margins:
        """The margins, once the extended graph has run."""
        values = {
            name: _rows(name, measured[asked.output], classes)
            for name, (asked, classes) in self.values.items()
        }
        heads = {
            name: (head, measured[head.residual.output].reshape(len(values[name]), -1))
            for name, head in self.heads.items()
        }
        return Margins(values, {k: v for k, v in spread.items() if k in values}, heads, self.before)


def _rows(name: str, found: Array, classes: int) -> Array:
    """(n, rows, classes). Raises AnalysisError where the run disagrees with the stated shape."""
    if found.shape[-1] != classes:
        raise AnalysisError(
            f"'{name}' has {found.shape[-1]} elements in its last axis when the model runs, and "
            f"{classes} by ONNX's shape inference"
        )
    return found.reshape(len(found), -1, classes)


def plan(situation: Situation) -> Plan:
    """Ask for the values of floating outputs, and of what their Softmax is made from."""
    found = Plan({}, {}, {})
    for name in situation.graph.outputs:
        _ask(name, situation, found)
        node = situation.producers.get(name)
        if node is not None and _keeps_order(node, situation):
            found.before[name] = node.inputs[0]
            _ask(node.inputs[0], situation, found)
    for name in list(found.before):
        if not {name, found.before[name]} <= found.values.keys():
            del found.before[name]
    return found


def _keeps_order(node: Node, situation: Situation) -> bool:
    """Whether the largest element along the last axis is that of the operand.

    A Sigmoid's would be, but for its rounding: two logits beyond 17 are both 1 in float32.
    """
    if node.op not in ("Softmax", "LogSoftmax"):
        return False
    coerces = situation.graph.opsets[""] < COERCING  # normalises all axes from its own on
    axis = int(node.attributes.get("axis", 1 if coerces else -1) or 0)
    shape = situation.graph.tensor(node.inputs[0]).shape
    return shape is not None and (coerces or axis % len(shape) == len(shape) - 1)


def _ask(name: str, situation: Situation, found: Plan) -> None:
    tensor = situation.graph.tensor(name)
    if tensor.dtype not in (0, 1, 10, 11) or not tensor.shape or None in tensor.shape:
        return
    classes = tensor.shape[-1] or 0
    if classes < 2 or (tensor.elements or 0) > CLASSES or name in found.values:
        return
    found.values[name] = (situation.extension.vector(name, "logits"), classes)
    node = situation.producers.get(name)
    if node is not None and tensor.elements == classes and not situation.ball:
        head = _head(Site(node, situation))
        if head is not None:
            found.heads[name] = head


def _head(site: Site) -> Head | None:
    """The product that makes the logits: Gemm, or MatMul with a weight on the right."""
    node: Node = site.node
    weight = site.constant(1)
    if node.title not in ("Gemm", "MatMul") or weight is None or weight.before.ndim != 2:
        return None
    if site.has(2) and site.constant(2) is None:
        return None
    alpha = float(site.attribute("alpha", 1.0))
    rows = np.asarray(weight.after, np.float64) * alpha
    rows = rows if site.attribute("transB", 0) else rows.T
    if len(rows) > 2048:  # a table of all pairs would be large
        return None
    squares = np.sum(rows**2, axis=1)
    sums = squares[:, None] + squares[None]
    lost = 4 * (rows.shape[1] + 4) * 2.0**-53  # what cancels when two rows are nearly equal
    apart = np.sqrt(np.maximum(sums - 2 * rows @ rows.T, 0.0) + lost * sums)
    arrays = {1: weight.difference}
    bias = site.constant(2)
    if bias is not None:
        arrays[2] = bias.difference
    try:
        residual = site.with_weights(arrays)
    except UnboundedError:
        return None
    assert residual.measured is not None
    vector = site.residual_vector(residual)
    return Head(site.name(0), vector, apart * (1 + ROUNDING))
