"""Scores as probabilities: what no score overflows."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def sigmoid(scores: Array) -> Array:
    """1 / (1 + exp(-scores)), of any shape and in the type of the scores."""
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * scores)))


def softmax(scores: Array) -> Array:
    """exp(scores), made to sum to 1 along the last axis, in the type of the scores."""
    raised = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=-1, keepdims=True))
