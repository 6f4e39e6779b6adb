"""Segments: the parts two models have in common or can exchange, and hybrid models made of them.

Sommelier sections 4.1 and 4.2, as corrected in algorithms.md B.1 and B.5. Find them
(`common_segments`), exchange them (`build_twin`), judge them (`assess`), and find pairs that are
worth the trouble in a whole repository (`segment_sketch`, `candidate_pairs`).
"""

from sommelier.analysis.segments.assessment import (
    Assessment,
    SegmentAssessment,
    assess,
    assessment_of,
)
from sommelier.analysis.segments.finding import common_segments, segments_of
from sommelier.analysis.segments.forms import Forms, forms
from sommelier.analysis.segments.linear import (
    OperatorSequence,
    Region,
    Step,
    describe,
    linearise,
)
from sommelier.analysis.segments.normal_form import NormalForm, Operator
from sommelier.analysis.segments.normalising import normal_form
from sommelier.analysis.segments.segment import Segment
from sommelier.analysis.segments.sketches import candidate_pairs, segment_sketch
from sommelier.analysis.segments.twins import (
    build_twin,
    replaced_weights,
    replaced_weights_of,
    separate,
    separated_host_of,
    twin_of,
)

__all__ = [
    "Assessment",
    "Forms",
    "NormalForm",
    "Operator",
    "OperatorSequence",
    "Region",
    "Segment",
    "SegmentAssessment",
    "Step",
    "assess",
    "assessment_of",
    "build_twin",
    "candidate_pairs",
    "common_segments",
    "describe",
    "forms",
    "linearise",
    "normal_form",
    "replaced_weights",
    "replaced_weights_of",
    "segment_sketch",
    "segments_of",
    "separate",
    "separated_host_of",
    "twin_of",
]
