"""Norms of dense weights: Gram matrix of the shorter side, and a proof of its top eigenvalue."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sommelier.analysis.norms.certificate import UNIT, eigenvalue_bounds, gram, rounding
from sommelier.analysis.norms.values import Norm
from sommelier.analysis.norms.weights import (
    doubles,
    load_torch,
    magnitude,
    power_of_two,
    tensor_of,
)
from sommelier.errors import AnalysisError

if TYPE_CHECKING:
    from torch import Tensor

CHUNK_BYTES = 2**28  # of doubles at a time: an embedding of any length is read in slices
CACHE_BYTES = 2**23  # of a batch on a CPU, where larger matrices are faster one by one
LONGEST_SIDE = 16_384  # of a Gram matrix (2 GiB); a matrix longer both ways is cut into parts
ZERO = Norm(0.0, True, "zero")


def matrix_norm(weight: Any, *, device: str = "cpu") -> Norm:
    """The spectral norm of a matrix (m, n): never too small, as a rule within 1 %.

    weight : numpy or torch, any real type. With more axes (..., m, n) it is a batch of matrices
    that each multiply their own rows, and its norm is the largest. A vector is one column.
    Costs m n min(m, n) multiplications. A matrix of both sides above 16 384 is cut along its
    shorter side, and the root of the squared norms' sum ('parts') may be sqrt(parts) too large.
    Raises AnalysisError for NaN, infinite or complex weights. Source: certificate.py.
    """
    values = matrix_norms(_as_batch(weight), device=device)
    return max(values, key=lambda norm: norm.value, default=ZERO)


def matrix_norms(weights: Any, *, device: str = "cpu") -> list[Norm]:
    """The norm of each matrix of a batch (b, m, n), or of a sequence of matrices of one shape."""
    if isinstance(weights, Sequence):
        found = [tensor_of(weight) for weight in weights]
    else:
        found = list(tensor_of(weights))
    if len({tuple(one.shape) for one in found}) > 1 or any(one.ndim != 2 for one in found):
        shapes = sorted({tuple(one.shape) for one in found})
        raise AnalysisError(f"a batch needs matrices of one shape, not {shapes}")
    if not found:
        return []
    scales = [magnitude(one) for one in found]
    alive = [i for i, scale in enumerate(scales) if scale > 0]
    values = dict.fromkeys(range(len(found)), 0.0)
    for part in _parts(alive, found[0].numel(), device):
        units = [power_of_two(scales[i]) for i in part]
        bounds = _bounds([found[i] for i in part], units, device)
        values.update(zip(part, bounds, strict=True))
    method = "dense" if min(found[0].shape) <= LONGEST_SIDE else "parts"
    return [Norm(value, True, method) if value else ZERO for value in values.values()]


def batch_bounds(matrices: Tensor) -> list[float]:
    """Upper bounds of the norms of (b, m, n), already finite doubles of ordinary size."""
    return _bounds(list(matrices), [1.0] * len(matrices), str(matrices.device))


def _as_batch(weight: Any) -> Tensor:
    found = tensor_of(weight)
    if found.ndim == 0:
        found = found.reshape(1, 1)
    elif found.ndim == 1:
        found = found[:, None]
    return found.reshape(-1, *found.shape[-2:]) if found.numel() else found.new_zeros((0, 1, 1))


def _parts(indices: list[int], elements: int, device: str) -> list[list[int]]:
    size = max(1, (CACHE_BYTES if device == "cpu" else CHUNK_BYTES) // (8 * elements))
    return [indices[i : i + size] for i in range(0, len(indices), size)]


def _bounds(weights: list[Tensor], units: list[float], device: str) -> list[float]:
    """Upper bounds of the norms of matrices of one shape; units : powers of two near their size."""
    shorter = min(weights[0].shape)
    if shorter > LONGEST_SIDE:
        return [_cut(*pair, device) for pair in zip(weights, units, strict=True)]
    upright = [w if w.shape[0] >= w.shape[1] else w.T for w in weights]
    total, squares = _gram_and_squares(upright, units, device)
    # Of the true Gram matrix: the computed one is off by gamma_k ||W||_F^2 at most.
    errors = squares * rounding(upright[0].shape[0] + 1)
    norms = (eigenvalue_bounds(total) + errors).sqrt() * (1 + 4 * UNIT)
    return [value * unit for value, unit in zip(norms.tolist(), units, strict=True)]


def _cut(weight: Tensor, unit: float, device: str) -> float:
    """||W||^2 <= ||W_1||^2 + ||W_2||^2 + ... for a matrix cut along its shorter side."""
    wide = weight if weight.shape[0] <= weight.shape[1] else weight.T
    starts = range(0, len(wide), LONGEST_SIDE)
    bounds = [_bounds([wide[i : i + LONGEST_SIDE]], [unit], device)[0] for i in starts]
    return math.hypot(*bounds) * (1 + len(bounds) * UNIT)


def _gram_and_squares(
    upright: list[Tensor], units: list[float], device: str
) -> tuple[Tensor, Tensor]:
    """Gram matrices (b, n, n) of (m, n), m >= n, slice by slice, and squared Frobenius norms."""
    torch = load_torch()
    rows, columns = upright[0].shape
    step = max(columns, CHUNK_BYTES // (8 * columns * len(upright)))
    total = squares = None
    for start in range(0, rows, step):
        slices = [
            doubles(weight[start : start + step], unit, device)
            for weight, unit in zip(upright, units, strict=True)
        ]
        stacked = slices[0][None] if len(slices) == 1 else torch.stack(slices)
        part, squared = gram(stacked), stacked.square().sum(dim=(-2, -1))
        total = part if total is None else total.add_(part)
        squares = squared if squares is None else squares + squared
    assert total is not None
    assert squares is not None
    return total, squares
