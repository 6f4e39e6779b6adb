"""What n samples say about all inputs, about many candidates, and about a new dataset.

A library of its own: counts and losses in, `Interval`s out; no models, no database. `bound` is the
one door; the `*_limits` functions are the vectorised formulas behind it. Clopper-Pearson lives in
sommelier.confidence. docs/bounds.md has each formula with its assumptions.
Source: algorithms.md A.4 and A.5.
"""

from __future__ import annotations

from sommelier.analysis.bounds.across_datasets import AcrossDatasets, across_datasets
from sommelier.analysis.bounds.anytime import Decision, anytime_limits, decide
from sommelier.analysis.bounds.betting import betting_limits, shown_below
from sommelier.analysis.bounds.bootstrap import bootstrap
from sommelier.analysis.bounds.dispatch import Kind, MethodName, bound, methods
from sommelier.analysis.bounds.intervals import Interval
from sommelier.analysis.bounds.means import bernstein_limits, hoeffding_limits
from sommelier.analysis.bounds.multiplicity import (
    Correction,
    Verdict,
    Winner,
    adjusted,
    judge,
    p_values,
    samples_needed,
    split,
)
from sommelier.analysis.bounds.paired import paired_betting_limits, paired_cp_limits, tango_limits
from sommelier.analysis.bounds.proportions import hypergeometric_limits, wilson_limits

__all__ = [
    "AcrossDatasets",
    "Correction",
    "Decision",
    "Interval",
    "Kind",
    "MethodName",
    "Verdict",
    "Winner",
    "across_datasets",
    "adjusted",
    "anytime_limits",
    "bernstein_limits",
    "betting_limits",
    "bootstrap",
    "bound",
    "decide",
    "hoeffding_limits",
    "hypergeometric_limits",
    "judge",
    "methods",
    "p_values",
    "paired_betting_limits",
    "paired_cp_limits",
    "samples_needed",
    "shown_below",
    "split",
    "tango_limits",
    "wilson_limits",
]
