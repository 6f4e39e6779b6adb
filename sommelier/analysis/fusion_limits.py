"""What a fused model may cost: limits as written, and as shares of what the originals cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sommelier.analysis.fusion.search.ranking import Limits
from sommelier.errors import AnalysisError
from sommelier.fusion_records import FusionCost

LIMITED = ("latency", "flops", "memory")
"""What a limit may be on."""


@dataclass(frozen=True, slots=True)
class CostLimit:
    """metric : one of LIMITED. most : a fraction of what the originals cost together, or of what
    `of` alone costs; or (absolute) ms, FLOPs or bytes. strict : less than it, not at most."""

    metric: str
    most: float
    absolute: bool = False
    of: str | None = None
    strict: bool = False


def shares_of(
    limits: Sequence[CostLimit], alone: Mapping[str, FusionCost], together: FusionCost
) -> Limits:
    """The limits as shares of the originals together, the lowest of each metric.

    Raises AnalysisError where a cost of the originals that is needed is unknown, and for a limit
    that is no number above 0.
    """
    found: dict[str, float] = {}
    for limit in limits:
        share = limit.most
        if limit.absolute or limit.of is not None:
            one = together if limit.of is None else alone[limit.of]
            whole, part = _cost(together, limit.metric), _cost(one, limit.metric)
            share = limit.most / whole if limit.absolute else limit.most * part / whole
        if not 0 < share < math.inf:
            raise AnalysisError(f"a limit on {limit.metric} of {limit.most:g} leaves nothing")
        if limit.strict:
            share = math.nextafter(share, 0)
        found[limit.metric] = min(share, found.get(limit.metric, share))
    return Limits(**found)


def _cost(cost: FusionCost, metric: str) -> float:
    value: float | None = getattr(cost, "latency_ms" if metric == "latency" else metric)
    if not value:
        raise AnalysisError(
            f"the {metric} of the originals is unknown, so a limit on it cannot be held",
            hint=f"leave out the limit on {metric}",
        )
    return value
