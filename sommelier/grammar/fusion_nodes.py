"""The nodes of models made of others, by graft or fusion; import them from nodes.py."""

from __future__ import annotations

from dataclasses import dataclass

from sommelier.grammar.expression_nodes import (
    Expression,
    ModelRef,
    Node,
    Number,
    Parameter,
    Percent,
)
from sommelier.grammar.select_nodes import Option, OrderItem, Projection, Statement


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SelectFusions(Statement):
    """SELECT FUSIONS [columns] OF a, b | POOL p. Either models or pool is set.

    An empty projection means the default columns.
    """

    projection: tuple[Projection, ...] = ()
    distinct: bool = False
    models: tuple[ModelRef | Parameter, ...] = ()
    pool: str | None = None
    where: Expression | None = None
    on: Expression | None = None
    order_by: tuple[OrderItem, ...] = ()
    limit: int | Parameter | None = None
    offset: int | Parameter | None = None
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ExplainFusion(Statement):
    """`EXPLAIN [(options)] FUSION model`."""

    model: ModelRef | Parameter
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Graft(Node):
    """`GRAFT donor INTO host AT SEGMENT 's3', ...`."""

    donor: ModelRef | Parameter
    host: ModelRef | Parameter
    segments: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FusionRecipe(Node):
    """FUSION OF a, b | POOL p [WITHIN 1% OF ACCURACY] [ON limits] [FOR MEMORY].

    Either models or pool is set. within : the accuracy each task may lose. on : limits on the fused
    model. memory_only : only layers that are equal already become one; nothing is trained.
    """

    models: tuple[ModelRef | Parameter, ...] = ()
    pool: str | None = None
    within: Percent | Number | Parameter | None = None
    on: Expression | None = None
    memory_only: bool = False


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CreateModel(Statement):
    """CREATE [OR REPLACE] MODEL [IF NOT EXISTS] name AS recipe [USING ...] [ASYNC].

    background : ASYNC was written, which a fusion may have and a graft not.
    """

    name: ModelRef
    recipe: Graft | FusionRecipe
    or_replace: bool = False
    if_not_exists: bool = False
    options: tuple[Option, ...] = ()
    background: bool = False
