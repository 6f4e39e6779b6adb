"""CORR bound: which models are the reference, on which probes, and what agreement is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from sommelier.engine.bound_choice import BoundChoice, bind_choice
from sommelier.engine.names import unknown
from sommelier.engine.options import check_confidence, number_in
from sommelier.engine.plan import (
    AllOf,
    AnyOf,
    Compare,
    Condition,
    Constant,
    CorrBound,
    CorrPlan,
    MetricColumn,
    ModelReference,
    QueryOptions,
    Value,
    all_of,
)
from sommelier.engine.probe_sets import largest_probe_set, probe_set_of
from sommelier.engine.scope import Scope
from sommelier.errors import BinderError, Span
from sommelier.grammar import nodes
from sommelier.storage.resource_index import ColumnKey
from sommelier.units import Dimension, UnitError


def bind_references(reference: Any, scope: Scope) -> tuple[tuple[ModelReference, ...], str]:
    """(the models that CORR names, 'one' | 'any' | 'all')."""
    node = scope.parameters.literal(reference)
    if isinstance(node, nodes.ReferenceSet):
        found = tuple(dict.fromkeys(scope.model(part) for part in node.references))
        return found, node.quantifier if len(found) > 1 else "one"
    if isinstance(node, nodes.TaskRef):
        return (_task_reference(node, scope),), "one"
    if isinstance(node, nodes.SubqueryRef):
        return (_first_of(node, scope),), "one"
    return (scope.model(node),), "one"


def _task_reference(node: nodes.TaskRef, scope: Scope) -> ModelReference:
    literal = scope.parameters.literal(node.task) if not isinstance(node.task, str) else node.task
    task = literal.value if isinstance(literal, nodes.Text) else str(literal)
    references = {name: reference for name, _, reference in scope.facts.tasks()}
    if task not in references:
        raise unknown("task", task, references, node.span)
    name = references[task]
    if name is None:
        raise BinderError(
            f"task '{task}' has no reference yet",
            span=node.span,
            hint=f"ALTER TASK '{task}' SET reference = <a model>, or name one in CORR",
        )
    found = scope.model(nodes.ModelRef(name, span=node.span))
    scope.note(f"reference of task '{task}': {found.name}")
    return found


def _first_of(node: nodes.SubqueryRef, scope: Scope) -> ModelReference:
    ids = scope.answer(node.select)
    if not ids:
        raise BinderError("the query for the reference finds no model", span=node.span)
    record = scope.facts.catalog.model(ids[0])
    scope.note(f"reference: {record.name}, the first of {len(ids)} that the inner query finds")
    return ModelReference(record.id, record.name)


def bind_corr(
    corr: nodes.Corr,
    references: tuple[ModelReference, ...],
    quantifier: str,
    scope: Scope,
    value_of: Callable[[Value, str], float],
) -> CorrPlan:
    """What CORR asks of every candidate."""
    options = scope.options
    bounds: list[CorrBound] = []
    accuracy: list[Condition] = []
    for condition in corr.conditions:
        if condition.measure == "accuracy":
            accuracy.append(_accuracy(condition, references, quantifier, scope, value_of))
        else:
            bounds.append(_bound(condition, scope))
    from_default = not corr.conditions and options.default_tolerance is not None
    if from_default:
        bounds.append(_default_bound(scope))
    choice = bind_choice(corr, tuple(bounds), scope)
    if choice.method == "observed":
        bounds = [replace(bound, confidence=None) for bound in bounds]
    return CorrPlan(
        references=references,
        quantifier=quantifier,
        bounds=tuple(bounds),
        accuracy=all_of(tuple(accuracy)),
        probe_set_id=_probe_set(scope),
        dataset=options.dataset,
        confidence=_stated_confidence(bounds, options),
        method=choice.method,
        correction=choice.correction,
        possible=options.certainty == "possible",
        include_reference=options.include_reference,
        mode=options.mode,
        default_tolerance=from_default,
        across=tuple((name, _probes_of(name, "datasets", scope)) for name in choice.across),
        seed=options.seed,
        spectral=_spectral(choice, scope),
    )


def _default_bound(scope: Scope) -> CorrBound:
    """The bound of a CORR without a threshold."""
    tolerance = scope.options.default_tolerance or 0.0
    scope.note(f"WITHIN {tolerance * 100:g}%: the setting default_tolerance")
    return CorrBound("equivalence", ">=", 1 - tolerance, scope.options.confidence)


def _spectral(choice: BoundChoice, scope: Scope) -> ColumnKey | None:
    """The column of the generalization bound that BOUND spectral shows."""
    return scope.metric("spectral_bound", None).key if choice.method == "spectral" else None


def _stated_confidence(bounds: list[CorrBound], options: QueryOptions) -> float:
    """The confidence of the answer columns: that of the first bound that has one."""
    return next((b.confidence for b in bounds if b.confidence is not None), options.confidence)


def _bound(condition: nodes.CorrCondition, scope: Scope) -> CorrBound:
    threshold = fraction(condition.threshold, scope, what="a threshold")
    confidence: float | None = scope.options.confidence
    if condition.confidence is not None:
        confidence = fraction(condition.confidence, scope, what="a confidence")
        check_confidence(confidence, condition.span)
    elif condition.measure == "agreement":
        confidence = None
    measure, operator = condition.measure, condition.operator
    if operator == "within":
        operator, threshold = ("<=", threshold) if measure == "bound" else (">=", 1 - threshold)
    if measure == "bound":  # bound <= x is the same statement as equivalence >= 1 - x
        measure, threshold = "equivalence", 1 - threshold
        operator = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}[operator]
    return CorrBound(measure, operator, threshold, confidence, source=condition)


def _accuracy(
    condition: nodes.CorrCondition,
    references: tuple[ModelReference, ...],
    quantifier: str,
    scope: Scope,
    value_of: Callable[[Value, str], float],
) -> Condition:
    """accuracy(candidate) compared with a share of the reference's, on one dataset."""
    share = fraction(condition.threshold, scope, what="a threshold", limit=False)
    if condition.confidence is not None:
        raise BinderError(
            "ACCURACY compares measured values and takes no CONFIDENCE", span=condition.span
        )
    operator = condition.operator
    if operator == "within":
        operator, share = ">=", 1 - share
    column = _accuracy_column(references[0], scope, value_of, condition.span)
    parts = tuple(
        Compare(
            operator,
            column,
            Constant(
                share * value_of(column, reference.id),
                Dimension.FRACTION,
                origin=f"{share * 100:.6g}% of {reference.name}",
                basis=value_of(column, reference.id),
            ),
        )
        for reference in references
    )
    if len(parts) == 1:
        return parts[0]
    return AllOf(parts) if quantifier == "all" else AnyOf(parts)


