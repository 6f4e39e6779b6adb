"""Weights as double-precision tensors: any storage type in, finite numbers of a safe size out."""

from __future__ import annotations

import math
import warnings
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from sommelier.errors import AnalysisError

if TYPE_CHECKING:
    from torch import Tensor

EXACT_IN_SINGLE = 2  # bytes: integers of at most 16 bits, bfloat16 and float8 are exact in float32


def load_torch() -> ModuleType:
    """The torch module. Raises AnalysisError with the command that installs it."""
    try:
        import torch
    except ImportError as error:
        raise AnalysisError(
            "operator norms are computed with torch, which is not installed",
            hint="pip install 'sommelier-db[torch]'",
        ) from error
    return torch


def tensor_of(weight: Any) -> Tensor:
    """The weight as a tensor of its own type, where it lies, sharing memory where it can.

    Takes torch tensors and numpy arrays of any real type, bfloat16 and float8 of ml_dtypes too.
    Raises AnalysisError for complex numbers.
    """
    torch = load_torch()
    if isinstance(weight, torch.Tensor):
        found: Tensor = weight.detach()
        if found.is_complex():
            raise AnalysisError("the norm of a complex weight is not supported")
        if not found.is_floating_point() or found.element_size() == 1:
            wide = found.element_size() > EXACT_IN_SINGLE
            found = found.to(torch.float64 if wide else torch.float32)
        return found
    array = np.asarray(weight)
    if array.dtype.kind == "c":
        raise AnalysisError("the norm of a complex weight is not supported")
    if array.dtype.kind != "f":  # integers, and ml_dtypes' bfloat16 and float8 (kind V)
        array = array.astype(np.float64 if array.dtype.itemsize > EXACT_IN_SINGLE else np.float32)
    if any(step < 0 for step in array.strides):
        array = array.copy()  # torch cannot hold them
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of read-only arrays: nothing is written here
        return torch.from_numpy(array)  # type: ignore[no-any-return]  # torch is a ModuleType here


def magnitude(weight: Tensor) -> float:
    """The largest absolute value; 0 for an empty weight.

    Raises AnalysisError where any value is NaN or infinite.
    """
    if not weight.numel():
        return 0.0
    low, high = (float(found) for found in weight.aminmax())
    largest = max(-low, high)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise AnalysisError(
            f"a weight of shape {tuple(weight.shape)} holds NaN or infinity, so it has no norm",
            hint="export the model again from a checkpoint whose weights are finite",
        )
    return largest


def power_of_two(largest: float) -> float:
    """A power of two within a factor 2 of `largest`: dividing by it rounds nothing."""
    return math.ldexp(1.0, math.frexp(largest)[1])


def doubles(weight: Tensor, scale: float, device: str) -> Tensor:
    """weight / scale in double precision on the device."""
    torch = load_torch()
    return weight.to(device=device, dtype=torch.float64) / scale
