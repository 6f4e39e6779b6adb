"""Norms of linear blocks taken together: tighter than the product or the sum of their parts' norms.

Where two operators cannot be written as one, the product (or sum) of norms is returned, which is
always valid. Source: algorithms.md B.3, last paragraph.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sommelier.analysis.norms.certificate import UNIT, rounding
from sommelier.analysis.norms.convolutions import EFFORT, window_norm
from sommelier.analysis.norms.matrices import matrix_norm
from sommelier.analysis.norms.values import Norm, Request, Window
from sommelier.analysis.norms.weights import doubles, load_torch, magnitude, tensor_of
from sommelier.errors import AnalysisError

if TYPE_CHECKING:
    from torch import Tensor


def chain_norm(requests: Sequence[Request], device: str = "cpu", *, effort: float = EFFORT) -> Norm:
    """The norm of linear operators applied one after the other, first to last, nothing between.

    Matrices act as in ONNX's MatMul, y = x W. Two convolutions become one where zero padding
    cannot come between them: the first or the second has one tap, or the second has no pads.
    Method 'composite', or 'product' where no such kernel exists or it bounds no better.
    """
    if not requests:
        raise AnalysisError("a chain of operators needs one at least")
    parts = [_norm(request, device, effort) for request in requests]
    if len(requests) == 1:
        return parts[0]
    product = math.prod(part.value for part in parts) * (1 + 2 * len(parts) * UNIT)
    whole: _Composite | None = _Composite.of(requests[0], device)
    for request in requests[1:]:
        whole = None if whole is None else whole.then(_Composite.of(request, device))
    if whole is not None:
        found = _norm(whole.request, device, effort).value + whole.error
        if found < product:
            return Norm(found, True, "composite")
    return Norm(product, True, "product")


def residual_norm(request: Request, device: str = "cpu", *, effort: float = EFFORT) -> Norm:
    """The norm of x + W x, where W keeps the shape of x.

    Method 'composite', or 'sum' (1 + norm) where the identity is no tap of the kernel: a stride,
    more inputs than outputs, pads that move the map.
    """
    whole = _Composite.of(request, device).plus_identity()
    if whole is not None:
        return Norm(_norm(whole.request, device, effort).value + whole.error, True, "composite")
    return Norm((1 + _norm(request, device, effort).value) * (1 + 2 * UNIT), True, "sum")


def _norm(request: Request, device: str, effort: float) -> Norm:
    if request.window is None:
        return matrix_norm(request.weight, device=device)
    return window_norm(request.weight, request.window, effort=effort, device=device)


@dataclass(frozen=True, slots=True)
class _Composite:
    """A linear operator as one weight, in double precision, off by at most `error` in norm."""

    weight: Tensor
    window: Window | None
    error: float = 0.0

    @classmethod
    def of(cls, request: Request, device: str) -> _Composite:
        weight = tensor_of(request.weight)
        magnitude(weight)  # refuses NaN and infinity
        window = request.window
        if window is not None and not window.transposed:
            window = window.resolved(weight.shape)
        return cls(doubles(weight, 1.0, device), window)

    @property
    def request(self) -> Request:
        return Request(self.weight, self.window)

    @property
    def size(self) -> float:
        """A rough bound of the norm: Frobenius', times sqrt(taps) for a convolution."""
        taps = math.prod(self.weight.shape[2:]) if self.window else 1
        return float(self.weight.norm()) * math.sqrt(taps)

    def then(self, after: _Composite) -> _Composite | None:
        """This operator, then the other; None where that is no single operator."""
        if self.window is None and after.window is None:
            if self.weight.ndim != 2 or self.weight.shape[1:] != after.weight.shape[:1]:
                return None
            return self._combined(after, self.weight @ after.weight, None)
        if self.window is None or after.window is None:
            return None
        if not _one_kernel(self, after, self.window, after.window):
            return None
        kernel = _kernel(self.weight, after.weight, self.window, after.window)
        window = _window(kernel, self, self.window, after.window, after.weight.shape[2:])
        return self._combined(after, kernel, window)

    def plus_identity(self) -> _Composite | None:
        """The operator plus the identity; None where that is no single operator."""
        torch = load_torch()
        changed = self.weight.clone()
        if self.window is None:
            if changed.ndim != 2 or changed.shape[0] != changed.shape[1]:
                return None
            changed.diagonal().add_(1)
        else:
            centre = _centre(changed.shape, self.window)
            if centre is None:
                return None
            outputs = torch.arange(len(changed), device=changed.device)
            changed[(outputs, outputs % changed.shape[1], *centre)] += 1
        # One entry of each output is rounded: a diagonal of rounding errors.
        return replace(self, weight=changed, error=2 * UNIT * (1 + float(changed.abs().max())))

    def _combined(self, after: _Composite, weight: Tensor, window: Window | None) -> _Composite:
        terms = self.weight.numel() // self.weight.shape[1 if self.window else 0]
        error = (
            self.error * after.size
            + after.error * self.size
            + self.error * after.error
            + rounding(terms) * self.size * after.size
        )
        return _Composite(weight, window, error)


