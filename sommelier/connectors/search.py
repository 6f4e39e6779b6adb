"""What a source that can be searched adds to a connector: conditions it may filter by itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from sommelier.errors import ConnectorError


class BusySourceError(ConnectorError):
    """A source lets nobody ask as often as we do, for longer than we wait: asking on is no use."""


@dataclass(frozen=True, slots=True)
class Term:
    """One comparison that has to hold: task = 'ner', params < 3e7, tags has 'mobile', or
    name like 'bert%', of which the source need not mind the case."""

    fact: str
    operator: str  # = < <= > >= has like
    value: str | float

    def __str__(self) -> str:
        shown = repr(self.value) if isinstance(self.value, str) else f"{self.value:.12g}"
        return f"{self.fact} {self.operator.upper()} {shown}"


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that a search came upon. location : what `fetch` understands. facts : what the
    source states of it, by the names and types of Searchable.facts; what it leaves out is missing.
    """

    name: str
    location: str
    facts: Mapping[str, object]


@runtime_checkable
class Searchable(Protocol):
    """A connector whose source can be asked for models by what it states of them."""

    @property
    def facts(self) -> Mapping[str, type]:
        """What WHERE may ask: {fact: str, float, or tuple (of str, for HAS)}."""

    @property
    def order(self) -> str:
        """In which order a search comes upon models: 'most downloaded first'."""

    def pushed(self, term: Term) -> str | None:
        """How the source itself filters by a term; None where it cannot."""

    def search(
        self, terms: tuple[Term, ...], *, options: Mapping[str, object]
    ) -> Iterator[Candidate]:
        """Models in that order, filtered by the terms the source can filter by.

        More than what passes may come: the caller checks every condition. Raises ConnectorError.
        """
