"""The nodes of SELECT, in the order its clauses are written."""

from __future__ import annotations

from dataclasses import dataclass

from sommelier.grammar.expression_nodes import (
    Context,
    Expression,
    ModelRef,
    Node,
    Number,
    Parameter,
    Percent,
    Reference,
)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class TaskRef(Reference):
    """`TASK 'image-classification'`: the task's default reference."""

    task: str | Parameter


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SubqueryRef(Reference):
    """The first model of `(SELECT ...)`."""

    select: Select


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ReferenceSet(Reference):
    """`ANY (a, b)` or `ALL (a, b)`."""

    quantifier: str  # any, all
    references: tuple[ModelRef | Parameter, ...]


# ---- SELECT


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CorrCondition(Node):
    """`95%`, `>= 95%`, `WITHIN 5% [OF measure]`, `AGREEMENT >= 95% CONFIDENCE 99%`.

    measure : equivalence, agreement, bound, accuracy. operator : one of < <= > >=, or 'within'.
    The plain `95%` is (equivalence, '>=', 0.95).
    """

    measure: str
    operator: str
    threshold: Percent | Number | Parameter
    confidence: Percent | Number | Parameter | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Corr(Node):
    """`CORR reference conditions [BOUND method]`. bound : how the lower bound is made; None: USING
    bound = ..., or the default."""

    reference: Reference | Parameter
    conditions: tuple[CorrCondition, ...] = ()
    bound: str | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Source(Node):
    """`FROM wheel`, `FROM POOL edge`, `FROM VIEW small`, `FROM (SELECT ...)`."""

    kind: str  # source, pool, view, query
    name: str | None = None
    select: Select | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Projection(Node):
    """`expression [ON 'imagenet' | AT p99 ...] [AS alias]`."""

    expression: Expression
    alias: str | None = None
    context: Context | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class OrderItem(Node):
    """descending None: not written (the default of the place applies)."""

    expression: Expression
    descending: bool | None = None
    nulls_first: bool | None = None
    context: Context | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Pick(Node):
    """kind : similar, accurate, smallest, lightest, fastest, cheapest, random, min, max, pareto.

    expression for min/max, axes for pareto, top from TOP n.
    """

    kind: str
    expression: Expression | None = None
    axes: tuple[OrderItem, ...] = ()
    top: int | Parameter | None = None


OptionValue = Expression | tuple[Expression, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Option(Node):
    """`name = value`; a list value is a tuple; a bare word is a Text."""

    name: str
    value: OptionValue


class Statement(Node):
    """What can be run."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Select(Statement):
    """SELECT MODEL(S). An empty projection means the default columns."""

    projection: tuple[Projection, ...] = ()
    distinct: bool = False
    sources: tuple[Source, ...] = ()
    corr: Corr | None = None
    where: Expression | None = None
    on: Expression | None = None
    order_by: tuple[OrderItem, ...] = ()
    pick: Pick | None = None
    limit: int | Parameter | None = None
    offset: int | Parameter | None = None
    including: tuple[str, ...] = ()  # segments
    options: tuple[Option, ...] = ()
