"""Pools and reductions (algorithms.md B.4 rows 27-34).

Windows that overlap hand one element on several times: a 3x3 max pool with stride 2, as at the
stem of a ResNet, doubles a spike's norm.
"""

from __future__ import annotations

import math

import numpy as np

from sommelier.analysis.propagation.extension import Array
from sommelier.analysis.propagation.rules.windows import (
    average_matrix,
    matrix_norm,
    overlaps,
    padding,
    strides_and_dilations,
)
from sommelier.analysis.propagation.site import Bound, Reading, Rule, Site, UnboundedError


def _overlaps(site: Site) -> int:
    kernel = tuple(site.attribute("kernel_shape"))
    strides, dilations = strides_and_dilations(site, len(kernel))
    return overlaps(kernel, strides, dilations, site.output_shape()[2:])


def max_pool(site: Site) -> Bound:
    """Row 27."""
    factor = math.sqrt(_overlaps(site))
    return lambda at: factor * at.delta()


def average_pool(site: Site) -> Bound:
    """Rows 28 and 29, exactly: the pool is the Kronecker product of one matrix an axis."""
    kernel = tuple(site.attribute("kernel_shape"))
    strides, dilations = strides_and_dilations(site, len(kernel))
    spatial, out = site.shape()[2:], site.output_shape()[2:]
    pads = padding(site, spatial, kernel, strides, dilations)
    counted = bool(site.attribute("count_include_pad", 0))
    axes = len(kernel)
    factor = math.prod(
        matrix_norm(
            average_matrix(
                spatial[i], kernel[i], strides[i], dilations[i], (pads[i], pads[axes + i]), out[i],
                counted=counted,
            )
        )
        for i in range(axes)
    )  # fmt: skip
    return lambda at: factor * at.delta()


def lp_pool(site: Site) -> Bound:
    """Row 32; for p below 2 a window's p-norm is at most k^(1/p - 1/2) times its 2-norm."""
    p, count = float(site.attribute("p", 2)), math.prod(site.attribute("kernel_shape"))
    factor = math.sqrt(_overlaps(site)) * _longer(p, count)
    return lambda at: factor * at.delta()


def _longer(p: float, count: int) -> float:
    """The largest ratio of the p-norm to the 2-norm of `count` numbers."""
    if p < 1:
        raise UnboundedError(f"its p is {p:g}, below 1")
    return float(count ** max(0.0, 1 / p - 0.5))


def _merged(site: Site) -> int:
    """How many elements make one of the output."""
    return max(1, site.elements() // max(1, site.output_elements()))


def average_all(site: Site) -> Bound:
    """Row 30: GlobalAveragePool, ReduceMean."""
    factor = 1 / math.sqrt(_merged(site))
    return lambda at: factor * at.delta()


def largest_of_all(_: Site) -> Bound:
    """Rows 31 and 33: GlobalMaxPool, ReduceMax, ReduceMin, ReduceL2, ReduceLogSumExp."""
    return lambda at: at.delta()


def global_lp_pool(site: Site) -> Bound:
    """Row 32 with one window."""
    factor = _longer(float(site.attribute("p", 2)), _merged(site))
    return lambda at: factor * at.delta()


def sum_of_all(site: Site) -> Bound:
    """Row 33: ReduceSum, ReduceL1."""
    factor = math.sqrt(_merged(site))
    return lambda at: factor * at.delta()


def sum_of_squares(site: Site) -> Bound:
    """||x'||^2 - ||x||^2 = (x' - x)(x' + x), row by row."""
    shape = site.shape()
    axes = tuple(sorted(a % len(shape) for a in _axes(site)))
    rows = site.extension.slab(site.name(), axes or tuple(range(len(shape))))

    def bound(at: Reading) -> Array:
        return np.asarray((2 * at[rows] + at.delta()) * at.delta())

    return bound


def _axes(site: Site) -> list[int]:
    """Axes of a reduction, which moved from an attribute to an operand; [] for all."""
    if site.has(1):
        return [int(a) for a in np.asarray(site.fixed(1, "axes")).ravel()]
    return [int(a) for a in site.attribute("axes", [])]


def cumulative_sum(site: Site) -> Bound:
    """Row 34: the largest singular value of the lower triangle of ones."""
    axis = int(np.asarray(site.fixed(1, "axis")).ravel()[0])
    count = site.shape()[axis] - int(site.attribute("exclusive", 0))
    factor = 1 / (2 * math.sin(math.pi / (4 * count + 2))) if count > 0 else 0.0
    return lambda at: factor * at.delta()


POOLING: dict[str, Rule] = {
    "MaxPool": max_pool,
    "AveragePool": average_pool,
    "LpPool": lp_pool,
    **dict.fromkeys(("GlobalAveragePool", "ReduceMean"), average_all),
    **dict.fromkeys(
        ("GlobalMaxPool", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceLogSumExp"), largest_of_all
    ),
    "GlobalLpPool": global_lp_pool,
    **dict.fromkeys(("ReduceSum", "ReduceL1"), sum_of_all),
    "ReduceSumSquare": sum_of_squares,
    "CumSum": cumulative_sum,
}
