"""How far apart two models' answers are, by kind of output, and how good one is against the truth.

Start with `measure_for(kind)` and `compare(measure, reference, candidate)`; `check_interface` says
without running anything whether two models may be compared at all. Source: algorithms.md A.1, A.2.
"""

from __future__ import annotations

from sommelier.analysis.quality.answered import Answered, compare_answers
from sommelier.analysis.quality.boxes import BoxSets, Detections, SingleBox, match_boxes
from sommelier.analysis.quality.breakdown import Group, breakdown
from sommelier.analysis.quality.classes import TopClass, TopClasses
from sommelier.analysis.quality.comparison import (
    Confusion,
    Example,
    PairComparison,
    QualityPair,
    compare,
    of_losses,
    worst_samples,
)
from sommelier.analysis.quality.decoders import Decoder, known_decoder
from sommelier.analysis.quality.detection_precision import mean_average_precision
from sommelier.analysis.quality.distributions import Distributions
from sommelier.analysis.quality.estimates import Estimate
from sommelier.analysis.quality.interfaces import (
    Adapter,
    Compatibility,
    Fit,
    Interface,
    check_interface,
)
from sommelier.analysis.quality.label_order import LabelOrder, label_order_mismatch
from sommelier.analysis.quality.measure import Figure, Measure
from sommelier.analysis.quality.multilabel import LabelSets
from sommelier.analysis.quality.outputs import Outputs
from sommelier.analysis.quality.ranking import RankBiased, RankedOverlap
from sommelier.analysis.quality.registry import MEASURES, answers_of, measure_for
from sommelier.analysis.quality.segmentation import Pixels
from sommelier.analysis.quality.sequences import (
    Sequences,
    character_error_rate,
    decode_ids,
    decode_scores,
    edits,
    word_error_rate,
)
from sommelier.analysis.quality.vectors import RelativeVectors, Vectors, cosine, scale_of

__all__ = [
    "MEASURES",
    "Adapter",
    "Answered",
    "BoxSets",
    "Compatibility",
    "Confusion",
    "Decoder",
    "Detections",
    "Distributions",
    "Estimate",
    "Example",
    "Figure",
    "Fit",
    "Group",
    "Interface",
    "LabelOrder",
    "LabelSets",
    "Measure",
    "Outputs",
    "PairComparison",
    "Pixels",
    "QualityPair",
    "RankBiased",
    "RankedOverlap",
    "RelativeVectors",
    "Sequences",
    "SingleBox",
    "TopClass",
    "TopClasses",
    "Vectors",
    "answers_of",
    "breakdown",
    "character_error_rate",
    "check_interface",
    "compare",
    "compare_answers",
    "cosine",
    "decode_ids",
    "decode_scores",
    "edits",
    "known_decoder",
    "label_order_mismatch",
    "match_boxes",
    "mean_average_precision",
    "measure_for",
    "of_losses",
    "scale_of",
    "word_error_rate",
    "worst_samples",
]
