"""Model links: one model's answer predicted from another's, from answers alone (MLink).

Usable as a library, without a database: `natural` reads the raw answers of two models, `split`
divides the samples, `screen` says whether a link can work, `score` how well one does.
Nothing here loads torch, onnxruntime or scipy before it needs them. Source: algorithms.md E.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sommelier.analysis.links.collecting import CollectedTokens, TokenCollector, best_boxes
    from sommelier.analysis.links.formats import (
        AnswerFormat,
        LinkAnswers,
        as_given,
        format_of,
        natural,
    )
    from sommelier.analysis.links.scoring import (
        Score,
        answer_range,
        constant_answer,
        performance,
        score,
        skill,
    )
    from sommelier.analysis.links.screening import Screen, screen
    from sommelier.analysis.links.splits import Split, split

_HOMES = {
    "AnswerFormat": "formats",
    "CollectedTokens": "collecting",
    "LinkAnswers": "formats",
    "Score": "scoring",
    "Screen": "screening",
    "Split": "splits",
    "TokenCollector": "collecting",
    "answer_range": "scoring",
    "as_given": "formats",
    "best_boxes": "collecting",
    "constant_answer": "scoring",
    "format_of": "formats",
    "natural": "formats",
    "performance": "scoring",
    "score": "scoring",
    "screen": "screening",
    "skill": "scoring",
    "split": "splits",
}
__all__ = [
    "AnswerFormat",
    "CollectedTokens",
    "LinkAnswers",
    "Score",
    "Screen",
    "Split",
    "TokenCollector",
    "answer_range",
    "as_given",
    "best_boxes",
    "constant_answer",
    "format_of",
    "natural",
    "performance",
    "score",
    "screen",
    "skill",
    "split",
]


def __getattr__(name: str) -> Any:
    """Loads a name with what it needs on first use."""
    if name in _HOMES:
        return getattr(import_module(f"sommelier.analysis.links.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'sommelier.analysis.links' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
