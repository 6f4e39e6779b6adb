"""Fusion: several trained models for the same input become one that shares computation (GMorph).

Usable as a library, without a database: `exported` writes a torch module as a model, `linearised`
cuts a model into blocks, `AbsGraph.original` puts several models side by side as one tree whose
mutations let blocks share features, `FusedModule` is the tree as a torch module, `fine_tune`
teaches it what the models answer, `certify` says what it loses, and `to_onnx` writes it as one
model. Without training, `merge` averages models of one architecture, and `share_identical` keeps
their equal layers once. torch and onnxruntime are loaded by what needs them only. Source: GMorph;
algorithms.md F.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sommelier.analysis.lazy import attach

if TYPE_CHECKING:
    from sommelier.analysis.fusion.abs_graph import (
        AbsGraph,
        AbsNode,
        Adapter,
        Capacity,
        MutationKind,
        NodeId,
        Pair,
    )
    from sommelier.analysis.fusion.blocks import (
        Block,
        Blocks,
        Features,
        linearised,
        linearised_together,
    )
    from sommelier.analysis.fusion.certifying import (
        Certificate,
        Drop,
        certify,
        samples_needed,
    )
    from sommelier.analysis.fusion.distillation import (
        Curve,
        FineTuning,
        answer,
        fine_tune,
        teach,
    )
    from sommelier.analysis.fusion.drawing import (
        as_json,
        drawn,
    )
    from sommelier.analysis.fusion.exporting import (
        exported,
    )
    from sommelier.analysis.fusion.extrapolation import (
        Prediction,
        predict,
    )
    from sommelier.analysis.fusion.filtering import (
        RuleFilter,
    )
    from sommelier.analysis.fusion.generator import (
        to_onnx,
    )
    from sommelier.analysis.fusion.lessons import (
        Judged,
        Lessons,
        Splits,
        divide,
    )
    from sommelier.analysis.fusion.merging import (
        Aligned,
        Merged,
        align,
        merge,
    )
    from sommelier.analysis.fusion.module import (
        FusedModule,
    )
    from sommelier.analysis.fusion.sharing import (
        Shared,
        share_identical,
    )

_HOMES = {
    "AbsGraph": "abs_graph",
    "AbsNode": "abs_graph",
    "Adapter": "abs_graph",
    "Aligned": "merging",
    "Block": "blocks",
    "Blocks": "blocks",
    "Capacity": "abs_graph",
    "Certificate": "certifying",
    "Curve": "distillation",
    "Drop": "certifying",
    "Features": "blocks",
    "FineTuning": "distillation",
    "FusedModule": "module",
    "Judged": "lessons",
    "Lessons": "lessons",
    "Merged": "merging",
    "MutationKind": "abs_graph",
    "NodeId": "abs_graph",
    "Pair": "abs_graph",
    "Prediction": "extrapolation",
    "RuleFilter": "filtering",
    "Shared": "sharing",
    "Splits": "lessons",
    "align": "merging",
    "answer": "distillation",
    "as_json": "drawing",
    "certify": "certifying",
    "divide": "lessons",
    "drawn": "drawing",
    "exported": "exporting",
    "fine_tune": "distillation",
    "linearised": "blocks",
    "linearised_together": "blocks",
    "merge": "merging",
    "predict": "extrapolation",
    "samples_needed": "certifying",
    "share_identical": "sharing",
    "teach": "distillation",
    "to_onnx": "generator",
}
__all__ = [
    "AbsGraph",
    "AbsNode",
    "Adapter",
    "Aligned",
    "Block",
    "Blocks",
    "Capacity",
    "Certificate",
    "Curve",
    "Drop",
    "Features",
    "FineTuning",
    "FusedModule",
    "Judged",
    "Lessons",
    "Merged",
    "MutationKind",
    "NodeId",
    "Pair",
    "Prediction",
    "RuleFilter",
    "Shared",
    "Splits",
    "align",
    "answer",
    "as_json",
    "certify",
    "divide",
    "drawn",
    "exported",
    "fine_tune",
    "linearised",
    "linearised_together",
    "merge",
    "predict",
    "samples_needed",
    "share_identical",
    "teach",
    "to_onnx",
]

__getattr__, __dir__ = attach(__name__, _HOMES)
