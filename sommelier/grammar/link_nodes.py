"""The nodes of links between models and of plans over them; import them from nodes.py."""

from __future__ import annotations

from dataclasses import dataclass

from sommelier.grammar.expression_nodes import Expression, ModelRef, Parameter
from sommelier.grammar.select_nodes import Option, OrderItem, Pick, Projection, Statement


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SelectLinks(Statement):
    """SELECT LINKS. An empty projection means the default columns."""

    projection: tuple[Projection, ...] = ()
    distinct: bool = False
    where: Expression | None = None
    order_by: tuple[OrderItem, ...] = ()
    limit: int | Parameter | None = None
    offset: int | Parameter | None = None
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SelectPlan(Statement):
    """SELECT PLAN FOR a, b | POOL p. Either models or pool is set; on is the budget."""

    models: tuple[ModelRef | Parameter, ...] = ()
    pool: str | None = None
    on: Expression | None = None
    pick: Pick | None = None
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CreateLink(Statement):
    """CREATE [OR REPLACE] LINK [IF NOT EXISTS] [name] FROM a, b TO target [USING ...]."""

    name: str | None
    sources: tuple[ModelRef | Parameter, ...]
    target: ModelRef | Parameter
    or_replace: bool = False
    if_not_exists: bool = False
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CreatePlan(Statement):
    """`CREATE [OR REPLACE] PLAN [IF NOT EXISTS] name AS SELECT PLAN ...`."""

    name: str
    select: SelectPlan
    or_replace: bool = False
    if_not_exists: bool = False
