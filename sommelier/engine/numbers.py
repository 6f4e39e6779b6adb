"""Expressions as numbers per model: units by dimension, percent relative to the reference.

The clause decides what a percent means: in ON it is relative to the reference's own value of the
other side, everywhere else it is a plain fraction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sommelier import units
from sommelier.engine.arithmetic import SCALARS, compatible, fold, product_dimension
from sommelier.engine.options import bare, bound_amount, check_number
from sommelier.engine.parameters import BoundNumber
from sommelier.engine.plan import (
    Binary,
    Constant,
    MetricColumn,
    ModelReference,
    OutputColumn,
    TextColumn,
    Value,
)
from sommelier.engine.scope import Scope
from sommelier.engine.vocabulary import MODELS, Vocabulary
from sommelier.errors import BinderError
from sommelier.grammar import nodes
from sommelier.units import BASE_UNITS, SPELLINGS, Dimension, UnitError


@dataclass(frozen=True, slots=True)
class Binding:
    """Where an expression stands and what it may refer to.

    clause : where, on, order, pick or select. value_of : the number a value has for a model, for
    relative bounds. references : the models a percent in ON is relative to. vocabulary : what words
    mean.
    """

    scope: Scope
    clause: str
    references: tuple[ModelReference, ...] = ()
    has_corr: bool = False
    value_of: Callable[[Value, str], float] | None = None
    aliases: tuple[OutputColumn, ...] = ()
    vocabulary: Vocabulary = MODELS


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the other side of a comparison says about this one."""

    dimension: Dimension | None = None
    basis: Value | None = None
    context: nodes.Context | None = None


ANY = Wanted()


def bind_number(node: Any, binding: Binding, wanted: Wanted = ANY) -> Value:
    """The expression as a value. Raises BinderError for unknown names and misfitting units."""
    literal = binding.scope.parameters.literal(node)
    handler = _HANDLERS.get(type(literal))
    if handler is None:
        span = literal[0].span if isinstance(literal, tuple) and literal else None
        raise BinderError("a number is expected here", span=getattr(literal, "span", span))
    if isinstance(node, nodes.Parameter) and isinstance(literal, nodes.Text):
        literal = _quantity(literal) or literal
        handler = _HANDLERS[type(literal)]
    try:
        check_number(literal)
        return handler(literal, binding, wanted)
    except UnitError as error:
        raise BinderError(error.message, span=literal.span, hint=error.hint) from None


def mentions_column(node: Any, binding: Binding) -> bool:
    """Whether the expression differs from model to model."""
    literal = binding.scope.parameters.literal(node)
    if isinstance(literal, nodes.Column | nodes.Call):
        return True
    if isinstance(literal, nodes.Negative):
        return mentions_column(literal.operand, binding)
    if isinstance(literal, nodes.Arithmetic):
        return mentions_column(literal.left, binding) or mentions_column(literal.right, binding)
    return False


# ---- columns and functions


def _column(node: nodes.Column, binding: Binding, wanted: Wanted) -> Value:
    if binding.clause in ("order", "pick"):
        for column in binding.aliases:
            if column.name == node.name and not isinstance(column.value, TextColumn):
                return column.value
    return binding.vocabulary.number(node, binding, wanted)


def _call(node: nodes.Call, binding: Binding, _wanted: Wanted) -> Value:
    return binding.vocabulary.call(node, binding)


# ---- literals


def _number(node: nodes.Number, _binding: Binding, wanted: Wanted) -> Value:
    dimension = wanted.dimension or Dimension.NUMBER
    value = bare(node.value, dimension)
    if dimension is Dimension.FRACTION and abs(value) > 1 and wanted.basis is not None:
        raise UnitError(
            f"{value:g} what? {value:g}%?", hint=f"write {value:g}% (or a fraction up to 1)"
        )
    return Constant(value, dimension)


