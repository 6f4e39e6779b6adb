"""Made-up inputs for running a model when only its speed matters: seeded, of the right types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.signature import Binding
from sommelier.errors import AnalysisError
from sommelier.records import TensorSpec

SMALL_IDS = 4  # token ids stay below this: every vocabulary has that many
_STATES = ("state", "hidden", "h0", "c0", "cache", "past")


def synthetic_inputs(
    specs: Sequence[TensorSpec], binding: Binding, *, seed: int = 0
) -> dict[str, NDArray[Any]]:
    """An array for every input, by name.

    Floats are standard normal, bytes cover their range, wider integers are small ids, recurrent
    states are zero, scalar integers are 1. Raises AnalysisError for inputs nobody can make up.
    """
    rng = np.random.default_rng(seed)
    return {item.name: _array(item, binding.shapes, rng) for item in specs}


def _array(
    item: TensorSpec, shapes: Mapping[str, tuple[int, ...] | None], rng: np.random.Generator
) -> NDArray[Any]:
    if item.dtype in ("str", "string"):
        raise AnalysisError(f"its input '{item.name}' is text, which cannot be made up")
    shape = shapes[item.name]
    if shape is None:
        raise AnalysisError(f"its input '{item.name}' has no stated shape ({item.dtype})")
    try:
        dtype = np.dtype(item.dtype)
    except TypeError:
        raise AnalysisError(
            f"its input '{item.name}' is of type {item.dtype}, which cannot be made up"
        ) from None
    if any(word in item.name.lower() for word in _STATES):
        return np.zeros(shape, dtype)
    if dtype.kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    if dtype.kind == "b":
        return np.ones(shape, dtype) if not shape else rng.random(shape) < 0.5
    if dtype.kind not in "iu":
        raise AnalysisError(f"its input '{item.name}' is of type {item.dtype}, not of numbers")
    if not shape:
        return np.ones(shape, dtype)
    limits = np.iinfo(dtype)
    low, high = (limits.min, limits.max + 1) if dtype.itemsize == 1 else (0, SMALL_IDS)
    return rng.integers(low, high, shape).astype(dtype)
