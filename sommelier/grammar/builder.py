"""SELECT MODELS from Python: every call returns a new query, str(query) is its text."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from sommelier.errors import ParserError
from sommelier.grammar import nodes
from sommelier.grammar.formatter import format
from sommelier.grammar.parser import parse_part
from sommelier.grammar.spelling import is_bare_name, split_version, write_column
from sommelier.metrics import METRICS

_SIGNED = re.compile(r"\s*(<=|>=|<>|!=|<|>|=|BETWEEN\b|IN\b|LIKE\b|IS\b|NOT\b)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class QueryBuilder:
    """An immutable SELECT MODELS that grows by calls; `query` is what the parser would make.

    >>> q = QueryBuilder().corr("resnet50", at_least=0.95).on("memory < 80%").pick("most similar")
    >>> str(q)
    'SELECT MODELS CORR resnet50 95% ON memory < 80% PICK MOST SIMILAR'
    """

    query: nodes.Select = field(default_factory=nodes.Select)

    def __str__(self) -> str:
        return format(self.query)

    def models(self, *columns: str, distinct: bool = False) -> QueryBuilder:
        """Asks for these columns: `"name"`, `"params AS p"`; none keeps the default ones."""
        projection = parse_part(", ".join(columns), "projections") if columns else ()
        return self._with(projection=(*self.query.projection, *projection), distinct=distinct)

    def source(self, *sources: str | QueryBuilder) -> QueryBuilder:
        """Looks only there: `"wheel"`, `"POOL edge"`, `"VIEW small"`, another query."""
        found = tuple(
            nodes.Source("query", None, source.query)
            if isinstance(source, QueryBuilder)
            else parse_part(source, "source")
            for source in sources
        )
        return self._with(sources=(*self.query.sources, *found))

    def corr(
        self,
        reference: str | nodes.Reference | nodes.Parameter | QueryBuilder | None = None,
        *,
        task: str | None = None,
        **conditions: Any,
    ) -> QueryBuilder:
        """Compares with a reference: a model, a task's default, or another query's answer.

        conditions : at_least, within, agreement, accuracy, bound; a fraction (0.95), a text ("95%")
        or a parameter ("$tol"). confidence is that of all of them.
        """
        confidence = conditions.pop("confidence", None)
        level = None if confidence is None else _threshold("confidence", confidence)
        found = tuple(
            replace(_condition(name, value), confidence=level)
            for name, value in conditions.items()
            if value is not None
        )
        if level is not None and not found:
            raise ParserError(
                "confidence belongs to a condition", hint="add at_least=0.95, or use using()"
            )
        return self._with(corr=nodes.Corr(_reference(reference, task), found))

    def where(self, *conditions: str | nodes.Expression, **columns: Any) -> QueryBuilder:
        """Keeps rows for which all of this is true; repeated calls are joined with AND.

        columns : a value to equal, a list to be in, None for unknown, or a text that begins with
        a comparison: where(task="ner", params="< 5M").
        """
        added = [_expression(c) for c in conditions]
        added += [_column_condition(name, value) for name, value in columns.items()]
        return self._with(where=_all(self.query.where, added))

    def on(self, *conditions: str | nodes.Expression, **metrics: Any) -> QueryBuilder:
        """Limits resources; repeated calls are joined with AND.

        metrics : a bound. `memory="80%"` means at most, as `memory="<= 80%"` does; where more is
        better (throughput) it means at least.
        """
        added = [_expression(c) for c in conditions]
        added += [_bound(name, value) for name, value in metrics.items()]
        return self._with(on=_all(self.query.on, added))

    def order_by(self, *items: str) -> QueryBuilder:
        """Sorts by `"memory"`, `"equivalence DESC"`, ...; repeated calls add keys."""
        added = parse_part(", ".join(items), "order_items")
        return self._with(order_by=(*self.query.order_by, *added))

    def pick(self, picker: str, *, top: int | None = None) -> QueryBuilder:
        """Chooses: `"most similar"`, `"smallest"`, `"PARETO (memory, latency)"`, `"MAX(...)"`."""
        pick = parse_part(picker, "picker")
        return self._with(pick=pick if top is None else replace(pick, top=top))

    def limit(self, count: int, *, offset: int | None = None) -> QueryBuilder:
        """Shows `count` rows, after the first `offset`."""
        for number in (count, offset or 0):
            if isinstance(number, bool) or not isinstance(number, int) or number < 0:
                raise ParserError(f"LIMIT takes a whole number, not {number!r}")
        return self._with(limit=count, offset=offset)

    def using(self, **options: Any) -> QueryBuilder:
        """Sets options such as device='cpu', batch=8; the last value of an option counts."""
        kept = {option.name: option for option in self.query.options}
        kept |= {name: nodes.Option(name, _option(value)) for name, value in options.items()}
        return self._with(options=tuple(kept.values()))

    def _with(self, **changes: Any) -> QueryBuilder:
        return QueryBuilder(replace(self.query, span=None, **changes))


# ---- references and conditions of CORR


def _reference(reference: Any, task: str | None) -> nodes.Reference | nodes.Parameter:
    if (reference is None) == (task is None):
        raise ParserError("CORR takes one reference: a model, or task='...'")
    if task is not None:
        return nodes.TaskRef(_parameter(task) or task)
    if isinstance(reference, QueryBuilder):
        return nodes.SubqueryRef(reference.query)
    if isinstance(reference, str):
        return _parameter(reference) or nodes.ModelRef(*model_name(reference))
    if isinstance(reference, nodes.Reference | nodes.Parameter):
        return reference
    raise ParserError(f"a reference is a model's name, not {reference!r}")


def model_name(text: str) -> tuple[str, str | None]:
    """Name and version of `resnet50@2`; text that is no plain name is a name as it stands."""
    return split_version(text) if is_bare_name(text) else (text, None)


def _condition(name: str, value: Any) -> nodes.CorrCondition:
    known = {
        "at_least": ("equivalence", ">="),
        "within": ("equivalence", "within"),
        "agreement": ("agreement", ">="),
        "accuracy": ("accuracy", ">="),
        "bound": ("bound", "<="),
    }
    if name not in known:
        raise ParserError(f"CORR has no condition '{name}'", expected=tuple(known))
    return nodes.CorrCondition(*known[name], _threshold(name, value))


def _threshold(name: str, value: Any) -> nodes.Percent | nodes.Number | nodes.Parameter:
    if isinstance(value, nodes.Percent | nodes.Number | nodes.Parameter):
        return value
    if isinstance(value, str):
        parsed: tuple[nodes.CorrCondition, ...] = parse_part(value, "corr_conditions")
        plain = len(parsed) == 1 and (parsed[0].measure, parsed[0].operator) == (
            "equivalence",
            ">=",
        )
        if plain and parsed[0].confidence is None:
            return parsed[0].threshold
    elif isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1:
        return nodes.Percent(float(value))
    raise ParserError(
        f"{name} takes a fraction from 0 to 1 or a percentage, not {value!r}",
        hint=f"write {name}=0.95 or {name}='95%'",
    )


# ---- conditions of WHERE and ON


def _all(first: nodes.Expression | None, added: Iterable[nodes.Expression]) -> Any:
    """All of them joined with AND, or None if there is none."""
    operands: list[nodes.Expression] = []
    for condition in (first, *added):
        if isinstance(condition, nodes.And):
            operands.extend(condition.operands)
        elif condition is not None:
            operands.append(condition)
    if len(operands) < 2:
        return operands[0] if operands else None
    return nodes.And(tuple(operands))


def _expression(condition: str | nodes.Expression) -> nodes.Expression:
    if isinstance(condition, nodes.Expression):
        return condition
    parsed: nodes.Expression = parse_part(condition, "expr")
    return parsed


def _column_condition(name: str, value: Any) -> nodes.Expression:
    column = nodes.Column(name)
    if value is None:
        return nodes.IsNull(column)
    if isinstance(value, str) and _SIGNED.match(value):
        return _expression(f"{write_column(name)} {value}")
    if isinstance(value, list | tuple | set | frozenset):
        return nodes.InList(column, tuple(_literal(item) for item in value))
    return nodes.Comparison("=", column, _literal(value))


def _bound(name: str, value: Any) -> nodes.Expression:
    metric = METRICS.get(name.lower())
    sign = ">=" if metric is not None and not metric.lower_is_better else "<="
    if isinstance(value, str):
        return _expression(f"{write_column(name)} {'' if _SIGNED.match(value) else sign} {value}")
    return nodes.Comparison(sign, nodes.Column(name), _literal(value))


# ---- values


def _parameter(text: str) -> nodes.Parameter | None:
    return nodes.Parameter(text[1:]) if re.fullmatch(r"\$\w+", text) else None


def _option(value: Any) -> nodes.OptionValue:
    if isinstance(value, list | tuple):
        return tuple(_literal(item) for item in value)
    return _literal(value)


def _literal(value: Any) -> nodes.Expression:
    """A Python value as the node that its text would parse to."""
    if isinstance(value, nodes.Expression):
        return value
    if hasattr(value, "item") and getattr(value, "shape", None) == ():  # a numpy scalar
        value = value.item()
    if value is None:
        return nodes.Null()
    if isinstance(value, bool):
        return nodes.Boolean(value)
    if isinstance(value, int | float):
        number = nodes.Number(abs(float(value)))
        return nodes.Negative(number) if value < 0 else number
    if isinstance(value, str):
        return _parameter(value) or nodes.Text(value)
    if hasattr(value, "isoformat"):
        return nodes.Text(value.isoformat())
    raise ParserError(
        f"a {type(value).__name__} has no form in the language",
        hint="a value is a number, a text, a truth value, a date or None",
    )