def _accuracy_column(
    reference: ModelReference,
    scope: Scope,
    value_of: Callable[[Value, str], float],
    span: Span | None,
) -> MetricColumn:
    """The accuracy of a dataset on which the reference's own is known, the asked one first."""
    wanted = scope.options.dataset
    known = scope.facts.context_names("accuracy", "dataset")
    ranked = sorted(known, key=lambda name: name != wanted)
    for dataset in ranked:
        if wanted is not None and "dataset" in scope.options.stated and dataset != wanted:
            break
        column = scope.metric("accuracy", span, nodes.Context(on=dataset))
        if value_of(column, reference.id) == value_of(column, reference.id):  # not NaN
            scope.note(f"accuracy is that on '{dataset}'")
            return column
    where = f" on '{wanted}'" if wanted is not None else ""
    raise BinderError(
        f"the accuracy of {reference.name}{where} is not known",
        span=span,
        hint=f"ANALYZE {reference.name} FOR ACCURACY USING dataset = '{wanted or 'a dataset'}'",
    )


def _probe_set(scope: Scope) -> str | None:
    """The probe set of the dataset that USING names; None leaves the choice to the index."""
    dataset = scope.options.dataset
    if dataset is None:
        return None
    if "dataset" in scope.options.stated:
        return _probes_of(dataset, "dataset", scope)
    return largest_probe_set(dataset, scope.facts)


def _probes_of(dataset: str, option: str, scope: Scope) -> str:
    """The largest probe set of a dataset. Raises BinderError if nobody answered any."""
    span = scope.spans.get(option) or scope.spans.get("datasets")
    if largest_probe_set(dataset, scope.facts) is None:
        scope.check_dataset(dataset, span)  # a name nobody knows is the likelier mistake
    return probe_set_of(dataset, scope.facts, span)


def fraction(node: Any, scope: Scope, *, what: str, limit: bool = True) -> float:
    """A threshold or confidence as a fraction. Raises BinderError for 95 without a percent."""
    literal = scope.parameters.literal(node)
    if isinstance(literal, nodes.Percent) and literal.relative_to is not None:
        raise BinderError(f"{what} here is a plain percent: leave out OF", span=literal.span)
    try:
        value = number_in(literal, Dimension.FRACTION)
    except UnitError as error:
        raise BinderError(error.message, span=literal.span, hint=error.hint) from None
    span = getattr(literal, "span", None)
    if value is None:
        raise BinderError(f"{what} is a percent, such as 95%", span=span)
    if value < 0 or (limit and value > 1):
        bare = isinstance(literal, nodes.Number)
        raise BinderError(
            f"{value:g} what? {value:g}%?" if bare else f"{what} lies between 0% and 100%",
            span=span,
            hint=f"write {value:g}%" if bare else None,
        )
    return value
