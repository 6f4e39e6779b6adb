"""The baseline that everybody knows: one backbone, a head for every task."""

from __future__ import annotations

from dataclasses import replace

from sommelier.analysis.fusion.search.attempts import Child, Proposal
from sommelier.analysis.fusion.search.ranking import all_shared
from sommelier.analysis.fusion.search.state import State
from sommelier.analysis.fusion.search.study import Study, seed_of


class AllShared:
    """Each model's trunk in turn carries the heads of all."""

    def __init__(self, study: Study) -> None:
        self.study = study
        graphs = all_shared(study.module.graph)
        self.graphs = sorted(graphs, key=lambda g: (study.costs.share(g), g.signature))

    def exhausted(self, state: State) -> bool:
        """Whether every trunk was tried."""
        return all(graph.signature in state.tried for graph in self.graphs)

    def proposals(self, state: State, count: int) -> list[Proposal]:
        """The next trunks, the cheapest first."""
        left = [graph for graph in self.graphs if graph.signature not in state.tried][:count]
        children = [Child(None, g, (), g.signature, self.study.costs.share(g)) for g in left]
        return [
            Proposal((child,), seed_of(self.study, replace(state, step=state.step + place)))
            for place, child in enumerate(children)
        ]
