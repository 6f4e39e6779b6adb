"""The nodes of expressions and of references to models; import them from nodes.py.

Comparison, hash and text are written once in Node: generating them for each of forty classes would
cost a third of the time in which a query starts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sommelier.errors import Span


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Node:
    """Base of every node. Two nodes are equal if all is equal but their place in the text."""

    span: Span | None = field(default=None)

    def _values(self) -> tuple[object, ...]:
        names: tuple[str, ...] = self.__match_args__  # keyword-only fields, span, are not in there
        return tuple(getattr(self, name) for name in names)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash((type(self), self._values()))

    def __repr__(self) -> str:
        names: tuple[str, ...] = self.__match_args__
        shown = [f"{name}={getattr(self, name)!r}" for name in names]
        return f"{type(self).__name__}({', '.join(shown)})"


# ---- expressions


class Expression(Node):
    """A value or a condition."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Number(Expression):
    """A bare number."""

    value: float


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Text(Expression):
    """`'text'`."""

    value: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Boolean(Expression):
    """`TRUE`, `FALSE`."""

    value: bool


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Null(Expression):
    """`NULL`."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Percent(Expression):
    """`80%` (fraction 0.8), `80% OF model`. relative_to is None when OF is absent."""

    fraction: float
    relative_to: ModelRef | Parameter | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Times(Expression):
    """`0.5x`, `0.5x OF model`."""

    factor: float
    relative_to: ModelRef | Parameter | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Quantity(Expression):
    """`200 MB`: value and unit as written."""

    value: float
    unit: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Parameter(Expression):
    """`$name`, `$1`, or `?` (name is then '?1', '?2' ... by position)."""

    name: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Column(Expression):
    """A metric, an answer column, a metadata column or a projection alias."""

    name: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Call(Expression):
    """`function(arguments)`; a model name as argument is a ModelRef or a Text."""

    function: str
    arguments: tuple[Expression, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Negative(Expression):
    """`-operand`."""

    operand: Expression


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Arithmetic(Expression):
    """`left + right`."""

    operator: str  # + - * /
    left: Expression
    right: Expression


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Context(Node):
    """`ON 'cpu'`, `AT p99`, `PER sample` after a comparison. `on` names a device or a dataset."""

    on: str | None = None
    percentile: float | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Comparison(Expression):
    """`left < right`, with what its metric is measured on."""

    operator: str  # = != < <= > >=
    left: Expression
    right: Expression
    context: Context | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Between(Expression):
    """`operand [NOT] BETWEEN low AND high`."""

    operand: Expression
    low: Expression
    high: Expression
    negated: bool = False
    context: Context | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class InList(Expression):
    """`operand [NOT] IN (options)`."""

    operand: Expression
    options: tuple[Expression, ...]
    negated: bool = False


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Like(Expression):
    """`operand [NOT] LIKE pattern`."""

    kind: str  # like, ilike, regexp
    operand: Expression
    pattern: Expression
    negated: bool = False


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class IsNull(Expression):
    """`operand IS [NOT] NULL`."""

    operand: Expression
    negated: bool = False


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Has(Expression):
    """`tags HAS 'mobile'`, `tags HAS ANY ('a', 'b')`."""

    operand: Expression
    values: tuple[str, ...]
    every: bool = False


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FitsOn(Expression):
    """`FITS ON 'device'`: memory is below the device's memory."""

    device: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Not(Expression):
    """`NOT operand`."""

    operand: Expression


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class And(Expression):
    """All of them."""

    operands: tuple[Expression, ...]  # two or more, never nested And


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Or(Expression):
    """One of them at least."""

    operands: tuple[Expression, ...]  # two or more, never nested Or


# ---- references to models


class Reference(Node):
    """What CORR compares with."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ModelRef(Reference, Expression):
    """`resnet50`, `resnet50@2`, `"odd name"`, `'odd name'`: name and version apart."""

    name: str
    version: str | None = None
