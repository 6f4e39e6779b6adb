"""What the grammar's rules under `select` become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from lark import Token

from sommelier.errors import ParserError, Span
from sommelier.grammar import nodes
from sommelier.grammar.expression_rules import (
    Children,
    ExpressionRules,
    literal,
    span_of,
)
from sommelier.grammar.spelling import split_version, unquoted


class Clause(NamedTuple):
    """One clause of a SELECT: the fields it sets, and where it was written."""

    keyword: str
    fields: dict[str, Any]
    span: Span


class Subquery(NamedTuple):
    """A SELECT in parentheses."""

    select: nodes.Select
    span: Span


class OptionList(NamedTuple):
    """`[a, b]` as an option's value."""

    items: tuple[nodes.Expression, ...]
    span: Span


class SelectRules(ExpressionRules):
    """One method a rule; a name stays a token until its statement is made."""

    def select(self, children: Children) -> nodes.Select:
        _select, distinct, _models, projection, *clauses = children
        return nodes.Select(
            projection or (),
            distinct is not None,
            **merged_clauses(clauses),
            span=span_of(children),
        )

    def projections(self, children: Children) -> tuple[nodes.Projection, ...]:
        return tuple(children)

    def projection(self, children: Children) -> nodes.Projection:
        expression, *context, _as, alias = children
        name = None if alias is None else unquoted(alias)
        return nodes.Projection(
            expression, name, context[0] if context else None, span=span_of(children)
        )

    def every_column(self, children: Children) -> nodes.Projection:
        span = span_of(children)
        return nodes.Projection(nodes.Column("*", span=span), span=span)

    def from_clause(self, children: Children) -> Clause:
        return _clause(children, sources=tuple(children[1:]))

    def source(self, children: Children) -> nodes.Source:
        if isinstance(children[0], Subquery):
            return nodes.Source("query", None, children[0].select, span=children[0].span)
        kind, name = children
        return nodes.Source(
            "source" if kind is None else kind.type.lower(), unquoted(name), span=span_of(children)
        )

    def subquery(self, children: Children) -> Subquery:
        return Subquery(children[1], span_of(children))

    def corr_clause(self, children: Children) -> Clause:
        _corr, reference, conditions, _bound, bound = children
        method = None if bound is None else unquoted(bound).lower()
        corr = nodes.Corr(reference, conditions or (), method, span=span_of(children))
        return _clause(children, corr=corr)

    def task_reference(self, children: Children) -> nodes.TaskRef:
        task = children[1]
        name = task if isinstance(task, nodes.Parameter) else unquoted(task)
        return nodes.TaskRef(name, span=span_of(children))

    def query_reference(self, children: Children) -> nodes.SubqueryRef:
        return nodes.SubqueryRef(children[0].select, span=children[0].span)

    def reference_set(self, children: Children) -> nodes.ReferenceSet:
        quantifier, _open, *models, _close = children
        return nodes.ReferenceSet(quantifier.type.lower(), tuple(models), span=span_of(children))

    def corr_conditions(self, children: Children) -> tuple[nodes.CorrCondition, ...]:
        return tuple(children[::2])

    def corr_at_least(self, children: Children) -> nodes.CorrCondition:
        return _condition("equivalence", ">=", children, threshold=children[0])

    def corr_compare(self, children: Children) -> nodes.CorrCondition:
        operator, threshold, *_ = children
        return _condition("equivalence", str(operator), children, threshold=threshold)

    def corr_within(self, children: Children) -> nodes.CorrCondition:
        _within, threshold, _of, measure, *_ = children
        name = measure.lower() if measure else "equivalence"
        return _condition(name, "within", children, threshold=threshold)

    def corr_measure(self, children: Children) -> nodes.CorrCondition:
        measure, operator, threshold, *_ = children
        return _condition(measure.lower(), str(operator), children, threshold=threshold)

    def measure(self, children: Children) -> Token:
        token: Token = children[0]
        return token

    def where_clause(self, children: Children) -> Clause:
        return _clause(children, where=children[1])

    def on_clause(self, children: Children) -> Clause:
        return _clause(children, on=children[1])

    def order_clause(self, children: Children) -> Clause:
        return _clause(children, order_by=children[2])

    def order_items(self, children: Children) -> tuple[nodes.OrderItem, ...]:
        return tuple(children)

    def order_item(self, children: Children) -> nodes.OrderItem:
        expression, context, direction, _nulls, place = children
        descending = None if direction is None else direction.type == "DESC"
        nulls_first = None if place is None else place.type == "FIRST"
        return nodes.OrderItem(expression, descending, nulls_first, context, span=span_of(children))

    def pick_clause(self, children: Children) -> Clause:
        return _clause(children, pick=children[1])

    def picker(self, children: Children) -> nodes.Pick:
        pick: nodes.Pick
        pick, _top, top = children
        return replace(pick, top=whole(top), span=span_of(children))

    def pick_named(self, children: Children) -> nodes.Pick:
        return nodes.Pick(children[-1].type.lower(), span=span_of(children))

    def pick_utility(self, children: Children) -> nodes.Pick:
        kind, _open, expression, _close = children
        return nodes.Pick(kind.type.lower(), expression, span=span_of(children))

    def pick_pareto(self, children: Children) -> nodes.Pick:
        return nodes.Pick("pareto", axes=children[2], span=span_of(children))

    def limit_clause(self, children: Children) -> Clause:
        _limit, limit, _offset, offset = children
        return _clause(children, limit=whole(limit), offset=whole(offset))

    def including_clause(self, children: Children) -> Clause:
        kinds = tuple(dict.fromkeys(child.type.lower() for child in children[1:]))
        return _clause(children, including=kinds)

    def including(self, children: Children) -> Token:
        token: Token = children[0]
        return token

    def using_clause(self, children: Children) -> Clause:
        return _clause(children, options=children[1])

    def options(self, children: Children) -> tuple[nodes.Option, ...]:
        return tuple(children)

    def option(self, children: Children) -> nodes.Option:
        name, _equals, value = children
        return nodes.Option(unquoted(name), option_value(value), span=span_of(children))

    def option_word(self, children: Children) -> nodes.Text:
        name, version = split_version(children[0])
        value = name if version is None else f"{name}@{version}"
        return nodes.Text(value, span=span_of(children))

    def option_list(self, children: Children) -> OptionList:
        items = tuple(child for child in children[1:-1] if child is not None)
        return OptionList(items, span_of(children))


