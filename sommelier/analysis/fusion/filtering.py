"""Which mutated graphs are not worth a fine-tuning: the paper's rule on capacities, and latency.

A graph that shares more than one that was fine-tuned and lost too much is skipped, and so is one
that is predicted not to be faster than what is wanted. The first is a rule of thumb: it skipped 23
of 60 candidates, and none of them would have passed. Source: paper 001, section 5.1; algorithms.md
F.4.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from sommelier.analysis.fusion.abs_graph import Capacity


@dataclass(frozen=True, slots=True)
class RuleFilter:
    """What is known to be too much sharing, and how slow a candidate may be.

    failed : capacities of fine-tuned graphs that lost too much, by name. fastest_ms : a candidate
    has to be predicted faster; None for no such limit.
    """

    failed: Mapping[str, Capacity] = field(default_factory=dict)
    fastest_ms: float | None = None

    def with_failed(self, name: str, capacity: Capacity) -> RuleFilter:
        """The filter that knows one more failure; those that follow from it are dropped."""
        if self._culprit(capacity) is not None:
            return self
        kept = {n: c for n, c in self.failed.items() if not c.more_aggressive(capacity)}
        return replace(self, failed={**kept, name: capacity})

    def faster_than(self, latency_ms: float) -> RuleFilter:
        """The filter once a candidate of this latency has passed."""
        if self.fastest_ms is not None and self.fastest_ms <= latency_ms:
            return self
        return replace(self, fastest_ms=latency_ms)

    def refusal(self, capacity: Capacity, latency_ms: float | None = None) -> str | None:
        """Why a candidate is skipped; None if it is worth a fine-tuning.

        latency_ms : as predicted; None when it is unknown, which no limit refuses.
        """
        limit = self.fastest_ms
        if limit is not None and latency_ms is not None and latency_ms >= limit:
            return f"predicted to take {latency_ms:.3g} ms, and {limit:.3g} ms are reached already"
        culprit = self._culprit(capacity)
        if culprit is None:
            return None
        return f"shares more than {culprit}, which lost too much"

    def _culprit(self, capacity: Capacity) -> str | None:
        return next((n for n, c in self.failed.items() if capacity.more_aggressive(c)), None)
