"""Re-scale operators: features of one block as another block takes them (GMorph 4.1; F.3).

Sides are resized by averaging (down) and linear interpolation (up), channels by a linear map that
least squares on activations initialise: S = argmin ||F_n S + b - F_m||^2 + ridge, where F_n are the
host's features after resizing and F_m what the guest used to read. The map is folded into the
guest's first operators where it can be, else it is a 1x1 convolution or a projection.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.fusion.blocks import Features
from sommelier.analysis.segments.editing import tensor
from sommelier.errors import AnalysisError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

Array = NDArray[Any]

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)  # of the mean squared feature
HELD_OUT = 0.25  # of the samples: they choose the ridge and give the residual
ENTRY, EXIT, MAP, SHIFT = "entry", "exit", "map", "shift"


@dataclass(frozen=True, slots=True)
class ChannelMap:
    """matrix (source channels, target channels), shift (target channels,).

    residual : squared error on held-out samples over the variance of the target, 0 for a perfect
    map, 1 for one that is no better than the mean; the proxy of the drop after fine-tuning.
    """

    matrix: Array
    shift: Array
    residual: float


def least_squares(source: Array, target: Array, *, shifted: bool) -> ChannelMap:
    """The map of features to features with the least squared error.

    source (n, positions, channels), target (n, positions, other channels), of the same n samples.
    shifted : with a constant. Raises AnalysisError when a feature is not finite.
    """
    residual, ridge = Regression(source, shifted=shifted).held_out_error(target)
    matrix, shift = _Normal(source, shifted).solved(target, (ridge,))[0]
    return ChannelMap(matrix.astype(np.float32), shift.astype(np.float32), residual)


class Regression:
    """How well the maps that `least_squares` would fit from one source explain targets, without
    fitting them to all samples. The source is decomposed once. Raises as least_squares."""

    def __init__(self, source: Array, *, shifted: bool) -> None:
        _check_finite(source)
        self._samples = len(source)
        self._held = max(1, int(len(source) * HELD_OUT))
        if self._samples > 3:
            self._fitted = _Normal(source[self._held :], shifted)
            self._tested = _rows(source[: self._held])

    @property
    def nbytes(self) -> int:
        """Of memory."""
        return self._fitted.nbytes + self._tested.nbytes if self._samples > 3 else 0

    def held_out_error(self, target: Array) -> tuple[float, float]:
        """(residual, ridge) of the best ridge. The residual is NaN for three samples or fewer, of
        which none can be held out."""
        _check_finite(target)
        if self._samples <= 3:
            return float("nan"), RIDGES[0]
        b = _rows(target[: self._held])
        spread = max(float(((b - b.mean(0)) ** 2).sum()), 1e-30)
        maps = self._fitted.solved(target[self._held :], RIDGES)
        errors = (((self._tested @ matrix + shift - b) ** 2).sum() for matrix, shift in maps)
        return min((float(e) / spread, ridge) for e, ridge in zip(errors, RIDGES, strict=True))


def random_map(source: int, target: int, seed: int) -> ChannelMap:
    """The map as the paper begins: a 1x1 convolution's usual initialisation, uniform in
    +- 1/sqrt(channels)."""
    rng = np.random.default_rng(seed)
    bound = 1 / np.sqrt(source)
    matrix = rng.uniform(-bound, bound, (source, target)).astype(np.float32)
    return ChannelMap(matrix, np.zeros(target, np.float32), float("nan"))


class _Normal:
    """One side of the normal equations, decomposed for any number of targets and ridges."""

    def __init__(self, source: Array, shifted: bool) -> None:
        a = _rows(source)
        self.shifted = shifted
        self.mean = a.mean(0) if shifted else np.zeros(a.shape[1])
        self.rows = a - self.mean
        self.values, self.vectors = np.linalg.eigh(self.rows.T @ self.rows)
        self.scale = max(float(self.values.mean()), 1e-30)

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes + self.vectors.nbytes

    def solved(self, target: Array, ridges: Sequence[float]) -> list[tuple[Array, Array]]:
        """(matrix, shift) for every ridge."""
        b = _rows(target)
        mean = b.mean(0) if self.shifted else np.zeros(b.shape[1])
        right = self.vectors.T @ (self.rows.T @ (b - mean))
        found = []
        for ridge in ridges:
            weights = 1.0 / (np.maximum(self.values, 0.0) + ridge * self.scale)
            matrix = self.vectors @ (weights[:, None] * right)
            found.append((matrix, mean - self.mean @ matrix))
        return found


def _rows(features: Array) -> Array:
    """(samples * positions, channels), float64."""
    return features.reshape(-1, features.shape[-1]).astype(np.float64)


def _check_finite(features: Array) -> None:
    if not np.isfinite(features).all():
        raise AnalysisError("features that are to be mapped are not finite")


def resampling(before: int, after: int) -> Array:
    """(after, before): means of the elements that fall together, or linear interpolation between
    their centres. Rows add up to 1."""
    if after <= before:
        found = np.zeros((after, before))
        for i in range(after):
            start, end = i * before // after, -(-(i + 1) * before // after)
            found[i, start:end] = 1.0 / (end - start)
        return found
    centres = np.clip((np.arange(after) + 0.5) * before / after - 0.5, 0, before - 1)
    low = np.minimum(centres.astype(int), max(before - 2, 0))
    found = np.zeros((after, before))
    share = centres - low
    found[np.arange(after), low] = 1 - share
    found[np.arange(after), np.minimum(low + 1, before - 1)] += share
    return found


def token_resampling(before: int, after: int) -> Array:
    """The same for tokens of an image: patches row by row, perhaps after a class token.

    Patches are resized in two dimensions and a class token stays what it is; a class token that is
    missing is the mean of the patches. Other numbers of tokens are taken as a sequence.
    """
    grid, made_grid = _grid(before), _grid(after)
    if grid is None or made_grid is None:
        return resampling(before, after)
    (side, token), (made, wanted) = grid, made_grid
    one = resampling(side, made)
    patches = np.kron(one, one)
    found = np.zeros((after, before))
    found[wanted:, token:] = patches
    if wanted:
        found[0] = [1.0] + [0.0] * (before - 1) if token else 1.0 / before
    return found


def _grid(tokens: int) -> tuple[int, int] | None:
    """(side, 1 with a class token)."""
    for token in (0, 1):
        side = math.isqrt(max(tokens - token, 0))
        if side * side == tokens - token and side > 1:
            return side, token
    return None


def pools(source: Features, target: Features) -> bool:
    """Whether resizing is the mean of whole windows: AveragePool, and no matrix."""
    pairs = zip(source.sides, target.sides, strict=True)
    return bool(source.sides) and source.channel_axis == 0 and all(a % b == 0 for a, b in pairs)


def cost_of(source: Features, target: Features, *, folded: bool) -> tuple[int, float]:
    """(weights, FLOPs of one sample) of an adapter as `adapter_model` writes it."""
    down = target.positions <= source.positions
    sides, weights, flops = list(source.sides), 0, 0.0
    channels = source.channels if down or folded else target.channels
    if not pools(source, target):
        for i, (old, new) in enumerate(zip(source.sides, target.sides, strict=True)):
            if old != new:
                sides[i] = new
                weights += old * new
                flops += 2.0 * channels * old * math.prod(sides)
    if folded:
        return weights, flops
    mixing = source.channels * target.channels
    places = min(source.positions, target.positions)
    return weights + mixing + target.channels, flops + 2.0 * mixing * places


def adapter_model(
    source: Features, target: Features, channels: ChannelMap | None, *, opset: int, image: bool
) -> ModelProto:
    """A model from (n, *source) 'entry' to 'exit', resized, with the map in weights 'map' and
    'shift' unless it is folded elsewhere (None). image : tokens are patches of an image."""
    from onnx import TensorProto, helper

    writer = _Writer(source, target, image)
    down = target.positions <= source.positions
    if channels is not None and not down:
        writer.mix(channels)
    writer.resize()
    if channels is not None and down:
        writer.mix(channels)
    writer.end()
    graph = helper.make_graph(
        writer.nodes, "adapter",
        [helper.make_tensor_value_info(ENTRY, TensorProto.FLOAT, ["n", *source.shape])],
        [helper.make_tensor_value_info(EXIT, TensorProto.FLOAT, None)],
        writer.stored,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


class _Writer:
    """Operators one after the other, on tensors whose axes are those of `source`."""

    def __init__(self, source: Features, target: Features, image: bool) -> None:
        self.source, self.target, self.image = source, target, image
        self.axis = (source.channel_axis or 0) + 1
        self.rank = len(source.shape) + 1
        self.nodes: list[NodeProto] = []
        self.stored: list[TensorProto] = []
        self.last = ENTRY

    def mix(self, channels: ChannelMap) -> None:
        if self.axis == 1 and self.rank > 2:
            matrix = channels.matrix.T.reshape(*channels.matrix.T.shape, *[1] * (self.rank - 2))
            self._store(MAP, matrix)
            self._store(SHIFT, channels.shift)
            self._add("Conv", [self.last, MAP, SHIFT])
            return
        self._store(MAP, channels.matrix)
        self._store(SHIFT, channels.shift)
        if self.rank == 2:
            self._add("Gemm", [self.last, MAP, SHIFT])
            return
        before = self.last
        self._swap(self.axis)
        self._add("MatMul", [self.last, MAP])
        self._add("Add", [self.last, SHIFT])
        if before != self.last:
            self._swap(self.axis)

    def resize(self) -> None:
        before, after = self.source.sides, self.target.sides
        if before == after:
            return
        if pools(self.source, self.target):
            kernel = [a // b for a, b in zip(before, after, strict=True)]
            self._add("AveragePool", [self.last], kernel_shape=kernel, strides=kernel)
            return
        axes = [i for i in range(1, self.rank) if i != self.axis]
        for axis, old, new in zip(axes, before, after, strict=True):
            if old != new:
                tokens = self.image and len(axes) == 1 and self.axis == 2
                matrix = token_resampling(old, new) if tokens else resampling(old, new)
                self._along(axis, matrix.astype(np.float32))

    def end(self) -> None:
        self.nodes[-1].output[0] = EXIT

    def _along(self, axis: int, matrix: Array) -> None:
        name = f"resample{axis}"
        if axis == self.rank - 2:
            self._store(name, matrix)
            self._add("MatMul", [name, self.last])
            return
        self._store(name, np.ascontiguousarray(matrix.T))
        self._swap(axis)
        self._add("MatMul", [self.last, name])
        self._swap(axis)

    def _swap(self, axis: int) -> None:
        """Exchanges an axis with the last one."""
        if axis == self.rank - 1:
            return
        order = list(range(self.rank))
        order[axis], order[-1] = order[-1], order[axis]
        self._add("Transpose", [self.last], perm=order)

    def _store(self, name: str, array: Array) -> None:
        self.stored.append(tensor(name, np.asarray(array, np.float32)))

    def _add(self, op: str, inputs: list[str], **attributes: Any) -> None:
        from onnx import helper

        made = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [made], name=f"{op}{len(self.nodes)}",
                                           **attributes))  # fmt: skip
        self.last = made