def _bound_number(node: BoundNumber, binding: Binding, wanted: Wanted) -> Value:
    """In the unit in which the other side is answered, so that what was read can be given back."""
    if wanted.dimension not in BASE_UNITS:
        return _number(node, binding, wanted)
    return Constant(bound_amount(node.value, wanted.dimension), wanted.dimension)


def _quantity_node(node: nodes.Quantity, _binding: Binding, wanted: Wanted) -> Value:
    if wanted.dimension is not None:
        if wanted.dimension in (Dimension.NUMBER, Dimension.FRACTION):
            value = units.to_base(node.value, node.unit, Dimension.COUNT)
            return Constant(value, Dimension.COUNT)
        return Constant(units.to_base(node.value, node.unit, wanted.dimension), wanted.dimension)
    for dimension in SPELLINGS:
        try:
            return Constant(units.to_base(node.value, node.unit, dimension), dimension)
        except UnitError:
            continue
    raise UnitError(f"'{node.unit}' is not a unit", hint="SHOW UNITS lists them")


def _text(node: nodes.Text, binding: Binding, wanted: Wanted) -> Value:
    quantity = _quantity(node)
    if quantity is not None:
        return bind_number(quantity, binding, wanted)
    raise BinderError(
        f"'{node.value}' is text, a number is expected here",
        span=node.span,
        hint="write for example 200 MB, 30 ms or 80%",
    )


