"""The column block as the executor sees it: one place that knows which index holds which number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sommelier.engine.facts import Facts
from sommelier.engine.plan import MetricColumn, Shown, Similarity, TextColumn, leaves
from sommelier.engine.vocabulary import ANSWER_TEXTS
from sommelier.storage.resource_index import ColumnKey, ColumnView

if TYPE_CHECKING:
    from sommelier.engine.comparison_parts import StreamedPairs
    from sommelier.records import EquivalenceEdge, TextPredicate
    from sommelier.storage.candidates import Candidates
    from sommelier.storage.profile_index import ProfileIndex
    from sommelier.storage.semantic_index import SemanticIndex
    from sommelier.storage.words import Words


class World:
    """Numbers, text and agreements of every model by row; rows are those of the resource index."""

    def __init__(self, facts: Facts, semantics: SemanticIndex, profiles: ProfileIndex) -> None:
        self.facts = facts
        self.semantics = semantics
        self.profiles = profiles
        self._streamed: dict[str, StreamedPairs | None] = {}

    @property
    def size(self) -> int:
        return len(self.facts.ids)

    def column(self, key: ColumnKey) -> ColumnView:
        return self.facts.column(key)

    def listed(self, including: tuple[str, ...]) -> NDArray[np.bool_]:
        return self.facts.listed(including)

    def similarity(self, model_id: str) -> NDArray[np.float64]:
        return self.facts.similarity(self.profiles, model_id)

    def text_mask(self, predicate: TextPredicate) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        return self.facts.text_mask(predicate)

    def hold(self, value: Shown) -> None:
        """Reads what a column of an answer needs, so that it outlives changes of the catalog."""
        if isinstance(value, TextColumn):
            if value.name not in ANSWER_TEXTS:
                self.words(value.name)
            return
        for leaf in leaves(value):
            if isinstance(leaf, MetricColumn):
                self.column(leaf.key)
            elif isinstance(leaf, Similarity):
                self.similarity(leaf.model_id)

    def text(self, column: str) -> NDArray[np.object_]:
        return self.facts.text(column)

    def words(self, column: str) -> Words | NDArray[np.object_]:
        return self.facts.words(column)

    def rank(self, column: str) -> NDArray[np.float64]:
        return self.facts.rank(column)

    def candidates(self, reference_id: str, probe_set_id: str | None, mode: str) -> Candidates:
        return self.semantics.candidates(reference_id, probe_set_id=probe_set_id, mode=mode)

    def streamed(self, reference_id: str, dataset: str | None) -> StreamedPairs | None:
        """The pairs that early stopping decided, on that dataset or any; None if there are none."""
        from sommelier.engine.comparison_parts import StreamedPairs

        key = f"{reference_id} {dataset}"
        if key in self._streamed:
            return self._streamed[key]
        names = {p.id: p.name for p in self.facts.probe_sets()}
        edges: dict[str, EquivalenceEdge] = {}
        for edge in self.facts.catalog.edges(reference_id):
            name = names.get(edge.probe_set_id or "")
            if edge.method != "anytime" or dataset not in (None, name):
                continue
            best = edges.get(edge.candidate_id)
            if best is None or _preferred(edge) > _preferred(best):
                edges[edge.candidate_id] = edge
        rows = self.facts.resources.rows(list(edges))
        kept = [(row, e) for row, e in zip(rows, edges.values(), strict=True) if row >= 0]
        found = None
        if kept:
            found = StreamedPairs(
                np.array([row for row, _ in kept], dtype=np.int64),
                np.array([e.agreements for _, e in kept], dtype=np.int64),
                np.array([e.samples for _, e in kept], dtype=np.int64),
                tuple(dict.fromkeys(e.probe_set_id or "" for _, e in kept)),
            )
        self._streamed[key] = found
        return found


def _preferred(edge: EquivalenceEdge) -> str:
    """Which of several streams of a pair counts: blind to what was answered."""
    return edge.probe_set_id or ""
