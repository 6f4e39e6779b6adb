"""What the grammar's rules under `expr` become, and how a node learns its place in the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from lark import Token, Transformer

from sommelier.errors import ParserError, Span
from sommelier.grammar import nodes
from sommelier.grammar.spelling import (
    MODEL_FUNCTIONS,
    UNIT_NAMES,
    read_number,
    read_percent,
    read_quantity,
    split_version,
    unquoted,
)

Children = list[Any]


def span_of(children: Sequence[Any]) -> Span:
    """From the first to the last child that was written; every rule has one."""
    first = next(child for child in children if child)
    last = next(child for child in reversed(children) if child)
    return between(_place(first), _place(last))


def between(start: Span, end: Span) -> Span:
    return Span(start.line, start.column, start.start, end.end)


def _place(child: Any) -> Span:
    if isinstance(child, Token):
        # Every token comes from a text; lark's types only do not say so.
        return Span(child.line or 1, child.column or 1, child.start_pos or 0, child.end_pos or 0)
    span = getattr(child, "span", None)
    return span if isinstance(span, Span) else span_of(child)


def literal(token: Token) -> nodes.Expression:
    """The value of a token that is one. Raises ParserError if a number is too large."""
    span = _place(token)
    try:
        return _literal(token, span)
    except ValueError:
        raise ParserError(
            f"the number {token} is too large", span=span, hint="the largest is 1.8e308"
        ) from None


def _literal(token: Token, span: Span) -> nodes.Expression:
    match token.type:
        case "NUMBER" | "INT":
            return nodes.Number(read_number(token), span=span)
        case "PERCENT":
            return nodes.Percent(read_percent(token), span=span)
        case "TIMES":
            return nodes.Times(read_number(token[:-1]), span=span)
        case "QUANTITY":
            return nodes.Quantity(*read_quantity(token), span=span)
        case "STRING":
            return nodes.Text(unquoted(token), span=span)
        case "NULL":
            return nodes.Null(span=span)
    return nodes.Boolean(token.type == "TRUE", span=span)


class ExpressionRules(Transformer[Token, Any]):
    """One method a rule, called with what the rule's symbols became."""

    def PARAM(self, token: Token) -> nodes.Parameter:  # noqa: N802 (named after its terminal)
        return nodes.Parameter(token.removeprefix("$"), span=_place(token))

    def literal(self, children: Children) -> nodes.Expression:
        return literal(children[0])

    def relative(self, children: Children) -> nodes.Percent | nodes.Times:
        amount, _of, model = children
        number = literal(amount)
        assert isinstance(number, nodes.Percent | nodes.Times)
        return replace(number, relative_to=model, span=span_of(children))

    def column(self, children: Children) -> nodes.Column:
        return nodes.Column(unquoted(children[0]), span=span_of(children))

    def call(self, children: Children) -> nodes.Call:
        name, _open, *written, _close = children
        function = unquoted(name)
        arguments = tuple(argument for argument in written if argument is not None)
        if function.lower() in MODEL_FUNCTIONS:
            arguments = tuple(
                nodes.ModelRef(a.name, span=a.span) if isinstance(a, nodes.Column) else a
                for a in arguments
            )
        return nodes.Call(function, arguments, span=span_of(children))

    def group(self, children: Children) -> nodes.Expression:
        inner: nodes.Expression = children[1]
        return replace(inner, span=span_of(children))

    def negative(self, children: Children) -> nodes.Negative:
        operand = children[1]
        if isinstance(operand, Token):
            operand = literal(operand)
        return nodes.Negative(operand, span=span_of(children))

    def arithmetic(self, children: Children) -> nodes.Arithmetic:
        left, operator, right = children
        return nodes.Arithmetic(str(operator), left, right, span=span_of(children))

    def context(self, children: Children) -> nodes.Context:
        keyword, value = children
        span = span_of(children)
        if keyword.type == "AT":
            return nodes.Context(percentile=float(value[1:]), span=span)
        return nodes.Context(on=unquoted(value), span=span)

    def contexts(self, children: Children) -> nodes.Context:
        on = [context for context in children if context.on is not None]
        at = [context for context in children if context.percentile is not None]
        for repeated in (on, at):
            if len(repeated) > 1:
                raise ParserError(
                    "a comparison takes one ON 'name' and one AT percentile",
                    span=repeated[1].span,
                    hint="compare twice and join the comparisons with AND",
                )
        return nodes.Context(
            on[0].on if on else None, at[0].percentile if at else None, span=span_of(children)
        )

    def comparison(self, children: Children) -> nodes.Comparison:
        left, operator, right, context = children
        if isinstance(right, nodes.Column) and right.name in UNIT_NAMES:
            raise ParserError(
                f'syntax error at or near "{right.name}": a unit without a number',
                span=right.span,
                hint=f"write for example 2 {right.name}",
            )
        sign = "!=" if operator == "<>" else str(operator)
        return nodes.Comparison(sign, left, right, context, span=span_of(children))

    def between(self, children: Children) -> nodes.Between:
        operand, negated, _between, low, _and, high, context = children
        return nodes.Between(
            operand, low, high, negated is not None, context, span=span_of(children)
        )

    def in_list(self, children: Children) -> nodes.InList:
        operand, negated, _in, _open, *options, _close = children
        return nodes.InList(operand, tuple(options), negated is not None, span=span_of(children))

    def like(self, children: Children) -> nodes.Like:
        operand, negated, kind, pattern = children
        if isinstance(pattern, Token):
            pattern = literal(pattern)
        return nodes.Like(
            kind.type.lower(), operand, pattern, negated is not None, span=span_of(children)
        )

    def is_null(self, children: Children) -> nodes.IsNull:
        return nodes.IsNull(children[0], children[2] is not None, span=span_of(children))

    def has(self, children: Children) -> nodes.Has:
        operand, _has, quantifier, tags = children
        values = tuple(unquoted(tag) for tag in tags if tag.type == "STRING")
        every = quantifier is not None and quantifier.type == "ALL"
        return nodes.Has(operand, values, every, span=span_of(children))

    def tags(self, children: Children) -> tuple[Token, ...]:
        return tuple(children)

    def fits_on(self, children: Children) -> nodes.FitsOn:
        return nodes.FitsOn(unquoted(children[2]), span=span_of(children))

    def not_(self, children: Children) -> nodes.Not:
        return nodes.Not(children[1], span=span_of(children))

    def conjunction(self, children: Children) -> nodes.And:
        return nodes.And(_flat(nodes.And, children), span=span_of(children))

    def disjunction(self, children: Children) -> nodes.Or:
        return nodes.Or(_flat(nodes.Or, children), span=span_of(children))

    def model_ref(self, children: Children) -> nodes.ModelRef:
        name, version = split_version(children[0])
        return nodes.ModelRef(name, version, span=span_of(children))


def _flat(
    kind: type[nodes.And] | type[nodes.Or], children: Children
) -> tuple[nodes.Expression, ...]:
    """The operands of AND or OR, those of the same kind in parentheses merged in."""
    flat: list[nodes.Expression] = []
    for child in children[::2]:
        flat.extend(child.operands if isinstance(child, kind) else (child,))
    return tuple(flat)
