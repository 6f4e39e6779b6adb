"""Cheap bounds of a convolution's norm, of any size: for kernels too large for every frequency.

All take kernels (groups, out, in, taps...) of stride 1, as `polyphase` makes them, which is what
lets them profit from strides. Source: algorithms.md B.3; Singla and Feizi 2021.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from sommelier.analysis.norms.certificate import UNIT, rounding
from sommelier.analysis.norms.matrices import batch_bounds

if TYPE_CHECKING:
    from torch import Tensor


def unfolding_bound(kernels: Tensor) -> float:
    """sqrt(taps) times the least norm of the unfoldings of the kernel into a matrix.

    An unfolding puts the taps of each axis either beside the outputs or beside the inputs (four in
    2-D). A(theta) = U^H M V, where U and V are Kronecker products of the identity with phases and
    have norms whose product is sqrt(taps). All taps beside the inputs is the kernel matrix R.
    """
    dims = kernels.ndim - 3
    taps = math.prod(kernels.shape[3:])
    best = math.inf
    for choice in range(2**dims):
        beside_out = [3 + i for i in range(dims) if choice >> i & 1]
        beside_in = [3 + i for i in range(dims) if not choice >> i & 1]
        order = kernels.permute(0, 1, *beside_out, 2, *beside_in)
        matrices = order.flatten(2 + len(beside_out)).flatten(1, 1 + len(beside_out))
        best = min(best, max(batch_bounds(matrices)))
    return math.sqrt(taps) * best * (1 + 4 * UNIT)


def schur_bound(kernels: Tensor) -> float:
    """sqrt of the largest row sum times the largest column sum of sizes (Schur's test)."""
    sizes = kernels.abs()
    rows = sizes.flatten(2).sum(-1).amax(-1)  # (groups,) over outputs
    columns = sizes.transpose(1, 2).flatten(2).sum(-1).amax(-1)
    terms = kernels[0].numel()
    return float((rows * columns).max().sqrt()) * (1 + rounding(terms))
