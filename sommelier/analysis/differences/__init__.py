"""Where two models part, layer by layer; whether one is made from the other; what they disagree on.

A library over ONNX files: `compare_layers`, `weight_lineage`, `run_disagreements`, and
`disagreements` for answers that are there already. Needs no database (issue [2/8] part 6).
"""

from sommelier.analysis.differences.answering import run_disagreements
from sommelier.analysis.differences.comparing import compare_layers
from sommelier.analysis.differences.disagreements import (
    Disagreement,
    Disagreements,
    Side,
    disagreements,
    stored_disagreements,
)
from sommelier.analysis.differences.lineage import LineageEvidence, weight_lineage
from sommelier.analysis.differences.report import LayerError, LayerReport, Unaligned
from sommelier.analysis.differences.weight_pairs import WeightPair

__all__ = [
    "Disagreement",
    "Disagreements",
    "LayerError",
    "LayerReport",
    "LineageEvidence",
    "Side",
    "Unaligned",
    "WeightPair",
    "compare_layers",
    "disagreements",
    "run_disagreements",
    "stored_disagreements",
    "weight_lineage",
]
