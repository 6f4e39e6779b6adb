"""Why an import that ran to its end brought no model, and what to do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from sommelier.analysis.conversion.values import TRUST
from sommelier.connectors.search import Searchable, Term
from sommelier.engine.names import few, nearest
from sommelier.engine.places import told
from sommelier.errors import ConnectorError
from sommelier.grammar.formatter import format as format_query
from sommelier.grammar.source_formatter import text_of
from sommelier.grammar.spelling import write_name

if TYPE_CHECKING:
    from sommelier.connection.repositories import Origin
    from sommelier.connection.searching import Search
    from sommelier.grammar import nodes
    from sommelier.records import Rejection

_COMPARED = 300  # models of the source whose words a search that found nothing is compared with
_OF_CODE = ("torchhub",)  # connectors whose models are made by the code of their place


class UntrustedError(ConnectorError):
    """All that was found waits for its code to be trusted. place : whose code it is."""

    code = "untrusted"

    def __init__(self, message: str, *, place: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.place = place


def nothing_came(
    statement: nodes.Import, source: Origin, rejections: Sequence[Rejection], search: Search | None
) -> ConnectorError:
    """The error. search : what was looked for, None where locations were named."""
    place = _place(statement)
    if rejections:
        return _all_refused(place, source, rejections)
    if search is None:
        return ConnectorError(f"found no model at {place}", hint=source.connector.describe())
    near, known = _near_words(search)
    listed = f"SHOW MODELS FROM {write_name(statement.connector)} lists what it states"
    return ConnectorError(
        f"found no model at {place}",
        suggestions=near,
        hint="; ".join((*known, *search.notes(), listed)),
    )


def _place(statement: nodes.Import) -> str:
    """Where was looked, and for what."""
    if statement.locations:
        return ", ".join(repr(told(place)) for place in statement.locations)
    parts = [statement.connector]
    if statement.like is not None:
        parts += ["LIKE", text_of(statement.like) or ""]
    if statement.where is not None:
        parts += ["WHERE", format_query(statement.where)]
    return " ".join(parts)


def _all_refused(place: str, source: Origin, rejections: Sequence[Rejection]) -> ConnectorError:
    first = rejections[0].reason
    message = f"nothing at {place} was accepted, {len(rejections)} rejected: {first}"
    hint = "SHOW REJECTIONS lists every reason"
    wants = all(TRUST in rejection.reason for rejection in rejections)
    if wants and source.connector.name in _OF_CODE:
        where = place if source.at is None else f"{source.name} ({told(source.at)})"
        return UntrustedError(message, place=where, hint=hint)
    return ConnectorError(message, hint=hint)


def _near_words(search: Search) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(words that models of the source have for what none has, what all those words are)."""
    asked = [term for term in search.terms if term.operator == "=" and isinstance(term.value, str)]
    for term in asked:
        words = list(dict.fromkeys(_words(search, term)))
        if words and str(term.value).casefold() not in {word.casefold() for word in words}:
            return nearest(str(term.value), words), (f"{term.fact} of some there: {few(words)}",)
    return (), ()


def _words(search: Search, term: Term) -> Iterator[str]:
    """What the first models of the source state of the fact, whatever else they are."""
    source: Searchable = search.source
    try:
        for found in islice(source.search((), options=search.origin.options), _COMPARED):
            value = found.facts.get(term.fact)
            if isinstance(value, str):
                yield value
    except ConnectorError:  # it has answered once: there is just nothing to compare with
        return
