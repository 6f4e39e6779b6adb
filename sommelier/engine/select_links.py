"""SELECT LINKS: model links as rows, with the conditions, order and units of SELECT MODELS."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sommelier.engine.conditions import bind_condition
from sommelier.engine.link_columns import LinkRows, LinkWords
from sommelier.engine.listing import bind_listed, in_order, listed, missing
from sommelier.engine.numbers import Binding
from sommelier.engine.options import LINKS_OPTIONS, bind_options
from sommelier.engine.outputs import bind_order
from sommelier.engine.parameters import Parameters
from sommelier.engine.plan import (
    Condition,
    OrderKey,
    OutputColumn,
)
from sommelier.engine.planner import row_count
from sommelier.engine.predicates import Block, evaluate
from sommelier.engine.result import ColumnInfo, Table
from sommelier.grammar import nodes

if TYPE_CHECKING:
    from sommelier.engine.session import Session

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class LinksPlan:
    """A bound SELECT LINKS."""

    columns: tuple[OutputColumn, ...]
    where: Condition | None
    order: tuple[OrderKey, ...]
    distinct: bool
    limit: int | None
    offset: int


def select_links(statement: nodes.SelectLinks, session: Session, parameters: Parameters) -> Table:
    """The links that satisfy the question, by name where no order is asked for.

    Raises BinderError for words, units and values that do not fit, UnknownNameError for models
    there are not.
    """
    bound = bind_links(statement, session, parameters)
    links = LinkRows(session.facts)
    rows, notes = _kept(bound.where, links)
    found = listed(
        bound.columns, in_order(rows, bound.order, links), links, distinct=bound.distinct
    )
    stop = None if bound.limit is None else bound.offset + bound.limit
    shown = found[bound.offset : stop]
    if len(shown) < len(found):
        notes.append(f"{len(shown)} of {len(found)} links")
    described = tuple(ColumnInfo(c.name, c.value.dimension) for c in bound.columns)
    return Table("links", described, shown, tuple(notes))


# ---- binding


def bind_links(statement: nodes.SelectLinks, session: Session, parameters: Parameters) -> LinksPlan:
    """The question with names as columns and every number in base units. Raises BinderError."""
    options = bind_options(statement.options, LINKS_OPTIONS, parameters)
    words = LinkWords(options.get("cost") or "memory")
    scope = session.scope(nodes.Select(), parameters)
    binding = Binding(scope, "where", vocabulary=words)
    where = None if statement.where is None else bind_condition(statement.where, binding)
    shown = replace(binding, clause="select")
    columns = bind_listed(statement.projection, shown, words)
    named = replace(binding, clause="order", aliases=columns)
    return LinksPlan(
        columns,
        where,
        bind_order(statement.order_by, named),
        statement.distinct,
        row_count(statement.limit, scope, "LIMIT"),
        row_count(statement.offset, scope, "OFFSET") or 0,
    )


# ---- rows


def _kept(where: Condition | None, links: LinkRows) -> tuple[Rows, list[str]]:
    """(the rows for which the condition is TRUE, why others are unknown)."""
    if where is None:
        return np.arange(links.size), []
    truth = evaluate(where, Block(links))
    return np.flatnonzero(truth.true), _unknown(where, np.flatnonzero(truth.unknown), links)


def _unknown(where: Condition, rows: Rows, links: LinkRows) -> list[str]:
    """A sentence for each column without which some links could not be judged."""
    notes: dict[str, None] = {}
    for column, lack in missing(where, rows, links):
        notes[_missing(column, lack, links)] = None
    return list(notes)


def _missing(column: str, rows: Rows, links: LinkRows) -> str:
    """'2 links have no performance: not linkable'; the states say why."""
    states = Counter(links.states[row] for row in rows)
    told = ", ".join(f"{n} {state}" for state, n in states.items())
    if len(states) == 1:
        told = next(iter(states))
    why = "" if told == "linked" else f": {told}"
    return f"{'1 link has' if len(rows) == 1 else f'{len(rows)} links have'} no {column}{why}"