def _quantity(node: nodes.Text) -> nodes.Expression | None:
    """Text such as '200 MB', '80%' or '0.5x' as the literal it spells."""
    text = node.value.strip()
    digits = text.rstrip("%µabcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
    unit = text[len(digits) :].strip()
    try:
        value = float(digits)
    except ValueError:
        return None
    if unit == "%":
        return nodes.Percent(value / 100, span=node.span)
    if unit.lower() == "x":
        return nodes.Times(value, span=node.span)
    if unit:
        return nodes.Quantity(value, unit, span=node.span)
    return nodes.Number(value, span=node.span)


def _percent(node: nodes.Percent, binding: Binding, wanted: Wanted) -> Value:
    if binding.clause == "on":
        return _relative(node, node.fraction, f"{node.fraction * 100:.12g}%", binding, wanted)
    if node.relative_to is not None:
        raise BinderError(
            "a percent of another model stands in ON; elsewhere a percent is a plain fraction",
            span=node.span,
            hint=binding.vocabulary.limits("memory < 80% OF resnet50"),
        )
    dimension = wanted.dimension
    if dimension not in (None, Dimension.FRACTION, Dimension.NUMBER):
        metric = wanted.basis.key.metric if isinstance(wanted.basis, MetricColumn) else "memory"
        raise BinderError(
            f"{node.fraction * 100:.12g}% of what? In {binding.clause.upper()} a percent is a "
            f"plain fraction, and {metric} is measured in {dimension.value}",
            span=node.span,
            hint=binding.vocabulary.limits(f"{metric} < 80%"),
        )
    return Constant(node.fraction, Dimension.FRACTION)


def _times(node: nodes.Times, binding: Binding, wanted: Wanted) -> Value:
    if binding.clause != "on":
        raise BinderError(
            f"{node.factor:g}x is relative to the reference, which only ON is",
            span=node.span,
            hint=binding.vocabulary.limits("memory < 0.5x"),
        )
    return _relative(node, node.factor, f"{node.factor:g}x", binding, wanted)


def _relative(
    node: nodes.Percent | nodes.Times,
    factor: float,
    written: str,
    binding: Binding,
    wanted: Wanted,
) -> Value:
    """The bound in base units: `factor` times the reference's value of the other side."""
    if wanted.basis is None or binding.value_of is None:
        raise BinderError(
            f"{written} is relative to a metric of the reference",
            span=node.span,
            hint="compare it with a metric directly: memory < 80%",
        )
    model = _relative_to(node, written, binding)
    value = binding.value_of(wanted.basis, model.id)
    dimension = wanted.dimension or Dimension.NUMBER
    return Constant(factor * value, dimension, origin=f"{written} of {model.name}", basis=value)


def _relative_to(
    node: nodes.Percent | nodes.Times, written: str, binding: Binding
) -> ModelReference:
    if node.relative_to is not None:
        return binding.scope.model(node.relative_to)
    if not binding.references:
        raise BinderError(
            f"{written} relative to what?",
            span=node.span,
            hint="add CORR with a reference, or write OF: memory < 80% OF resnet50",
        )
    if len(binding.references) > 1:
        names = ", ".join(r.name for r in binding.references)
        raise BinderError(
            f"{written} relative to which of {names}?",
            span=node.span,
            hint=f"write {written} OF {binding.references[0].name}",
        )
    return binding.references[0]


# ---- arithmetic


def _negative(node: nodes.Negative, binding: Binding, wanted: Wanted) -> Value:
    operand = bind_number(node.operand, binding, wanted)
    if isinstance(operand, Constant):
        return Constant(-operand.value, operand.dimension)
    return Binary("-", Constant(0.0, operand.dimension), operand, operand.dimension)


def _arithmetic(node: nodes.Arithmetic, binding: Binding, wanted: Wanted) -> Value:
    if node.operator in "+-":
        return _sum(node, binding, wanted)
    return _product(node, binding, wanted)


def _sum(node: nodes.Arithmetic, binding: Binding, wanted: Wanted) -> Value:
    if wanted.dimension is None and not mentions_column(node.left, binding):
        right = bind_number(node.right, binding, wanted)
        left = bind_number(node.left, binding, Wanted(right.dimension, None, wanted.context))
    else:
        left = bind_number(node.left, binding, wanted)
        after = Wanted(wanted.dimension or left.dimension, wanted.basis, wanted.context)
        right = bind_number(node.right, binding, after)
    if not compatible(left.dimension, right.dimension):
        word = "add" if node.operator == "+" else "subtract"
        raise BinderError(
            f"cannot {word} {left.dimension.value} and {right.dimension.value}",
            span=node.span,
            hint="divide each by a quantity first: memory / 100 MB + latency / 10 ms",
        )
    dimension = left.dimension if left.dimension is right.dimension else Dimension.NUMBER
    return fold(node.operator, left, right, dimension)


def _product(node: nodes.Arithmetic, binding: Binding, wanted: Wanted) -> Value:
    left = _factor(node.left, binding, wanted)
    like_left = left.dimension if node.operator == "/" and left.dimension not in SCALARS else None
    right = _factor(
        node.right, binding, Wanted(like_left or wanted.dimension, None, wanted.context)
    )
    dimension = product_dimension(node.operator, left.dimension, right.dimension)
    return fold(node.operator, left, right, dimension)


def _factor(node: Any, binding: Binding, wanted: Wanted) -> Value:
    """A factor: a bare number is just a number, a quantity keeps its unit."""
    literal = binding.scope.parameters.literal(node)
    if isinstance(literal, nodes.Number):
        return Constant(literal.value)
    if isinstance(literal, nodes.Quantity):
        try:
            return bind_number(literal, binding, Wanted(wanted.dimension, None, wanted.context))
        except BinderError:
            return bind_number(literal, binding, Wanted(None, None, wanted.context))
    if isinstance(literal, nodes.Percent | nodes.Times) and binding.clause == "on":
        raise BinderError(
            "a bound relative to the reference cannot be multiplied or divided", span=literal.span
        )
    return bind_number(literal, binding, Wanted(None, None, wanted.context))


_HANDLERS: dict[type, Callable[[Any, Binding, Wanted], Value]] = {
    nodes.Column: _column,
    nodes.Call: _call,
    nodes.Number: _number,
    BoundNumber: _bound_number,
    nodes.Quantity: _quantity_node,
    nodes.Text: _text,
    nodes.Percent: _percent,
    nodes.Times: _times,
    nodes.Negative: _negative,
    nodes.Arithmetic: _arithmetic,
}
