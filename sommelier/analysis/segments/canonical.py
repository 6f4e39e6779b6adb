"""Operators in one spelling: what exporters and opsets write differently and mean the same.

Settings that moved from attributes to inputs, defaults stated or omitted, SAME padding or its
numbers, Flatten or Reshape, GlobalAveragePool or ReduceMean: algorithms.md B.1 steps 0 and 3.
Shapes are those of the traced graph, so that equal spelling means equal computation there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sommelier.analysis.fingerprint import attribute_defaults, plain_value
from sommelier.analysis.graph import Graph, Node

Settings = Mapping[str, Any]

COMMUTATIVE = frozenset({"Add", "Mul", "Sum", "Mean", "Max", "Min", "And", "Or", "Xor", "Equal"})
ARITHMETIC = frozenset({"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Mod", "Where", "Equal",
                        "Less", "Greater", "LessOrEqual", "GreaterOrEqual", "Clip"})  # fmt: skip
ANY_SIZE = ARITHMETIC | {
    "Relu", "LeakyRelu", "PRelu", "Sigmoid", "Tanh", "Elu", "Selu", "Celu", "Gelu", "Erf", "Exp",
    "Log", "Sqrt", "Reciprocal", "Abs", "Neg", "HardSigmoid", "HardSwish", "Softplus", "Softsign",
    "Mish", "ThresholdedRelu", "Sum", "Mean", "BatchNormalization", "LayerNormalization",
    "InstanceNormalization", "GroupNormalization", "LRN", "Softmax", "LogSoftmax", "Conv",
    "ConvTranspose", "MatMul", "Gemm", "MaxPool", "AveragePool", "GlobalAveragePool",
    "GlobalMaxPool", "ReduceMean", "Transpose", "Concat", "QuantizeLinear", "DequantizeLinear",
}  # fmt: skip
"""Operators that do the same at every size, so that nets for other resolutions can be compared;
of the others the sizes at batch 1 must be equal."""

RESHAPES = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze"})

_NO_MATTER = frozenset({"momentum", "training_mode", "spatial", "is_test", "consumed_inputs",
                        "storage_order", "noop_with_empty_axes", "broadcast"})  # fmt: skip
_HUGE = 3.4e38  # Clip without a bound, as opset 6 spells it


@dataclass(frozen=True, slots=True)
class Canonical:
    """op and settings in one spelling. consumed : operands whose values the settings hold."""

    op: str
    settings: tuple[tuple[str, str], ...]
    consumed: frozenset[int]


def canonical(node: Node, graph: Graph) -> Canonical:
    """The operator's one spelling."""
    rule = None if node.domain else _RULES.get(node.op)
    try:
        found = None if rule is None else rule(_Reader(node, graph))
    except (IndexError, ValueError, TypeError, ZeroDivisionError):
        found = None  # attributes no operator can have: compared as they are stated
    if found is None:
        found = node.title, _stated(node, graph), frozenset()
    op, settings, consumed = found
    texts = ((k, plain_value(v)) for k, v in sorted(settings.items()) if v is not None)
    return Canonical(op, tuple(texts), consumed)


Found = tuple[str, dict[str, Any], frozenset[int]]


@dataclass(frozen=True, slots=True)
class _Reader:
    """One node's attributes, operand values and shapes."""

    node: Node
    graph: Graph

    @property
    def rank(self) -> int | None:
        shape = self.shape(0)
        return None if shape is None else len(shape)

    def shape(self, position: int) -> tuple[int | None, ...] | None:
        names = self.node.inputs
        return self.graph.tensor(names[position]).shape if position < len(names) else None

    @property
    def made(self) -> tuple[int | None, ...] | None:
        return self.graph.tensor(self.node.outputs[0]).shape

    def given(self, position: int) -> bool:
        return position < len(self.node.inputs) and bool(self.node.inputs[position])

    def value(self, position: int) -> list[Any] | None:
        """The numbers of a small constant operand; None when omitted or not known."""
        if not self.given(position):
            return None
        value = self.graph.values.get(self.node.inputs[position])
        return None if value is None else np.asarray(value).ravel().tolist()

    def setting(self, name: str, position: int) -> tuple[Any, bool]:
        """(value, known) of a setting that is an attribute or an operand."""
        if self.given(position):
            value = self.value(position)
            return value, value is not None
        return self.node.attributes.get(name), True

    def axis(self, name: str = "axis", default: int = 0) -> int:
        axis = int(self.node.attributes.get(name, default))
        return axis + (self.rank or 0) if axis < 0 else axis

    def attribute(self, name: str, default: Any = None) -> Any:
        return self.node.attributes.get(name, default)


