"""Model links: one model's answer predicted from another's, from answers alone (MLink).

Usable as a library, without a database: `natural` reads the raw answers of two models, `fit_links`
makes all links to one target (`split` divides the samples, `screen` says whether a link can work,
`fit_linear` and `train_vectors` make one, `score` says how well it does), `to_onnx` writes one,
`LinkEnsemble` joins several and `select` chooses which models to run. torch, onnxruntime and scipy
are loaded by what needs them only. Source: algorithms.md E.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sommelier.analysis.lazy import attach

if TYPE_CHECKING:
    from sommelier.analysis.links.collecting import CollectedTokens, TokenCollector, best_boxes
    from sommelier.analysis.links.ensemble import LinkEnsemble
    from sommelier.analysis.links.ensemble_export import ensemble_onnx
    from sommelier.analysis.links.export import to_onnx
    from sommelier.analysis.links.fitting import FittedLink, LinkOptions, fit_links
    from sommelier.analysis.links.formats import (
        AnswerFormat,
        LinkAnswers,
        as_given,
        format_of,
        natural,
    )
    from sommelier.analysis.links.heads import Head
    from sommelier.analysis.links.linear import fit_linear
    from sommelier.analysis.links.problem import ActivationProblem
    from sommelier.analysis.links.scoring import (
        Score,
        answer_range,
        constant_answer,
        performance,
        score,
        skill,
    )
    from sommelier.analysis.links.screening import Screen, screen
    from sommelier.analysis.links.selection import Selection, select
    from sommelier.analysis.links.splits import Split, split
    from sommelier.analysis.links.training import TrainingOptions, train_vectors

_HOMES = {
    "ActivationProblem": "problem",
    "AnswerFormat": "formats",
    "CollectedTokens": "collecting",
    "FittedLink": "fitting",
    "Head": "heads",
    "LinkAnswers": "formats",
    "LinkEnsemble": "ensemble",
    "LinkOptions": "fitting",
    "Score": "scoring",
    "Screen": "screening",
    "Selection": "selection",
    "Split": "splits",
    "TokenCollector": "collecting",
    "TrainingOptions": "training",
    "answer_range": "scoring",
    "as_given": "formats",
    "best_boxes": "collecting",
    "constant_answer": "scoring",
    "ensemble_onnx": "ensemble_export",
    "fit_linear": "linear",
    "fit_links": "fitting",
    "format_of": "formats",
    "natural": "formats",
    "performance": "scoring",
    "score": "scoring",
    "screen": "screening",
    "select": "selection",
    "skill": "scoring",
    "split": "splits",
    "to_onnx": "export",
    "train_vectors": "training",
}
__all__ = [
    "ActivationProblem",
    "AnswerFormat",
    "CollectedTokens",
    "FittedLink",
    "Head",
    "LinkAnswers",
    "LinkEnsemble",
    "LinkOptions",
    "Score",
    "Screen",
    "Selection",
    "Split",
    "TokenCollector",
    "TrainingOptions",
    "answer_range",
    "as_given",
    "best_boxes",
    "constant_answer",
    "ensemble_onnx",
    "fit_linear",
    "fit_links",
    "format_of",
    "natural",
    "performance",
    "score",
    "screen",
    "select",
    "skill",
    "split",
    "to_onnx",
    "train_vectors",
]

__getattr__, __dir__ = attach(__name__, _HOMES)
