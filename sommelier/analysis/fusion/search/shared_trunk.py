"""The baseline that everybody knows: one backbone, a head for every task."""

from __future__ import annotations

from sommelier.analysis.computing import Cancelled
from sommelier.analysis.fusion.search.ranking import all_shared
from sommelier.analysis.fusion.search.state import State
from sommelier.analysis.fusion.search.study import Outcome, Study, seed_of


class AllShared:
    """Each model's trunk in turn carries the heads of all."""

    def __init__(self, study: Study) -> None:
        self.study = study
        graphs = all_shared(study.module.graph)
        self.graphs = sorted(graphs, key=lambda g: (study.costs.share(g), g.signature))

    def exhausted(self, state: State) -> bool:
        """Whether every trunk was tried."""
        return all(graph.signature in state.tried for graph in self.graphs)

    def step(self, state: State, cancelled: Cancelled) -> Outcome:
        """Trains the next trunk, the cheapest first."""
        study, seed = self.study, seed_of(self.study, state)
        graph = next(graph for graph in self.graphs if graph.signature not in state.tried)
        module = study.mutated(None, graph, seed)
        drop, epochs, why = study.train(module, study.left(state), seed, cancelled)
        action = "stopped early" if why == "out of reach" else "trained"
        return Outcome(action, graph, module, (), None, drop, None, epochs, graph.signature)