def _stated(node: Node, graph: Graph) -> dict[str, Any]:
    """Attributes that differ from their defaults; defaults appear and vanish between opsets."""
    defaults = attribute_defaults(node, graph)
    return {
        key: value
        for key, value in node.attributes.items()
        if key not in _NO_MATTER
        and key not in node.subgraphs
        and not (key in defaults and plain_value(defaults[key]) == plain_value(value))
    }


def _reshape(x: _Reader) -> Found | None:
    """Any change of form is given by the shapes before and after, which the symbol holds."""
    shape, made = x.shape(0), x.made
    if shape is None or made is None or None in shape or None in made:
        return None
    return "Reshape", {}, frozenset(range(1, len(x.node.inputs)))


def _window(x: _Reader) -> Found | None:
    """Conv and pooling: kernel, strides, dilations and pads written out."""
    if x.rank is None:
        return None
    spatial = x.rank - 2
    weight = {"QLinearConv": 3}.get(x.node.op, 1)
    kernel = x.attribute("kernel_shape")
    if kernel is None and "Pool" not in x.node.op:
        kernel = (x.shape(weight) or ())[2:]
    if kernel is None or None in kernel or len(kernel) != spatial:
        return None
    steps = list(x.attribute("strides") or [1] * spatial)
    dilations = list(x.attribute("dilations") or [1] * spatial)
    pads = _pads(x, list(kernel), steps, dilations)
    stated = _stated(x.node, x.graph) | {
        "kernel_shape": kernel, "strides": steps, "dilations": dilations, "pads": pads,
        "auto_pad": None,
    }  # fmt: skip
    if not any(pads):
        stated["count_include_pad"] = None
    inside = (x.shape(0) or ())[2:]
    if x.node.op == "AveragePool" and list(inside) == list(kernel) and not any(pads):
        return _mean_over(x, list(range(2, x.rank)), 1)
    return x.node.op, stated, frozenset()


