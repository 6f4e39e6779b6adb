"""The exact binomial bounds under the name the analysis room knows them by."""

from __future__ import annotations

from sommelier.confidence import (
    clopper_pearson,
    largest_count_upper_below,
    lower_bound,
    paired_difference,
    smallest_count,
    upper_bound,
)

__all__ = [
    "clopper_pearson",
    "largest_count_upper_below",
    "lower_bound",
    "paired_difference",
    "smallest_count",
    "upper_bound",
]
