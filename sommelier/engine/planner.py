"""Binds a SELECT: names become ids and columns, percentages and quantities base units.

The answer is a LogicalPlan; every mistake is a BinderError with the words at fault and what would
have worked. The semantics are language.md 9.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from sommelier.engine.bound_choice import with_datasets, with_winners
from sommelier.engine.conditions import bind_condition
from sommelier.engine.contexts import shared_contexts
from sommelier.engine.names import unknown
from sommelier.engine.numbers import Binding
from sommelier.engine.options import SELECT_OPTIONS, bind_options, check_confidence
from sommelier.engine.outputs import bind_columns, bind_order, bind_pick
from sommelier.engine.plan import (
    Condition,
    LogicalPlan,
    ModelReference,
    QueryOptions,
    SourcePlan,
    all_of,
    conjuncts,
    needs_answers,
)
from sommelier.engine.predicates import Block, Columns, numbers
from sommelier.engine.references import bind_corr, bind_references
from sommelier.engine.scope import Scope
from sommelier.errors import BinderError, Span
from sommelier.grammar import nodes


def plan(select: nodes.Select, scope: Scope, columns: Columns) -> LogicalPlan:
    """The plan of a SELECT. columns : where relative bounds read the reference's numbers.

    Raises BinderError, UnknownNameError, ParameterError.
    """
    value_of = _value_reader(scope, columns)
    references: tuple[ModelReference, ...] = ()
    quantifier = "one"
    if select.corr is not None:
        references, quantifier = bind_references(select.corr.reference, scope)
        scope.reference = references[0]
    binding = Binding(
        scope, "where", references, has_corr=select.corr is not None, value_of=value_of
    )
    sources = _bind_sources(select.sources, scope, columns)
    corr = None
    if select.corr is not None:
        corr = bind_corr(select.corr, references, quantifier, scope, value_of)
    where, having = _split(_bound(select.where, binding, "where"))
    on = _bound(select.on, binding, "on")
    scope.contexts = shared_contexts(select.where, select.on)
    outputs = bind_columns(select.projection, _in(binding, "select"), corr)
    named = replace(binding, aliases=outputs)
    bound = LogicalPlan(
        columns=outputs,
        distinct=select.distinct,
        including=select.including,
        sources=sources,
        where=where,
        on=on,
        corr=corr,
        having=having,
        pick=bind_pick(select.pick, _in(named, "pick")),
        order=bind_order(select.order_by, _in(named, "order")),
        limit=row_count(select.limit, scope, "LIMIT"),
        offset=row_count(select.offset, scope, "OFFSET") or 0,
        options=scope.options,
        notes=tuple(scope.notes),
    )
    return with_winners(bound, scope)


def bind_query_options(
    options: tuple[nodes.Option, ...], scope_parameters: Any, settings: dict[str, Any]
) -> QueryOptions:
    """USING over the settings over the defaults. Raises BinderError."""
    stated = bind_options(options, SELECT_OPTIONS, scope_parameters)
    names = {field.name for field in fields(QueryOptions)} - {"stated"}
    merged = {name: value for name, value in settings.items() if name in names}
    merged |= stated
    merged["datasets"] = tuple(merged.get("datasets") or ())
    chosen = QueryOptions(
        **{name: value for name, value in merged.items() if value is not None},
        stated=frozenset(stated),
    )
    spans = {option.name.lower(): option.span for option in options}
    chosen = with_datasets(chosen, spans)
    check_confidence(chosen.confidence, spans.get("confidence"))
    if chosen.batch is not None and chosen.batch < 1:
        raise BinderError("a batch has at least one input", span=spans.get("batch"))
    return chosen


def check_contexts(options: tuple[nodes.Option, ...], scope: Scope) -> None:
    """Raises UnknownNameError if USING names a device or dataset that does not exist."""
    scope.spans = {option.name.lower(): option.span for option in options}
    if "device" in scope.options.stated and scope.options.device is not None:
        scope.check_device(scope.options.device, scope.spans.get("device"))
    if "dataset" in scope.options.stated and scope.options.dataset is not None:
        scope.check_dataset(scope.options.dataset, scope.spans.get("dataset"))


def _value_reader(scope: Scope, columns: Columns) -> Any:
    def value_of(value: Any, model_id: str) -> float:
        import numpy as np

        row = scope.facts.resources.row(model_id)
        return float(numbers(value, Block(columns, np.array([row])))[0])

    return value_of


def _in(binding: Binding, clause: str) -> Binding:
    return replace(binding, clause=clause)


def _bound(node: nodes.Expression | None, binding: Binding, clause: str) -> Condition | None:
    return None if node is None else bind_condition(node, _in(binding, clause))


def _split(condition: Condition | None) -> tuple[Condition | None, Condition | None]:
    """(what can be filtered before CORR, what looks at its answers)."""
    parts = conjuncts(condition)
    before = tuple(part for part in parts if not needs_answers(part))
    after = tuple(part for part in parts if needs_answers(part))
    return all_of(before), all_of(after)


# ---- sources


def _bind_sources(
    sources: tuple[nodes.Source, ...], scope: Scope, columns: Columns
) -> tuple[SourcePlan, ...]:
    return tuple(_bind_source(source, scope, columns) for source in sources)


def _bind_source(source: nodes.Source, scope: Scope, columns: Columns) -> SourcePlan:
    if source.kind == "query":
        assert source.select is not None
        return SourcePlan("query", None, plan=_inner(source.select, scope, columns))
    name = source.name or ""
    catalog = scope.facts.catalog
    if source.kind == "pool":
        pools = {pool.name: pool for pool in catalog.pools()}
        if name not in pools:
            raise unknown("pool", name, pools, source.span)
        return SourcePlan("pool", name, ids=tuple(catalog.pool(name).ids))
    if source.kind == "view":
        return SourcePlan("view", name, plan=_view(name, source.span, scope, columns))
    known = {str(word) for word in scope.facts.text("source") if word is not None}
    known |= set(catalog.repository_names())  # from which nothing may have come yet
    if name not in known:
        raise unknown("source", name, known, source.span)
    return SourcePlan("source", name)


def _view(name: str, span: Span | None, scope: Scope, columns: Columns) -> LogicalPlan:
    from sommelier.grammar.parser import parse

    views = {view.name: view for view in scope.facts.catalog.views()}
    if name not in views:
        raise unknown("view", name, views, span)
    if name in scope.views:
        chain = " -> ".join((*scope.views, name))
        raise BinderError(f"view '{name}' contains itself: {chain}", span=span)
    select = parse(views[name].query)
    assert isinstance(select, nodes.Select), "only SELECT MODELS can be saved as a view"
    return _inner(select, replace(scope, views=(*scope.views, name)), columns)


def _inner(select: nodes.Select, scope: Scope, columns: Columns) -> LogicalPlan:
    """The plan of a query inside a query; its own USING holds for it, the notes are shared."""
    options = scope.options
    if select.options:
        settings = {f.name: getattr(options, f.name) for f in fields(options) if f.name != "stated"}
        options = bind_query_options(select.options, scope.parameters, settings)
    return plan(select, replace(scope, options=options, contexts={}), columns)


def row_count(node: Any, scope: Scope, clause: str) -> int | None:
    """The rows that LIMIT or OFFSET names. Raises BinderError unless it is a whole number."""
    if node is None or isinstance(node, int):
        return node
    literal = scope.parameters.literal(node)
    if (
        isinstance(literal, nodes.Number)
        and float(literal.value).is_integer()
        and literal.value >= 0
    ):
        return int(literal.value)
    raise BinderError(f"{clause} takes a whole number of rows", span=node.span)
