"""Writes expressions as canonical text; formatter.py adds SELECT and the other statements."""

from __future__ import annotations

from collections.abc import Iterable
from functools import singledispatch

from sommelier.grammar import nodes
from sommelier.grammar.spelling import (
    MODEL_FUNCTIONS,
    write_column,
    write_model,
    write_number,
    write_percent,
    write_quantity,
    write_text,
)

# How tightly an expression binds; an operand that binds less gets parentheses.
_OR, _AND, _NOT, _PREDICATE, SUM, _PRODUCT, _UNARY, _ATOM = range(8)


@singledispatch
def format(node: nodes.Node) -> str:
    """The canonical text of a node. Raises TypeError for what is not a node, ValueError for a name
    or number that cannot be written, such as NaN."""
    raise TypeError(f"{type(node).__name__} has no text form")


# ---- expressions


@format.register
def _(node: nodes.Number) -> str:
    return write_number(node.value)


@format.register
def _(node: nodes.Text) -> str:
    return write_text(node.value)


@format.register
def _(node: nodes.Boolean) -> str:
    return "TRUE" if node.value else "FALSE"


@format.register
def _(_node: nodes.Null) -> str:
    return "NULL"


@format.register
def _(node: nodes.Percent) -> str:
    return write_percent(node.fraction) + after("OF", node.relative_to)


@format.register
def _(node: nodes.Times) -> str:
    return f"{write_decimal(node.factor)}x" + after("OF", node.relative_to)


@format.register
def _(node: nodes.Quantity) -> str:
    return write_quantity(node.value, node.unit)


@format.register
def _(node: nodes.Parameter) -> str:
    return "?" if node.name.startswith("?") else f"${node.name}"


@format.register
def _(node: nodes.Column) -> str:
    return write_column(node.name)


@format.register
def _(node: nodes.ModelRef) -> str:
    return write_model(node.name, node.version)


@format.register
def _(node: nodes.Call) -> str:
    arguments = [_argument(argument, node.function) for argument in node.arguments]
    return f"{write_column(node.function)}({', '.join(arguments)})"


def _argument(argument: nodes.Expression, function: str) -> str:
    if isinstance(argument, nodes.ModelRef):
        bare = argument.version is None and function.lower() in MODEL_FUNCTIONS
        name = write_model(argument.name, argument.version)
        return write_column(argument.name) if bare else write_text(name)
    return operand_text(argument, SUM)


@format.register
def _(node: nodes.Negative) -> str:
    if isinstance(node.operand, nodes.Negative):
        return f"-({format(node.operand)})"  # two minus signs would start a comment
    return f"-{operand_text(node.operand, _UNARY)}"


@format.register
def _(node: nodes.Arithmetic) -> str:
    here = _binds(node)
    left, right = operand_text(node.left, here), operand_text(node.right, here + 1)
    return f"{left} {node.operator} {right}"


@format.register
def _(node: nodes.Context) -> str:
    device = "" if node.on is None else f" ON {write_text(node.on)}"
    rank = "" if node.percentile is None else f" AT p{write_number(node.percentile)}"
    return (device + rank).strip()


@format.register
def _(node: nodes.Comparison) -> str:
    left, right = operand_text(node.left, SUM), operand_text(node.right, SUM)
    return f"{left} {node.operator} {right}" + after("", node.context)


@format.register
def _(node: nodes.Between) -> str:
    operand, low, high = (operand_text(n, SUM) for n in (node.operand, node.low, node.high))
    context = after("", node.context)
    return f"{operand}{_not(node.negated)} BETWEEN {low} AND {high}{context}"


@format.register
def _(node: nodes.InList) -> str:
    options = ", ".join(operand_text(option, SUM) for option in node.options)
    return f"{operand_text(node.operand, SUM)}{_not(node.negated)} IN ({options})"


@format.register
def _(node: nodes.Like) -> str:
    operand, pattern = operand_text(node.operand, SUM), format(node.pattern)
    return f"{operand}{_not(node.negated)} {node.kind.upper()} {pattern}"


@format.register
def _(node: nodes.IsNull) -> str:
    return f"{operand_text(node.operand, SUM)} IS{_not(node.negated)} NULL"


@format.register
def _(node: nodes.Has) -> str:
    operand, values = operand_text(node.operand, SUM), [write_text(value) for value in node.values]
    if len(values) == 1 and not node.every:
        return f"{operand} HAS {values[0]}"
    return f"{operand} HAS {'ALL' if node.every else 'ANY'} ({', '.join(values)})"


@format.register
def _(node: nodes.FitsOn) -> str:
    return f"FITS ON {write_text(node.device)}"


@format.register
def _(node: nodes.Not) -> str:
    return f"NOT {operand_text(node.operand, _NOT)}"


@format.register
def _(node: nodes.And) -> str:
    return " AND ".join(operand_text(operand, _NOT) for operand in node.operands)


@format.register
def _(node: nodes.Or) -> str:
    return " OR ".join(operand_text(operand, _AND) for operand in node.operands)


def operand_text(node: nodes.Expression, at_least: int) -> str:
    text = format(node)
    return text if _binds(node) >= at_least else f"({text})"


def _binds(node: nodes.Expression) -> int:
    match node:
        case nodes.Or():
            return _OR
        case nodes.And():
            return _AND
        case nodes.Not():
            return _NOT
        case nodes.Arithmetic():
            return SUM if node.operator in "+-" else _PRODUCT
        case nodes.Negative():
            return _UNARY
        case (
            nodes.Comparison()
            | nodes.Between()
            | nodes.InList()
            | nodes.Like()
            | nodes.IsNull()
            | nodes.Has()
            | nodes.FitsOn()
        ):
            return _PREDICATE
    return _ATOM


def write_decimal(value: float) -> str:
    """A number without exponent: a factor is `0.00001x`, never `1e-05x`."""
    from decimal import Decimal

    text = write_number(value)
    return text if "e" not in text else f"{Decimal(text):f}"


def value_text(value: object) -> str:
    """A text or whole number as it is, or a node."""
    if isinstance(value, str):
        return write_text(value)
    return format(value) if isinstance(value, nodes.Node) else str(value)


def after(keyword: str, value: object) -> str:
    """` KEYWORD value`, or nothing if there is none; a str is text that is written already."""
    if value is None or value == "":
        return ""
    text = value if isinstance(value, str) else value_text(value)
    return f" {keyword} {text}" if keyword else f" {text}"


def _not(negated: bool) -> str:
    return " NOT" if negated else ""


def list_text(items: Iterable[nodes.Node]) -> str:
    """Nodes parted by commas."""
    return ", ".join(format(item) for item in items)


def unless(if_not_exists: bool) -> str:
    """Before the name of what is made."""
    return " IF NOT EXISTS" if if_not_exists else ""


def using_text(options: tuple[nodes.Option, ...]) -> str:
    """A USING clause, nothing without options."""
    return after("USING", list_text(options))


def option_text(value: nodes.OptionValue) -> str:
    """What stands behind the equals sign of an option."""
    return f"[{list_text(value)}]" if isinstance(value, tuple) else format(value)
