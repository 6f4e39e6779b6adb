"""Models that are not here yet: IMPORT ... WHERE, SHOW MODELS FROM a source, EXPLAIN IMPORT."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from sommelier.connection.plain import plain_options
from sommelier.connection.repositories import Origin, origin
from sommelier.connection.stated import bind, facts_in, terms
from sommelier.connectors.search import BusySourceError, Candidate, Searchable, Term
from sommelier.engine.options import EXPLAIN_OPTIONS, bind_options
from sommelier.engine.parameters import Parameters, as_parameters
from sommelier.engine.places import told
from sommelier.engine.result import ColumnInfo, Report, Table
from sommelier.engine.skipped import models
from sommelier.errors import BinderError, ConnectorError, reason
from sommelier.grammar import nodes
from sommelier.like import like_pattern
from sommelier.records import Artifact, Rejection
from sommelier.units import Dimension

if TYPE_CHECKING:
    from sommelier.connection.connection import Connection
    from sommelier.connectors.base import Listing, Progress

LOOKED_AT = 10_000  # models of a source that one search looks at
REFUSED_IN_A_ROW = 50  # candidates without an acceptable model before an import gives up
SHOWN = 100  # rows of SHOW MODELS FROM without a LIMIT
REASONS_SHOWN = 8  # of locations that cannot be read


class Search:
    """What a source states of its models, narrowed by the WHERE and LIKE of a statement.

    Raises BinderError for a condition the source knows nothing of, ConnectorError if it cannot be
    searched at all.
    """

    def __init__(
        self, statement: nodes.Import | nodes.Show, origin: Origin, values: Parameters
    ) -> None:
        source = origin.connector
        if not isinstance(source, Searchable):
            raise ConnectorError(
                f"'{origin.name}' cannot be searched: it states nothing of a model before it is "
                "fetched",
                hint="narrow by LIKE, or import and then SELECT MODELS WHERE ...",
            )
        if statement.locations:
            raise BinderError(
                "WHERE looks for models, locations name them",
                span=statement.where.span if statement.where else None,
                hint="leave one of the two out",
            )
        self.origin, self.source = origin, source
        self.terms: tuple[Term, ...] = ()
        self._holds = None
        self._asked: tuple[str, ...] = ()
        self._unknown: Counter[str] = Counter()
        if statement.where is not None:
            self._holds = bind(statement.where, source.facts, values)
            self._asked = facts_in(statement.where, source.facts, values)
            self.terms = terms(statement.where, source.facts, values)
        like = values.text(statement.like)
        self._like = None if like is None else like_pattern(like)
        if like is not None and "name" in source.facts:
            self.terms += (Term("name", "like", like),)
        self.looked_at = self.passed = 0
        self.given_up: str | None = None

    def candidates(self) -> Iterator[Candidate]:
        """What passes, in the order of the source; of the first LOOKED_AT that it comes upon, or of
        those before it became too busy. Raises ConnectorError if it cannot be searched."""
        for found in islice(self._found(), LOOKED_AT):
            self.looked_at += 1
            if self._like is not None and not self._like.fullmatch(found.name):
                continue
            passes = True if self._holds is None else self._holds(found.facts)
            if passes is None:
                self._unknown.update(f for f in self._asked if found.facts.get(f) is None)
            if passes:
                self.passed += 1
                yield found

    def _found(self) -> Iterator[Candidate]:
        try:
            yield from self.source.search(self.terms, options=self.origin.options)
        except BusySourceError as error:
            if not self.looked_at:
                raise
            self.given_up = reason(error)

    def filtered(self) -> tuple[list[str], list[str]]:
        """The terms that the source filters by itself, with how, and those that only we do."""
        by_source, here = [], []
        for term in self.terms:
            how = self.source.pushed(term)
            if how is None:
                here.append(str(term))
            else:
                by_source.append(f"{term} ({how})")
        return by_source, here

    def notes(self) -> tuple[str, ...]:
        """How far the search went, where that is not to its end, and what nothing is known of."""
        notes = [f"{models(n)} skipped: {fact} is unknown" for fact, n in self._unknown.items()]
        if self.given_up is not None:
            notes.append(f"the search was given up after {self.looked_at} models: {self.given_up}")
        elif self.looked_at >= LOOKED_AT:
            notes.append(f"only the first {LOOKED_AT} models of the source were looked at")
        if not self.passed and (left_out := self._left_out_there()):
            what = ", ".join(left_out)
            notes.append(f"{self.origin.name} leaves out models that state no {what}, uncounted")
        return tuple(notes)

    def _left_out_there(self) -> list[str]:
        """Facts by which the source filters itself: what states nothing of them never comes."""
        by_source = (term.fact for term in self.terms if self.source.pushed(term) is not None)
        return [fact for fact in dict.fromkeys(by_source) if fact != "name"]


def searches(statement: nodes.Import, source: Origin) -> bool:
    """Whether an import looks for models instead of naming where they are.

    Raises BinderError for a search without LIMIT: a hub has more models than a disk holds.
    """
    by_name = statement.like is not None and isinstance(source.connector, Searchable)
    if statement.where is None and (source.locations or not by_name):
        return False
    if statement.limit is None and not statement.locations:
        raise BinderError(
            f"IMPORT MODELS FROM {statement.connector} needs a LIMIT, or locations",
            span=statement.span,
            hint="LIMIT 20 takes the first 20; SHOW MODELS FROM ... WHERE ... lists them before",
        )
    return True


def fetched(search: Search, progress: Progress) -> Iterator[Artifact | Rejection]:
    """The models a search comes upon, fetched one after the other.

    A candidate that cannot be fetched is a Rejection; too many in a row, or a source that is too
    busy, end the import, which `search.notes` then says.
    """
    refused = 0
    for done, candidate in enumerate(search.candidates()):
        progress(candidate.name, done, None)
        accepted = False
        try:
            for item in search.origin.fetched_from(candidate.location):
                accepted = accepted or isinstance(item, Artifact)
                yield item
        except ConnectorError as error:
            yield Rejection(search.origin.name, candidate.location, reason(error))
            if isinstance(error, BusySourceError):
                search.given_up = reason(error)
                return
        refused = 0 if accepted else refused + 1
        if refused == REFUSED_IN_A_ROW:
            search.given_up = f"{refused} in a row were refused"
            return


def shown(db: Connection, statement: nodes.Show, parameters: Any) -> Table:
    """What SHOW MODELS FROM a source lists; nothing is fetched."""
    values = as_parameters(parameters)
    options = plain_options(statement.options, values)
    limit = SHOWN if statement.limit is None else statement.limit
    assert statement.source is not None, "only SHOW MODELS FROM comes here"
    asked = origin(db, statement.source, statement.locations, options)
    searched = isinstance(asked.connector, Searchable) and not statement.locations
    if statement.where is None and not searched:
        return _listed(values.text(statement.like), asked, limit)
    search = Search(statement, asked, values)
    facts = [fact for fact in search.source.facts if fact != "name"]
    found = list(islice(search.candidates(), limit + 1))
    rows = [(c.name, *(_cell(c.facts.get(fact)) for fact in facts)) for c in found[:limit]]
    kinds = search.source.facts
    columns = tuple(
        ColumnInfo(fact, Dimension.COUNT) if kinds[fact] is float else ColumnInfo(fact)
        for fact in facts
    )
    notes = (*_more(len(found), limit), *search.notes())
    return Table("models", (ColumnInfo("name"), *columns), rows, notes)


def explained(db: Connection, statement: nodes.ExplainImport, parameters: Any) -> Report:
    """Which conditions the source filters by itself, and which are applied here."""
    values = as_parameters(parameters)
    asked = statement.statement
    as_json = bind_options(statement.options, EXPLAIN_OPTIONS).get("format") == "json"
    data: dict[str, Any] = {"source": asked.connector, "limit": asked.limit}
    source = origin(db, asked.connector, asked.locations, plain_options(asked.options, values))
    if not searches(asked, source):
        like = values.text(asked.like)
        data |= {"locations": [*map(told, asked.locations)], "like": like}
        data |= {"connector": source.connector.name}
        where = ", ".join(map(told, source.locations or filter(None, [source.at]))) or "no location"
        named = "" if source.name == source.connector.name else f"{source.name}, a "
        lines = [f"import from {named}{source.connector.name}: {where}"]
        lines += [f"  models named {', '.join(source.names)}"] if source.names else []
        lines += [f"  names like {like!r}, told apart here"] if like else []
        lines += [f"  at most {models(asked.limit)}"] if asked.limit is not None else []
    else:
        search = Search(asked, source, values)
        by_source, here = search.filtered()
        rest = "every condition is checked again here"
        data |= {"filtered_by_source": by_source, "filtered_here": here}
        data |= {"order": search.source.order, "looked_at": LOOKED_AT}
        lines = [
            f"search {asked.connector}, {search.source.order}",
            f"  filtered by {asked.connector}: {', '.join(by_source) or 'nothing'}",
            f"  filtered here: {', '.join(here) or 'nothing more'}; {rest}",
            f"  looks at {LOOKED_AT} models at most, imports {asked.limit or 'all that pass'}",
        ]
    if as_json:
        from sommelier.engine.explain import json_report

        return json_report(data)
    return Report(tuple(lines), data)


def _listed(pattern: str | None, asked: Origin, limit: int) -> Table:
    like = None if pattern is None else like_pattern(pattern)
    found: list[Listing] = []
    unread: list[str] = []
    for item in asked.listed():
        if isinstance(item, Rejection):
            unread.append(f"not listed: {item.revision}: {item.reason}")
        elif like is None or like.fullmatch(item.name):
            found.append(item)
        if len(found) > limit:
            break
    rows: list[tuple[object, ...]] = [(i.name, i.size_bytes, i.revision) for i in found[:limit]]
    columns = (ColumnInfo("name"), ColumnInfo("size", Dimension.BYTES), ColumnInfo("revision"))
    return Table("models", columns, rows, (*_more(len(found), limit), *_some(unread)))


def _more(found: int, limit: int) -> tuple[str, ...]:
    return (f"there are more: the first {limit} are shown",) if found > limit else ()


def _some(notes: list[str]) -> list[str]:
    rest = len(notes) - REASONS_SHOWN
    return notes if rest <= 0 else [*notes[:REASONS_SHOWN], f"and {rest} more that are not listed"]


def _cell(value: object) -> object:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else value
