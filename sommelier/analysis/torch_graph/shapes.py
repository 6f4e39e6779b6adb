"""Operators that move, cut, join, count or add up elements."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sommelier.analysis.torch_graph.call import Call, Rule, integers
from sommelier.errors import AnalysisError


def _reshape(call: Call) -> Tensor:
    wanted = call.integers(1, "shape")
    if wanted is None:
        raise AnalysisError("Reshape without a shape")
    if not call.attribute("allowzero", 0):
        wanted = [call.x.shape[i] if d == 0 else d for i, d in enumerate(wanted)]
    return call.x.reshape(wanted)


def _flatten(call: Call) -> Tensor:
    axis = int(call.attribute("axis", 1))
    axis = axis + call.x.ndim if axis < 0 else axis
    return call.x.reshape(math.prod(call.x.shape[:axis]), -1)


def _transpose(call: Call) -> Tensor:
    return call.x.permute(call.attribute("perm", list(reversed(range(call.x.ndim)))))


def _squeeze(call: Call) -> Tensor:
    axes = call.axes(1, call.x.ndim)
    kept = range(call.x.ndim) if axes is None else axes
    gone = {axis for axis in kept if call.x.shape[axis] == 1}
    return call.x.reshape([d for i, d in enumerate(call.x.shape) if i not in gone])


def _unsqueeze(call: Call) -> Tensor:
    stated = call.integers(1, "axes") or []
    rank = call.x.ndim + len(stated)
    found = call.x
    for axis in sorted(a % rank for a in stated):
        found = found.unsqueeze(axis)
    return found


def _concat(call: Call) -> Tensor:
    return torch.cat(call.given, dim=int(call.attribute("axis", 1)))


def _split(call: Call) -> Sequence[Tensor]:
    axis = int(call.attribute("axis", 0))
    parts = call.integers(1, "split")
    if parts is not None:
        return torch.split(call.x, parts, dim=axis)
    count = int(call.attribute("num_outputs", 2))
    return torch.split(call.x, math.ceil(call.x.shape[axis] / count), dim=axis)


def _slice(call: Call) -> Tensor:
    starts, ends = call.integers(1, "starts"), call.integers(2, "ends")
    if starts is None or ends is None:
        raise AnalysisError("Slice without starts or ends")
    axes = call.axes(3, call.x.ndim) or list(range(len(starts)))
    steps = call.integers(4) or [1] * len(starts)
    found = call.x
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        first, last, step = slice(start, end, step).indices(found.shape[axis])
        if step == 1:
            found = found.narrow(axis, first, max(0, last - first))
        else:
            places = integers(range(first, last, step))
            found = found.index_select(axis, places.to(found.device))
    return found


def _gather(call: Call) -> Tensor:
    axis, places = int(call.attribute("axis", 0)) % call.x.ndim, call.operand(1).long()
    size = call.x.shape[axis]
    places = torch.where(places < 0, places + size, places).to(call.x.device)
    taken = call.x.index_select(axis, places.reshape(-1))
    return taken.reshape((*call.x.shape[:axis], *places.shape, *call.x.shape[axis + 1 :]))


def _shape(call: Call) -> Tensor:
    start, end = call.attribute("start", 0), call.attribute("end")
    return integers(list(call.x.shape)[slice(start, end)])


def _expand(call: Call) -> Tensor:
    return call.x.expand(np.broadcast_shapes(call.x.shape, tuple(call.integers(1) or [])))


def _cast(call: Call) -> Tensor:
    from onnx import helper

    return _as_type(call.x, np.dtype(helper.tensor_dtype_to_np_dtype(int(call.attribute("to")))))


def _as_type(x: Tensor, wanted: np.dtype[Any]) -> Tensor:
    """Real numbers keep the module's precision, whatever the file asks for."""
    if wanted.kind in "fV":
        return x if x.is_floating_point() else x.to(torch.get_default_dtype())
    return x.to(torch.from_numpy(np.zeros(1, wanted)).dtype)


