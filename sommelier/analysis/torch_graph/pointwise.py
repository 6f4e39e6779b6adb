"""Operators element by element, and products and normalisations without windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import reduce

import torch
from torch import Tensor
from torch.nn import functional

from sommelier.analysis.torch_graph.call import Call, Rule


def _unary(function: Callable[[Tensor], Tensor]) -> Rule:
    return lambda call: function(call.x)


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Rule:
    return lambda call: function(*_together(call.x, call.operand(1)))


def _chain(function: Callable[[Tensor, Tensor], Tensor]) -> Rule:
    return lambda call: reduce(lambda a, b: function(*_together(a, b)), call.given)


def _together(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Both on one device: integers made from shapes stay on the CPU."""
    if a.device != b.device:
        return (a, b.to(a.device)) if b.device.type == "cpu" else (a.to(b.device), b)
    return a, b


def _div(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _pow(a: Tensor, b: Tensor) -> Tensor:
    return torch.pow(a, b.to(a.dtype))


def _clip(call: Call) -> Tensor:
    low, high = (call.optional(i) for i in (1, 2))
    found = call.x
    if low is None and "min" in call.attributes:
        low = torch.tensor(call.attribute("min"), dtype=found.dtype)
    if high is None and "max" in call.attributes:
        high = torch.tensor(call.attribute("max"), dtype=found.dtype)
    return found if low is None and high is None else torch.clamp(
        found,
        None if low is None else low.item(),
        None if high is None else high.item(),
    )  # fmt: skip


def _prelu(call: Call) -> Tensor:
    return torch.where(call.x < 0, call.x * call.operand(1), call.x)


def _gelu(call: Call) -> Tensor:
    return functional.gelu(call.x, approximate=call.attribute("approximate", "none"))


def _selu(call: Call) -> Tensor:
    alpha = float(call.attribute("alpha", 1.67326319217681884765625))
    gamma = float(call.attribute("gamma", 1.05070102214813232421875))
    return gamma * functional.elu(call.x, alpha)


def _hard_sigmoid(call: Call) -> Tensor:
    slope, shift = call.attribute("alpha", 0.2), call.attribute("beta", 0.5)
    return torch.clamp(slope * call.x + shift, 0.0, 1.0)


def _softmax(call: Call) -> Tensor:
    return _along_classes(call, torch.softmax)


def _log_softmax(call: Call) -> Tensor:
    return _along_classes(call, torch.log_softmax)


def _along_classes(call: Call, function: Callable[[Tensor, int], Tensor]) -> Tensor:
    """Before opset 13 all axes from `axis` on are one."""
    if call.opset >= 13:
        return function(call.x, int(call.attribute("axis", -1)))
    axis = int(call.attribute("axis", 1)) % max(call.x.ndim, 1)
    rows = math.prod(call.x.shape[:axis])
    return function(call.x.reshape(rows, -1), 1).reshape(call.x.shape)


def _gemm(call: Call) -> Tensor:
    a = call.x.T if call.attribute("transA", 0) else call.x
    b = call.operand(1).T if call.attribute("transB", 0) else call.operand(1)
    found = float(call.attribute("alpha", 1.0)) * (a @ b)
    shift = call.optional(2)
    return found if shift is None else found + float(call.attribute("beta", 1.0)) * shift


def _batch_normalization(call: Call) -> Tensor:
    scale, shift, mean, variance = (call.operand(i) for i in (1, 2, 3, 4))
    epsilon = float(call.attribute("epsilon", 1e-5))
    return functional.batch_norm(call.x, mean, variance, scale, shift, False, 0.0, epsilon)


def _instance_normalization(call: Call) -> Tensor:
    epsilon = float(call.attribute("epsilon", 1e-5))
    return functional.instance_norm(
        call.x, weight=call.operand(1), bias=call.operand(2), eps=epsilon
    )


def _layer_normalization(call: Call) -> Tensor:
    axis = int(call.attribute("axis", -1)) % call.x.ndim
    shape = list(call.x.shape[axis:])
    epsilon = float(call.attribute("epsilon", 1e-5))
    shift = call.optional(2)
    return functional.layer_norm(
        call.x,
        shape,
        call.operand(1).expand(shape),
        None if shift is None else shift.expand(shape),
        epsilon,
    )


def _group_normalization(call: Call) -> Tensor:
    """Before opset 21 there is one scale a group and not one a channel."""
    groups, channels = int(call.attribute("num_groups")), call.x.shape[1]
    epsilon = float(call.attribute("epsilon", 1e-5))
    scale, shift = (
        t if len(t) == channels else t.repeat_interleave(channels // groups)
        for t in (call.operand(1), call.operand(2))
    )
    return functional.group_norm(call.x, groups, scale, shift, epsilon)


def _local_response(call: Call) -> Tensor:
    return functional.local_response_norm(
        call.x,
        int(call.attribute("size")),
        float(call.attribute("alpha", 1e-4)),
        float(call.attribute("beta", 0.75)),
        float(call.attribute("bias", 1.0)),
    )


def _lp_normalization(call: Call) -> Tensor:
    axis, order = int(call.attribute("axis", -1)), int(call.attribute("p", 2))
    length = torch.linalg.vector_norm(call.x, order, dim=axis, keepdim=True)
    return torch.where(length > 0, call.x / length.clamp_min(1e-30), torch.zeros_like(call.x))


def _dequantize(call: Call) -> Tensor:
    """y = (x - zero point) * scale, per tensor or per channel along `axis`."""
    scale, zero = call.operand(1), call.optional(2)
    shape = [1] * call.x.ndim
    if scale.numel() > 1:
        shape[int(call.attribute("axis", 1))] = -1
    shift = 0.0 if zero is None else zero.to(scale.dtype).reshape(shape if zero.ndim else ())
    return (call.x.to(scale.dtype) - shift) * (scale.reshape(shape) if scale.ndim else scale)


RULES: Mapping[str, Rule] = {
    "Abs": _unary(torch.abs),
    "Add": _binary(torch.add),
    "And": _binary(torch.logical_and),
    "BatchNormalization": _batch_normalization,
    "Ceil": _unary(torch.ceil),
    "Celu": lambda call: functional.celu(call.x, float(call.attribute("alpha", 1.0))),
    "Clip": _clip,
    "Cos": _unary(torch.cos),
    "DequantizeLinear": _dequantize,
    "Div": _binary(_div),
    "Elu": lambda call: functional.elu(call.x, float(call.attribute("alpha", 1.0))),
    "Equal": _binary(torch.eq),
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Floor": _unary(torch.floor),
    "Gelu": _gelu,
    "Gemm": _gemm,
    "Greater": _binary(torch.gt),
    "GreaterOrEqual": _binary(torch.ge),
    "GroupNormalization": _group_normalization,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _unary(functional.hardswish),
    "InstanceNormalization": _instance_normalization,
    "LRN": _local_response,
    "LayerNormalization": _layer_normalization,
    "LeakyRelu": lambda c: functional.leaky_relu(c.x, float(c.attribute("alpha", 0.01))),
    "Less": _binary(torch.lt),
    "LessOrEqual": _binary(torch.le),
    "Log": _unary(torch.log),
    "LogSoftmax": _log_softmax,
    "LpNormalization": _lp_normalization,
    "MatMul": _binary(torch.matmul),
    "Max": _chain(torch.maximum),
    "Mean": lambda call: reduce(torch.add, call.given) / len(call.given),
    "Min": _chain(torch.minimum),
    "Mish": _unary(functional.mish),
    "Mul": _binary(torch.mul),
    "Neg": _unary(torch.neg),
    "Not": _unary(torch.logical_not),
    "Or": _binary(torch.logical_or),
    "PRelu": _prelu,
    "Pow": _binary(_pow),
    "Reciprocal": _unary(torch.reciprocal),
    "Relu": _unary(functional.relu),
    "Round": _unary(torch.round),
    "Selu": _selu,
    "Sigmoid": _unary(torch.sigmoid),
    "Sign": _unary(torch.sign),
    "Sin": _unary(torch.sin),
    "Softmax": _softmax,
    "Softplus": _unary(functional.softplus),
    "Softsign": _unary(functional.softsign),
    "Sqrt": _unary(torch.sqrt),
    "Sub": _binary(torch.sub),
    "Sum": _chain(torch.add),
    "Tanh": _unary(torch.tanh),
}
