"""What SELECT FUSIONS says below its rows: what the numbers rest on, what was left out, and why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sommelier.engine import wording
from sommelier.engine.fusion_columns import COSTS, FusionRows, cost_of
from sommelier.engine.listing import missing
from sommelier.engine.plan import Condition, all_of, conjuncts
from sommelier.engine.predicates import Block, Truth, evaluate
from sommelier.engine.relaxation import single_changes
from sommelier.units import format_value

if TYPE_CHECKING:
    from sommelier.engine.fusion_group import FusionGroup
    from sommelier.fusion_records import FusionCost, FusionRanking

BASES = {
    "operator table": "from the times of operators measured there",
    "measured originals": "from the latencies of the models, shared out by FLOPs",
}
# analysis/fusion/search/ranking.py, Candidate.drop: errors on suites it was not fitted to
WEAK = (
    "accuracy_drop is a weak estimate of what is lost after training (1 point off in the median, 7"
    " for one in ten): CREATE MODEL ... AS FUSION OF measures it"
)


def estimate_notes(group: FusionGroup, ranking: FusionRanking) -> Iterator[str]:
    """That all is predicted, from what, and what the models cost without fusion."""
    if ranking.samples:
        data = f" of '{ranking.dataset}'" if ranking.dataset else ""
        yield f"nothing was trained: risk is an estimate from {ranking.samples} samples{data}"
        if any(fusion.drop is not None for fusion in ranking.fusions):
            yield WEAK
    else:
        yield "nothing was trained, and without samples accuracy_drop and risk are unknown"
    yield latency_note(group, ranking.basis)
    yield f"by the same estimates the models, one after the other, cost {amounts(ranking.together)}"


def latency_note(group: FusionGroup, basis: str) -> str:
    """Where latencies are of and what they come from, or what would make them known."""
    if basis not in BASES:
        return (
            f"latency is unknown, so FLOPs stand for it: ANALYZE {', '.join(group.names)}"
            " FOR LATENCY"
        )
    return f"latency is an estimate for '{group.device}' at batch 1, {BASES[basis]}"


def shares_note(rows: FusionRows, place: int) -> str:
    """What one fusion shares, in full, for tables are narrow; and how that is read."""
    return (
        f"fusion {place + 1}: {rows.text('shares')[place]} ('b 3 reads a 2': block 3 of b takes"
        " the features of block 2 of a instead of its own; blocks count from 0)"
    )


def amounts(cost: FusionCost) -> str:
    """The costs that are known, in one line: 'latency 1.2 ms, flops 25 MFLOPs'."""
    known = ((name, cost_of(cost, name), dimension) for name, (_, dimension) in COSTS.items())
    told = [f"{name} {format_value(v, dimension)}" for name, v, dimension in known if v is not None]
    return ", ".join(told) or "nothing that is known"


def broken_note(limits: Condition, within: Truth, size: int) -> Iterator[str]:
    """How many fusions break the limits of ON."""
    broken = size - int((within.true | within.unknown).sum())
    if broken:
        verb = "breaks" if broken == 1 else "break"
        yield f"{broken} of {size} fusions {verb} ON {wording.condition_text(limits)}"


def unknown_notes(
    condition: Condition, undecided: NDArray[np.int64], rows: FusionRows, group: FusionGroup
) -> Iterator[str]:
    """A sentence for each column without which these fusions could not be judged."""
    for column, lack in missing(condition, undecided, rows):
        count = "1 fusion has" if len(lack) == 1 else f"{len(lack)} fusions have"
        yield f"{count} no {column}{_remedy(column, rows.ranking, group)}"


def _remedy(column: str, ranking: FusionRanking, group: FusionGroup) -> str:
    if column.startswith("latency") or column == "speedup":
        return f": ANALYZE {', '.join(group.names)} FOR LATENCY"
    if column in ("accuracy_drop", "risk") and ranking.samples:
        return ": nothing predicts it for them"
    if column in ("accuracy_drop", "risk"):
        return ": it is predicted from samples of a dataset that all the models can answer"
    return ""


def closest_note(
    where: Condition | None, limits: Condition | None, rows: FusionRows
) -> Iterator[str]:
    """What single change of the question would let a fusion through."""
    conditions = (*conjuncts(where), *conjuncts(limits))
    if not rows.size or not conditions:
        return

    def without(others: tuple[Condition, ...]) -> NDArray[np.int64]:
        wanted = all_of(others)
        if wanted is None:
            return np.arange(rows.size)
        return np.flatnonzero(evaluate(wanted, Block(rows)).true)

    found = single_changes(conditions, without, rows)
    if not found:
        yield "no single condition is at fault: relax several"
        return
    best = found[0]
    shares = rows.text("shares")[best.row]
    yield f"closest: fusion {best.row + 1} ({shares}) would match {best.text}"
