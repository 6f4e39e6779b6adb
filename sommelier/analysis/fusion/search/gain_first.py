"""The default search: large gains first, little training for candidates that disappoint.

A step makes children of the incumbent, of an elite or of the originals, keeps those that are
predicted to be faster than the incumbent, gives the most promising of them least-squares maps, and
trains the best of those for two epochs, and longer only if it comes close. On digits it reached
2.7 times the speed where annealing reached 1.1 in the same epochs (algorithms.md F.5).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from sommelier.analysis.computing import Cancelled
from sommelier.analysis.fusion.abs_graph import AbsGraph, Pair
from sommelier.analysis.fusion.filtering import RuleFilter
from sommelier.analysis.fusion.module import FusedModule
from sommelier.analysis.fusion.search.residuals import Residuals
from sommelier.analysis.fusion.search.state import Elite, State
from sommelier.analysis.fusion.search.study import QUICK, Outcome, Study, draws, seed_of

# algorithms.md F.5
INCUMBENT, ELITE = 0.6, 0.2  # how often a child is theirs; else the originals'
DRAWS = 60
ROUNDS = 10  # of draws without any child before there is nothing left
POOL = 8
GAIN = 1.02  # a child has to be so much faster than the incumbent
FIRST_RUNG = 2  # epochs
CLOSE = 0.03  # a drop above the tolerance that more epochs may still mend
BLAME = 0.6  # what is left of the hope in a map for every failure it had a part in
PAIRS = 2  # most blocks that begin to share in one step
IDLE = 40  # steps without an elite after which nothing is expected any more


@dataclass(frozen=True)
class Child:
    """A graph one mutation pass away from a base.

    residual : the worst of its new maps, by the originals' features. edges : what reads what that
    the base does not. key : of base and graph, for it is worth another try from another base.
    """

    base: Elite | None
    graph: AbsGraph
    pairs: tuple[Pair, ...]
    share: float
    residual: float
    edges: tuple[str, ...]
    key: str


@dataclass(frozen=True)
class Fitted:
    """A child with its maps. predicted : the worst drop before training."""

    child: Child
    module: FusedModule = field(repr=False)
    residual: float
    predicted: float


class GainFirst:
    """The steps of one search."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self.residuals = Residuals(study.module, [given.numpy() for given in study.inputs])

    def exhausted(self, state: State) -> bool:
        """Whether nothing is expected of further steps."""
        return state.idle >= IDLE or bool(state.trace and state.trace[-1].action == "filtered")

    def step(self, state: State, cancelled: Cancelled) -> Outcome:
        """Tries one candidate. Raises CancelledError between batches."""
        rng, seed = draws(self.study, state), seed_of(self.study, state)
        children = next(filter(None, (self._children(state, rng) for _ in range(ROUNDS))), None)
        if children is None:
            return Outcome("filtered", reason="nothing faster is left to try")
        best = max(self._fitted(children, seed), key=lambda f: self._score(f, state))
        return self._tried(best, state, seed, cancelled)

    def _children(self, state: State, rng: np.random.Generator) -> list[Child]:
        """Those of DRAWS random ones that are faster, not tried and not refused, by promise."""
        rules = RuleFilter(state.failed)
        found: dict[str, Child] = {}
        for _ in range(DRAWS):
            child = self._drawn(state, rng)
            if child is None or child.key in state.tried or child.share * GAIN > state.share:
                continue
            if rules.refusal(child.graph.capacity) is None:
                found.setdefault(child.key, child)
        ranked = sorted(found.values(), key=lambda c: (-_promise(c, state), c.key))
        return ranked[:POOL]

    def _drawn(self, state: State, rng: np.random.Generator) -> Child | None:
        base = self._base(state, rng)
        graph = self.study.module.graph if base is None else base.graph
        changed, pairs = random_pass(graph, rng, PAIRS)
        if not pairs:
            return None
        new = [n for n in changed.parents if changed.parents[n] != graph.parents[n]]
        reads = [(p, n) for n in new if (p := changed.parents[n])]
        residual = max((self.residuals.of(*pair) for pair in reads), default=0.0)
        edges = tuple(f"{guest} reads {host}" for host, guest in reads)
        source = "original" if base is None else str(base.step)
        key = f"{source}:{changed.signature}"
        share = self.study.costs.share(changed)
        return Child(base, changed, pairs, share, residual, edges, key)

    def _base(self, state: State, rng: np.random.Generator) -> Elite | None:
        draw = rng.random()
        if draw < INCUMBENT:
            return state.best
        if draw < INCUMBENT + ELITE and state.elites:
            return state.elites[rng.integers(len(state.elites))]
        return None

    def _fitted(self, children: list[Child], seed: int) -> list[Fitted]:
        """Every child with maps fitted to the features its base has now."""
        found = []
        for child in children:
            module = self.study.mutated(child.base, child.graph, seed)
            known = [r for r in module.residuals.values() if not math.isnan(r)]
            residual = max(known, default=child.residual)
            found.append(Fitted(child, module, residual, self.study.drop(module, QUICK)))
        return found

    def _score(self, fitted: Fitted, state: State) -> float:
        """exp(-3 r) / (1 + exp(8 (a - .15))) x the gain in speed (F.5)."""
        chance = math.exp(-3 * fitted.residual) / (1 + math.exp(8 * (fitted.predicted - 0.15)))
        return chance * _gain(fitted.child, state)

    def _tried(self, best: Fitted, state: State, seed: int, cancelled: Cancelled) -> Outcome:
        study, module, left = self.study, best.module, self.study.left(state)
        first = min(FIRST_RUNG, left)
        drop, epochs, _ = study.train(module, first, seed, cancelled)
        action = "trained"
        if drop > study.tolerance + CLOSE:
            action = "stopped early"
        elif drop > study.tolerance and left > first:
            drop, more, why = study.train(module, left - first, seed + 1, cancelled)
            epochs += more
            action = "stopped early" if why == "out of reach" else action
        child = best.child
        return Outcome(
            action, child.graph, module, child.pairs,
            None if child.base is None else child.base.step, drop, best.predicted, epochs,
            child.key, drop > study.tolerance + CLOSE, child.edges,
        )  # fmt: skip


def random_pass(
    graph: AbsGraph, rng: np.random.Generator, most: int
) -> tuple[AbsGraph, tuple[Pair, ...]]:
    """(graph, pairs): 1 to `most` random input-shareable pairs applied one after the other."""
    applied: list[Pair] = []
    for _ in range(int(rng.integers(1, most + 1))):
        pairs = graph.input_shareable_pairs()
        if not pairs:
            break
        pair = pairs[rng.integers(len(pairs))]
        graph, made = graph.mutation_pass([pair])
        applied += made
    return graph, tuple(applied)


def _promise(child: Child, state: State) -> float:
    return math.exp(-3 * child.residual) * _gain(child, state)


def _gain(child: Child, state: State) -> float:
    """In speed, less what the child's maps have failed to give before."""
    failures = max((state.blamed.get(edge, 0) for edge in child.edges), default=0)
    return BLAME**failures * (1 / child.share - 1 / state.share)
