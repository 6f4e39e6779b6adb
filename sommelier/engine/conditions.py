"""WHERE and ON as conditions: which comparisons are of numbers, which of text, and what fits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sommelier.engine.arithmetic import compatible
from sommelier.engine.numbers import (
    ANY,
    Binding,
    Wanted,
    bind_number,
    mentions_column,
)
from sommelier.engine.plan import (
    AllOf,
    AnyOf,
    Compare,
    Condition,
    Constant,
    IsUnknown,
    Negated,
    TextMatch,
    Value,
)
from sommelier.errors import BinderError
from sommelier.grammar import nodes
from sommelier.units import SPELLINGS

FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "=": "=", "!=": "!="}


def bind_condition(node: nodes.Expression, binding: Binding) -> Condition:
    """The condition an expression states. Raises BinderError with the words at fault."""
    handler = _HANDLERS.get(type(node))
    if handler is None:
        raise BinderError(
            "a condition is expected here",
            span=node.span,
            hint="compare something: memory < 200 MB, task = 'detection', tags HAS 'mobile'",
        )
    return handler(node, binding)


# ---- connectives


def _and(node: nodes.And, binding: Binding) -> Condition:
    return AllOf(tuple(bind_condition(part, binding) for part in node.operands))


def _or(node: nodes.Or, binding: Binding) -> Condition:
    return AnyOf(tuple(bind_condition(part, binding) for part in node.operands))


def _not(node: nodes.Not, binding: Binding) -> Condition:
    return Negated(bind_condition(node.operand, binding))


def _negated(condition: Condition, negated: bool) -> Condition:
    return Negated(condition) if negated else condition


# ---- comparisons


def _comparison(node: nodes.Comparison, binding: Binding) -> Condition:
    if (text := _text_column(node.left, binding)) is not None:
        return _text_comparison(text, node.operator, node.right, (node, binding))
    if (text := _text_column(node.right, binding)) is not None:
        return _text_comparison(text, FLIPPED[node.operator], node.left, (node, binding))
    left, right = _two_numbers(node.left, node.right, node, binding)
    return Compare(node.operator, left, right, source=node)


def _two_numbers(
    left: nodes.Expression,
    right: nodes.Expression,
    node: nodes.Comparison | nodes.Between | nodes.InList,
    binding: Binding,
) -> tuple[Value, Value]:
    """Both sides, each bound knowing the other's dimension."""
    context = getattr(node, "context", None)
    plain = Wanted(context=context)
    if mentions_column(left, binding):
        first = bind_number(left, binding, plain)
        both = mentions_column(right, binding)
        second = bind_number(
            right, binding, plain if both else Wanted(first.dimension, first, context)
        )
    elif mentions_column(right, binding):
        second = bind_number(right, binding, plain)
        first = bind_number(left, binding, Wanted(second.dimension, second, context))
    else:
        raise BinderError(
            "this compares two constants",
            span=node.span,
            hint="compare a metric or a column with a value: memory < 200 MB",
        )
    if not compatible(first.dimension, second.dimension):
        options = ", ".join(SPELLINGS[first.dimension])
        raise BinderError(
            f"cannot compare {first.dimension.value} with {second.dimension.value}",
            span=right.span or node.span,
            hint=f"units of {first.dimension.value}: {options}" if options else None,
        )
    return first, second


def _between(node: nodes.Between, binding: Binding) -> Condition:
    parts = tuple(
        _comparison(
            nodes.Comparison(op, node.operand, bound, node.context, span=node.span), binding
        )
        for op, bound in ((">=", node.low), ("<=", node.high))
    )
    return _negated(AllOf(tuple(_with_source(part, node) for part in parts)), node.negated)


def _with_source(part: Condition, node: nodes.Expression) -> Condition:
    """The half of a BETWEEN prints as the comparison it is, so it keeps its own source."""
    return part if not isinstance(part, TextMatch) else replace(part, source=node)


def _in_list(node: nodes.InList, binding: Binding) -> Condition:
    options = _options(node, binding)
    if not options:
        raise BinderError("IN needs at least one value", span=node.span)
    column = _text_column(node.operand, binding)
    if column is None:
        parts = []
        for option in options:
            left, right = _two_numbers(node.operand, option, node, binding)
            written = nodes.Comparison("=", node.operand, option, span=node.span)
            parts.append(Compare("=", left, right, source=written))
        return _negated(parts[0] if len(parts) == 1 else AnyOf(tuple(parts)), node.negated)
    values = tuple(_word(option, column, binding) for option in options)
    return _negated(binding.vocabulary.match(column, "in", values, node), node.negated)


def _options(node: nodes.InList, binding: Binding) -> list[nodes.Expression]:
    """The listed values; a parameter may hold several."""
    flat: list[nodes.Expression] = []
    for option in node.options:
        literal = binding.scope.parameters.literal(option)
        flat += literal if isinstance(literal, tuple) else (literal,)
    return flat


