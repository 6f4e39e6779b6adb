"""SELECT's columns, ORDER BY and PICK bound; and the columns an answer has by default."""

from __future__ import annotations

from typing import Any

from sommelier.engine.contexts import context_words, fitting, metrics_in
from sommelier.engine.numbers import Binding, Wanted, bind_number
from sommelier.engine.plan import (
    AnswerColumn,
    CorrPlan,
    OrderKey,
    OutputColumn,
    PickPlan,
    Shown,
    TextColumn,
    Value,
)
from sommelier.engine.vocabulary import ANSWER_TEXTS
from sommelier.errors import BinderError
from sommelier.grammar import nodes
from sommelier.metrics import ANSWER_COLUMNS, METRICS, TEXT_COLUMNS
from sommelier.units import Dimension

PICK_METRICS = {
    "smallest": "params",
    "lightest": "memory",
    "fastest": "latency",
    "cheapest": "flops",
    "accurate": "accuracy",
}
"""Which metric each named picker looks at; METRICS says which way is better."""


# ---- columns


def bind_columns(
    projection: tuple[nodes.Projection, ...], binding: Binding, corr: CorrPlan | None
) -> tuple[OutputColumn, ...]:
    """The columns asked for, or the default ones."""
    if not projection:
        return _default_columns(binding, corr)
    columns: list[OutputColumn] = []
    names = [_name(item.expression) for item in projection if item.alias is None]
    for item in projection:
        expression = item.expression
        if isinstance(expression, nodes.Column) and expression.name == "*":
            columns += _every_column(binding, corr)
        else:
            value = bind_shown(expression, binding, item.context)
            name = item.alias or _name(expression)
            if item.context is not None and item.alias is None and names.count(name) > 1:
                name += context_words(item.context)
            columns.append(OutputColumn(name, value))
    return tuple(columns)


def bind_shown(node: Any, binding: Binding, context: nodes.Context | None = None) -> Shown:
    """A column of text or a number; its metrics are those in `context`."""
    literal = binding.scope.parameters.literal(node)
    if context is not None:
        _check_context(literal, context)
    if isinstance(literal, nodes.Column):
        name = literal.name.lower()
        alias = next((c.value for c in binding.aliases if c.name == literal.name), None)
        if isinstance(alias, TextColumn) and binding.clause == "order":
            return alias
        if (text := binding.vocabulary.shown(name, binding)) is not None:
            return text
    return bind_number(literal, binding, Wanted(context=context))


def _check_context(node: Any, context: nodes.Context) -> None:
    """Raises BinderError if nothing in the expression has that kind of context."""
    parts = [fitting(context, metric) for metric in metrics_in(node)]
    if context.on is not None and all(part.on is None for part in parts):
        raise BinderError(
            f"'{_name(node)}' does not depend on a device or a dataset: "
            f"leave out ON '{context.on}'",
            span=context.span or node.span,
        )
    if context.percentile is not None and all(part.percentile is None for part in parts):
        raise BinderError(
            f"'{_name(node)}' has no percentiles: leave out AT", span=context.span or node.span
        )


def _default_columns(binding: Binding, corr: CorrPlan | None) -> tuple[OutputColumn, ...]:
    facts = binding.scope.facts
    if corr is not None:
        shown: list[OutputColumn] = [OutputColumn("name", TextColumn("name"))]
        shown += [_answer(name) for name in ("equivalence", "agreement", "confidence")]
        names = ["memory", "flops", "params"]
        if facts.contexts("latency") and binding.scope.is_clear("latency"):
            names.append("latency")
        shown += [_metric(name, binding) for name in names]
        shown.append(OutputColumn("provenance", TextColumn("provenance")))
        if corr.possible:
            shown.append(OutputColumn("certainty", TextColumn("certainty")))
        return tuple(shown)
    shown = [OutputColumn(name, TextColumn(name)) for name in ("name", "version", "task", "family")]
    names = ["params", "memory", "flops"]
    if facts.contexts("accuracy"):
        names.append("accuracy")
    return (*shown, *(_metric(name, binding) for name in names))


def _every_column(binding: Binding, corr: CorrPlan | None) -> list[OutputColumn]:
    shown = [OutputColumn(name, TextColumn(name)) for name in TEXT_COLUMNS]
    for name, metric in METRICS.items():
        if "device" not in metric.context or binding.scope.is_clear(name):
            shown.append(_metric(name, binding))
    if corr is not None:
        shown += [_answer(name) for name in ANSWER_COLUMNS]
        shown += [OutputColumn(name, TextColumn(name)) for name in ANSWER_TEXTS]
    return shown


