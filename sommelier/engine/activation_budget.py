"""The budget of SELECT PLAN: upper limits on what executing a group of models costs in sum."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sommelier.engine.conditions import FLIPPED
from sommelier.engine.names import nearest
from sommelier.engine.numbers import Binding, Wanted, bind_number, mentions_column
from sommelier.engine.plan import MetricColumn, ModelReference, Value
from sommelier.engine.predicates import Block, numbers
from sommelier.engine.scope import Scope
from sommelier.engine.skipped import measured_by
from sommelier.engine.wording import name_of
from sommelier.engine.world import World
from sommelier.errors import BinderError
from sommelier.grammar import nodes
from sommelier.units import format_value

Floats = NDArray[np.float64]

BUDGETS = ("memory", "measured_memory", "size", "params", "flops", "latency", "energy")
"""What a budget may limit: costs that add up over models."""

EVERY = ModelReference("", "executing all")  # what a percent in a budget is relative to
STRICTLY = 1 - 4e-12  # of a limit that must not be reached; selection allows 1 + 1e-12 of any


@dataclass(frozen=True, slots=True)
class Limit:
    """At most `most` of a metric; costs : of every model of the group, in base units."""

    column: MetricColumn
    most: float
    strict: bool
    costs: Floats

    @property
    def metric(self) -> str:
        return self.column.key.metric

    @property
    def allowed(self) -> float:
        """What the selection may spend."""
        return self.most * STRICTLY if self.strict else self.most


@dataclass(frozen=True, slots=True)
class Group:
    """The models of a plan, and where their costs are read."""

    models: tuple[ModelReference, ...]
    world: World

    def costs(self, value: Value) -> Floats:
        """What each model costs, NaN where it is unknown."""
        return self._of([model.id for model in self.models], value)

    def total(self, value: Value, model_id: str) -> float:
        """What one model costs, or all of them."""
        found = self.costs(value) if model_id == EVERY.id else self._of([model_id], value)
        return float(found.sum())

    def _of(self, ids: Sequence[str], value: Value) -> Floats:
        rows = self.world.facts.resources.rows(ids)
        return numbers(value, Block(self.world, np.asarray(rows, dtype=np.int64)))


def bind_budget(on: nodes.Expression | None, group: Group, scope: Scope) -> tuple[Limit, ...]:
    """The limits of ON, one for each metric; a percent is of executing all models.

    Raises BinderError for other conditions, for costs that are unknown, and without ON.
    """
    if on is None:
        raise _no_budget(group, scope)
    binding = Binding(scope, "on", references=(EVERY,), value_of=group.total)
    limits: dict[str, Limit] = {}
    for node in _conjuncts(on):
        limit = _limit(node, binding, group)
        known = limits.setdefault(limit.metric, limit)
        if known.column.key != limit.column.key:
            raise BinderError(
                f"two limits on {limit.metric}, of different contexts",
                span=node.span,
                hint=f"a plan is chosen by {name_of(known.column.key)} or by the other",
            )
        if (limit.most, not limit.strict) < (known.most, not known.strict):
            limits[limit.metric] = limit
    return tuple(limits.values())


def _conjuncts(node: nodes.Expression) -> Iterator[nodes.Expression]:
    if isinstance(node, nodes.And):
        for part in node.operands:
            yield from _conjuncts(part)
    else:
        yield node


def _limit(node: nodes.Expression, binding: Binding, group: Group) -> Limit:
    if not isinstance(node, nodes.Comparison):
        raise _no_limit(node)
    left, right, operator = node.left, node.right, node.operator
    if not mentions_column(left, binding):
        left, right, operator = right, left, FLIPPED[operator]
    if operator not in ("<", "<=") or mentions_column(right, binding):
        raise _no_limit(node)
    column = _column(left, node.context, binding)
    costs = group.costs(column)
    _check_known(costs, column, left, group)
    most = bind_number(right, binding, Wanted(column.dimension, column, node.context))
    spent = numbers(most, Block(group.world, np.zeros(1, dtype=np.int64)))
    return Limit(column, float(spent[0]), operator == "<", costs)


def _column(node: object, context: nodes.Context | None, binding: Binding) -> MetricColumn:
    if not isinstance(node, nodes.Column) or node.name.lower() not in BUDGETS:
        alike = nearest(node.name, BUDGETS) if isinstance(node, nodes.Column) else ()
        raise BinderError(
            "a budget limits what executing models costs",
            span=getattr(node, "span", None),
            hint=f"{', '.join(BUDGETS)}",
            suggestions=alike,
        )
    found = bind_number(node, binding, Wanted(context=context))
    assert isinstance(found, MetricColumn), "a metric's name is a metric's column"
    return found


def _no_limit(node: nodes.Expression) -> BinderError:
    return BinderError(
        "a budget is an upper limit, or several joined by AND",
        span=node.span,
        hint="write ON memory < 5 MB AND latency < 60%; a percent is of executing all models",
    )


def _check_known(costs: Floats, column: MetricColumn, node: object, group: Group) -> None:
    missing = [m.name for m, cost in zip(group.models, costs, strict=True) if np.isnan(cost)]
    if missing:
        remedy = measured_by(column.key.metric)
        raise BinderError(
            f"the {name_of(column.key)} of {', '.join(missing)} is not known",
            span=getattr(node, "span", None),
            hint=f"ANALYZE {', '.join(missing)} FOR {remedy}"
            if remedy
            else f"nothing here measures {column.key.metric}; IMPORT can declare it",
        )


def _no_budget(group: Group, scope: Scope) -> BinderError:
    column = scope.metric("memory", None)
    total = group.total(column, EVERY.id)
    told = "write for example ON memory < 5 MB, or ON latency < 60%: of executing all of them"
    if not np.isnan(total):
        told = (
            f"executing all of them takes {format_value(total, column.dimension)} of memory: write "
            f"for example ON memory < {format_value(total / 2, column.dimension)}, or ON memory"
            " < 50%"
        )
    return BinderError("which models to execute depends on a budget", hint=told)
