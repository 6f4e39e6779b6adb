"""The columns of SELECT LINKS: what words mean there, and the values of every link by row."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sommelier.engine.listed_columns import ListedRows, ListedWords, floats
from sommelier.engine.names import unknown
from sommelier.engine.plan import MetricColumn, TextColumn
from sommelier.errors import Span
from sommelier.grammar import nodes
from sommelier.records import TextPredicate
from sommelier.storage.catalog_text import LINK_TEXTS
from sommelier.units import Dimension

if TYPE_CHECKING:
    from sommelier.engine.facts import Facts
    from sommelier.engine.numbers import Binding
    from sommelier.link_records import ModelLink

COST = "cost"
LINK_NUMBERS: dict[str, tuple[str, Dimension]] = {
    "performance": ("performance", Dimension.FRACTION),
    "low": ("low", Dimension.FRACTION),
    "high": ("high", Dimension.FRACTION),
    "skill": ("skill", Dimension.FRACTION),
    "value": ("value", Dimension.NUMBER),
    "constant": ("constant", Dimension.FRACTION),
    "screen": ("screen", Dimension.FRACTION),
    "samples": ("samples", Dimension.COUNT),
    "held_out": ("held_out", Dimension.COUNT),
    "params": ("params", Dimension.COUNT),
    "flops": ("flops", Dimension.FLOPS),
    "memory": ("memory", Dimension.BYTES),
    "size": ("size", Dimension.BYTES),
    "latency": ("latency_ms", Dimension.TIME),
}
"""Numbers of a link by column: its field and what it measures; `cost` is one of them."""

LINK_COLUMNS: tuple[str, ...] = (
    *("name", "source", "target", "performance", "low", "high", "skill", COST, "metric"),
    *("value", "unit", "constant", "screen", "architecture", "method", "state", "reason"),
    *("dataset", "samples", "held_out", "params", "flops", "memory", "size", "latency", "created"),
)
"""Every column, in the order of `*`."""

DEFAULT_COLUMNS: tuple[str, ...] = (
    *("state", "source", "target", "performance", "low", "high", "metric", "method", "dataset"),
    *("name", "skill", COST),
)
"""Without a projection. A narrow terminal leaves out the middle and keeps a long first column wide
(shell.boxes): at 80 columns the first four and the last two are seen, however long names are."""

_MODELS = ("source", "target")
_NAMING = ("=", "!=", "in", "has_any", "has_all")  # operators whose words are names of models


class LinkWords(ListedWords):
    """The words of SELECT LINKS. cost : which number the column `cost` is."""

    kind, one = "links", "link"
    columns, default = LINK_COLUMNS, DEFAULT_COLUMNS
    texts = tuple(LINK_TEXTS)
    numbers: ClassVar = {name: dimension for name, (_, dimension) in LINK_NUMBERS.items()}
    listed = "source"

    def __init__(self, cost: str) -> None:
        self._cost = cost

    def column(self, name: str) -> MetricColumn | TextColumn:
        return super().column(self._cost if name == COST else name)

    def check_word(self, column: str, word: str, span: Span | None, binding: Binding) -> None:
        """A source or target that no model has ever been called is a spelling mistake."""
        if column not in _MODELS:
            return
        facts = binding.scope.facts
        names = facts.model_names()
        known = {*names, *(end for k in facts.links() for end in (*k.source_names, k.target_name))}
        for part in word.split(", "):
            name, _, version = part.partition("@")
            if version and part not in known and name in known:
                binding.scope.model(nodes.ModelRef(name, version, span=span))  # raises
            elif part not in known:
                raise unknown("model", part, names, span)

    def check_pattern(self, column: str, pattern: str, facts: Facts) -> None:
        facts.link_mask(TextPredicate(column, "regexp", (pattern,)))

    def limits(self, _example: str) -> str:
        return "links are limited by amounts: memory < 1 kB, latency < 50 us"


class LinkRows(ListedRows):
    """Every link's values, in the order of their names."""

    kind = "links"

    def __init__(self, facts: Facts) -> None:
        super().__init__(facts.catalog)
        self._facts = facts
        self.links: list[ModelLink] = facts.links()

    @property
    def size(self) -> int:
        return len(self.links)

    def numbers(self, name: str) -> NDArray[np.float64]:
        field, _ = LINK_NUMBERS[name]
        return floats([getattr(link, field) for link in self.links])

    def texts(self, name: str) -> list[str | None]:
        return [link_text(link, name) for link in self.links]

    def text_mask(self, predicate: TextPredicate) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        said = predicate.column in _MODELS and any("@" in value for value in predicate.values)
        if said and predicate.operator in _NAMING:
            true = [self._named(link, predicate) for link in self.links]
            return np.array(true, dtype=np.bool_), np.zeros(self.size, dtype=np.bool_)
        return self._facts.link_mask(predicate)

    def _named(self, link: ModelLink, predicate: TextPredicate) -> bool:
        """Whether a predicate that names versions is true for the source or target of a link."""
        ends = [(link.target_id, link.target_name)]
        if predicate.column == "source":
            ends = list(zip(link.source_ids, link.source_names, strict=True))
        spellings = [self._spellings(id_, name) for id_, name in ends]
        if predicate.operator in ("has_any", "has_all"):
            every = all if predicate.operator == "has_all" else any
            return every(any(v in spelt for spelt in spellings) for v in predicate.values)
        same = any(
            len(parts) == len(spellings) and all(map(set.__contains__, spellings, parts))
            for parts in (value.split(", ") for value in predicate.values)
        )
        return same != (predicate.operator == "!=")

    def _spellings(self, model_id: str, called: str) -> set[str]:
        name, version = self._facts.versions().get(model_id, (called, None))
        return {called, name} if version is None else {called, name, f"{name}@{version}"}

    @cached_property
    def states(self) -> list[str]:
        return [str(link_text(link, "state")) for link in self.links]


def link_text(link: ModelLink, column: str) -> str | None:
    """One of LINK_TEXTS, as the catalog's view `links` has it."""
    if column == "source":
        return ", ".join(link.source_names)
    if column == "target":
        return link.target_name
    if column == "state":
        return link.state if link.stale is None else "stale"
    if column == "reason":
        return link.stale or link.reason
    if column == "created":
        return None if link.created_at is None else f"{link.created_at:%Y-%m-%d %H:%M:%S}"
    found: Any = getattr(link, column)
    return None if found is None else str(found)
