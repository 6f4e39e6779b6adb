"""SHOW, DESCRIBE, COMPARE, SELECT LINKS, PLAN, CASCADES: which function answers which statement."""

from __future__ import annotations

from functools import singledispatch
from typing import TYPE_CHECKING

from sommelier.engine import compare, describe, show
from sommelier.engine.parameters import Parameters
from sommelier.engine.result import Table
from sommelier.grammar import nodes

if TYPE_CHECKING:
    from sommelier.engine.session import Session


@singledispatch
def read(statement: nodes.Statement, _session: Session, _parameters: Parameters) -> Table:
    """The rows that answer a read statement other than SELECT and EXPLAIN."""
    raise TypeError(f"{type(statement).__name__} is not a statement that only reads")


@read.register(nodes.Show)
def _show(statement: nodes.Show, session: Session, parameters: Parameters) -> Table:
    return show.show(statement, session, parameters)


@read.register(nodes.Describe)
def _describe(statement: nodes.Describe, session: Session, _parameters: Parameters) -> Table:
    return describe.describe(statement, session)


@read.register(nodes.Compare)
def _compare(statement: nodes.Compare, session: Session, parameters: Parameters) -> Table:
    return compare.compare(statement, session, parameters)


@read.register(nodes.SelectPlan)
def _select_plan(statement: nodes.SelectPlan, session: Session, parameters: Parameters) -> Table:
    from sommelier.engine.activation import answer_plan

    return answer_plan(statement, session, parameters)


@read.register(nodes.SelectLinks)
def _select_links(statement: nodes.SelectLinks, session: Session, parameters: Parameters) -> Table:
    from sommelier.engine.select_links import select_links

    return select_links(statement, session, parameters)


@read.register(nodes.SelectCascades)
def _select_cascades(
    statement: nodes.SelectCascades, session: Session, parameters: Parameters
) -> Table:
    from sommelier.engine.select_cascades import select_cascades

    return select_cascades(statement, session, parameters)
