"""Options for rooms that check their own names: query nodes as plain Python values."""

from __future__ import annotations

from typing import Any

from sommelier.engine.parameters import as_parameters
from sommelier.errors import BinderError
from sommelier.grammar import nodes


def plain_options(options: tuple[nodes.Option, ...], parameters: Any = None) -> dict[str, Any]:
    """Option values by lower-case name; a quantity stays text ('200 MB') for the room to read.

    Raises BinderError if a name is given twice or a value is not a literal.
    """
    known = as_parameters(parameters)
    values: dict[str, Any] = {}
    for option in options:
        name = option.name.lower()
        if name in values:
            raise BinderError(f"option '{option.name}' is given twice", span=option.span)
        values[name] = _plain(known.literal(option.value))
    return values


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, nodes.Number):
        return int(value.value) if float(value.value).is_integer() else value.value
    if isinstance(value, nodes.Text | nodes.Boolean):
        return value.value
    if isinstance(value, nodes.Percent) and value.relative_to is None:
        return value.fraction
    if isinstance(value, nodes.Quantity):
        return f"{value.value:.12g} {value.unit}"
    if isinstance(value, nodes.Null):
        return None
    if isinstance(value, nodes.Negative):
        return -_plain(value.operand)
    if isinstance(value, nodes.Column | nodes.ModelRef):
        return value.name
    raise BinderError("an option takes a number, a text, true, false or a list", span=value.span)
