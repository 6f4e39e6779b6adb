"""Certified propagation of a change of weights through an ONNX graph (algorithms.md B.2, B.4)."""

from __future__ import annotations

from sommelier.analysis.propagation.expansion import EXPANSIONS
from sommelier.analysis.propagation.falsification import Falsification, falsify
from sommelier.analysis.propagation.propagating import Propagation, propagate
from sommelier.analysis.propagation.rules import RULES

__all__ = ["EXPANSIONS", "RULES", "Falsification", "Propagation", "falsify", "propagate"]
