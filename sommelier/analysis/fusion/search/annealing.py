"""GMorph's search: simulated annealing with elites, and random sampling as it degenerates to.

The base of a mutation is an elite with a probability that rises, else the original models. The
printed probability stays below 0.001 for 200 steps, so that it is random sampling in effect; the
released code's begins at 0.63. Source: GMorph 4.3.1; algorithms.md F.1.
"""

from __future__ import annotations

import math
from dataclasses import replace

from sommelier.analysis.fusion.abs_graph import AbsGraph
from sommelier.analysis.fusion.filtering import RuleFilter
from sommelier.analysis.fusion.search.attempts import Child, Proposal
from sommelier.analysis.fusion.search.gain_first import random_pass
from sommelier.analysis.fusion.search.options import Formula
from sommelier.analysis.fusion.search.state import ELITES, Elite, State
from sommelier.analysis.fusion.search.study import Study, draws, seed_of

HIGHEST = 0.95  # an original is drawn now and then to the end
TEMPERATURE, COOLING = 90.0, 0.99  # GMorph 6.1: initial temperature and its factor a step
PAIRS = 2  # most blocks that begin to share in one step
DRAWS = 500  # candidates refused without training before there is nothing left
IDLE = 200  # the paper's number of iterations


class Annealing:
    """What one search proposes. elites : False samples from the originals alone."""

    def __init__(self, study: Study, *, elites: bool = True) -> None:
        self.study, self.elites = study, elites

    def exhausted(self, state: State) -> bool:
        """Whether nothing is expected of further steps."""
        return state.idle >= IDLE or bool(state.trace and state.trace[-1].action == "filtered")

    def proposals(self, state: State, count: int) -> list[Proposal]:
        """The next random candidates, which no rule refuses; fewer where nothing is left."""
        found: list[Proposal] = []
        while len(found) < count and (child := self._drawn(state)) is not None:
            found.append(Proposal((child,), seed_of(self.study, state)))
            state = replace(state, step=state.step + 1, tried=state.tried | {child.key})
        return found

    def _drawn(self, state: State) -> Child | None:
        study, rng = self.study, draws(self.study, state)
        rules = RuleFilter(state.failed)
        for _ in range(DRAWS):
            base = self._base(state, rng.random(), rng.random())
            graph, pairs = random_pass(
                study.module.graph if base is None else base.graph, rng, PAIRS
            )
            fresh = bool(pairs) and graph.signature not in state.tried
            if fresh and (not study.options.filtered or self._promising(graph, state, rules)):
                return Child(base, graph, pairs, graph.signature, study.costs.share(graph))
        return None

    def _promising(self, graph: AbsGraph, state: State, rules: RuleFilter) -> bool:
        faster = self.study.costs.share(graph) < state.share
        return faster and rules.refusal(graph.capacity) is None

    def _base(self, state: State, draw: float, which: float) -> Elite | None:
        """A random elite, or None for the original models."""
        if not self.elites or not state.elites:
            return None
        kept, at = len(state.elites), self.study.progress(state)
        formula = self.study.options.formula
        if draw >= elite_probability(formula, at, kept, step=state.step, drop=state.last_drop):
            return None
        return state.elites[int(which * kept)]


def elite_probability(
    formula: Formula, progress: float, elites: int, *, step: int = 0, drop: float = 0.0
) -> float:
    """How likely an elite is the base, 0 to 1.

    progress : share of the budget that is used. elites : how many there are. step, drop : of the
    paper's formulas, the latter of the worst task of the last candidate, a fraction.
    """
    if formula == "corrected":
        return corrected_probability(progress, elites)
    return (printed_probability if formula == "printed" else released_probability)(
        step, drop, elites
    )


def corrected_probability(progress: float, elites: int, most: int = ELITES) -> float:
    """.95 min(1, 2 progress) sqrt(min(Nc, Ni) / Ni) (algorithms.md F.1)."""
    return HIGHEST * min(1.0, 2 * progress) * math.sqrt(min(elites, most) / most)


def printed_probability(step: int, drop: float, elites: int, most: int = ELITES) -> float:
    """(1 - exp(-(1 - D) / (Tc Ti))) sqrt(Nc / Ni), as the paper prints it."""
    cooled = TEMPERATURE * COOLING**step
    return _bounded(1 - math.exp(-(1 - drop) / (cooled * TEMPERATURE)), elites, most)


def released_probability(step: int, drop: float, elites: int, most: int = ELITES) -> float:
    """(1 - exp(-(1 - D) Ti / Tc)) sqrt(Nc / Ni), as the released code computes it."""
    return _bounded(1 - math.exp(-(1 - drop) / COOLING**step), elites, most)


def _bounded(chance: float, elites: int, most: int) -> float:
    return max(0.0, chance) * math.sqrt(min(elites, most) / most)
