"""WHERE about models that are not in the database: conditions on what their source states.

Three-valued like every WHERE: a fact the source does not state makes a comparison unknown, and only
what is true is kept. Text is compared as it is written, licences by their SPDX names, authors and
libraries without minding the case.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sommelier.connectors.licenses import spdx
from sommelier.connectors.options import nearest
from sommelier.connectors.search import Term
from sommelier.engine.conditions import FLIPPED
from sommelier.engine.parameters import Parameters
from sommelier.errors import BinderError
from sommelier.grammar import nodes
from sommelier.like import like_pattern
from sommelier.units import Dimension, UnitError, to_base

Facts = Mapping[str, object]
Predicate = Callable[[Facts], bool | None]
"""True, False, or None where it is not known."""

_ANY_CASE = frozenset({"author", "library"})

_COMPARE: Mapping[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt,
    ">=": operator.ge,
}  # fmt: skip


def bind(condition: nodes.Expression, known: Mapping[str, type], values: Parameters) -> Predicate:
    """The condition as a function of facts. known : {fact: str, float or tuple}.

    Raises BinderError with the words at fault.
    """
    return _Binding(known, values).condition(condition)


def facts_in(
    condition: nodes.Expression, known: Mapping[str, type], values: Parameters
) -> tuple[str, ...]:
    """The facts that the condition asks about, each once. `bind` it first."""
    binding = _Binding(known, values)
    binding.condition(condition)
    return tuple(dict.fromkeys(binding.facts))


def terms(
    condition: nodes.Expression, known: Mapping[str, type], values: Parameters
) -> tuple[Term, ...]:
    """The comparisons that must hold whatever else the condition says. `bind` it first."""
    return tuple(_Binding(known, values).terms(condition))


class _Binding:
    """One condition, about facts of known types. facts : those it asks about, as they come."""

    def __init__(self, known: Mapping[str, type], values: Parameters) -> None:
        self._known = known
        self._values = values
        self.facts: list[str] = []

    def condition(self, node: nodes.Expression) -> Predicate:
        if isinstance(node, nodes.And | nodes.Or):
            parts = [self.condition(part) for part in node.operands]
            return _all(parts) if isinstance(node, nodes.And) else _any(parts)
        if isinstance(node, nodes.Not):
            return _not(self.condition(node.operand))
        if isinstance(node, nodes.Comparison):
            return self._comparison(*self._sides(node))
        if isinstance(node, nodes.Between):
            low = self._comparison(node.operand, ">=", node.low)
            found = _all([low, self._comparison(node.operand, "<=", node.high)])
        elif isinstance(node, nodes.InList):
            found = _any([self._comparison(node.operand, "=", option) for option in node.options])
        elif isinstance(node, nodes.Like):
            found = self._like(node)
        elif isinstance(node, nodes.IsNull):
            name = self._fact(node.operand)
            found = lambda facts: facts.get(name) is None  # noqa: E731
        elif isinstance(node, nodes.Has):
            return self._has(node)
        else:
            raise self._unable(node)
        return _not(found) if node.negated else found

    def terms(self, node: nodes.Expression) -> Iterator[Term]:
        if isinstance(node, nodes.And):
            for part in node.operands:
                yield from self.terms(part)
        elif isinstance(node, nodes.Comparison):
            column, sign, literal = self._sides(node)
            if sign != "!=":
                name = self._fact(column)
                yield Term(name, sign, self._value(literal, name))
        elif isinstance(node, nodes.Between) and not node.negated:
            name = self._fact(node.operand)
            yield Term(name, ">=", self._value(node.low, name))
            yield Term(name, "<=", self._value(node.high, name))
        elif isinstance(node, nodes.InList) and not node.negated and len(node.options) == 1:
            name = self._fact(node.operand)
            yield Term(name, "=", self._value(node.options[0], name))
        elif isinstance(node, nodes.Like) and not node.negated and node.kind != "regexp":
            pattern = self._values.literal(node.pattern)
            if isinstance(pattern, nodes.Text):
                yield Term(self._fact(node.operand), "like", pattern.value)
        elif isinstance(node, nodes.Has) and (node.every or len(node.values) == 1):
            for value in node.values:
                yield Term(self._fact(node.operand), "has", value)

    def _sides(self, node: nodes.Comparison) -> tuple[nodes.Expression, str, nodes.Expression]:
        """Fact, operator and literal, whichever side the fact is written on."""
        if node.context is not None:
            raise self._unable(node)
        if isinstance(node.left, nodes.Column):
            return node.left, node.operator, node.right
        return node.right, FLIPPED[node.operator], node.left

    def _comparison(
        self, column: nodes.Expression, sign: str, literal: nodes.Expression
    ) -> Predicate:
        name = self._fact(column)
        if self._known[name] is tuple:
            raise BinderError(f"{name} are several", span=column.span, hint=f"{name} HAS 'word'")
        wanted, compare = _folded(name, self._value(literal, name)), _COMPARE[sign]

        def holds(facts: Facts) -> bool | None:
            value = facts.get(name)
            return None if value is None else compare(_folded(name, value), wanted)

        return holds

    def _like(self, node: nodes.Like) -> Predicate:
        name, pattern = self._fact(node.operand), self._values.literal(node.pattern)
        if not isinstance(pattern, nodes.Text) or self._known[name] is not str:
            raise self._unable(node)
        try:
            regular = node.kind == "regexp"
            found = re.compile(pattern.value) if regular else like_pattern(pattern.value)
            if node.kind == "like":  # which, unlike ILIKE, minds the case
                found = re.compile(found.pattern, found.flags & ~re.IGNORECASE)
        except re.error as error:
            raise BinderError(f"not a regular expression: {error}", span=node.span) from error
        matches = found.search if regular else found.fullmatch

        def holds(facts: Facts) -> bool | None:
            value = facts.get(name)
            return None if value is None else matches(str(value)) is not None

        return holds

    def _has(self, node: nodes.Has) -> Predicate:
        name = self._fact(node.operand)
        if self._known[name] is not tuple:
            raise BinderError(f"{name} is one value", span=node.span, hint=f"{name} = 'word'")
        wanted = set(node.values)

        def holds(facts: Facts) -> bool | None:
            value = facts.get(name)
            said = set(value) if isinstance(value, tuple) else set()
            return wanted <= said if node.every else bool(wanted & said)

        return holds

    def _fact(self, node: nodes.Expression) -> str:
        if not isinstance(node, nodes.Column):
            raise self._unable(node)
        name = node.name.lower()
        if name not in self._known:
            raise BinderError(
                f"the source states no '{node.name}' before a model is fetched",
                span=node.span,
                suggestions=nearest(name, self._known),
                hint=f"it states {', '.join(self._known)}",
            )
        self.facts.append(name)
        return name

    def _value(self, node: nodes.Expression, name: str) -> str | float:
        literal = self._values.literal(node)
        if self._known[name] is not float and isinstance(literal, nodes.Text):
            return (name == "license" and spdx(literal.value)) or literal.value
        if self._known[name] is float and isinstance(literal, nodes.Number):
            return float(literal.value)
        if self._known[name] is float and isinstance(literal, nodes.Quantity):
            try:
                return to_base(literal.value, literal.unit, Dimension.COUNT)
            except UnitError as error:
                raise BinderError(error.message, span=node.span, hint=error.hint) from error
        if self._known[name] is float:
            raise BinderError(
                f"{name} is a number", span=node.span, hint="without quotes: 5000, 30M"
            )
        written = f"{literal.value:.12g}" if isinstance(literal, nodes.Number) else "word"
        raise BinderError(
            f"{name} is a text", span=node.span, hint=f"in single quotes: '{written}'"
        )

    def _unable(self, node: nodes.Expression) -> BinderError:
        return BinderError(
            "a source cannot be asked this",
            span=node.span,
            hint=f"compare one of {', '.join(self._known)} with a value",
        )


def _folded(name: str, value: object) -> object:
    return value.casefold() if name in _ANY_CASE and isinstance(value, str) else value


def _all(parts: list[Predicate]) -> Predicate:
    def holds(facts: Facts) -> bool | None:
        found = [part(facts) for part in parts]
        return False if False in found else None if None in found else True

    return holds


def _any(parts: list[Predicate]) -> Predicate:
    def holds(facts: Facts) -> bool | None:
        found = [part(facts) for part in parts]
        return True if True in found else None if None in found else False

    return holds


def _not(part: Predicate) -> Predicate:
    def holds(facts: Facts) -> bool | None:
        found = part(facts)
        return None if found is None else not found

    return holds
