"""SELECT LINKS: model links as rows, with the conditions, order and units of SELECT MODELS."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.engine.conditions import bind_condition
from sommelier.engine.link_columns import (
    DEFAULT_COLUMNS,
    LINK_COLUMNS,
    LinkRows,
    LinkWords,
)
from sommelier.engine.numbers import Binding
from sommelier.engine.options import LINKS_OPTIONS, bind_options
from sommelier.engine.ordering import SortKey, ordered
from sommelier.engine.outputs import bind_order, bind_shown
from sommelier.engine.parameters import Parameters
from sommelier.engine.plan import (
    Condition,
    MetricColumn,
    OrderKey,
    OutputColumn,
    Shown,
    TextColumn,
    TextMatch,
    atoms,
    leaves,
    operands,
)
from sommelier.engine.planner import row_count
from sommelier.engine.predicates import Block, evaluate, numbers
from sommelier.engine.result import ColumnInfo, Table, as_python
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
    rows = ordered(rows, [_sort_key(key, links) for key in bound.order])
    columns = [_gathered(column.value, rows, links) for column in bound.columns]
    found = list(zip(*columns, strict=True))
    if bound.distinct:
        found = list(dict.fromkeys(found))
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
    columns = tuple(_columns(statement.projection, shown, words))
    named = replace(binding, clause="order", aliases=columns)
    return LinksPlan(
        columns,
        where,
        bind_order(statement.order_by, named),
        statement.distinct,
        row_count(statement.limit, scope, "LIMIT"),
        row_count(statement.offset, scope, "OFFSET") or 0,
    )


def _columns(
    projection: tuple[nodes.Projection, ...], binding: Binding, words: LinkWords
) -> Iterator[OutputColumn]:
    if not projection:
        yield from (OutputColumn(name, words.column(name)) for name in DEFAULT_COLUMNS)
    for item in projection:
        expression = item.expression
        if isinstance(expression, nodes.Column) and expression.name == "*":
            yield from (OutputColumn(name, words.column(name)) for name in LINK_COLUMNS)
            continue
        value = bind_shown(expression, binding, item.context)
        yield OutputColumn(item.alias or _name(expression), value)


def _name(node: Any) -> str:
    from sommelier.grammar.formatter import format_expression

    return node.name.lower() if isinstance(node, nodes.Column) else format_expression(node)


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
    for atom in atoms(where):
        if isinstance(atom, TextMatch):
            missing = rows[links.text_mask(atom.predicate)[1][rows]]
            notes |= dict.fromkeys(_missing(atom.predicate.column, missing, links))
        for value in operands(atom):
            for leaf in leaves(value):
                if isinstance(leaf, MetricColumn):
                    missing = rows[links.column(leaf.key).unknown[rows]]
                    notes |= dict.fromkeys(_missing(leaf.key.metric, missing, links))
    return list(notes)


def _missing(column: str, rows: Rows, links: LinkRows) -> Iterator[str]:
    """'2 links have no performance: not linkable'; the states say why."""
    if not len(rows):
        return
    states = Counter(links.states[row] for row in rows)
    told = ", ".join(f"{n} {state}" for state, n in states.items())
    if len(states) == 1:
        told = next(iter(states))
    why = "" if told == "linked" else f": {told}"
    yield f"{'1 link has' if len(rows) == 1 else f'{len(rows)} links have'} no {column}{why}"


def _sort_key(key: OrderKey, links: LinkRows) -> SortKey:
    value = key.value

    def values(rows: Rows) -> NDArray[Any]:
        if isinstance(value, TextColumn):
            return links.rank(value.name, rows)
        return numbers(value, Block(links, rows))

    return SortKey(values, key.descending, key.nulls_first)


def _gathered(value: Shown, rows: Rows, links: LinkRows) -> list[Any]:
    if isinstance(value, TextColumn):
        return list(links.text(value.name)[rows])
    return [as_python(n, value.dimension) for n in numbers(value, Block(links, rows))]
