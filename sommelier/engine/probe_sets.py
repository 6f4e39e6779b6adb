"""Which probe set the name of a dataset stands for."""

from __future__ import annotations

from sommelier.engine.facts import Facts
from sommelier.errors import BinderError, Span


def largest_probe_set(dataset: str, facts: Facts) -> str | None:
    """The id of the probe set of that dataset with most samples; None if nobody answered any."""
    found = [p for p in facts.probe_sets() if p.name == dataset]
    return max(found, key=lambda p: (p.samples, p.id)).id if found else None


def probe_set_of(dataset: str, facts: Facts, span: Span | None = None) -> str:
    """The id of the largest probe set of a dataset. Raises BinderError if nobody answered any."""
    found = largest_probe_set(dataset, facts)
    if found is not None:
        return found
    probed = sorted({p.name for p in facts.probe_sets()})
    raise BinderError(
        f"no model has answered probes of '{dataset}' yet",
        span=span,
        hint=f"ANALYZE ALL FOR EQUIVALENCE USING dataset = '{dataset}'"
        + (f"; probed so far: {', '.join(probed)}" if probed else ""),
    )
