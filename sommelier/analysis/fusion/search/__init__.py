"""The search for a fusion: candidates ranked without training, and mutations tried one by one.

`candidates` ranks what is possible in seconds; `search` finds, certifies and writes the fastest
fusion within a tolerance. torch and onnxruntime are loaded by what needs them only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sommelier.analysis.lazy import attach

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

__getattr__, __dir__ = attach(__name__, _HOMES)
