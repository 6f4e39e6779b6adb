"""Convolutions, pooling, resizing: padding as ONNX states it, begin and end of each axis apart."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional

from sommelier.analysis.torch_graph.call import Call, Rule
from sommelier.errors import AnalysisError

CONV: Any = (functional.conv1d, functional.conv2d, functional.conv3d)
TRANSPOSED: Any = (
    functional.conv_transpose1d,
    functional.conv_transpose2d,
    functional.conv_transpose3d,
)
MAXIMUM: Any = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)
AVERAGE: Any = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)


def _axes(call: Call, kernel: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Strides, dilations and pads (beginnings, then ends) with their defaults."""
    ones = [1] * len(kernel)
    strides, dilations = call.attribute("strides", ones), call.attribute("dilations", ones)
    automatic = call.attribute("auto_pad", "NOTSET")
    if automatic in ("NOTSET", ""):
        return strides, dilations, call.attribute("pads", [0] * 2 * len(kernel))
    if automatic == "VALID":
        return strides, dilations, [0] * 2 * len(kernel)
    less, more = [], []
    sides = call.x.shape[2:]
    for size, k, s, d in zip(sides, kernel, strides, dilations, strict=True):
        total = max(0, (math.ceil(size / s) - 1) * s + (k - 1) * d + 1 - size)
        less.append(total // 2)
        more.append(total - total // 2)
    return strides, dilations, less + more if automatic == "SAME_UPPER" else more + less


def padded(x: Tensor, pads: Sequence[int], value: float = 0.0, mode: str = "constant") -> Tensor:
    """`pads` for the last len(pads)/2 axes, beginnings then ends; negative ones cut."""
    if not any(pads):
        return x
    half = len(pads) // 2
    widths = [w for i in reversed(range(half)) for w in (pads[i], pads[half + i])]
    if mode == "constant":
        return functional.pad(x, widths, value=value)
    return functional.pad(x, widths, mode=mode)


def _conv(call: Call) -> Tensor:
    weight = call.operand(1)
    kernel = list(weight.shape[2:])
    strides, dilations, pads = _axes(call, kernel)
    half = len(kernel)
    x, padding = call.x, pads[:half]
    if pads[:half] != pads[half:]:
        x, padding = padded(x, pads), [0] * half
    groups = int(call.attribute("group", 1))
    found: Tensor = CONV[half - 1](x, weight, call.optional(2), strides, padding, dilations, groups)
    return found


def _conv_transpose(call: Call) -> Tensor:
    weight = call.operand(1)
    half = weight.ndim - 2
    if call.attribute("auto_pad", "NOTSET") not in ("NOTSET", "") or "output_shape" in (
        call.attributes
    ):
        raise AnalysisError(
            "ConvTranspose with auto_pad or output_shape is not supported by the conversion to "
            "torch",
            hint="export the model with explicit pads",
        )
    ones = [1] * half
    strides, dilations = call.attribute("strides", ones), call.attribute("dilations", ones)
    pads = call.attribute("pads", [0] * 2 * half)
    extra = call.attribute("output_padding", [0] * half)
    groups = int(call.attribute("group", 1))
    found: Tensor = TRANSPOSED[half - 1](
        call.x, weight, call.optional(2), strides, 0, extra, groups, dilations
    )
    return padded(found, [-p for p in pads])


def _pool_extent(call: Call) -> tuple[list[int], list[int], list[int], list[int], list[int]]:
    """Kernel, strides, dilations, stated pads, and pads at the ends that ceil_mode adds."""
    kernel = list(call.attribute("kernel_shape"))
    strides, dilations, pads = _axes(call, kernel)
    half, added = len(kernel), []
    for i, size in enumerate(call.x.shape[2:]):
        extent = size + pads[i] + pads[half + i] - ((kernel[i] - 1) * dilations[i] + 1)
        windows = extent // strides[i]
        if call.attribute("ceil_mode", 0):
            windows = math.ceil(extent / strides[i])
            if windows * strides[i] >= size + pads[i]:  # a window must not begin in the end's pad
                windows -= 1
        added.append(max(0, windows * strides[i] - extent))
    return kernel, strides, dilations, list(pads), added


def _max_pool(call: Call) -> Tensor:
    kernel, strides, dilations, pads, added = _pool_extent(call)
    half = len(kernel)
    ends = [p + a for p, a in zip(pads[half:], added, strict=True)]
    x = padded(call.x, pads[:half] + ends, -math.inf)
    found: Tensor = MAXIMUM[half - 1](x, kernel, strides, 0, dilations)
    return found


def _average_pool(call: Call) -> Tensor:
    """Sums of windows over the number of elements that count."""
    kernel, strides, dilations, pads, added = _pool_extent(call)
    if any(d != 1 for d in dilations):
        raise AnalysisError("a dilated AveragePool is not supported by the conversion to torch")
    half = len(kernel)
    pool = AVERAGE[half - 1]
    ends = [p + a for p, a in zip(pads[half:], added, strict=True)]
    means: Tensor = pool(padded(call.x, pads[:half] + ends), kernel, strides)
    counted = call.x.new_ones((1, 1, *call.x.shape[2:]))
    included = bool(call.attribute("count_include_pad", 0))
    counted = padded(counted, pads, 1.0 if included else 0.0)
    shares: Tensor = pool(padded(counted, [0] * half + added), kernel, strides)
    return means / shares


def _global(call: Call, kind: str) -> Tensor:
    axes = tuple(range(2, call.x.ndim))
    return call.x.mean(axes, True) if kind == "mean" else call.x.amax(axes, True)


def _pad(call: Call) -> Tensor:
    pads = call.integers(1, "pads")
    if pads is None:
        raise AnalysisError("Pad without pads")
    axes = call.axes(3, call.x.ndim)
    if axes is not None:
        half, whole = len(axes), [0] * 2 * call.x.ndim
        for i, axis in enumerate(axes):
            whole[axis], whole[call.x.ndim + axis] = pads[i], pads[half + i]
        pads = whole
    mode = call.attribute("mode", "constant")
    if mode == "constant":
        return padded(call.x, pads, call.number(2, "value", 0.0))
    names = {"reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    rank = call.x.ndim
    if mode not in names or any(pads[i] for axis in (0, 1) for i in (axis, rank + axis)):
        raise AnalysisError(f"Pad of mode '{mode}' over these axes is not supported")
    return padded(call.x, [*pads[2:rank], *pads[rank + 2 :]], mode=names[mode])


def _resize(call: Call) -> Tensor:
    """Nearest by whole factors, and linear with half pixels or aligned corners."""
    spatial = call.x.ndim - 2
    sizes, scales = call.integers(3), call.optional(2 if call.opset > 10 else 1)
    if sizes is None:
        if scales is None:
            raise AnalysisError("Resize without sizes or scales")
        factors = scales.reshape(-1).tolist()[2:]
        sizes = [int(s * f) for s, f in zip(call.x.shape[2:], factors, strict=True)]
    else:
        sizes = sizes[2:]
    mode = call.attribute("mode", "nearest")
    place = call.attribute("coordinate_transformation_mode", "half_pixel")
    if mode == "nearest":
        return functional.interpolate(call.x, sizes, mode="nearest")
    names = {("linear", 1): "linear", ("linear", 2): "bilinear", ("linear", 3): "trilinear"}
    if (mode, spatial) not in names or place not in (
        "half_pixel", "pytorch_half_pixel", "align_corners"
    ):  # fmt: skip
        raise AnalysisError(f"Resize with mode '{mode}', '{place}' is not supported")
    corners = place == "align_corners"
    return functional.interpolate(call.x, sizes, mode=names[mode, spatial], align_corners=corners)


def _depth_to_space(call: Call) -> Tensor:
    side = int(call.attribute("blocksize"))
    n, c, h, w = call.x.shape
    if call.attribute("mode", "DCR") == "CRD":
        return functional.pixel_shuffle(call.x, side)
    parts = call.x.reshape(n, side, side, c // side**2, h, w)
    return parts.permute(0, 3, 4, 1, 5, 2).reshape(n, c // side**2, h * side, w * side)


def _space_to_depth(call: Call) -> Tensor:
    side = int(call.attribute("blocksize"))
    n, c, h, w = call.x.shape
    parts = call.x.reshape(n, c, h // side, side, w // side, side)
    return parts.permute(0, 3, 5, 1, 2, 4).reshape(n, c * side**2, h // side, w // side)


RULES: Mapping[str, Rule] = {
    "AveragePool": _average_pool,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DepthToSpace": _depth_to_space,
    "GlobalAveragePool": lambda call: _global(call, "mean"),
    "GlobalMaxPool": lambda call: _global(call, "max"),
    "MaxPool": _max_pool,
    "Pad": _pad,
    "Resize": _resize,
    "SpaceToDepth": _space_to_depth,
}