def merged_clauses(clauses: Sequence[Clause]) -> dict[str, Any]:
    """The fields that all clauses set. Raises ParserError for a clause that is written twice."""
    fields: dict[str, Any] = {}
    seen: dict[str, Clause] = {}
    for clause in clauses:
        if clause.keyword in seen:
            raise _duplicate(seen[clause.keyword], clause)
        seen[clause.keyword] = clause
        fields |= clause.fields
    return fields


def scope_fields(scope: Clause) -> dict[str, Any]:
    """The models or the pool that `a, b` or `POOL p` names."""
    return {key: value for key, value in scope.fields.items() if key != "scope"}


def options_of(using: Clause | None) -> tuple[nodes.Option, ...]:
    """The options of a USING clause, none if it was not written."""
    return () if using is None else using.fields["options"]


def check_creation(or_: Token | None, if_: Token | None, exists: Token | None) -> None:
    """Raises ParserError for `CREATE OR REPLACE ... IF NOT EXISTS`."""
    if or_ is not None and if_ is not None:
        raise ParserError(
            "OR REPLACE and IF NOT EXISTS contradict each other",
            span=span_of([if_, exists]),
            hint="keep one of the two",
        )


def whole(value: Any) -> int | nodes.Parameter | None:
    """A whole number or a parameter, None if neither was written."""
    if value is None or isinstance(value, nodes.Parameter):
        return value
    return int(value)


def text_of(value: Any) -> str | nodes.Parameter | None:
    """A text without its quotes or a parameter, None if neither was written."""
    return value if value is None or isinstance(value, nodes.Parameter) else unquoted(value)


def threshold_of(value: Any) -> nodes.Percent | nodes.Number | nodes.Parameter:
    """What the rule `threshold` became."""
    found = literal(value) if isinstance(value, Token) else value
    assert isinstance(found, nodes.Percent | nodes.Number | nodes.Parameter)
    return found


def option_value(value: Any) -> nodes.OptionValue:
    """What stands behind the equals sign; a list is a tuple."""
    found: nodes.OptionValue = value.items if isinstance(value, OptionList) else value
    return found


def _clause(children: Children, **fields: Any) -> Clause:
    return Clause(children[0].type, fields, span_of(children))


def _duplicate(first: Clause, second: Clause) -> ParserError:
    keyword = second.keyword
    places = [f"line {c.span.line}, column {c.span.column}" for c in (first, second)]
    start = second.span
    conditions = (second.fields.get("on"), first.fields.get("on"))
    bare = next((c for c in conditions if isinstance(c, nodes.Column)), None)
    if bare is not None:
        hint = f"the name of a device or dataset is quoted: ON '{bare.name}'"
    elif keyword in ("WHERE", "ON"):
        hint = f"keep one {keyword} and join the conditions with AND"
    else:
        hint = f"keep one {keyword}"
    return ParserError(
        f"{keyword} is written twice: at {places[0]} and at {places[1]}",
        span=Span(start.line, start.column, start.start, start.start + len(keyword)),
        hint=hint,
    )


def _condition(
    measure: str, operator: str, children: Children, *, threshold: Any
) -> nodes.CorrCondition:
    """The last two children of every condition are [CONFIDENCE threshold]."""
    confidence = children[-1]
    return nodes.CorrCondition(
        measure,
        operator,
        threshold_of(threshold),
        None if confidence is None else threshold_of(confidence),
        span=span_of(children),
    )
