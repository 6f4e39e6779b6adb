"""Softmax and its relatives (algorithms.md B.4 rows 25, 26).

Attention written out is MatMul (row 4), a scale, Softmax and MatMul; operators that do all of it
are taken apart into these (expansion.py).
"""

from __future__ import annotations

import math

import numpy as np

from sommelier.analysis.propagation.site import Bound, Rule, Site

COERCING = 13  # before this opset, Softmax flattens everything from its axis on


def _axis_length(site: Site) -> int:
    shape = site.shape()
    coerces = site.situation.graph.opsets[""] < COERCING
    axis = int(site.attribute("axis", 1 if coerces else -1)) % len(shape)
    return math.prod(shape[axis:]) if coerces else shape[axis]


def softmax(site: Site) -> Bound:
    """Row 25: slope 1/2; and two distributions are at most sqrt 2 apart."""
    rows = site.elements() / max(1, _axis_length(site))
    most = math.sqrt(2 * rows)
    return lambda at: np.minimum(0.5 * at.delta(), most)


def log_softmax(site: Site) -> Bound:
    """Row 26."""
    factor = math.sqrt(_axis_length(site))
    return lambda at: factor * at.delta()


ATTENTION: dict[str, Rule] = {"Softmax": softmax, "LogSoftmax": log_softmax}
