"""Activations in a few numbers that layout does not change: how alike two tensors may be.

Sorted values are the same in NCHW and NHWC. Equal sketches are no proof that tensors are equal;
they choose between places that structure alone cannot tell apart, and the values are compared then.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.differences import activations
from sommelier.analysis.differences.activations import Extent
from sommelier.analysis.differences.layers import Layer
from sommelier.analysis.differences.subjects import Subject

if TYPE_CHECKING:
    from onnx import ModelProto

Array = NDArray[Any]

SAMPLES = 4
QUANTILES = np.linspace(0.0, 1.0, 65)


@dataclass(frozen=True, slots=True)
class Sketch:
    """A tensor over a few samples. elements : of one sample. quantiles : float64 (samples, 65)."""

    shape: tuple[int, ...]
    quantiles: NDArray[np.float64]

    @property
    def elements(self) -> int:
        return int(np.prod(self.shape))

    def distance(self, other: Sketch) -> float:
        """Relative distance of the sorted values, at least 0; infinity for other sizes."""
        if self.elements != other.elements or self.quantiles.shape != other.quantiles.shape:
            return float("inf")
        size = float(np.linalg.norm(self.quantiles))
        gap = float(np.linalg.norm(self.quantiles - other.quantiles))
        if not np.isfinite(gap):
            return float("inf")
        return gap / size if size else (0.0 if gap == 0 else float("inf"))


def sketches(
    model: ModelProto, subject: Subject, layers: Sequence[Layer], extent: Extent
) -> dict[str, Sketch]:
    """By tensor name the sketches of all taps; tensors in which samples cannot be told apart, and
    such that are no numbers, are left out."""
    taps = list({tap.tensor: tap for layer in layers for tap in layer.taps}.values())
    found: dict[str, list[Array]] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    size = subject.fixed_batch or 1
    count = min(extent.samples, SAMPLES)
    for group in activations.groups([tap.nbytes * size for tap in taps], extent.memory):
        chosen = [taps[k] for k in group]
        for values in activations.read(model, subject, chosen, samples=count, batch=1):
            for name, array in values.items():
                if array.size and array.dtype.kind == "f":
                    shapes[name] = array.shape[1:]
                    rows = array.reshape(len(array), -1).astype(np.float64)
                    found.setdefault(name, []).append(np.quantile(rows, QUANTILES, axis=1).T)
    return {name: Sketch(shapes[name], np.concatenate(parts)) for name, parts in found.items()}