def _one_kernel(first: _Composite, second: _Composite, one: Window, two: Window) -> bool:
    """Whether two convolutions are one: padding in between must not cut anything off.

    The second reads nothing beyond the first's answer when it has no pads; beyond the answer of a
    single tap lies nothing but zero anyway.
    """
    if one.transposed or two.transposed or one.groups > 1 or two.groups > 1:
        return False
    if first.weight.ndim != second.weight.ndim or len(first.weight) != second.weight.shape[1]:
        return False
    pointwise = math.prod(first.weight.shape[2:]) == 1 and not any(one.pads)
    return pointwise or not any(two.pads)


def _kernel(first: Tensor, second: Tensor, one: Window, two: Window) -> Tensor:
    """W[s1 d2 k2 + d1 k1] += W2[k2] W1[k1], the kernel of dilation 1."""
    inner = [s * d for s, d in zip(one.strides, two.dilations, strict=True)]
    taps = [
        step * (k2 - 1) + d * (k1 - 1) + 1
        for step, d, k1, k2 in zip(
            inner, one.dilations, first.shape[2:], second.shape[2:], strict=True
        )
    ]
    kernel = first.new_zeros((len(second), first.shape[1], *taps))
    places: Iterator[tuple[int, ...]] = itertools.product(*(range(k) for k in second.shape[2:]))
    for outer in places:
        part = _product(second.movedim((0, 1), (-2, -1))[outer], first)
        place = [
            slice(step * at, step * at + d * (k - 1) + 1, d)
            for step, at, d, k in zip(inner, outer, one.dilations, first.shape[2:], strict=True)
        ]
        kernel[(slice(None), slice(None), *place)] += part
    return kernel


def _product(matrix: Tensor, kernel: Tensor) -> Tensor:
    """(out, mid) times (mid, in, taps...) -> (out, in, taps...)."""
    return (matrix @ kernel.flatten(1)).reshape(len(matrix), *kernel.shape[1:])


def _window(
    kernel: Tensor, first: _Composite, one: Window, two: Window, taps: Sequence[int]
) -> Window:
    """The window that makes as many outputs as the two do."""
    dims = len(taps)
    strides = tuple(s * t for s, t in zip(one.strides, two.strides, strict=True))
    begins = tuple(one.pads[i] + one.strides[i] * two.pads[i] for i in range(dims))
    between = one.outputs(first.weight.shape[2:])
    if one.spatial is None or between is None:
        return Window(None, strides, begins * 2, (1,) * dims)
    outputs = replace(two, spatial=between).outputs(taps)
    assert outputs is not None
    ends = tuple(
        strides[i] * (outputs[i] - 1) + kernel.shape[2 + i] - one.spatial[i] - begins[i]
        for i in range(dims)
    )
    return Window(one.spatial, strides, begins + ends, (1,) * dims)


def _centre(shape: Sequence[int], window: Window) -> tuple[int, ...] | None:
    """The tap that reads the sample an output stands on; None where there is none."""
    dims = len(shape) - 2
    if window.transposed or set(window.strides) != {1} or shape[0] != shape[1] * window.groups:
        return None
    centre = []
    for i in range(dims):
        tap, rest = divmod(window.pads[i], window.dilations[i])
        reach = window.dilations[i] * (shape[2 + i] - 1)
        if rest or not 0 <= tap < shape[2 + i] or window.pads[i] + window.pads[dims + i] != reach:
            return None
        centre.append(tap)
    return tuple(centre)
