"""How often intervals hold, and how seldom they may (algorithms.md J.1)."""

from __future__ import annotations

import numpy as np


def least_coverage(confidence: float, draws: int) -> float:
    """What a valid interval's share of hits falls below with probability .0013: three sigma."""
    return confidence - 3 * np.sqrt(confidence * (1 - confidence) / draws)


def share_covered(low, high, truth) -> float:
    return float(np.mean((np.asarray(low) <= truth) & (truth <= np.asarray(high))))
