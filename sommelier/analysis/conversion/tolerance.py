"""What the floats of an output may differ by, each by the numbers it lies among. Needs numpy only.

A number near zero is a sum of larger ones, and only as exact as they are. How large these were is
seen in what lies beside it: in its own channel, the columns of scores or of boxes that detectors
answer beside each other, and not in another one. A channel may also be small throughout because
large numbers cancelled in it, as in the log of a probability of 1, so it counts as a share of the
whole output at least.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

SHARE = 0.1  # of the scale, that an element's own magnitude is raised by
FLOOR = 0.1  # of the whole output's scale, that a channel's is at least: see `scales`
MASKS = (1e4, 1e6)
"""What masks are filled with says nothing of an output's scale. Magnitudes from the first on are
left out where they are a hundred times the median, from the second on always."""


def allowance(values: NDArray[Any], *, floor: float = FLOOR) -> NDArray[np.float64]:
    """By element |value| + scale / 10: what a tolerance is a share of. See `scales`."""
    return np.asarray(np.abs(values) + SHARE * scales(values, floor=floor), np.float64)


def scales(values: NDArray[Any], *, floor: float = FLOOR) -> NDArray[np.float64]:
    """By element, the largest magnitude of its channel; at least `floor` of the whole output's.

    values : (n, ...), of which all axes but the first may be that of channels: the one whose slice
    through the element is smallest counts. What is not finite and what fills masks is left out; 1
    where nothing but zero is left.
    """
    magnitudes = np.where(np.isfinite(values), np.abs(values), 0).astype(np.float64)
    finite = magnitudes[np.isfinite(values)]
    if finite.size:
        limit = np.clip(100 * np.median(finite), *MASKS)
        magnitudes[magnitudes >= limit] = 0
    whole = float(magnitudes.max(initial=0.0))
    if not whole:
        return np.ones(values.shape)
    found = np.full(values.shape, whole)
    for axis in range(1, values.ndim):
        others = tuple(other for other in range(values.ndim) if other != axis)
        found = np.minimum(found, magnitudes.max(axis=others, keepdims=True, initial=0.0))
    return np.asarray(np.maximum(found, floor * whole), np.float64)
