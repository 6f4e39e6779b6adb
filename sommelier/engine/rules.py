"""Rewrites of a plan, one function a rule; each answers a plan with the same rows and less work.

RULES is the pipeline; a rule's doctest is its specification.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from sommelier.engine.plan import (
    AllOf,
    AnswerMatch,
    AnyOf,
    Compare,
    Condition,
    Constant,
    IsUnknown,
    LogicalPlan,
    MetricColumn,
    Negated,
    TextMatch,
    Value,
    all_of,
    conjuncts,
    leaves,
)
from sommelier.storage.resource_index import ColumnKey
from sommelier.units import Dimension

Rule = Callable[[LogicalPlan], LogicalPlan]

_OPPOSITE = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "=": "!=", "!=": "="}
_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "=", "!=": "!="}


def optimize(plan: LogicalPlan) -> LogicalPlan:
    """The plan after every rule."""
    for rule in RULES:
        plan = rule(plan)
    return plan


def push_negations(plan: LogicalPlan) -> LogicalPlan:
    """NOT moves down to the comparisons and turns them round; unknown stays unknown.

    >>> show(push_negations(example(Negated(AnyOf((MEMORY_BELOW(2), MEMORY_BELOW(1)))))))
    ['memory >= 2', 'memory >= 1']
    """
    return _map_conditions(plan, _positive)


def constants_right(plan: LogicalPlan) -> LogicalPlan:
    """A comparison has its constant on the right.

    >>> show(constants_right(example(Compare(">", Constant(2.0), MEMORY))))
    ['memory < 2']
    """
    return _map_conditions(plan, _constants_right)


def merge_bounds(plan: LogicalPlan) -> LogicalPlan:
    """Of several upper or lower bounds on one column only the tightest is kept.

    >>> show(merge_bounds(example(AllOf((MEMORY_BELOW(2), MEMORY_BELOW(1))))))
    ['memory < 1']
    """
    return _map_conditions(plan, lambda c: all_of(_tightest(conjuncts(c))) or c)


def order_by_cost(plan: LogicalPlan) -> LogicalPlan:
    """Cheap conditions come first: columns in memory before text, equality before ranges.

    >>> from sommelier.records import TextPredicate
    >>> text = TextMatch(TextPredicate("task", "=", ("ner",)))
    >>> show(order_by_cost(example(AllOf((text, MEMORY_BELOW(1))))))
    ['memory < 1', "task = 'ner'"]
    """
    return _map_conditions(plan, lambda c: all_of(tuple(sorted(conjuncts(c), key=_cost))) or c)


def push_limit(plan: LogicalPlan) -> LogicalPlan:
    """The order needs to be settled for the rows that are returned only.

    >>> push_limit(replace(example(None), limit=10, offset=5)).keep
    15
    """
    return plan if plan.limit is None else replace(plan, keep=plan.offset + plan.limit)


RULES: tuple[Rule, ...] = (
    push_negations,
    constants_right,
    merge_bounds,
    order_by_cost,
    push_limit,
)


def _map_conditions(plan: LogicalPlan, rewrite: Callable[[Condition], Condition]) -> LogicalPlan:
    where, on, having = (
        None if condition is None else rewrite(condition)
        for condition in (plan.where, plan.on, plan.having)
    )
    sources = tuple(
        replace(s, plan=_map_conditions(s.plan, rewrite)) if s.plan is not None else s
        for s in plan.sources
    )
    return replace(plan, where=where, on=on, having=having, sources=sources)


# ---- negation


def _positive(condition: Condition) -> Condition:
    if isinstance(condition, Negated):
        return _opposite(condition.part)
    if isinstance(condition, AllOf):
        return all_of(tuple(_positive(part) for part in condition.parts)) or condition
    if isinstance(condition, AnyOf):
        return AnyOf(tuple(_positive(part) for part in condition.parts))
    return condition


def _opposite(condition: Condition) -> Condition:
    if isinstance(condition, Negated):
        return _positive(condition.part)
    if isinstance(condition, Compare):
        return replace(condition, operator=_OPPOSITE[condition.operator])
    if isinstance(condition, AllOf):
        return AnyOf(tuple(_opposite(part) for part in condition.parts))
    if isinstance(condition, AnyOf):
        return all_of(tuple(_opposite(part) for part in condition.parts)) or condition
    return Negated(condition)


# ---- bounds


def _constants_right(condition: Condition) -> Condition:
    if isinstance(condition, AllOf | AnyOf):
        return type(condition)(tuple(_constants_right(part) for part in condition.parts))
    if isinstance(condition, Negated):
        return Negated(_constants_right(condition.part))
    if isinstance(condition, Compare) and isinstance(condition.left, Constant):
        operator = _FLIPPED[condition.operator]
        return replace(condition, operator=operator, left=condition.right, right=condition.left)
    return condition


def _tightest(parts: tuple[Condition, ...]) -> tuple[Condition, ...]:
    best: dict[tuple[Value, str], Compare] = {}
    for part in parts:
        bound = _bound_of(part)
        if bound is None or not isinstance(part, Compare):
            continue
        key, value = bound
        if key not in best or _tighter(part.operator, value, best[key]):
            best[key] = part
    kept = []
    for part in parts:
        bound = _bound_of(part)
        if bound is None or best[bound[0]] is part:
            kept.append(part)
    return tuple(kept)


def _bound_of(part: Condition) -> tuple[tuple[Value, str], float] | None:
    """((column, direction), value) of a bound by a known constant."""
    if not isinstance(part, Compare) or part.operator not in ("<", "<=", ">", ">="):
        return None
    if not isinstance(part.right, Constant) or part.right.value != part.right.value:
        return None
    return (part.left, part.operator[0]), part.right.value


def _tighter(operator: str, value: float, other: Compare) -> bool:
    assert isinstance(other.right, Constant)
    if value == other.right.value:
        return len(operator) < len(other.operator)  # < is tighter than <=
    return value < other.right.value if operator[0] == "<" else value > other.right.value


# ---- cost


def _cost(condition: Condition) -> int:
    """0 for one column, more for arithmetic, alternatives and text."""
    if isinstance(condition, Compare):
        size = sum(1 for side in (condition.left, condition.right) for _ in leaves(side))
        return size * 2 - (1 if condition.operator == "=" else 0)
    if isinstance(condition, IsUnknown):
        return 1
    if isinstance(condition, TextMatch):
        return 1000 if condition.predicate.operator in ("=", "in", "is_null") else 2000
    if isinstance(condition, AnswerMatch):
        return 500
    if isinstance(condition, Negated):
        return _cost(condition.part)
    return sum(_cost(part) for part in condition.parts)


# ---- for the doctests above

MEMORY = MetricColumn(ColumnKey("memory"), Dimension.BYTES)


def MEMORY_BELOW(value: float) -> Compare:  # noqa: N802 - reads as a constant in the doctests
    return Compare("<", MEMORY, Constant(value))


def example(condition: Condition | None) -> LogicalPlan:
    """A plan with one condition."""
    return LogicalPlan(columns=(), where=condition)


def show(plan: LogicalPlan) -> list[str]:
    """The conditions of WHERE in words."""
    from sommelier.engine.wording import condition_text

    return [condition_text(part) for part in conjuncts(plan.where)]
