"""Reads text into nodes: one statement, a script, or a part of a SELECT."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace
from typing import Any

from sommelier.errors import ParserError, Span
from sommelier.grammar import nodes
from sommelier.grammar.scanning import Stretch, is_catalog_sql, statements

DEEPEST = 100  # nodes inside each other; later passes recurse, and Python's stack is finite
_CERTAINLY_FLAT = 2 * DEEPEST  # characters in which nothing can be nested deeper

_READ_ONLY = (
    nodes.Select,
    nodes.SelectLinks,
    nodes.SelectPlan,
    nodes.SelectFusions,
    nodes.SelectCascades,
    nodes.CatalogSql,
    nodes.Explain,
    nodes.ExplainWhy,
    nodes.ExplainFusion,
    nodes.ExplainCascade,
    nodes.ExplainImport,
    nodes.ExplainDeploy,
    nodes.Simulate,
    nodes.Show,
    nodes.Describe,
    nodes.Compare,
    nodes.ExportModel,
)


def parse(text: str) -> nodes.Statement:
    """The one statement in `text`; a `;` may end it.

    Raises ParserError, with place, expected, suggestions and hint, for anything else.
    """
    found = statements(text)
    if not found:
        raise ParserError("there is no statement", text=text, hint="for example: SELECT MODELS;")
    if len(found) > 1:
        second = found[1].words[0]
        raise ParserError(
            f"one statement is expected, here are {len(found)}",
            text=text,
            span=_span(text, second.start, second.start + len(second.value)),
            hint="run them one by one, or as a script",
        )
    return _statement(text, found[0])


def parse_script(text: str) -> tuple[nodes.Statement, ...]:
    """All statements of a script; spans are places in the whole script. Raises ParserError."""
    return tuple(_statement(text, stretch) for stretch in statements(text))


def parse_part(text: str, symbol: str) -> Any:
    """What a rule other than `statement` makes of `text`; see tables.STARTS. Raises ParserError."""
    return _parse(text, 0, len(text), symbol)


def split_statements(text: str) -> list[str]:
    """The statements in `text` without their `;`, the last one may be incomplete.

    >>> split_statements("SHOW MODELS; SELECT ';' -- one; more")
    ['SHOW MODELS', "SELECT ';'"]
    """
    return [text[found.start : found.end] for found in statements(text)]


def is_complete(text: str) -> bool:
    """Whether the last statement in `text` is ended by `;`.

    >>> is_complete("SHOW MODELS;  -- all"), is_complete("SELECT MODELS WHERE name = ';")
    (True, False)
    """
    found = statements(text)
    return bool(found) and found[-1].closed


def is_read_only(statement: nodes.Statement) -> bool:
    """Whether the statement leaves the database as it is."""
    return isinstance(statement, _READ_ONLY)


def _statement(text: str, found: Stretch) -> nodes.Statement:
    opened = found.words[-1]
    if opened.kind == "open":
        from sommelier.grammar.diagnostics import unterminated

        raise unterminated(text, opened)
    if is_catalog_sql(found.words):
        from sommelier.grammar.diagnostics import not_catalog_sql

        error = not_catalog_sql(text, found.words)
        if error is not None:
            raise error
        return nodes.CatalogSql(
            text[found.start : found.end], span=_span(text, found.start, found.end)
        )
    statement: nodes.Statement = _parse(text, found.start, found.end, "statement")
    return statement


def _parse(text: str, start: int, end: int, symbol: str) -> Any:
    # here, for lark takes 15 MiB, and a serving process parses nothing
    from lark import UnexpectedInput
    from lark.utils import TextSlice

    from sommelier.grammar.tables import language

    try:
        result: Any = language().parse(TextSlice(text, start, end), start=symbol)
        if end - start > _CERTAINLY_FLAT:
            _check_depth(result)
        return _number_parameters(result) if "$" in text or "?" in text else result
    except UnexpectedInput as error:
        from sommelier.grammar.diagnostics import syntax_error

        raise syntax_error(error, text, start, end, symbol) from None
    except ParserError as error:
        error.text = text
        raise


def _check_depth(result: Any) -> None:
    """Raises ParserError if nodes are nested too deeply; written without recursion on purpose."""
    stack = [(result, 0)]
    while stack:
        value, depth = stack.pop()
        if depth > DEEPEST:
            raise ParserError(
                f"the statement is nested more than {DEEPEST} levels deep",
                span=value.span,
                hint="use IN (...) for lists of alternatives",
            )
        stack.extend((child, depth + 1) for child in _children(value))


def _children(value: Any) -> list[Any]:
    """The nodes directly inside a node or tuple."""
    if isinstance(value, nodes.Node):
        inner: list[Any] = [getattr(value, field.name) for field in fields(value)]
    else:
        inner = [value]
    found: list[Any] = []
    for item in inner:
        found += item if isinstance(item, tuple) else [item]
    return [item for item in found if isinstance(item, nodes.Node)]


def parameters_of(statement: Any) -> list[nodes.Parameter]:
    """The parameters of a statement, in order; [] of catalog SQL, which only DuckDB reads."""
    found: list[nodes.Parameter] = []
    stack = [statement]
    while stack:
        value = stack.pop()
        if isinstance(value, nodes.Parameter):
            found.append(value)
        stack.extend(_children(value))
    return sorted(found, key=_start)


def _number_parameters(result: Any) -> Any:
    """`?` by position: ?1, ?2 ... Raises ParserError if $name and ? are mixed."""
    found = parameters_of(result)
    marks = [parameter for parameter in found if parameter.name == "?"]
    if not marks:
        return result
    if len(marks) < len(found):
        odd = next(p for p in found if (p.name == "?") != (found[0].name == "?"))
        raise ParserError(
            "? and $name cannot be mixed in one statement",
            span=odd.span,
            hint="name all parameters, or none",
        )
    numbers = {_start(mark): f"?{number}" for number, mark in enumerate(marks, start=1)}
    return _renamed(result, numbers)


def _renamed(value: Any, names: dict[int, str]) -> Any:
    if isinstance(value, nodes.Parameter):
        return replace(value, name=names[_start(value)])
    if isinstance(value, tuple):
        return tuple(_renamed(item, names) for item in value)
    if is_dataclass(value) and isinstance(value, nodes.Node):
        changed = {
            field.name: _renamed(getattr(value, field.name), names)
            for field in fields(value)
            if isinstance(getattr(value, field.name), nodes.Node | tuple)
        }
        return replace(value, **changed) if changed else value
    return value


def _start(parameter: nodes.Parameter) -> int:
    return parameter.span.start if parameter.span else 0


def _span(text: str, start: int, end: int) -> Span:
    line_start = text.rfind("\n", 0, start) + 1
    return Span(text.count("\n", 0, start) + 1, start - line_start + 1, start, end)