def _is_null(node: nodes.IsNull, binding: Binding) -> Condition:
    column = _text_column(node.operand, binding)
    if column is not None:
        return _negated(binding.vocabulary.match(column, "is_null", (), node), node.negated)
    if not mentions_column(node.operand, binding):
        raise BinderError("IS NULL asks about a column", span=node.span)
    value = bind_number(node.operand, binding, ANY)
    return _negated(IsUnknown(value, source=node), node.negated)


def _fits_on(node: nodes.FitsOn, binding: Binding) -> Condition:
    device = binding.scope.device(node.device, node.span)
    if device.memory_bytes is None:
        raise BinderError(
            f"the memory of device '{device.name}' is not known",
            span=node.span,
            hint=f"REGISTER DEVICE {device.name} USING memory = 8 GB",
        )
    memory = bind_number(nodes.Column("memory", span=node.span), binding)
    limit = Constant(device.memory_bytes, memory.dimension, origin=f"memory of {device.name}")
    return Compare("<", memory, limit, source=node)


# ---- text


def _text_column(node: nodes.Expression, binding: Binding) -> str | None:
    """The metadata column an expression names; None for numbers. Unknown words raise."""
    if not isinstance(node, nodes.Column):
        return None
    return binding.vocabulary.text(node, binding)


def _text_comparison(
    column: str,
    operator: str,
    value: nodes.Expression,
    place: tuple[nodes.Comparison, Binding],
) -> Condition:
    node, binding = place
    if node.context is not None:
        raise BinderError(f"'{column}' has no context: leave out ON and AT", span=node.context.span)
    if column == "tags":
        raise BinderError(
            "a model has several tags", span=node.span, hint="write tags HAS 'mobile'"
        )
    word = _word(value, column, binding)
    if operator == "=":
        binding.vocabulary.check_word(column, word, value.span, binding)
    return binding.vocabulary.match(column, operator, (word,), node)


def _word(node: Any, column: str, binding: Binding) -> str:
    """The text, or opset as text, a column is compared with. Raises BinderError otherwise."""
    literal = binding.scope.parameters.literal(node)
    if column == "opset" and not isinstance(literal, nodes.Number):
        span = getattr(literal, "span", None) or getattr(node, "span", None)
        raise BinderError("'opset' is a number", span=span, hint="write opset >= 17")
    if isinstance(literal, nodes.Text):
        return literal.value
    if isinstance(literal, nodes.Number):
        return f"{literal.value:.15g}"
    if isinstance(literal, nodes.ModelRef) and literal.version is None:
        return literal.name
    if isinstance(literal, nodes.Null):
        raise BinderError("nothing equals NULL", span=literal.span, hint=f"write {column} IS NULL")
    span = getattr(literal, "span", None) or getattr(node, "span", None)
    hint = f"write {column} = 'value'"
    if isinstance(literal, nodes.Column):
        hint = f"text stands in quotes: {column} = '{literal.name}'"
    raise BinderError(f"'{column}' is text: compare it with text", span=span, hint=hint)


def _like(node: nodes.Like, binding: Binding) -> Condition:
    column = _text_column(node.operand, binding)
    if column is None:
        raise BinderError(
            f"{node.kind.upper()} looks at text, not at numbers", span=node.operand.span
        )
    pattern = _word(node.pattern, column, binding)
    if node.kind == "regexp":
        _check_pattern(column, pattern, node, binding)
    return _negated(binding.vocabulary.match(column, node.kind, (pattern,), node), node.negated)


def _check_pattern(column: str, pattern: str, node: nodes.Like, binding: Binding) -> None:
    """Asks the catalog now, so that a broken pattern is underlined."""
    try:
        binding.vocabulary.check_pattern(column, pattern, binding.scope.facts)
    except BinderError as error:
        error.span = error.span or node.pattern.span
        raise


def _has(node: nodes.Has, binding: Binding) -> Condition:
    column, listed = _text_column(node.operand, binding), binding.vocabulary.listed
    if column != listed:
        raise BinderError(
            f"HAS looks into a list, and {listed} is the only one",
            span=node.operand.span,
            hint=f"write {listed} HAS 'mobile'; use = or LIKE for text",
        )
    operator = "has_all" if node.every else "has_any"
    return binding.vocabulary.match(listed, operator, node.values, node)


_HANDLERS: dict[type, Callable[[Any, Binding], Condition]] = {
    nodes.And: _and,
    nodes.Or: _or,
    nodes.Not: _not,
    nodes.Comparison: _comparison,
    nodes.Between: _between,
    nodes.InList: _in_list,
    nodes.Like: _like,
    nodes.IsNull: _is_null,
    nodes.Has: _has,
    nodes.FitsOn: _fits_on,
}
