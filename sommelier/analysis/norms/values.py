"""What a norm is asked of, and what comes back: plain values that load no runtime."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sommelier.errors import AnalysisError


@dataclass(frozen=True, slots=True)
class Norm:
    """An operator norm from L2 to L2.

    value : at least the norm where `certified`, rounding included; else an estimate from below.
    method : 'zero', 'dense', 'explicit' (the norm itself, 1 % up as a rule), 'parts' (of a matrix
    cut up), 'torus', 'grid', 'unfolding', 'schur' (bounds of convolutions, tightest first),
    'composite', 'product', 'sum', or 'power' (the only one that is not certified).
    """

    value: float
    certified: bool
    method: str


@dataclass(frozen=True, slots=True)
class Window:
    """A convolution's attributes in ONNX's conventions, auto_pad already resolved into pads.

    spatial : sizes of the operator's input; None for a bound that holds for every size.
    strides, dilations, output_padding : one number an axis; empty means ONNX's default.
    pads : the beginnings of all axes, then their ends. transposed : a ConvTranspose.
    """

    spatial: tuple[int, ...] | None = None
    strides: tuple[int, ...] = ()
    pads: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    groups: int = 1
    transposed: bool = False
    output_padding: tuple[int, ...] = ()

    @classmethod
    def of(
        cls,
        spatial: Sequence[int] | None,
        strides: Sequence[int] | None = None,
        pads: Sequence[int] | None = None,
        dilations: Sequence[int] | None = None,
        **others: Any,
    ) -> Window:
        """The same from any sequences; None means ONNX's default."""
        lists = [
            () if given is None else tuple(map(int, given)) for given in (strides, pads, dilations)
        ]
        sizes = None if spatial is None else tuple(map(int, spatial))
        return cls(sizes, lists[0], lists[1], lists[2], **others)

    def resolved(self, shape: Sequence[int]) -> Window:
        """The window of the convolution whose norm it is, for a weight of `shape`, no default left.

        A transposed convolution is the adjoint of the convolution with the same weight that goes
        the other way, and has its norm. Raises AnalysisError where weight and window do not fit.
        """
        axes = len(shape) - 2
        if axes not in (1, 2, 3):
            raise AnalysisError(
                f"a convolution's weight has 3, 4 or 5 axes (1-D, 2-D, 3-D), not {len(shape)}"
            )
        strides, dilations = self.strides or (1,) * axes, self.dilations or (1,) * axes
        pads, extra = self.pads or (0,) * 2 * axes, self.output_padding or (0,) * axes
        counts = {len(strides), len(dilations), len(extra), len(pads) / 2}
        counts |= set() if self.spatial is None else {len(self.spatial)}
        if counts != {axes}:
            raise AnalysisError(
                f"strides {strides}, dilations {dilations}, pads {pads} and size {self.spatial} do "
                f"not all fit a weight of shape {tuple(shape)}"
            )
        if min(*strides, *dilations, self.groups) < 1 or shape[0] % self.groups:
            raise AnalysisError(
                f"strides {strides}, dilations {dilations} and {self.groups} groups are no "
                f"convolution of a weight of shape {tuple(shape)}"
            )
        spatial = self.spatial
        if self.transposed and spatial is not None:
            spatial = tuple(
                strides[i] * (spatial[i] - 1)
                + dilations[i] * (shape[2 + i] - 1)
                + 1
                + extra[i]
                - pads[i]
                - pads[axes + i]
                for i in range(axes)
            )
        return Window(spatial, strides, pads, dilations, self.groups)

    def outputs(self, kernel: Sequence[int]) -> tuple[int, ...] | None:
        """Output sizes of a resolved window; None where the input's are unknown."""
        if self.spatial is None:
            return None
        axes = len(kernel)
        return tuple(
            (size + self.pads[i] + self.pads[axes + i] - self.dilations[i] * (kernel[i] - 1) - 1)
            // self.strides[i]
            + 1
            for i, size in enumerate(self.spatial)
        )


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One weight whose norm is wanted: a matrix (..., m, n), or a convolution's with its window."""

    weight: Any
    window: Window | None = None


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a convolution with stride and dilation taken out.

    The convolution along the axis is a direct sum of copies of one with stride 1 and dilation 1,
    which has `taps` taps and `phases` times the input channels (`reduced`).
    torus : a circular length of which the zero-padded one is a compression; None : size unknown.
    """

    taps: int
    phases: int
    torus: int | None


def reduced(
    kernel: int, stride: int, dilation: int, pads: tuple[int, int], size: int | None
) -> Axis:
    """The axis without stride and dilation.

    y[j] = sum_k W[k] x[stride j + dilation k - pad]. With g = gcd(stride, dilation), outputs j of
    one class modulo dilation / g read inputs of one class modulo dilation, and distinct classes
    read distinct ones; within a class the stride is step = stride / g and the dilation 1. Splitting
    inputs modulo step (polyphase) leaves stride 1 and ceil(kernel / step) taps.
    Raises AnalysisError for a kernel larger than its padded input.
    """
    common = math.gcd(stride, dilation)
    step = stride // common
    torus = None
    if size is not None:
        outputs = (size + sum(pads) - dilation * (kernel - 1) - 1) // stride + 1
        if size < 1 or outputs < 1:
            raise AnalysisError(
                f"a kernel of {kernel} with dilation {dilation} does not fit an input of {size} "
                f"padded by {pads}"
            )
        classes = dilation // common
        longest = max(
            _circular(
                kernel,
                step,
                length=-(-(size - (stride * r - pads[0]) % dilation) // dilation),
                before=-((stride * r - pads[0]) // dilation),
                outputs=-(-(outputs - r) // classes),
            )
            for r in range(min(classes, outputs))
        )
        torus = -(-longest // step)
    return Axis(taps=-(-kernel // step), phases=min(step, kernel), torus=torus)


def _circular(kernel: int, step: int, *, length: int, before: int, outputs: int) -> int:
    """The shortest circle on which no kept output reads a sample across the seam.

    Kept outputs read indices -before .. reach - 1, of which 0 .. length - 1 hold the input: on a
    circle of M >= max(length + before, reach) all others fall on zeros. Outputs that read padding
    only are zero and need not be kept.
    """
    skipped = max(0, -(-(before - kernel + 1) // step))
    before -= step * skipped
    outputs = min(outputs - skipped, (length + before - 1) // step + 1)
    if length < 1 or outputs < 1:
        return 1
    return max(length, length + before, step * (outputs - 1) + kernel - before)
