"""What can be learned of models: costs, answers, equivalence, segments, differences.

Usable as a library, without a database: the functions below take ONNX files and arrays.

>>> from sommelier.analysis import compare_models, common_segments, compare_layers
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sommelier.analysis.lazy import attach

if TYPE_CHECKING:
    from sommelier.analysis.differences import compare_layers, weight_lineage
    from sommelier.analysis.equivalence import compare_models
    from sommelier.analysis.propagation import propagate
    from sommelier.analysis.segments import assess, build_twin, common_segments, linearise

_HOMES = {
    "compare_models": "equivalence",
    "compare_layers": "differences",
    "weight_lineage": "differences",
    "common_segments": "segments",
    "linearise": "segments",
    "assess": "segments",
    "build_twin": "segments",
    "propagate": "propagation",
}
__all__ = [
    "assess",
    "build_twin",
    "common_segments",
    "compare_layers",
    "compare_models",
    "linearise",
    "propagate",
    "weight_lineage",
]

__getattr__, __dir__ = attach(__name__, _HOMES)
