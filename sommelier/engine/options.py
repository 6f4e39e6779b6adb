"""USING options and settings as Python values: names checked against a schema, units converted.

A schema maps an option's name to its kind: a Dimension (a number in base units), a type (str,
int, float, bool), a tuple of words to choose from, or `Many(kind)` for a list.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sommelier import units
from sommelier.engine.names import nearest
from sommelier.engine.parameters import BoundNumber, Parameters, Supplied, as_parameters
from sommelier.errors import BinderError, Span
from sommelier.grammar import nodes
from sommelier.units import BASE_UNITS, SPELLINGS, Dimension, UnitError


@dataclass(frozen=True, slots=True)
class Many:
    """A list option; a single value counts as a list of one."""

    of: Any


BOUNDS = (
    "auto", "cp", "betting", "anytime", "wilson", "hoeffding", "bernstein", "spectral",
    "minimum", "prediction",
)  # fmt: skip
_WHOLE = (Dimension.BYTES, Dimension.FLOPS)  # nothing is less than one of them
CORRECTIONS = ("auto", "none", "bonferroni", "fwer", "fdr", "fdr_by", "split")

Kind = Dimension | type | tuple[str, ...] | Many

SELECT_OPTIONS: dict[str, Kind] = {
    "dataset": str,
    "datasets": Many(str),
    "generalization": ("on", "off", "custom"),
    "bound": BOUNDS,
    "device": str,
    "batch": int,
    "confidence": Dimension.FRACTION,
    "correction": CORRECTIONS,
    "certainty": ("certain", "possible"),
    "include_reference": bool,
    "provenance": ("measured", "estimated", "declared"),
    "mode": ("sketch", "random5"),
    "seed": int,
}
"""What USING takes after SELECT MODELS."""

LINKS_OPTIONS: dict[str, Kind] = {"cost": ("memory", "latency", "flops", "size")}
"""What USING takes after SELECT LINKS: which number the column `cost` is, memory by default."""

PLAN_OPTIONS: dict[str, Kind] = {
    "objective": ("accuracy", "skill"),
    **{
        name: SELECT_OPTIONS[name]
        for name in ("confidence", "dataset", "device", "batch", "provenance")
    },
}
"""What USING takes after SELECT PLAN."""

FUSIONS_OPTIONS: dict[str, Kind] = {
    "dataset": str,
    "samples": int,
    "seed": int,
    "device": str,
    "candidates": int,
}
"""What USING takes after SELECT FUSIONS. samples : inputs that predictions are made from. device :
whose latencies. candidates : how many of the most promising are looked at by the conditions."""

CASCADES_OPTIONS: dict[str, Kind] = {"dataset": str}
"""What USING takes after SELECT CASCADES: whose samples were answered."""

EXPLAIN_OPTIONS: dict[str, Kind] = {"format": ("text", "json"), "analyze": bool}
"""What stands in the parentheses after EXPLAIN."""

SETTINGS: dict[str, Kind] = {
    **{name: kind for name, kind in SELECT_OPTIONS.items() if name not in ("seed", "datasets")},
    "generalization": ("on", "off"),
    "bound": BOUNDS[:-2],
    "default_tolerance": Dimension.FRACTION,
}
"""What SET takes for the engine: the same options for every query, and the tolerance of a CORR
without a threshold. What belongs to one question (its seed, its datasets) is not a setting."""


def bind_options(
    options: tuple[nodes.Option, ...],
    schema: Mapping[str, Kind],
    parameters: Supplied | Parameters = None,
) -> dict[str, Any]:
    """Option values by name, in base units.

    Raises BinderError for an unknown or repeated option, a wrong type or a unit that does not fit;
    the error carries the span and lists what would work.
    """
    known = as_parameters(parameters)
    values: dict[str, Any] = {}
    for option in options:
        name = option.name.lower()
        if name not in schema:
            raise BinderError(
                f"unknown option '{option.name}'",
                span=option.span,
                expected=tuple(sorted(schema)),
                suggestions=nearest(name, schema),
            )
        if name in values:
            raise BinderError(f"option '{option.name}' is given twice", span=option.span)
        values[name] = bind_value(option.value, schema[name], known, name=name)
    return values


def bind_value(
    value: nodes.OptionValue | nodes.ModelRef,
    kind: Kind,
    parameters: Supplied | Parameters = None,
    *,
    name: str = "value",
) -> Any:
    """One option or setting as a Python value of `kind`; None for NULL. Raises BinderError."""
    literal = as_parameters(parameters).literal(value)
    if isinstance(literal, nodes.Null):
        return None
    if isinstance(kind, Many):
        items = literal if isinstance(literal, tuple) else (literal,)
        return [bind_value(item, kind.of, name=name) for item in items]
    if isinstance(literal, tuple):
        raise _wrong(name, kind, literal[0].span if literal else None)
    try:
        bound = _bound(literal, kind)
    except UnitError as error:
        raise BinderError(
            f"option {name}: {error.message}", span=literal.span, hint=error.hint
        ) from None
    if bound is None:
        raise _wrong(name, kind, literal.span)
    return bound


def _bound(literal: nodes.Expression, kind: Any) -> Any:
    """The value, or None if the literal cannot be of that kind."""
    if isinstance(kind, Dimension):
        return number_in(literal, kind)
    if isinstance(kind, tuple):
        word = literal.value.lower() if isinstance(literal, nodes.Text) else None
        return word if word in kind else None
    if kind is bool:
        return _truth(literal)
    if kind is str:
        return _text(literal)
    value = number_in(literal, Dimension.COUNT)
    if kind is int:
        return int(value) if value is not None and value.is_integer() else None
    return value


def number_in(literal: nodes.Expression, dimension: Dimension) -> float | None:
    """A literal in the base unit of `dimension`; None if it is not a number at all.

    Raises UnitError for a unit of something else, and for a bare number where a unit is needed.
    """
    check_number(literal)
    if isinstance(literal, nodes.Negative):
        value = number_in(literal.operand, dimension)
        return None if value is None else -value
    if isinstance(literal, nodes.Quantity):
        return units.to_base(float(literal.value), literal.unit, dimension)
    if isinstance(literal, nodes.Percent) and literal.relative_to is None:
        if dimension in (Dimension.FRACTION, Dimension.NUMBER):
            return literal.fraction
        raise UnitError(
            f"{_plain(literal.fraction * 100)}% is a fraction, but {dimension.value} is asked for",
            hint=f"units of {dimension.value}: {', '.join(SPELLINGS[dimension])}",
        )
    if isinstance(literal, nodes.Text):
        return units.parse(literal.value, dimension)
    if isinstance(literal, BoundNumber):
        return bound_amount(float(literal.value), dimension)
    if isinstance(literal, nodes.Number):
        return bare(float(literal.value), dimension)
    return None


def check_number(literal: object) -> None:
    """Raises UnitError for NaN, which only a query built in Python can hold."""
    value = None
    if isinstance(literal, nodes.Number | nodes.Quantity):
        value = literal.value
    elif isinstance(literal, nodes.Percent):
        value = literal.fraction
    elif isinstance(literal, nodes.Times):
        value = literal.factor
    if value is not None and math.isnan(value):
        raise UnitError(
            "NaN is not a number to compare with", hint="write a number, or leave it out"
        )


def bare(value: float, dimension: Dimension) -> float:
    """A number written without a unit. Raises UnitError where the unit would have to be guessed."""
    if dimension in (Dimension.COUNT, Dimension.FRACTION, Dimension.NUMBER):
        return value
    spellings = SPELLINGS[dimension]
    usual = {Dimension.BYTES: "MB", Dimension.FLOPS: "GFLOPs", Dimension.TIME: "ms"}
    unit = usual.get(dimension, spellings[0])
    raise UnitError(
        f"{_plain(value)} what? {unit}?",
        hint=f"write {_plain(value)} {unit}; units of {dimension.value}: {', '.join(spellings)}",
    )


def bound_amount(value: float, dimension: Dimension) -> float:
    """A number that a program gave, in the base unit. Raises UnitError for a part of a byte."""
    if dimension in _WHOLE and 0 < abs(value) < 1:
        raise UnitError(
            f"{_plain(value)} {BASE_UNITS[dimension]}? A bound number is in the unit that answers "
            "have",
            hint=f"for a share of the reference pass the text '{_plain(value * 100)}%'",
        )
    return value


def check_least(
    written: Sequence[nodes.Option], given: Mapping[str, Any], least: Mapping[str, int]
) -> None:
    """Raises BinderError, at its place, for an option below its least value."""
    for option in written:
        name = option.name.lower()
        value = given.get(name)
        if name in least and value is not None and value < least[name]:
            raise BinderError(f"option {name} must be at least {least[name]}", span=option.span)


def check_confidence(confidence: float, span: Span | None) -> None:
    """Raises BinderError unless the confidence is one a statement can be made with."""
    if not 0.5 < confidence < 1:
        raise BinderError(
            f"a confidence lies between 50% and 100%, not at {confidence * 100:g}%",
            span=span,
            hint="usual are 90%, 95% and 99%",
        )


_WORDS = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def _truth(literal: nodes.Expression) -> bool | None:
    if isinstance(literal, nodes.Boolean):
        return literal.value
    if isinstance(literal, nodes.Number) and literal.value in (0, 1):
        return bool(literal.value)
    return _WORDS.get((_text(literal) or "").lower())


def _text(literal: nodes.Expression) -> str | None:
    if isinstance(literal, nodes.Text):
        return literal.value
    if isinstance(literal, nodes.ModelRef):
        return f"{literal.name}@{literal.version}" if literal.version else literal.name
    if isinstance(literal, nodes.Column):
        return literal.name
    if isinstance(literal, nodes.Number):
        return _plain(literal.value)
    return None


def _wrong(name: str, kind: Kind, span: Span | None) -> BinderError:
    return BinderError(f"option {name} takes {_wanted(kind)}", span=span)


def _wanted(kind: Kind) -> str:
    if isinstance(kind, Many):
        return f"a list, each {_wanted(kind.of)}"
    if isinstance(kind, tuple):
        return f"one of {', '.join(kind)}"
    if isinstance(kind, Dimension):
        example = {Dimension.FRACTION: "95%", Dimension.BYTES: "200 MB", Dimension.TIME: "30 ms"}
        shown = f", such as {example[kind]}" if kind in example else ""
        return f"a quantity of {kind.value}{shown}"
    names = {bool: "true or false", int: "a whole number", str: "a text", float: "a number"}
    return names.get(kind, kind.__name__)


def _plain(value: float) -> str:
    return f"{value:.12g}"
