"""The nodes of sources of models, and of what leaves the database; import them from nodes.py."""

from __future__ import annotations

from dataclasses import dataclass

from sommelier.grammar.expression_nodes import Expression, ModelRef, Parameter, Text
from sommelier.grammar.select_nodes import Option, Statement


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Import(Statement):
    """IMPORT MODELS FROM source ['what', ...] [LIKE 'pattern'] [WHERE ...] [LIMIT n] [USING].

    where : a condition on what the source states, instead of locations.
    """

    connector: str
    locations: tuple[str, ...] = ()
    like: str | Parameter | None = None
    limit: int | None = None
    options: tuple[Option, ...] = ()
    where: Expression | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ExplainImport(Statement):
    """`EXPLAIN [(options)] IMPORT MODELS FROM ...`."""

    statement: Import
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CreateRepository(Statement):
    """`CREATE [OR REPLACE] REPOSITORY [IF NOT EXISTS] name TYPE connector [AT 'place'] [USING]`."""

    name: str
    connector: Text
    place: str | None = None
    or_replace: bool = False
    if_not_exists: bool = False
    options: tuple[Option, ...] = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ExportModel(Statement):
    """`EXPORT MODEL name TO 'path' [USING ...]`."""

    model: ModelRef | Parameter
    path: str
    options: tuple[Option, ...] = ()
