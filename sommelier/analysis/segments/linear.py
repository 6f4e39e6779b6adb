"""From a graph to sequences that can be compared: operators in a row, regions between them.

algorithms.md B.1 steps 1 and 2. The spine of a graph are the operators on every path through it.
What lies between two of them is a region: branches side by side, each a sequence again, and
perhaps a skip (the edge past all branches, ignored when a branch is taken apart: with it, every
residual block would be one indivisible lump). A branch that has no spine of its own keeps the
single-entry single-exit chains found inside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sommelier.analysis.segments.dominators import DominatorTree, single_entry_chains
from sommelier.analysis.segments.normal_form import NormalForm, digest

SOURCE, SINK = -1, -2
MAX_DEPTH = 48  # regions within regions; what is nested deeper stays indivisible


@dataclass(frozen=True, slots=True)
class Step:
    """One operator of a sequence."""

    operator: int
    symbol: str

    @property
    def operators(self) -> tuple[int, ...]:
        return (self.operator,)


@dataclass(frozen=True, slots=True)
class Region:
    """What lies between two operators of a sequence. skip : an edge passes all branches."""

    branches: tuple[OperatorSequence, ...]
    skip: bool
    operators: tuple[int, ...]
    symbol: str


@dataclass(frozen=True, slots=True)
class OperatorSequence:
    """Steps and regions in order.

    lump : the whole is one indivisible region; `inner` are the chains inside it. operators : all
    positions in the normal form, ascending.
    """

    items: tuple[Step | Region, ...]
    operators: tuple[int, ...]
    symbol: str
    lump: bool = False
    inner: tuple[OperatorSequence, ...] = ()

    def nested(self) -> Iterator[OperatorSequence]:
        """This sequence and all within it, outer ones first."""
        waiting = [self]
        while waiting:
            sequence = waiting.pop(0)
            yield sequence
            waiting.extend(sequence.inner)
            for item in sequence.items:
                if isinstance(item, Region):
                    waiting.extend(item.branches)


def linearise(form: NormalForm) -> OperatorSequence:
    """The recursive operator sequence of a model."""
    return _Lineariser(form).whole()


def describe(sequence: OperatorSequence, form: NormalForm) -> str:
    """The sequence in one line: 'Conv Relu {Conv.Relu.Conv|skip} Add Relu'.

    Branches in order of size, the largest first; a lump is shown as '<n operators>'.
    """
    return " ".join(_words(sequence, form))


def _words(sequence: OperatorSequence, form: NormalForm) -> list[str]:
    if sequence.lump:
        return [f"<{len(sequence.operators)} operators>"]
    words = []
    for item in sequence.items:
        if isinstance(item, Step):
            words.append(form.operators[item.operator].op)
            continue
        parts = [".".join(_words(branch, form)) for branch in item.branches]
        words.append("{" + "|".join([*parts, *(["skip"] if item.skip else [])]) + "}")
    return words


class _Lineariser:
    def __init__(self, form: NormalForm) -> None:
        self.form = form
        self.predecessors: dict[int, list[int]] = {}
        self.successors: dict[int, list[int]] = {SOURCE: []}
        for i, operator in enumerate(form.operators):
            found = sorted({form.makers.get(name, SOURCE) for name in operator.inputs}) or [SOURCE]
            self.predecessors[i] = found
            for p in found:
                self.successors.setdefault(p, []).append(i)
        ends = sorted({form.makers.get(name, SOURCE) for name in form.outputs})
        self.predecessors[SINK] = ends
        for p in ends:
            self.successors.setdefault(p, []).append(SINK)

    def whole(self) -> OperatorSequence:
        return self._between(list(range(len(self.form.operators))), SOURCE, SINK, 0)

    def _between(self, nodes: list[int], source: int, sink: int, depth: int) -> OperatorSequence:
        """The sequence of `nodes`, ascending, which lie between source and sink."""
        inside = set(nodes)
        tree = self._tree(nodes, inside, source, sink)
        spine = tree.path_from_root(sink)[1:-1]
        if not spine and len(self._components(nodes)) > 1:
            region = self._region(nodes, source, sink, depth)
            return _sequence((region,))
        if not spine or depth >= MAX_DEPTH:
            return self._lump(nodes, source, sink, depth)
        return self._along(spine, nodes, tree, source, sink, depth)

    def _along(
        self, spine: list[int], nodes: list[int], tree: DominatorTree, source: int, sink: int,
        depth: int,
    ) -> OperatorSequence:  # fmt: skip
        """Steps of the spine with the regions between them; a node belongs after its dominator."""
        owner = {source: source} | {v: v for v in spine}
        between: dict[int, list[int]] = {}
        for v in nodes:
            if v not in owner:
                owner[v] = owner[tree.parent[v]]
                between.setdefault(owner[v], []).append(v)
        items: list[Step | Region] = []
        for i, a in enumerate([source, *spine]):
            if i:
                items.append(Step(a, self.form.operators[a].symbol))
            if a in between:
                b = spine[i] if i < len(spine) else sink
                items.append(self._region(between[a], a, b, depth))
        return _sequence(tuple(items))

    def _region(self, nodes: list[int], source: int, sink: int, depth: int) -> Region:
        branches = [
            self._between(part, source, sink, depth + 1) for part in self._components(nodes)
        ]
        branches.sort(key=lambda branch: (-len(branch.operators), branch.symbol))
        skip = source in self.predecessors[sink]
        symbol = digest("region", sorted(branch.symbol for branch in branches), skip)
        return Region(tuple(branches), skip, tuple(nodes), symbol)

    def _lump(self, nodes: list[int], source: int, sink: int, depth: int) -> OperatorSequence:
        """Nodes without a spine: one item, with the chains inside that can stand alone."""
        inside = set(nodes)
        before = {v: [p if p in inside else source for p in self.predecessors[v]] for v in nodes}
        after = {v: [s if s in inside else sink for s in self.successors[v]] for v in nodes}
        before[sink] = [v for v in nodes if sink in after[v]]
        inner: list[OperatorSequence] = []
        covered: set[int] = set()
        for chain in single_entry_chains(nodes, before, after, source, sink):
            if chain[0] not in covered and depth < MAX_DEPTH:
                inner.append(self._chain(chain, inside, depth))
                covered.update(inner[-1].operators)
        symbol = digest("lump", self._labels(nodes))
        return OperatorSequence((), tuple(nodes), symbol, lump=True, inner=tuple(inner))

    def _chain(self, chain: list[int], inside: set[int], depth: int) -> OperatorSequence:
        items: list[Step | Region] = []
        for i, v in enumerate(chain):
            items.append(Step(v, self.form.operators[v].symbol))
            if i + 1 < len(chain):
                between = self._reached(v, chain[i + 1], inside)
                if between:
                    items.append(self._region(between, v, chain[i + 1], depth))
        return _sequence(tuple(items))

    def _reached(self, start: int, stop: int, inside: set[int]) -> list[int]:
        found: set[int] = set()
        waiting = [s for s in self.successors[start] if s in inside and s != stop]
        while waiting:
            v = waiting.pop()
            if v not in found:
                found.add(v)
                waiting.extend(s for s in self.successors[v] if s in inside and s != stop)
        return sorted(found)

    def _tree(self, nodes: list[int], inside: set[int], source: int, sink: int) -> DominatorTree:
        """Dominators within `nodes`; the edge source -> sink is ignored."""

        def predecessors(v: int) -> list[int]:
            found = self.predecessors[v]
            if v == sink:
                return [p for p in found if p in inside]
            return [p if p in inside else source for p in found]

        return DominatorTree.of([*nodes, sink], source, predecessors)

    def _components(self, nodes: list[int]) -> list[list[int]]:
        """Parts of `nodes` that no edge among them connects, each ascending."""
        inside, seen, parts = set(nodes), set(), []
        for start in nodes:
            if start in seen:
                continue
            part, waiting = [], [start]
            seen.add(start)
            while waiting:
                v = waiting.pop()
                part.append(v)
                for other in (*self.predecessors[v], *self.successors.get(v, ())):
                    if other in inside and other not in seen:
                        seen.add(other)
                        waiting.append(other)
            parts.append(sorted(part))
        return parts

    def _labels(self, nodes: list[int]) -> list[str]:
        """Weisfeiler-Lehman labels along data flow, sorted: equal for equal lumps."""
        labels: dict[int, str] = {}
        for v in nodes:
            known = [labels.get(p, "entry") for p in self.predecessors[v]]
            labels[v] = digest(self.form.operators[v].symbol, sorted(known))
        return sorted(labels.values())


def _sequence(items: tuple[Step | Region, ...]) -> OperatorSequence:
    operators = sorted(o for item in items for o in item.operators)
    return OperatorSequence(items, tuple(operators), digest([item.symbol for item in items]))
