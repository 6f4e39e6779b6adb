"""The column block as the executor sees it: one place that knows which index holds which number."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sommelier.engine.facts import Facts
from sommelier.engine.numbers import ANSWER_TEXTS
from sommelier.engine.plan import MetricColumn, Shown, Similarity, TextColumn, leaves
from sommelier.storage.resource_index import ColumnKey, ColumnView

if TYPE_CHECKING:
    from sommelier.records import TextPredicate
    from sommelier.storage.candidates import Candidates
    from sommelier.storage.profile_index import ProfileIndex
    from sommelier.storage.semantic_index import SemanticIndex


class World:
    """Numbers, text and agreements of every model by row; rows are those of the resource index."""

    def __init__(self, facts: Facts, semantics: SemanticIndex, profiles: ProfileIndex) -> None:
        self.facts = facts
        self.semantics = semantics
        self.profiles = profiles

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
                self.text(value.name)
            return
        for leaf in leaves(value):
            if isinstance(leaf, MetricColumn):
                self.column(leaf.key)
            elif isinstance(leaf, Similarity):
                self.similarity(leaf.model_id)

    def text(self, column: str) -> NDArray[np.object_]:
        return self.facts.text(column)

    def rank(self, column: str) -> NDArray[np.float64]:
        return self.facts.rank(column)

    def candidates(self, reference_id: str, probe_set_id: str | None, mode: str) -> Candidates:
        return self.semantics.candidates(reference_id, probe_set_id=probe_set_id, mode=mode)
