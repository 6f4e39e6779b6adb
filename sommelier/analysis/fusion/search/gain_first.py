"""The default search: large gains first, in a bracket that closes in on what can be kept.

What is cheaper than the last failure or dearer than the incumbent is not tried. A step takes a
candidate halfway between the two, the one among those of that cost whose least-squares maps fit
best, and trains it until it meets the tolerance or is out of reach; several side by side divide the
way between the two into as many parts and one. Candidates are the graphs that a beam meets from the
originals, and children of the incumbent and of elites, which have learned most of it already. With
averaged weights and enough steps most graphs learn back what they lost (24 of 36 within 1 pp after
twelve epochs on three small suites), and residuals say little about which (Spearman correlations of
-0.4 to 0.4), so that cost, and not risk, is what to search over. Source: algorithms.md F.5,
departed from in its rungs of 2 and 8 epochs, which gave up what was only slow.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np

from sommelier.analysis.fusion.abs_graph import AbsGraph, Pair
from sommelier.analysis.fusion.filtering import RuleFilter
from sommelier.analysis.fusion.search.attempts import HIGHEST, Child, Proposal
from sommelier.analysis.fusion.search.options import FINALISTS
from sommelier.analysis.fusion.search.ranking import all_shared, beam, promise
from sommelier.analysis.fusion.search.residuals import Residuals
from sommelier.analysis.fusion.search.state import SLOWER, Elite, State
from sommelier.analysis.fusion.search.study import CLOSE, FEWEST, Study, draws, seed_of

INCUMBENT, ELITE = 0.6, 0.2  # how often a random child is theirs; else the originals'
DRAWS = 60
POOL = 8  # children that get maps
GAIN = 1.03  # a child has to be so much faster than the incumbent
LOWEST = 0.5  # of the cost of the cheapest shared trunk: the first bracket's lower end
REOPENED = 0.7  # of the incumbent's cost: the lower end once the bracket is closed
CLOSED = 1.1  # the incumbent's cost over the lower end
NEARNESS = 4.0  # of a cost's distance from the one that is wanted, against a residual
BEYOND = 1.0  # what being beyond a limit counts
BLAME = 0.3  # what every failure of a map counts
PAIRS = 2  # most blocks that begin to share in one random child
LATE = 0.5  # of the search's budget, after which it looks for what may stand by
STAND_BY = 1.3  # cost of what stands by over what it stands by for
DEAREST = 0.9  # of the originals' cost
IDLE = 12  # steps without an elite after which nothing is expected any more


@dataclass(frozen=True, slots=True)
class Goal:
    """What a candidate should cost, and the most that it may, as shares."""

    share: float
    most: float


class GainFirst:
    """What one search proposes."""

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
            again = len(state.trace) > 1 and state.trace[-2].action == "filtered"
            if again or self.lacking(state) is None:
                return True
        whole = self.study.options.training.epochs
        if state.best is not None and self._left(state) < min(FEWEST, whole):
            return True
        met = state.best is not None and self.study.within(state.best.graph)
        return state.idle >= IDLE and (met or not self.study.limited)

    def proposals(self, state: State, count: int) -> list[Proposal]:
        """Children to choose from, for every goal its own, the cheapest first; fewer where too few
        are left."""
        goals = self.goals(state, count)
        found = []
        for place, children in enumerate(self._children(state, goals)):
            seed = seed_of(self.study, replace(state, step=state.step + place))
            handicaps = (_far(c, goals[place]) + _blame(c, state) for c in children)
            if children:
                found.append(Proposal(tuple(children), seed, tuple(handicaps), CLOSE))
        return found

    def lacking(self, state: State) -> float | None:
        """The share of a slower elite that is to stand by, for the fastest may not be certified:
        one, and as many as there are other finalists where the tolerance is within chance. None
        when there are enough, or when it is early and faster ones are left to try."""
        study = self.study
        early = study.progress(state) < LATE * study.searching
        if state.best is None or (early and all(s.action != "filtered" for s in state.trace)):
            return None
        slower = [e for e in state.kept if e.share >= SLOWER * state.share]
        needed = FINALISTS - 1 if study.tight else 1
        wanted = state.share * STAND_BY ** (len(slower) + 1)
        return wanted if len(slower) < needed and wanted <= DEAREST else None

    def goals(self, state: State, count: int) -> list[Goal]:
        """What so many candidates should cost: of what is to stand by, if that is lacking; of the
        others, that they divide the bracket from what failed to the incumbent, by quotients."""
        slower = self.lacking(state)
        found = [] if slower is None else [Goal(slower, DEAREST)]
        low = max(self.lowest, state.floor)
        if low * CLOSED >= state.share:
            low = REOPENED * state.share
        limits = self.study.options.limits
        asked = [limit for limit in (limits.latency, limits.flops) if limit is not None]
        sections = count - len(found) + 1
        for place in range(1, sections):
            part = 2 * place / sections  # 1 in the middle, where powers are exact
            section = math.sqrt(low ** (2 - part) * state.share**part)
            found.append(Goal(min([section, *asked]), state.share / GAIN))
        return found

    def _children(self, state: State, goals: Sequence[Goal]) -> list[list[Child]]:
        """For every goal the POOL nearest to it, of those fast enough, not tried and not refused.

        Goals choose in turn, and what one has chosen no other takes from any base.
        """
        found = self._fresh(state, max(goal.most for goal in goals), len(goals))
        rows = [iter(self._ranked(found, goal, state)) for goal in goals]
        pools: list[list[Child]] = [[] for _ in goals]
        taken: dict[str, int] = {}
        for _ in range(POOL):
            for place, (row, pool) in enumerate(zip(rows, pools, strict=True)):
                free = (c for c in row if taken.setdefault(c.graph.signature, place) == place)
                pool.extend(islice(free, 1))
        return pools

    def _fresh(self, state: State, most: float, rounds: int) -> list[Child]:
        """What was planned and what is drawn anew, once each."""
        rules = RuleFilter(state.failed)
        found: dict[str, Child] = {}
        for child in (*self.planned, *self._draws(state, rounds)):
            fresh = child.key not in state.tried and child.share <= most
            if fresh and rules.refusal(child.graph.capacity) is None:
                found.setdefault(child.key, child)
        return list(found.values())

    def _ranked(self, children: Sequence[Child], goal: Goal, state: State) -> list[Child]:
        """Those that cost about what is wanted, the best first."""

        def distance(child: Child) -> tuple[float, str]:
            beyond = 0.0 if self.study.within(child.graph) else BEYOND
            risk = min(child.residual, HIGHEST)
            return _far(child, goal) + beyond + risk + _blame(child, state), child.key

        near = sorted((c for c in children if c.share <= goal.most), key=lambda c: _far(c, goal))
        return sorted(near[: 16 * POOL], key=distance)

    def _draws(self, state: State, rounds: int) -> Iterator[Child]:
        for place in range(rounds):
            rng = draws(self.study, replace(state, step=state.step + place))
            for _ in range(DRAWS):
                child = self._drawn(state, rng)
                if child is not None:
                    yield child

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
        return Child(base, changed, pairs, key, share, residual, edges)

    def _base(self, state: State, rng: np.random.Generator) -> Elite | None:
        draw = rng.random()
        if draw < INCUMBENT:
            return state.best
        if draw < INCUMBENT + ELITE and state.elites:
            return state.elites[rng.integers(len(state.elites))]
        return None

    def _left(self, state: State) -> int:
        return self.study.left(self.study.allowance(state))


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


def _far(child: Child, goal: Goal) -> float:
    """What being far from a goal counts."""
    return NEARNESS * abs(math.log(child.share / goal.share))
