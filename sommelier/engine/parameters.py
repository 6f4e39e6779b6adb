"""The values given for $name, $1 and ? while a statement is bound, and whether all were used."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sommelier.engine.names import nearest
from sommelier.errors import ParameterError
from sommelier.grammar import nodes

Supplied = Mapping[str, Any] | Sequence[Any] | None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class BoundNumber(nodes.Number):
    """A number that a program gave, not one that somebody wrote: where a measure is asked for it is
    in the base unit, as the columns of answers are."""


class Parameters:
    """Looks parameters up by name, and remembers which were asked for."""

    def __init__(self, supplied: Supplied = None) -> None:
        self._values = _by_name(supplied)
        self._positional = supplied is not None and not isinstance(supplied, Mapping)
        self._used: set[str] = set()

    def __getitem__(self, parameter: nodes.Parameter) -> Any:
        """The Python value. Raises ParameterError if none was given."""
        key = parameter.name.removeprefix("?")
        if key not in self._values:
            raise ParameterError(
                f"no value for parameter {_spell(parameter.name)}",
                span=parameter.span,
                suggestions=tuple(f"${name}" for name in nearest(key, self._values)),
                hint=f"given: {self._given()}",
            )
        self._used.add(key)
        return self._values[key]

    def literal(self, node: Any) -> Any:
        """`node`, or the literal node a Parameter stands for. A list becomes a tuple of nodes."""
        if not isinstance(node, nodes.Parameter):
            return node
        return _literal(self[node], node)

    def text(self, told: str | nodes.Parameter | None) -> str | None:
        """The text itself, or the one that a Parameter stands for."""
        if not isinstance(told, nodes.Parameter):
            return told
        found = self.literal(told)
        if not isinstance(found, nodes.Text):
            raise ParameterError(
                f"parameter {_spell(told.name)} is no text", span=told.span, hint="pass a text"
            )
        return found.value

    def check_all_used(self) -> None:
        """Raises ParameterError if a value was given that the statement does not mention."""
        unused = [name for name in self._values if name not in self._used]
        if unused:
            mentioned = ", ".join(f"${name}" for name in sorted(self._used)) or "none"
            raise ParameterError(
                f"the statement does not use parameter {', '.join(f'${n}' for n in unused)}",
                hint=f"it uses: {mentioned}",
            )

    def _given(self) -> str:
        if self._positional:
            count = len(self._values)
            return f"{count} value{'' if count == 1 else 's'} by position"
        return ", ".join(f"${name}" for name in self._values) or "none"


def as_parameters(supplied: Supplied | Parameters) -> Parameters:
    """`supplied` ready to be looked up."""
    return supplied if isinstance(supplied, Parameters) else Parameters(supplied)


def _by_name(supplied: Supplied) -> dict[str, Any]:
    if supplied is None:
        return {}
    if isinstance(supplied, Mapping):
        return {str(name).lstrip("$"): value for name, value in supplied.items()}
    if isinstance(supplied, str):
        raise ParameterError(
            "parameters are a list by position or a dict by name, not one text",
            hint=f"pass [{supplied!r}]",
        )
    return {str(position): value for position, value in enumerate(supplied, start=1)}


def _literal(value: Any, parameter: nodes.Parameter) -> Any:
    span = parameter.span
    if isinstance(value, nodes.Expression):
        return value
    if hasattr(value, "item") and getattr(value, "shape", None) == ():  # a numpy scalar
        value = value.item()
    if value is None:
        return nodes.Null(span=span)
    if isinstance(value, bool):
        return nodes.Boolean(value, span=span)
    if isinstance(value, int | float):
        if math.isnan(value):
            raise ParameterError(
                f"parameter {_spell(parameter.name)} is NaN, which nothing can be compared with",
                span=span,
                hint="pass a number, or leave the condition out",
            )
        return BoundNumber(float(value), span=span)
    if isinstance(value, str):
        return nodes.Text(value, span=span)
    if isinstance(value, list | tuple | set | frozenset):
        return tuple(_literal(item, parameter) for item in value)
    if hasattr(value, "isoformat"):
        return nodes.Text(value.isoformat(), span=span)
    raise ParameterError(
        f"parameter {_spell(parameter.name)} is a {type(value).__name__}",
        span=span,
        hint="a value is a number, a text such as '200 MB', a truth value, or a list of these",
    )


def _spell(name: str) -> str:
    return f"number {name[1:]} (?)" if name.startswith("?") else f"${name}"