def _constant(call: Call) -> Tensor:
    from onnx import TensorProto, numpy_helper

    name, value = next((k, v) for k, v in call.attributes.items() if k.startswith("value"))
    if name in ("value_string", "value_strings"):
        raise AnalysisError("a Constant of text is not supported by the conversion to torch")
    array = numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)
    if array.dtype.kind == "f" or array.dtype.kind == "V":
        return torch.from_numpy(np.array(array, np.float32)).to(torch.get_default_dtype())
    return torch.from_numpy(np.array(array))


def _constant_of_shape(call: Call) -> Tensor:
    from onnx import numpy_helper

    value = call.attribute("value")
    fill = np.zeros(1, np.float32) if value is None else numpy_helper.to_array(value)
    found = torch.full(call.integers(0) or [], fill.reshape(-1)[0].item())
    return _as_type(found, fill.dtype)


def _where(call: Call) -> Tensor:
    return torch.where(call.x.to(call.operand(1).device), call.operand(1), call.operand(2))


def _one_hot(call: Call) -> Tensor:
    depth = int(call.operand(1).reshape(-1)[0])
    off, on = call.operand(2).reshape(-1)
    places = call.x.long()
    axis = int(call.attribute("axis", -1))
    axis = axis + places.ndim + 1 if axis < 0 else axis
    rows = torch.arange(-depth, depth, device=places.device)  # a negative index counts from the end
    hits = places.unsqueeze(-1) == rows
    chosen = (hits[..., :depth] | hits[..., depth:]).movedim(-1, axis)
    return torch.where(chosen, on, off)


def _range(call: Call) -> Tensor:
    first, last, step = (call.operand(i).item() for i in range(3))
    return torch.arange(first, last, step).to(call.x.dtype)


def _reduce(function: Callable[[Tensor, list[int], bool], Tensor]) -> Rule:
    def rule(call: Call) -> Tensor:
        axes = call.axes(1, call.x.ndim)
        if not axes:
            if call.attribute("noop_with_empty_axes", 0):
                return call.x
            axes = list(range(call.x.ndim))
        return function(call.x, axes, bool(call.attribute("keepdims", 1)))

    return rule


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    found = x
    for axis in sorted(axes, reverse=True):
        found = found.prod(axis, keepdim=keep)
    return found


def _arg_max(call: Call) -> Tensor:
    keep = bool(call.attribute("keepdims", 1))
    return call.x.argmax(int(call.attribute("axis", 0)), keepdim=keep)


def _cumulative(call: Call) -> Tensor:
    if call.attribute("exclusive", 0) or call.attribute("reverse", 0):
        raise AnalysisError("an exclusive or reversed CumSum is not supported")
    return call.x.cumsum(int(call.operand(1).item()))


RULES: Mapping[str, Rule] = {
    "ArgMax": _arg_max,
    "Cast": _cast,
    "CastLike": lambda call: call.x.to(call.operand(1).dtype),
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "CumSum": _cumulative,
    "Dropout": lambda call: call.x,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Identity": lambda call: call.x,
    "OneHot": _one_hot,
    "Range": _range,
    "ReduceL2": _reduce(lambda x, a, keep: torch.linalg.vector_norm(x, 2, a, keep)),
    "ReduceMax": _reduce(lambda x, a, keep: x.amax(a, keep)),
    "ReduceMean": _reduce(lambda x, a, keep: x.mean(a, keep)),
    "ReduceMin": _reduce(lambda x, a, keep: x.amin(a, keep)),
    "ReduceProd": _reduce(_product),
    "ReduceSum": _reduce(lambda x, a, keep: x.sum(a, keep)),
    "ReduceSumSquare": _reduce(lambda x, a, keep: x.square().sum(a, keep)),
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": lambda call: torch.tensor(call.x.numel()),
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": lambda call: call.x.repeat(call.integers(1) or []),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