def _metric(name: str, binding: Binding) -> OutputColumn:
    return OutputColumn(name, binding.scope.metric(name, None))


def _answer(name: str) -> OutputColumn:
    dimension = Dimension.COUNT if name == "probes" else Dimension.FRACTION
    return OutputColumn(name, AnswerColumn(name, dimension))


def _name(node: nodes.Expression) -> str:
    """What a column without AS is called: its name, or the expression as written."""
    if isinstance(node, nodes.Column):
        return node.name.lower() if node.name.lower() in METRICS else node.name
    from sommelier.grammar.formatter import format_expression

    return format_expression(node)


# ---- order


def bind_order(items: tuple[nodes.OrderItem, ...], binding: Binding) -> tuple[OrderKey, ...]:
    """The sort keys asked for, without the tie-breakers that follow every order.

    Ascending unless DESC is written, whatever the metric, as in SQL. Unknown values come last
    unless NULLS FIRST is written.
    """
    return tuple(
        OrderKey(
            bind_shown(item.expression, binding, item.context),
            descending=bool(item.descending),
            nulls_first=bool(item.nulls_first),
        )
        for item in items
    )


def default_order(has_corr: bool, memory: Value) -> tuple[OrderKey, ...]:
    """equivalence DESC, memory ASC, name, version: the order of an answer that asks for none."""
    ties = (
        OrderKey(memory),
        OrderKey(TextColumn("name")),
        OrderKey(TextColumn("version")),
    )
    return (OrderKey(AnswerColumn("equivalence"), descending=True), *ties) if has_corr else ties


# ---- PICK


def bind_pick(pick: nodes.Pick | None, binding: Binding) -> PickPlan | None:
    if pick is None:
        return None
    top = _top(pick, binding)
    if pick.kind == "pareto":
        return PickPlan("pareto", _axes(pick, binding), top, "the Pareto front")
    top = 1 if top is None else top
    if pick.kind == "random":
        seed = binding.scope.options.seed
        return PickPlan("random", (), top, f"random, seed {seed}", seed)
    if pick.kind in ("min", "max"):
        assert pick.expression is not None, "the grammar gives MIN and MAX an expression"
        value = bind_number(pick.expression, binding)
        return PickPlan("best", (OrderKey(value, pick.kind == "max"),), top, pick.kind.upper())
    if pick.kind == "similar":
        if not binding.has_corr:
            raise BinderError(
                "MOST SIMILAR to what?",
                span=pick.span,
                hint="add CORR, for example CORR resnet50 PICK MOST SIMILAR",
            )
        key = OrderKey(AnswerColumn("equivalence"), descending=True)
        return PickPlan("best", (key,), top, "MOST SIMILAR")
    name = PICK_METRICS[pick.kind]
    column = binding.scope.metric(name, pick.span)
    label = "MOST ACCURATE" if pick.kind == "accurate" else pick.kind.upper()
    key = OrderKey(column, descending=not METRICS[name].lower_is_better)
    return PickPlan("best", (key,), top, label)


def _axes(pick: nodes.Pick, binding: Binding) -> tuple[OrderKey, ...]:
    """The axes of PARETO; the better way is down unless DESC is written or the metric says so."""
    keys = []
    for axis in pick.axes:
        if axis.context is not None:
            _check_context(axis.expression, axis.context)
        value = bind_number(axis.expression, binding, Wanted(context=axis.context))
        descending = axis.descending
        if descending is None:
            descending = _more_is_better(axis.expression)
        keys.append(OrderKey(value, descending))
    return tuple(keys)


def _more_is_better(node: nodes.Expression) -> bool:
    return isinstance(node, nodes.Column) and more_is_better(node.name)


def more_is_better(column: str) -> bool:
    """Whether more of a number is better, by its name; of an unknown one less is.

    >>> more_is_better("accuracy"), more_is_better("flops")
    (True, False)
    """
    name = column.lower()
    if name in METRICS:
        return not METRICS[name].lower_is_better
    return name in ("equivalence", "agreement", "confidence")


def _top(pick: nodes.Pick, binding: Binding) -> int | None:
    if pick.top is None or isinstance(pick.top, int):
        top = pick.top
    else:
        literal = binding.scope.parameters.literal(pick.top)
        whole = isinstance(literal, nodes.Number) and float(literal.value).is_integer()
        top = int(literal.value) if whole else 0
    if top is not None and top < 1:
        raise BinderError("TOP takes a whole number from 1", span=pick.span)
    return top
