"""The default search: large gains first, in a bracket that closes in on what can be kept.

What is cheaper than the last failure or dearer than the incumbent is not tried. A step takes a
candidate halfway between the two, the one among those of that cost whose least-squares maps fit
best, and trains it until it meets the tolerance or is out of reach. Candidates are the graphs that
a beam meets from the originals, and children of the incumbent and of elites, which have learned
most of it already. With averaged weights and enough steps most graphs learn back what they lost (24
of 36 within 1 pp after twelve epochs on three small suites), and residuals say little about which
(Spearman correlations of -0.4 to 0.4), so that cost, and not risk, is what to search over. Source:
algorithms.md F.5, departed from in its rungs of 2 and 8 epochs, which gave up what was only slow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from sommelier.analysis.computing import Cancelled
from sommelier.analysis.fusion.abs_graph import AbsGraph, Pair
from sommelier.analysis.fusion.filtering import RuleFilter
from sommelier.analysis.fusion.module import FusedModule
from sommelier.analysis.fusion.search.ranking import all_shared, beam, promise
from sommelier.analysis.fusion.search.residuals import Residuals
from sommelier.analysis.fusion.search.state import SLOWER, Elite, State
from sommelier.analysis.fusion.search.study import QUICK, Outcome, Study, draws, seed_of

INCUMBENT, ELITE = 0.6, 0.2  # how often a random child is theirs; else the originals'
DRAWS = 60
POOL = 8  # children that get maps
GAIN = 1.03  # a child has to be so much faster than the incumbent
LOWEST = 0.5  # of the cost of the cheapest shared trunk: the first bracket's lower end
REOPENED = 0.7  # of the incumbent's cost: the lower end once the bracket is closed
CLOSED = 1.1  # the incumbent's cost over the lower end
NEARNESS = 4.0  # of a cost's distance from the one that is wanted, against a residual
HIGHEST = 2.0  # residual that counts
BEYOND = 1.0  # what being beyond a limit counts
CLOSE = 0.02  # a drop above the tolerance that more epochs may still mend
BLAME = 0.3  # what every failure of a map counts
PAIRS = 2  # most blocks that begin to share in one random child
LATE = 0.5  # of the search's budget, after which it looks for what may stand by
STAND_BY = 1.3  # cost of what stands by over what it stands by for
DEAREST = 0.9  # of the originals' cost
FEWEST = 4  # epochs that are worth a candidate once there is an elite
IDLE = 12  # steps without an elite after which nothing is expected any more


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
        costs, original = study.costs, study.module.graph
        trunks = all_shared(original)
        self.lowest = LOWEST * min((costs.share(graph) for graph in trunks), default=1.0)
        met = beam(costs, lambda graph: promise(costs.share(graph), self.residuals.risk(graph)))
        graphs = {graph.signature: graph for graph in (*trunks, *met)}
        self.planned = [self._child(None, graph, ()) for graph in graphs.values()]

    def exhausted(self, state: State) -> bool:
        """Whether nothing is expected of further steps; never before limits are met."""
        if state.trace and state.trace[-1].action == "filtered":
            return True
        whole = self.study.options.training.epochs
        if state.best is not None and self.study.left(state) < min(FEWEST, whole):
            return True
        met = state.best is not None and self.study.within(state.best.graph)
        return state.idle >= IDLE and (met or not self.study.limited)

    def step(self, state: State, cancelled: Cancelled) -> Outcome:
        """Tries one candidate. Raises CancelledError between batches."""
        rng, seed = draws(self.study, state), seed_of(self.study, state)
        children = self._children(state, rng)
        if not children:
            return Outcome("filtered", reason="nothing faster is left to try")
        best = min(self._fitted(children, seed), key=lambda f: self._difficulty(f, state))
        return self._tried(best, state, seed, cancelled)

    def lacking(self, state: State) -> float | None:
        """The share of a slower elite that is to stand by, for the fastest may not be certified:
        one, and two where the tolerance is within chance. None when there are enough, or when it
        is early."""
        study = self.study
        if state.best is None or study.progress(state) < LATE * study.searching:
            return None
        slower = [e for e in state.kept if e.share >= SLOWER * state.share]
        needed = 2 if study.tolerance > study.options.tolerance / 2 else 1
        wanted = state.share * STAND_BY ** (len(slower) + 1)
        return wanted if len(slower) < needed and wanted <= DEAREST else None

    def wanted(self, state: State) -> float:
        """The share to try next: halfway, by quotients, from what failed to the incumbent."""
        slower = self.lacking(state)
        if slower is not None:
            return slower
        low = max(self.lowest, state.floor)
        if low * CLOSED >= state.share:
            low = REOPENED * state.share
        middle = math.sqrt(low * state.share)
        limits = self.study.options.limits
        asked = [limit for limit in (limits.latency, limits.flops) if limit is not None]
        return min([middle, *asked])

    def _children(self, state: State, rng: np.random.Generator) -> list[Child]:
        """The POOL nearest to what is wanted, of those fast enough, not tried and not refused."""
        rules = RuleFilter(state.failed)
        most = state.share / GAIN if self.lacking(state) is None else DEAREST
        drawn = [child for _ in range(DRAWS) if (child := self._drawn(state, rng)) is not None]
        found: dict[str, Child] = {}
        for child in (*self.planned, *drawn):
            fresh = child.key not in state.tried and child.share <= most
            if fresh and rules.refusal(child.graph.capacity) is None:
                found.setdefault(child.key, child)
        wanted = self.wanted(state)

        def distance(child: Child) -> tuple[float, str]:
            far = NEARNESS * abs(math.log(child.share / wanted))
            beyond = 0.0 if self.study.within(child.graph) else BEYOND
            return far + beyond + min(child.residual, HIGHEST) + _blame(child, state), child.key

        near = sorted(found.values(), key=lambda c: abs(math.log(c.share / wanted)))[: 16 * POOL]
        return sorted(near, key=distance)[:POOL]

    def _drawn(self, state: State, rng: np.random.Generator) -> Child | None:
        base = self._base(state, rng)
        graph = self.study.module.graph if base is None else base.graph
        changed, pairs = random_pass(graph, rng, PAIRS)
        return self._child(base, changed, pairs) if pairs else None

    def _child(self, base: Elite | None, changed: AbsGraph, pairs: tuple[Pair, ...]) -> Child:
        graph = self.study.module.graph if base is None else base.graph
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

    def _difficulty(self, fitted: Fitted, state: State) -> float:
        """What is far from its goal, or from the cost that is wanted, is the harder."""
        far = NEARNESS * abs(math.log(fitted.child.share / self.wanted(state)))
        lost = 2 * max(0.0, fitted.predicted) + min(fitted.residual, HIGHEST) / 2
        return far + lost + _blame(fitted.child, state)

    def _tried(self, best: Fitted, state: State, seed: int, cancelled: Cancelled) -> Outcome:
        study, module, child = self.study, best.module, best.child
        drop, epochs, why = study.train(module, study.left(state), seed, cancelled)
        left = study.left(replace(state, epochs=state.epochs + epochs)) // 2
        if study.tolerance < drop <= study.tolerance + CLOSE and left:
            drop, more, why = study.train(module, left, seed + 1, cancelled)
            epochs += more
        return Outcome(
            "stopped early" if why == "out of reach" else "trained", child.graph, module,
            child.pairs, None if child.base is None else child.base.step, drop, best.predicted,
            epochs, child.key, drop > study.tolerance + CLOSE, child.edges,
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


def _blame(child: Child, state: State) -> float:
    """What the child's maps have failed to give before."""
    return BLAME * max((state.blamed.get(edge, 0) for edge in child.edges), default=0)
