"""The nodes of cascades, models asked in turn; import them from nodes.py."""

from __future__ import annotations

from dataclasses import dataclass

from sommelier.grammar.expression_nodes import Expression, ModelRef, Number, Parameter, Percent
from sommelier.grammar.select_nodes import Option, OrderItem, Projection, Statement


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SelectCascades(Statement):
    """SELECT CASCADES [columns] [CORR teacher] [WITHIN 1% OF measure] [CONFIDENCE 95%] ...

    An empty projection means the default columns. teacher None: all models. within, confidence
    None: what is usual. measure : accuracy, or agreement with the teacher.
    """

    projection: tuple[Projection, ...] = ()
    distinct: bool = False
    teacher: ModelRef | Parameter | None = None
    within: Percent | Number | Parameter | None = None
    measure: str = "accuracy"
    confidence: Percent | Number | Parameter | None = None
    where: Expression | None = None
    on: Expression | None = None
    order_by: tuple[OrderItem, ...] = ()
    limit: int | Parameter | None = None
    offset: int | Parameter | None = None
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CreateCascade(Statement):
    """CREATE [OR REPLACE] CASCADE [IF NOT EXISTS] [name] FROM a TO b [TO c] [WITHIN 1% OF measure]
    [CONFIDENCE 95%] [USING ...]. members : from the first asked to the one that is trusted."""

    name: str | None
    members: tuple[ModelRef | Parameter, ...]
    or_replace: bool = False
    if_not_exists: bool = False
    within: Percent | Number | Parameter | None = None
    measure: str = "accuracy"
    confidence: Percent | Number | Parameter | None = None
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ExplainCascade(Statement):
    """`EXPLAIN [(options)] CASCADE name`."""

    name: str
    options: tuple[Option, ...] = ()
