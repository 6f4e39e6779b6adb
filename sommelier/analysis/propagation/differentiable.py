"""A graph in torch, for gradients only: what a bound claims is measured with ONNX Runtime.

Covers the operators of common convolutional nets and transformers. Values that need no input come
from `constants`, so shape arithmetic is never evaluated here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from sommelier.analysis.graph import Graph, Node
from sommelier.analysis.norms.weights import load_torch
from sommelier.errors import AnalysisError

if TYPE_CHECKING:
    from torch import Tensor

Operator = Callable[[list[Any], Mapping[str, Any], Any], Any]


def evaluate(
    graph: Graph, known: Mapping[str, Tensor], feeds: Mapping[str, Tensor], wanted: str
) -> Tensor:
    """The tensor `wanted` for one sample. known : values that need no input.

    Raises AnalysisError naming an operator that has no counterpart here.
    """
    values: dict[str, Tensor] = {**known, **feeds}
    for node in _needed(graph, values, wanted):
        function = OPERATORS.get(node.title)
        if function is None:
            raise AnalysisError(
                f"no gradient through operator {node.title} '{node.name}'",
                hint="choose a tensor before it",
            )
        operands = [values[name] if name else None for name in node.inputs]
        values[next(n for n in node.outputs if n)] = function(
            operands, node.attributes, graph.opsets[""]
        )
    return values[wanted]


def _needed(graph: Graph, values: Mapping[str, Any], wanted: str) -> list[Node]:
    producers = {name: node for node in graph.nodes for name in node.outputs if name}
    needed: set[str] = set()
    waiting = [wanted]
    while waiting:
        name = waiting.pop()
        if name in values or name in needed or not name:
            continue
        if name not in producers:
            raise AnalysisError(f"no operator of the graph makes '{name}'")
        needed.update(producers[name].outputs)
        waiting.extend(producers[name].inputs)
    return [node for node in graph.nodes if any(name in needed for name in node.outputs)]


def _functional() -> Any:
    return load_torch().nn.functional


def _plain(name: str) -> Operator:
    return lambda x, _, __: getattr(load_torch(), name)(x[0])


def _pair(name: str) -> Operator:
    return lambda x, _, __: getattr(load_torch(), name)(x[0], x[1])


def _padded(x: Any, pads: list[int], value: float = 0.0) -> Any:
    """ONNX's pads (beginnings, then ends) of the last axes."""
    half = len(pads) // 2
    flat = [p for i in range(half - 1, -1, -1) for p in (pads[i], pads[half + i])]
    return _functional().pad(x, flat, value=value) if any(flat) else x


def _pads(attributes: Mapping[str, Any], axes: int) -> list[int]:
    if attributes.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID", ""):
        raise AnalysisError("no gradient through a window with auto_pad")
    return list(attributes.get("pads") or [0] * 2 * axes)


def _conv(x: list[Any], attributes: Mapping[str, Any], _: int) -> Any:
    axes = x[1].dim() - 2
    function = getattr(_functional(), f"conv{axes}d")
    return function(
        _padded(x[0], _pads(attributes, axes)), x[1], x[2] if len(x) > 2 else None,
        stride=attributes.get("strides") or 1, dilation=attributes.get("dilations") or 1,
        groups=attributes.get("group", 1),
    )  # fmt: skip


def _gemm(x: list[Any], attributes: Mapping[str, Any], _: int) -> Any:
    a = x[0].T if attributes.get("transA") else x[0]
    b = x[1].T if attributes.get("transB") else x[1]
    product = attributes.get("alpha", 1.0) * (a @ b)
    return product if len(x) < 3 else product + attributes.get("beta", 1.0) * x[2]


def _batch_norm(x: list[Any], attributes: Mapping[str, Any], _: int) -> Any:
    gamma, beta, mean, variance = x[1:5]
    epsilon = attributes.get("epsilon", 1e-5)
    return _functional().batch_norm(x[0], mean, variance, gamma, beta, False, eps=epsilon)


def _layer_norm(x: list[Any], attributes: Mapping[str, Any], _: int) -> Any:
    shape = tuple(x[0].shape[attributes.get("axis", -1) :])
    bias = x[2] if len(x) > 2 else None
    return _functional().layer_norm(x[0], shape, x[1], bias, attributes.get("epsilon", 1e-5))


def _max_pool(x: list[Any], attributes: Mapping[str, Any], _: int) -> Any:
    axes = x[0].dim() - 2
    if attributes.get("ceil_mode"):
        raise AnalysisError("no gradient through a pool that rounds up")
    padded = _padded(x[0], _pads(attributes, axes), -math.inf)
    function = getattr(_functional(), f"max_pool{axes}d")
    return function(padded, attributes["kernel_shape"], attributes.get("strides") or 1,
                    dilation=attributes.get("dilations") or 1)  # fmt: skip


def _average_pool(x: list[Any], attributes: Mapping[str, Any], _: int) -> Any:
    axes = x[0].dim() - 2
    pads = _pads(attributes, axes)
    if attributes.get("ceil_mode") or (any(pads) and not attributes.get("count_include_pad")):
        raise AnalysisError("no gradient through a pool that does not count its padding")
    function = getattr(_functional(), f"avg_pool{axes}d")
    strides = attributes.get("strides") or 1
    return function(_padded(x[0], pads), attributes["kernel_shape"], strides)


