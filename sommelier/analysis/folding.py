"""Values of small constant expressions: the arithmetic on shapes that exporters leave in graphs.

Without it, `Shape -> Gather -> Concat -> Reshape` hides every shape behind it (algorithms.md B.1).
Only listed operators are evaluated, on small arrays, in numpy; no model is executed.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
Attributes = Mapping[str, Any]

LIMIT = 4096  # elements of a value worth knowing: shapes, axes, pads, index lists


def fold(
    op: str, inputs: Sequence[Array | None], attributes: Attributes, outputs: int = 1
) -> list[Array] | None:
    """The values an operator yields, or None if it is not one of the listed ones.

    inputs : one per operand, None for an omitted optional one. The caller has checked that the
    result is small.
    """
    rule = _RULES.get(op)
    if rule is None:
        return None
    try:
        with np.errstate(all="ignore"):
            result = rule(list(inputs), attributes)
    except (ValueError, IndexError, TypeError, ZeroDivisionError, KeyError, OverflowError):
        return None  # a broken expression: its value stays unknown, and with it what hangs on it
    values = result if isinstance(result, list) else [result]
    if len(values) < outputs or any(v.size > LIMIT for v in values):
        return None
    return values


def foldable(op: str) -> bool:
    """Whether `fold` knows the operator."""
    return op in _RULES


Rule = Callable[[list[Array | None], Attributes], "Array | list[Array]"]


def _unary(function: Callable[[Array], Array]) -> Rule:
    return lambda x, _: np.asarray(function(_need(x[0])))


def _binary(function: Callable[[Array, Array], Array]) -> Rule:
    return lambda x, _: np.asarray(function(_need(x[0]), _need(x[1])))


def _need(value: Array | None) -> Array:
    if value is None:
        raise ValueError("an operand is missing")
    return value


def _axes(x: list[Array | None], attributes: Attributes, position: int = 1) -> list[int] | None:
    """Axes, which moved from an attribute to an input between opsets."""
    if len(x) > position and x[position] is not None:
        return [int(a) for a in _need(x[position]).ravel()]
    stated = attributes.get("axes")
    return None if stated is None else [int(a) for a in stated]


def _int(attributes: Attributes, name: str, default: int) -> int:
    return int(attributes.get(name, default))


def _cast(x: list[Array | None], attributes: Attributes) -> Array:
    from onnx import helper

    return _need(x[0]).astype(helper.tensor_dtype_to_np_dtype(_int(attributes, "to", 1)))


def _divide(a: Array, b: Array) -> Array:
    if np.issubdtype(a.dtype, np.integer):  # ONNX truncates towards zero, numpy floors
        if not np.all(b):
            raise ZeroDivisionError
        return np.asarray(np.trunc(np.true_divide(a, b)).astype(a.dtype))
    return np.asarray(np.true_divide(a, b))


def _squeeze(x: list[Array | None], attributes: Attributes) -> Array:
    axes = _axes(x, attributes)
    return np.squeeze(_need(x[0]), None if axes is None else tuple(axes))


def _unsqueeze(x: list[Array | None], attributes: Attributes) -> Array:
    return np.expand_dims(_need(x[0]), tuple(_axes(x, attributes) or ()))


def _slice(x: list[Array | None], attributes: Attributes) -> Array:
    value = _need(x[0])
    if len(x) > 1:
        starts, ends = (_need(v).ravel().tolist() for v in x[1:3])
        axes = _axes(x, {}, 3)
        steps = _axes(x, {}, 4) or [1] * len(starts)
    else:
        starts, ends = (list(attributes[k]) for k in ("starts", "ends"))
        axes, steps = _axes(x[:1], attributes), [1] * len(starts)
    index = [slice(None)] * value.ndim
    for axis, start, end, step in zip(
        axes or range(len(starts)), starts, ends, steps, strict=False
    ):
        # an end before the first element means 'past the beginning' when stepping backwards
        stop = None if step < 0 and end < -value.shape[axis] else end
        index[axis] = slice(start, stop, step)
    return value[tuple(index)]


def _reshape(x: list[Array | None], attributes: Attributes) -> Array:
    value = _need(x[0])
    target = [int(d) for d in _need(x[1]).ravel()]
    if not _int(attributes, "allowzero", 0):
        target = [value.shape[i] if d == 0 else d for i, d in enumerate(target)]
    return value.reshape(target)


def _reduce(function: Callable[..., Array]) -> Rule:
    def rule(x: list[Array | None], attributes: Attributes) -> Array:
        axes = _axes(x, attributes)
        keep = bool(_int(attributes, "keepdims", 1))
        value = _need(x[0])
        return np.asarray(
            function(value, axis=None if axes is None else tuple(axes), keepdims=keep)
        ).astype(value.dtype)

    return rule


def _expand(x: list[Array | None], _: Attributes) -> Array:
    value = _need(x[0])
    shape = np.broadcast_shapes(value.shape, tuple(int(d) for d in _need(x[1]).ravel()))
    return np.broadcast_to(value, shape).copy()


def _constant_of_shape(x: list[Array | None], attributes: Attributes) -> Array:
    from onnx import TensorProto, numpy_helper

    stated = attributes.get("value")
    fill = numpy_helper.to_array(stated) if isinstance(stated, TensorProto) else np.zeros(1, "f4")
    return np.full([int(d) for d in _need(x[0]).ravel()], fill.ravel()[0], fill.dtype)


def _range(x: list[Array | None], _: Attributes) -> Array:
    start, stop, step = (_need(v) for v in x)
    return np.arange(start.item(), stop.item(), step.item(), dtype=start.dtype)


def _split(x: list[Array | None], attributes: Attributes) -> list[Array]:
    value, axis = _need(x[0]), _int(attributes, "axis", 0)
    if len(x) > 1 and x[1] is not None:
        parts = [int(v) for v in _need(x[1])]
    elif "split" in attributes:
        parts = [int(v) for v in attributes["split"]]
    else:
        count = _int(attributes, "num_outputs", value.shape[axis])
        size = -(-value.shape[axis] // count)
        return [
            value.take(range(i, min(i + size, value.shape[axis])), axis)
            for i in range(0, value.shape[axis], size)
        ]
    return list(np.split(value, np.cumsum(parts)[:-1].tolist(), axis))


def _variadic(function: Callable[[Array, Array], Array]) -> Rule:
    def rule(x: list[Array | None], _: Attributes) -> Array:
        total = _need(x[0])
        for other in x[1:]:
            total = function(total, _need(other))
        return np.asarray(total)

    return rule


_RULES: dict[str, Rule] = {
    "Identity": _unary(lambda a: a),
    "Floor": _unary(np.floor),
    "Ceil": _unary(np.ceil),
    "Round": _unary(np.rint),
    "Neg": _unary(operator.neg),
    "Abs": _unary(np.abs),
    "Sqrt": _unary(np.sqrt),
    "Not": _unary(np.logical_not),
    "Add": _binary(operator.add),
    "Sub": _binary(operator.sub),
    "Mul": _binary(operator.mul),
    "Div": _binary(_divide),
    "Mod": _binary(np.mod),
    "Pow": lambda x, _: np.power(_need(x[0]), _need(x[1])).astype(_need(x[0]).dtype),
    "Equal": _binary(np.equal),
    "Less": _binary(np.less),
    "Greater": _binary(np.greater),
    "And": _binary(np.logical_and),
    "Or": _binary(np.logical_or),
    "Min": _variadic(np.minimum),
    "Max": _variadic(np.maximum),
    "Sum": _variadic(operator.add),
    "Where": lambda x, _: np.where(_need(x[0]), _need(x[1]), _need(x[2])),
    "Cast": _cast,
    "Concat": lambda x, a: np.concatenate([_need(v) for v in x], _int(a, "axis", 0)),
    "Gather": lambda x, a: _need(x[0]).take(_need(x[1]).astype(np.int64), _int(a, "axis", 0)),
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Slice": _slice,
    "Reshape": _reshape,
    "Transpose": lambda x, a: _need(x[0]).transpose(a.get("perm")),
    "ReduceProd": _reduce(np.prod),
    "ReduceSum": _reduce(np.sum),
    "ReduceMax": _reduce(np.max),
    "ReduceMin": _reduce(np.min),
    "Expand": _expand,
    "ConstantOfShape": _constant_of_shape,
    "Range": _range,
    "Split": _split,
}
