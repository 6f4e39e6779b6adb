"""Places for the nodes of a directed graph in columns, parents left of children."""

from __future__ import annotations

from collections.abc import Sequence

Edge = tuple[str, str]  # (parent, child)
_ROUNDS = 8


def places(names: Sequence[str], edges: Sequence[Edge]) -> dict[str, tuple[int, float]]:
    """(column, row) of each node; edges that close a circle are not followed.

    A node stands one column behind the last of its parents; rows are ordered so that few edges
    cross, and each column is centred around 0.

    >>> places(["a", "b", "c"], [("a", "c"), ("b", "c")])
    {'a': (0, -0.5), 'b': (0, 0.5), 'c': (1, 0.0)}
    """
    column = _columns(names, edges)
    columns: dict[int, list[str]] = {}
    for name in names:
        columns.setdefault(column[name], []).append(name)
    near: dict[str, list[str]] = {name: [] for name in names}
    for parent, child in edges:
        near[parent].append(child)
        near[child].append(parent)
    row = _rows(columns)
    for number in range(_ROUNDS):
        order = sorted(columns) if number % 2 == 0 else sorted(columns, reverse=True)
        for at in order:
            columns[at].sort(key=lambda name: (_middle(name, near, row), name))
            row.update(_rows({at: columns[at]}))
    return {name: (column[name], row[name]) for name in names}


def _columns(names: Sequence[str], edges: Sequence[Edge]) -> dict[str, int]:
    """The longest way from a node without parents."""
    column = dict.fromkeys(names, 0)
    followed = _followed(edges)
    for _ in names:
        for parent, child in followed:
            column[child] = max(column[child], column[parent] + 1)
    return column


def _followed(edges: Sequence[Edge]) -> list[Edge]:
    """The edges in their order, but for those that close a circle."""
    below: dict[str, set[str]] = {}
    kept = []
    for parent, child in dict.fromkeys(edges):
        seen, ahead = {child}, [child]
        while ahead:
            more = below.get(ahead.pop(), set()) - seen
            seen |= more
            ahead += more
        if parent not in seen:
            below.setdefault(parent, set()).add(child)
            kept.append((parent, child))
    return kept


def _rows(columns: dict[int, list[str]]) -> dict[str, float]:
    return {
        name: place - (len(inside) - 1) / 2
        for inside in columns.values()
        for place, name in enumerate(inside)
    }


def _middle(name: str, near: dict[str, list[str]], row: dict[str, float]) -> float:
    others = near[name]
    return sum(row[other] for other in others) / len(others) if others else row[name]