def _pads(x: _Reader, kernel: list[int], steps: list[int], dilations: list[int]) -> list[int]:
    auto = str(x.attribute("auto_pad", "NOTSET"))
    if not auto.startswith("SAME"):
        return list(x.attribute("pads") or [0] * 2 * len(kernel))
    begins, ends = [], []
    for size, k, step, d in zip((x.shape(0) or ())[2:], kernel, steps, dilations, strict=True):
        if size is None:
            return [-1]  # not known, and equal to no stated padding
        total = max((-(-size // step) - 1) * step + (k - 1) * d + 1 - size, 0)
        small = total // 2
        begins.append(small if auto == "SAME_UPPER" else total - small)
        ends.append(total - begins[-1])
    return begins + ends


def _mean_over(x: _Reader, axes: list[int], keep: int) -> Found:
    return "ReduceMean", {"axes": axes, "keepdims": keep}, frozenset({1} if x.given(1) else ())


def _global_mean(x: _Reader) -> Found | None:
    return None if x.rank is None else _mean_over(x, list(range(2, x.rank)), 1)


def _reduce(x: _Reader) -> Found | None:
    axes, known = x.setting("axes", 1)
    if not known or x.rank is None:
        return None
    if not axes and x.attribute("noop_with_empty_axes", 0):
        return None
    every = sorted(int(a) % x.rank for a in axes) if axes else list(range(x.rank))
    keep = int(x.attribute("keepdims", 1))
    return x.node.op, {"axes": every, "keepdims": keep}, frozenset({1})


def _softmax(x: _Reader) -> Found | None:
    """Before opset 13 everything from `axis` on is one row; the same where it is the last axis."""
    if x.rank is None:
        return None
    old = x.graph.opsets.get("", 1) < 13
    axis = x.axis(default=1 if old else -1)
    shape = x.shape(0) or ()
    one_axis = all(d == 1 for d in shape[axis + 1 :])
    return x.node.op, {"axis": axis, "flat": "rows" if old and not one_axis else None}, frozenset()


def _clip(x: _Reader) -> Found | None:
    bounds: dict[str, Any] = {}
    for name, position in (("min", 1), ("max", 2)):
        value, known = x.setting(name, position)
        if not known:
            return None
        number = value[0] if isinstance(value, list) and value else value
        stated = number is not None and number != [] and abs(float(number)) < _HUGE
        bounds[name] = float(number) if stated else None
    return "Clip", bounds, frozenset({1, 2})


def _relu(_: _Reader) -> Found:
    return "Clip", {"min": 0.0, "max": None}, frozenset()


def _transpose(x: _Reader) -> Found | None:
    if x.rank is None:
        return None
    return "Transpose", {"perm": list(x.attribute("perm") or reversed(range(x.rank)))}, frozenset()


def _on_axis(x: _Reader) -> Found | None:
    if x.rank is None:
        return None
    return x.node.op, _stated(x.node, x.graph) | {"axis": x.axis()}, frozenset()


def _split(x: _Reader) -> Found | None:
    if x.rank is None:
        return None
    axis = x.axis()
    shapes = [x.graph.tensor(name).shape for name in x.node.outputs]
    sizes = [None if shape is None else shape[axis] for shape in shapes]
    return "Split", {"axis": axis, "sizes": sizes}, frozenset({1})


def _slice(x: _Reader) -> Found | None:
    """Start and step of every cut axis; the ends follow from the shape of the result."""
    starts, known = x.setting("starts", 1)
    axes, axes_known = x.setting("axes", 3)
    steps, steps_known = x.setting("steps", 4)
    shape = x.shape(0)
    if not (known and axes_known and steps_known) or starts is None or shape is None:
        return None
    axes = list(range(len(starts))) if axes is None else [int(a) % len(shape) for a in axes]
    if not len(axes) == len(starts) == len(steps or starts) or max(axes, default=0) >= len(shape):
        return None
    cuts = []
    for axis, start, step in sorted(zip(axes, starts, steps or [1] * len(axes), strict=True)):
        size = shape[axis]
        if size is None:
            return None
        first = min(max(start + size if start < 0 else start, 0), size)
        cuts.append((axis, first, step))
    return "Slice", {"cuts": cuts}, frozenset({1, 2, 3, 4})


def _pad(x: _Reader) -> Found | None:
    pads, known = x.setting("pads", 1)
    value, value_known = x.setting("value", 2)
    if not (known and value_known) or x.given(3):
        return None
    fill = value[0] if isinstance(value, list) and value else (value or 0.0)
    settings = {"pads": pads, "value": float(fill), "mode": x.attribute("mode", "constant")}
    return "Pad", settings, frozenset({1, 2})


def _resize(x: _Reader) -> Found | None:
    """Upsample and Resize-10 are Resize with asymmetric coordinates."""
    if x.made is None or None in x.made or not all(
        x.value(i) is not None for i in range(1, len(x.node.inputs)) if x.given(i)
    ):  # fmt: skip
        return None
    old = x.node.op == "Upsample" or x.graph.opsets.get("", 1) < 11
    settings = {} if old else _stated(x.node, x.graph)
    settings |= {"mode": x.attribute("mode", "nearest")}
    if old:
        settings |= {"coordinate_transformation_mode": "asymmetric"}
        if settings["mode"] == "nearest":
            settings |= {"nearest_mode": "floor"}
    settings.pop("scales", None)
    return "Resize", settings, frozenset(range(1, len(x.node.inputs)))


def _by_shape(x: _Reader) -> Found | None:
    """Expand, Tile: what they make is given by its shape."""
    if x.made is None or None in x.made or x.value(1) is None:
        return None
    return x.node.op, {}, frozenset({1})


_RULES: dict[str, Callable[[_Reader], Found | None]] = {
    **dict.fromkeys(RESHAPES, _reshape),
    **dict.fromkeys(
        ("Conv", "MaxPool", "AveragePool", "LpPool", "QLinearConv", "ConvInteger"), _window
    ),
    **dict.fromkeys(
        ("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
         "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare"), _reduce
    ),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), _softmax),
    **dict.fromkeys(("Concat", "Gather", "ArgMax", "ArgMin", "GatherElements"), _on_axis),
    **dict.fromkeys(("Upsample", "Resize"), _resize),
    **dict.fromkeys(("Expand", "Tile"), _by_shape),
    "GlobalAveragePool": _global_mean,
    "Clip": _clip,
    "Relu": _relu,
    "Transpose": _transpose,
    "Split": _split,
    "Slice": _slice,
    "Pad": _pad,
}  # fmt: skip
