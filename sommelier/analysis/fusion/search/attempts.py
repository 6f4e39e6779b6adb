"""A candidate from its choice to the weights it has learned, here or in a trainer's process.

What a search proposes is a few children to choose from and all that decides how the best of them
is trained, so that an attempt comes out the same wherever and beside whatever it is made.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from sommelier.analysis.computing import Cancelled
from sommelier.analysis.fusion.abs_graph import AbsGraph, Pair
from sommelier.analysis.fusion.module import FusedModule
from sommelier.analysis.fusion.search.state import Elite, Weights
from sommelier.analysis.fusion.search.study import Allowance, Study, arrays

QUICK = 256  # samples on which a candidate is judged before training
HIGHEST = 2.0  # residual that counts


@dataclass(frozen=True, slots=True)
class Child:
    """A graph one mutation pass away from a base, None for the original models.

    key : under which it counts as tried. share : its predicted cost over the originals'. residual :
    the worst of its new maps, by the originals' features. edges : what reads what that the base
    does not.
    """

    base: Elite | None
    graph: AbsGraph
    pairs: tuple[Pair, ...]
    key: str
    share: float
    residual: float = 0.0
    edges: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Proposal:
    """Children of which one is trained. seed : of training and of random maps.

    handicaps : what counts against each child besides what it loses before training; empty for an
    only child, which is trained as it is. close : a drop so much above the tolerance is trained
    once more, and is no failure.
    """

    children: tuple[Child, ...]
    seed: int
    handicaps: tuple[float, ...] = ()
    close: float = 0.0


@dataclass(frozen=True, slots=True)
class Attempt:
    """What training came to. place : of the child that was trained among those proposed.

    predicted : its worst drop before training, None where there was no choice. hopeless : it was
    given up early. failed : it lost so much that what shares more is not worth trying. met : it is
    within the search's tolerance. weights : of such a one and of one that is near, else None.
    """

    place: int
    drop: float
    predicted: float | None
    epochs: int
    hopeless: bool
    failed: bool
    met: bool
    weights: Weights | None = field(repr=False)


def attempt(
    study: Study, proposal: Proposal, allowance: Allowance, cancelled: Cancelled = bool
) -> Attempt:
    """The best of the children, trained until it meets the tolerance or is out of reach.

    Raises CancelledError between batches.
    """
    place, module, predicted = _built(study, proposal)
    seed, tolerance = proposal.seed, study.tolerance
    drop, epochs, why = study.train(module, study.left(allowance), seed, cancelled)
    left = study.left(allowance.without(epochs)) // 2
    if tolerance < drop <= tolerance + proposal.close and left:
        drop, more, why = study.train(module, left, seed + 1, cancelled)
        epochs += more
    return Attempt(
        place, drop, predicted, epochs, why == "out of reach",
        not drop <= tolerance + proposal.close,  # NaN failed too
        drop <= tolerance,
        arrays(module) if drop <= study.nearly else None,
    )  # fmt: skip


def _built(study: Study, proposal: Proposal) -> tuple[int, FusedModule, float | None]:
    """(place, module, predicted drop) of the child that is the least difficult."""
    if not proposal.handicaps:
        child = proposal.children[0]
        return 0, study.mutated(child.base, child.graph, proposal.seed), None
    least, best = math.inf, None
    for place, child in enumerate(proposal.children):
        module = study.mutated(child.base, child.graph, proposal.seed)
        known = [r for r in module.residuals.values() if not math.isnan(r)]
        residual = max(known, default=child.residual)
        predicted = study.drop(module, QUICK)
        expected = 1.0 if math.isnan(predicted) else max(0.0, predicted)
        lost = 2 * expected + min(residual, HIGHEST) / 2
        if proposal.handicaps[place] + lost < least or best is None:
            least, best = proposal.handicaps[place] + lost, (place, module, predicted)
    assert best is not None, "a proposal has children"
    return best
