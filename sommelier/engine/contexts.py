"""The context that every condition of a query on a metric agrees about: what it then shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

from sommelier.grammar import nodes
from sommelier.metrics import METRICS

NO_CONTEXT = nodes.Context()
T = TypeVar("T")

_PREDICATES = (nodes.Comparison, nodes.Between, nodes.InList, nodes.IsNull)


def shared_contexts(*clauses: nodes.Expression | None) -> dict[str, nodes.Context]:
    """Per metric, the device or dataset and the percentile that all its conditions name.

    A condition that names none, or another one, leaves that part open: nothing is then guessed.
    """
    stated: dict[str, list[nodes.Context]] = {}
    for clause in clauses:
        for predicate in _predicates(clause):
            context = getattr(predicate, "context", None) or NO_CONTEXT
            for metric in set(metrics_in(predicate)):
                stated.setdefault(metric, []).append(context)
    shared = {
        metric: nodes.Context(
            on=_same([context.on for context in contexts]),
            percentile=_same([context.percentile for context in contexts]),
        )
        for metric, contexts in stated.items()
    }
    return {metric: context for metric, context in shared.items() if context != NO_CONTEXT}


def fitting(context: nodes.Context, metric: str) -> nodes.Context:
    """The part of a context that a metric has: a share of weights depends on no device."""
    return nodes.Context(
        on=context.on if METRICS[metric].context else None,
        percentile=context.percentile if metric == "latency" else None,
        span=context.span,
    )


def context_words(context: nodes.Context) -> str:
    """
    >>> context_words(nodes.Context("cpu", 99))
    " AT p99 ON 'cpu'"
    """
    at = "" if context.percentile is None else f" AT p{context.percentile:g}"
    return at + ("" if context.on is None else f" ON '{context.on}'")


def completed(context: nodes.Context | None, shared: nodes.Context | None) -> nodes.Context:
    """`context`, with what it leaves open taken from `shared`."""
    context, shared = context or NO_CONTEXT, shared or NO_CONTEXT
    return nodes.Context(
        on=shared.on if context.on is None else context.on,
        percentile=shared.percentile if context.percentile is None else context.percentile,
        span=context.span,
    )


def metrics_in(node: object) -> Iterator[str]:
    """The metrics that an expression names, repeated as often as they stand there."""
    return (name for name in names_in(node) if name in METRICS)


def names_in(node: object) -> Iterator[str]:
    """The columns that an expression names, in small letters, as often as they stand there."""
    if isinstance(node, nodes.Column):
        yield node.name.lower()
        return
    for part in _parts(node):
        yield from names_in(part)


def _predicates(node: object) -> Iterator[nodes.Expression]:
    """The comparisons of a condition; those of a query inside it are its own."""
    if isinstance(node, _PREDICATES):
        yield node
        return
    for part in _parts(node):
        yield from _predicates(part)


def _parts(node: object) -> Iterator[object]:
    if isinstance(node, nodes.And | nodes.Or):
        yield from node.operands
    elif isinstance(node, nodes.Not | nodes.Negative | nodes.IsNull):
        yield node.operand
    elif isinstance(node, nodes.Comparison | nodes.Arithmetic):
        yield from (node.left, node.right)
    elif isinstance(node, nodes.Between):
        yield from (node.operand, node.low, node.high)
    elif isinstance(node, nodes.InList):
        yield from (node.operand, *node.options)


def _same(values: list[T]) -> T | None:
    """The value all have, or None."""
    return values[0] if all(value == values[0] for value in values) else None
