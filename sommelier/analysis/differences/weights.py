"""The learned tensors of a model as they act, in one layout, with the step they were rounded to.

Conv (out, in, kernel...) with BatchNormalization folded in, matrices (out, in); integers stand for
the real numbers they are dequantised to. Names, storage and transposes in the file do not matter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.differences.layers import layer_name
from sommelier.analysis.graph import Node
from sommelier.analysis.segments.affine import Slot
from sommelier.analysis.segments.canonical import ARITHMETIC
from sommelier.analysis.segments.normal_form import NormalForm, Operator
from sommelier.errors import AnalysisError

Array = NDArray[Any]

_DIGITS = {10: 10, 16: 7}  # stored binary digits of float16 and bfloat16
_QUANTISED = {"QLinearConv": (3, 4, 5), "QLinearMatMul": (3, 4, 5), "QGemm": (3, 4, 5)}
_FUSED = frozenset({"FusedConv", "FusedGemm", "FusedMatMul", "ConvTranspose"})
_UNSCALED = {"ConvInteger": (1, 3), "MatMulInteger": (1, 3)}


@dataclass(frozen=True, slots=True)
class Weight:
    """One learned tensor. values : float32 or float64, outputs first. step : distance of
    neighbouring representable values, broadcastable to `values`, None for single precision. scaled
    : False where the file multiplies by the scale later, so that `values` are known up to it.
    bias : (out,), None without one."""

    name: str
    op: str
    values: Array
    step: Array | None
    bias: Array | None
    scaled: bool = True

    @property
    def is_matrix(self) -> bool:
        """Whether it says anything about lineage: vectors of scales look alike in all networks,
        and tables that are added or multiplied (anchors, positions, masks) are not always learned.
        """
        return self.values.ndim > 1 and self.values.size >= 16 and self.op not in ARITHMETIC


def weights_of(form: NormalForm) -> tuple[Weight, ...]:
    """The model's learned tensors of real numbers, in the order in which they act.

    Raises AnalysisError when a tensor's numbers cannot be read.
    """
    found: list[Weight] = []
    for operator in form.operators:
        node = form.graph.nodes[operator.nodes[0]]
        if operator.affine is not None:
            found.append(_acting(form, operator))
        elif node.op in _QUANTISED:
            found.append(_quantised(form, operator, node))
        elif node.op in _UNSCALED:
            found.append(_unscaled(form, operator, node))
        elif node.op in _FUSED:
            found.append(_fused(form, operator, node))
        else:
            found.extend(_plain(form, operator, slot) for slot in operator.slots)
    return tuple(w for w in found if w.values.size > 1 and np.isfinite(w.values).all())


def _acting(form: NormalForm, operator: Operator) -> Weight:
    affine = operator.affine
    assert affine is not None
    values, bias = affine.acting(form.constants)
    if affine.kind == "Linear":
        values = values.T
    step = None
    if affine.norm is None:
        step = _step(form, affine.weight.tensor, values)
        step = _half_step(form, affine.weight.tensor, values) if step is None else step
    return Weight(
        layer_name(form, operator), affine.kind, _form(values), _match(step, values), bias
    )


def _quantised(form: NormalForm, operator: Operator, node: Node) -> Weight:
    stored, scale, zero = (
        np.asarray(form.constants.array(node.inputs[k])) for k in _QUANTISED[node.op]
    )
    turned = node.op == "QLinearMatMul" or not node.attributes.get("transB", 1)
    axis = 0 if node.op == "QLinearConv" else stored.ndim - 1 if turned else 0
    step = _along(scale.astype(np.float64), axis, stored.ndim)
    values = (stored.astype(np.float64) - _along(zero.astype(np.float64), axis, stored.ndim)) * step
    if turned:
        values, step = values.T, step.T
    return Weight(layer_name(form, operator), node.op, _form(values), _match(step, values), None)


def _fused(form: NormalForm, operator: Operator, node: Node) -> Weight:
    """A matrix and its bias that one operator reads."""
    matrices = [_plain(form, operator, slot) for slot in operator.slots if slot.position == 1]
    if not matrices:
        return Weight(layer_name(form, operator), node.op, np.zeros(0), None, None)
    values, step = np.asarray(form.constants.array(node.inputs[1])), matrices[0].step
    if "Conv" not in node.op and not node.attributes.get("transB", 0):
        values = values.T
    bias = None
    if len(node.inputs) > 2 and node.inputs[2] in form.constants:
        bias = np.asarray(form.constants.array(node.inputs[2])).ravel()
    one = step if step is not None and step.size == 1 else None
    return Weight(layer_name(form, operator), node.op, _form(values), _match(one, values), bias)


def _unscaled(form: NormalForm, operator: Operator, node: Node) -> Weight:
    weight, zero = _UNSCALED[node.op]
    stored = np.asarray(form.constants.array(node.inputs[weight])).astype(np.float64)
    if zero < len(node.inputs) and node.inputs[zero] in form.constants:
        offset = np.asarray(form.constants.array(node.inputs[zero])).astype(np.float64)
        stored = stored - _along(offset, stored.ndim - 1 if "MatMul" in node.op else 0, stored.ndim)
    values = stored.T if "MatMul" in node.op else stored
    return Weight(
        layer_name(form, operator), node.op, _form(values), np.ones((1,) * 2), None, scaled=False
    )


def _plain(form: NormalForm, operator: Operator, slot: Slot) -> Weight:
    values = np.asarray(form.constants.array(slot.tensor))
    if values.dtype.kind != "f":
        values = np.zeros(0) if values.dtype.kind not in "iu" else values.astype(np.float64)
    values = values.reshape([d for d in values.shape if d != 1] or [values.size])
    step = _step(form, slot.tensor, values)
    op = form.graph.nodes[slot.node].op
    name = f"{layer_name(form, operator)}:{slot.position}"
    if op == "MatMul" and values.ndim > 1:
        values = np.swapaxes(values, -1, -2)
    return Weight(name, op, values, _match(step, values), None)


def _step(form: NormalForm, tensor: str, values: Array) -> Array | None:
    """The step of DequantizeLinear, where that is what makes the tensor."""
    for node in form.constants.makers(tensor):
        if node.op != "DequantizeLinear" or len(node.inputs) < 2:
            continue
        scale = np.asarray(form.constants.array(node.inputs[1])).astype(np.float64)
        if scale.size == 1:
            return scale.reshape((1,) * values.ndim)
        for axis, length in enumerate(values.shape):
            if scale.size == length:
                return _along(scale.ravel(), axis, values.ndim)
    return None


def _half_step(form: NormalForm, tensor: str, values: Array) -> Array | None:
    """The spacing of 16-bit floats around each value, where the file keeps such."""
    kinds = {form.constants.dtype_and_shape(leaf)[0] for leaf in form.constants.leaves(tensor)}
    digits = next((_DIGITS[kind] for kind in kinds if kind in _DIGITS), None)
    if digits is None:
        return None
    return np.maximum(np.abs(values.astype(np.float64)) * 2.0**-digits, 2.0**-24)


def _along(values: Array, axis: int, rank: int) -> Array:
    """Numbers per channel, or one number, in a form that broadcasts against `rank` axes."""
    if values.size == 1:
        return values.reshape((1,) * rank)
    return values.reshape([-1 if k == axis else 1 for k in range(rank)])


def _form(values: Array) -> Array:
    """(out, in, kernel...) without kernel axes of length 1: a 1 x 1 convolution is a matrix."""
    if values.ndim < 2:
        return values
    return values.reshape([*values.shape[:2], *(d for d in values.shape[2:] if d != 1)])


def _match(step: Array | None, values: Array) -> Array | None:
    """The step in the weight's final form."""
    if step is None or step.size == 1:
        return None if step is None else step.reshape((1,) * _form(values).ndim)
    full = np.broadcast_to(step, values.shape) if step.ndim == values.ndim else step
    try:
        return np.asarray(full).reshape(_form(values).shape)
    except ValueError as error:
        raise AnalysisError(f"steps of form {step.shape} do not fit weights") from error
