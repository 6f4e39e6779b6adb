"""Upper bounds of the operator norms of linear layers, L2 to L2, proved down to the rounding.

Torch is loaded when a norm is asked for, not before.
"""

from __future__ import annotations

from sommelier.analysis.norms.batches import many
from sommelier.analysis.norms.composites import chain_norm, residual_norm
from sommelier.analysis.norms.convolutions import (
    EFFORT,
    convolution_norm,
    convolution_transpose_norm,
    window_norm,
)
from sommelier.analysis.norms.estimates import lower_estimate
from sommelier.analysis.norms.matrices import matrix_norm, matrix_norms
from sommelier.analysis.norms.values import Norm, Request, Window

__all__ = [
    "EFFORT",
    "Norm",
    "Request",
    "Window",
    "chain_norm",
    "convolution_norm",
    "convolution_transpose_norm",
    "lower_estimate",
    "many",
    "matrix_norm",
    "matrix_norms",
    "residual_norm",
    "window_norm",
]
