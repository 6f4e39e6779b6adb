"""What SELECT LINKS, FUSIONS and CASCADES share: the columns, order and values of their rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.engine.frames import as_python
from sommelier.engine.listed_columns import ListedRows, ListedWords
from sommelier.engine.numbers import Binding
from sommelier.engine.ordering import SortKey, ordered
from sommelier.engine.outputs import bind_shown
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
from sommelier.engine.predicates import Block, numbers
from sommelier.grammar import nodes

Rows = NDArray[np.int64]


def bind_listed(
    projection: tuple[nodes.Projection, ...],
    binding: Binding,
    words: ListedWords,
) -> tuple[OutputColumn, ...]:
    """The columns asked for, the default ones where none is. Raises BinderError."""
    found = [] if projection else [OutputColumn(name, words.column(name)) for name in words.default]
    for item in projection:
        expression = item.expression
        if isinstance(expression, nodes.Column) and expression.name == "*":
            found += [OutputColumn(name, words.column(name)) for name in words.columns]
            continue
        value = bind_shown(expression, binding, item.context)
        found.append(OutputColumn(item.alias or _name(expression), value))
    return tuple(found)


def _name(node: Any) -> str:
    from sommelier.grammar.formatter import format_expression

    return node.name.lower() if isinstance(node, nodes.Column) else format_expression(node)


def in_order(rows: Rows, order: tuple[OrderKey, ...], source: ListedRows) -> Rows:
    """The rows sorted by the keys, ties by their numbers."""
    return ordered(rows, [_sort_key(key, source) for key in order])


def _sort_key(key: OrderKey, source: ListedRows) -> SortKey:
    value = key.value

    def values(rows: Rows) -> NDArray[Any]:
        if isinstance(value, TextColumn):
            return source.rank(value.name, rows)
        return numbers(value, Block(source, rows))

    return SortKey(values, key.descending, key.nulls_first)


def listed(
    columns: tuple[OutputColumn, ...], rows: Rows, source: ListedRows, *, distinct: bool
) -> list[tuple[Any, ...]]:
    """The values of rows, column by column; with distinct equal rows once."""
    found = list(zip(*(_gathered(c.value, rows, source) for c in columns), strict=True))
    return list(dict.fromkeys(found)) if distinct else found


def _gathered(value: Shown, rows: Rows, source: ListedRows) -> list[Any]:
    if isinstance(value, TextColumn):
        return list(source.text(value.name)[rows])
    return [as_python(n, value.dimension) for n in numbers(value, Block(source, rows))]


def missing(condition: Condition, rows: Rows, source: ListedRows) -> Iterator[tuple[str, Rows]]:
    """Each column the condition looks at with those of the rows that do not have it, if any."""
    for atom in atoms(condition):
        if isinstance(atom, TextMatch):
            lack = rows[source.text_mask(atom.predicate)[1][rows]]
            if len(lack):
                yield atom.predicate.column, lack
        for value in operands(atom):
            for leaf in leaves(value):
                if isinstance(leaf, MetricColumn):
                    lack = rows[source.column(leaf.key).unknown[rows]]
                    if len(lack):
                        yield leaf.key.metric, lack
