"""The search for a fusion: candidates ranked without training, and mutations tried one by one.

`candidates` ranks what is possible in seconds; `search` finds, certifies and writes the fastest
fusion within a tolerance. torch and onnxruntime are loaded by what needs them only.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sommelier.analysis.fusion.search.costs import Cost, CostModel
    from sommelier.analysis.fusion.search.options import Finalist, SearchOptions, SearchResult
    from sommelier.analysis.fusion.search.ranking import Candidate, Limits, candidates
    from sommelier.analysis.fusion.search.run import Latencies, search
    from sommelier.analysis.fusion.search.timing import PairedLatency, paired_latency

_HOMES = {
    "Candidate": "ranking",
    "Cost": "costs",
    "CostModel": "costs",
    "Finalist": "options",
    "Latencies": "run",
    "Limits": "ranking",
    "PairedLatency": "timing",
    "SearchOptions": "options",
    "SearchResult": "options",
    "candidates": "ranking",
    "paired_latency": "timing",
    "search": "run",
}
__all__ = [
    "Candidate",
    "Cost",
    "CostModel",
    "Finalist",
    "Latencies",
    "Limits",
    "PairedLatency",
    "SearchOptions",
    "SearchResult",
    "candidates",
    "paired_latency",
    "search",
]


def __getattr__(name: str) -> Any:
    """Loads a name with what it needs on first use."""
    if name in _HOMES:
        return getattr(import_module(f"sommelier.analysis.fusion.search.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'sommelier.analysis.fusion.search' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