def _axes(x: list[Any], attributes: Mapping[str, Any], place: int = 1) -> list[int]:
    if len(x) > place and x[place] is not None:
        return [int(a) for a in x[place].flatten()]
    return [int(a) for a in attributes.get("axes") or []]


def _mean(x: list[Any], attributes: Mapping[str, Any], _: int) -> Any:
    axes = _axes(x, attributes) or list(range(x[0].dim()))
    return x[0].mean(dim=axes, keepdim=bool(attributes.get("keepdims", 1)))


def _softmax(x: list[Any], attributes: Mapping[str, Any], opset: int) -> Any:
    if opset < 13:
        axis = int(attributes.get("axis", 1)) % x[0].dim()
        return x[0].flatten(axis).softmax(-1).reshape(x[0].shape)
    return x[0].softmax(int(attributes.get("axis", -1)))


def _reshape(x: list[Any], _: Mapping[str, Any], __: int) -> Any:
    target = [int(d) for d in x[1].flatten()]
    return x[0].reshape([x[0].shape[i] if d == 0 else d for i, d in enumerate(target)])


def _slice(x: list[Any], attributes: Mapping[str, Any], _: int) -> Any:
    if len(x) > 1:
        starts, ends = ([int(v) for v in part.flatten()] for part in x[1:3])
        axes = _axes(x, {}, 3) or list(range(len(starts)))
        steps = _axes(x, {}, 4) or [1] * len(starts)
    else:
        starts, ends = attributes["starts"], attributes["ends"]
        axes, steps = attributes.get("axes") or list(range(len(starts))), [1] * len(starts)
    index = [slice(None)] * x[0].dim()
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        if step < 0:
            raise AnalysisError("no gradient through a slice that runs backwards")
        index[axis] = slice(start, end, step)
    return x[0][tuple(index)]


def _pad(x: list[Any], attributes: Mapping[str, Any], _: int) -> Any:
    if attributes.get("mode", "constant") != "constant":
        raise AnalysisError("no gradient through a pad that copies")
    pads = [int(p) for p in x[1].flatten()] if len(x) > 1 else list(attributes["pads"])
    value = float(x[2]) if len(x) > 2 and x[2] is not None else 0.0
    return _padded(x[0], pads, value)


def _clip(x: list[Any], attributes: Mapping[str, Any], _: int) -> Any:
    low = float(x[1]) if len(x) > 1 and x[1] is not None else attributes.get("min")
    high = float(x[2]) if len(x) > 2 and x[2] is not None else attributes.get("max")
    return x[0].clamp(low, high)


def _squeeze(x: list[Any], attributes: Mapping[str, Any], _: int) -> Any:
    axes = _axes(x, attributes)
    return x[0].squeeze(axes) if axes else x[0].squeeze()


def _unsqueeze(x: list[Any], attributes: Mapping[str, Any], _: int) -> Any:
    axes = _axes(x, attributes)
    rank = x[0].dim() + len(axes)
    for axis in sorted(a % rank for a in axes):
        x = [x[0].unsqueeze(axis)]
    return x[0]


def _transpose(x: list[Any], attributes: Mapping[str, Any], _: int) -> Any:
    return x[0].permute(attributes.get("perm") or list(range(x[0].dim()))[::-1])


OPERATORS: dict[str, Operator] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MatMul": _pair("matmul"),
    "BatchNormalization": _batch_norm,
    "LayerNormalization": _layer_norm,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "GlobalAveragePool": lambda x, _, __: x[0].mean(dim=list(range(2, x[0].dim())), keepdim=True),
    "ReduceMean": _mean,
    "Softmax": _softmax,
    **{op: _plain(op.lower()) for op in ("Relu", "Sigmoid", "Tanh", "Erf", "Sqrt", "Exp", "Abs")},
    "Neg": _plain("neg"),
    "LeakyRelu": lambda x, a, _: _functional().leaky_relu(x[0], a.get("alpha", 0.01)),
    "Elu": lambda x, a, _: _functional().elu(x[0], a.get("alpha", 1.0)),
    "Selu": lambda x, _, __: _functional().selu(x[0]),
    "Softplus": lambda x, _, __: _functional().softplus(x[0]),
    "HardSwish": lambda x, _, __: _functional().hardswish(x[0]),
    "Mish": lambda x, _, __: _functional().mish(x[0]),
    "HardSigmoid": lambda x, a, _: (x[0] * a.get("alpha", 0.2) + a.get("beta", 0.5)).clamp(0, 1),
    "Gelu": lambda x, a, _: _functional().gelu(x[0], approximate=a.get("approximate", "none")),
    "com.microsoft:Gelu": lambda x, _, __: _functional().gelu(x[0]),
    "Clip": _clip,
    "Add": _pair("add"),
    "Sub": _pair("sub"),
    "Mul": _pair("mul"),
    "Div": _pair("div"),
    "Pow": _pair("pow"),
    "Concat": lambda x, a, _: load_torch().cat(x, dim=a["axis"]),
    "Flatten": lambda x, a, _: x[0].reshape(math.prod(x[0].shape[: a.get("axis", 1)]), -1),
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Slice": _slice,
    "Pad": _pad,
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    **dict.fromkeys(("Identity", "Cast", "Dropout"), lambda x, _, __: x[0]),
}
"""By the operator's title; operands as tensors (None where omitted), attributes, opset."""
