"""What a deployment promises and when a cascade sends on: UNDER and ESCALATE as numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from sommelier.engine.names import nearest
from sommelier.engine.options import bind_value
from sommelier.errors import BinderError
from sommelier.grammar import nodes
from sommelier.units import Dimension

_UNDER = {
    "latency": (Dimension.TIME, ("<", "<=")),
    "accuracy": (Dimension.FRACTION, (">", ">=")),
    "memory": (Dimension.BYTES, ("<", "<=")),
}
_FLIPPED = {">": "<", ">=": "<=", "<": ">", "<=": ">="}
_SCORES = {
    "softmax": ("softmax", 1),
    "confidence": ("softmax", 1),
    "margin": ("margin", 1),
    "doctor": ("doctor", 1),
    "entropy": ("entropy", -1),
    "energy": ("free_energy", -1),
    "free_energy": ("free_energy", -1),
}
"""What people call a score: its name in analysis.cascades.scores; -1 where more is less sure."""

_SHARES = ("softmax", "margin", "doctor")  # scores between 0 and 1


@dataclass(frozen=True, slots=True)
class Terms:
    """What UNDER promises. sla_ms : at least `quantile` of the answers come within it.
    min_accuracy : in [0, 1], of any answer. memory_bytes : of all loaded models together."""

    sla_ms: float | None = None
    quantile: float = 1.0
    min_accuracy: float | None = None
    memory_bytes: int | None = None


def bind_terms(under: nodes.Expression | None) -> Terms:
    """UNDER as numbers in base units. Raises BinderError for what cannot be promised."""
    terms, seen = Terms(), set[str]()
    for node in _conjuncts(under):
        column, operator, value, contexts = _sides(node)
        metric = column.name.lower()
        if metric not in _UNDER:
            raise BinderError(
                f"a deployment cannot promise '{column.name}'",
                span=column.span,
                suggestions=nearest(metric, _UNDER),
                hint=f"it can promise {', '.join(_UNDER)}",
            )
        dimension, signs = _UNDER[metric]
        if operator not in signs:
            raise BinderError(
                f"{metric} is promised with {' or '.join(signs)}, not {operator}", span=node.span
            )
        if metric in seen:
            raise BinderError(f"{metric} is limited twice", span=node.span, hint="keep one limit")
        seen.add(metric)
        quantile = _quantile(metric, contexts)
        terms = _with(terms, metric, bind_value(value, dimension, name=metric), quantile, node)
    return terms


def _with(
    terms: Terms, metric: str, value: float, quantile: float, node: nodes.Expression
) -> Terms:
    if not value > 0:
        raise BinderError(f"{metric} cannot be kept at {value:g}", span=node.span)
    if metric == "latency":
        return replace(terms, sla_ms=value, quantile=quantile)
    if metric == "memory":
        return replace(terms, memory_bytes=int(value))
    if value > 1:
        raise BinderError("an accuracy is at most 100%", span=node.span)
    return replace(terms, min_accuracy=value)


def _conjuncts(node: nodes.Expression | None) -> Iterator[nodes.Expression]:
    if isinstance(node, nodes.And):
        for part in node.operands:
            yield from _conjuncts(part)
    elif node is not None:
        yield node


def _sides(node: nodes.Expression) -> tuple[nodes.Column, str, Any, nodes.Context | None]:
    """(the column, the sign, the other side, AT and ON) of a comparison, the column first."""
    if isinstance(node, nodes.Comparison):
        column, operator, value = node.left, node.operator, node.right
        if not isinstance(column, nodes.Column):
            column, operator, value = value, _FLIPPED.get(operator, operator), column
        if isinstance(column, nodes.Column):
            if isinstance(value, nodes.Percent) and column.name.lower() != "accuracy":
                raise BinderError(
                    f"{column.name} is promised in its own unit, not relative to a model",
                    span=value.span,
                    hint="write latency < 50 ms AT p99",
                )
            return column, operator, value, node.context
    raise BinderError(
        "a promise is a limit, or several joined by AND",
        span=node.span,
        hint="UNDER latency < 50 ms AT p99 AND accuracy >= 90% AND memory < 2 GB",
    )


def _quantile(metric: str, context: nodes.Context | None) -> float:
    """Of AT p99; 1 where it is not written."""
    if context is None:
        return 1.0
    if context.on is not None:
        raise BinderError(
            "what a deployment runs on belongs to USING",
            span=context.span,
            hint=f"USING device = '{context.on}'",
        )
    if metric != "latency":
        raise BinderError(
            f"AT belongs to latency, not to {metric}",
            span=context.span,
            hint="UNDER latency < 50 ms AT p99",
        )
    if context.percentile is not None and not 0 < context.percentile <= 100:
        raise BinderError(
            f"AT p{context.percentile:g} promises nothing: it is the share of answers in time",
            span=context.span,
            hint="write p99, above p0 and up to p100",
        )
    return 1.0 if context.percentile is None else context.percentile / 100


def bind_share(share: nodes.Percent | nodes.Number | None) -> float | None:
    """ESCALATE AT MOST as a fraction. Raises BinderError unless it lies in [0, 1]."""
    if share is None:
        return None
    value = bind_value(share, Dimension.FRACTION, name="ESCALATE AT MOST")
    if not 0 <= value <= 1:
        raise BinderError(
            "a share of inputs lies between 0% and 100%",
            span=share.span,
            hint="ESCALATE AT MOST 10%",
        )
    return float(value)


def bind_escalation(when: nodes.Expression) -> tuple[str, float]:
    """(the score, the least value of it that stands) of ESCALATE WHEN, as CascadeStage has them.

    Raises BinderError for what is no condition on a score.
    """
    hint = "ESCALATE WHEN softmax < 0.8, or entropy > 1.2, or energy > -5.2"
    if not isinstance(when, nodes.Comparison):
        raise BinderError("one condition says when an answer is sent on", span=when.span, hint=hint)
    column, operator, value, _ = _sides(when)
    name = column.name.lower()
    if name not in _SCORES:
        raise BinderError(
            f"there is no score '{column.name}'",
            span=column.span,
            suggestions=nearest(name, _SCORES),
            hint=f"scores are {', '.join(_SCORES)}",
        )
    score, sign = _SCORES[name]
    wanted = "<" if sign > 0 else ">"
    if not operator.startswith(wanted):
        raise BinderError(
            f"an answer is less sure where {name} is {'low' if sign > 0 else 'high'}",
            span=when.span,
            hint=f"write {name} {wanted} ...",
        )
    threshold = sign * float(bind_value(value, float, name=name))
    if score in _SHARES and not 0 <= threshold <= 1:
        raise BinderError(f"{name} lies between 0 and 1", span=value.span, hint=hint)
    return score, threshold


def written_condition(score: str, threshold: float) -> str:
    """When an answer is sent on, as ESCALATE WHEN writes it.

    >>> written_condition("margin", 0.5), written_condition("entropy", -1.2)
    ('margin < 0.5', 'entropy > 1.2')
    """
    name, sign = next(
        ((name, sign) for name, (own, sign) in _SCORES.items() if own == score), (score, 1)
    )
    return f"{name} {'<' if sign > 0 else '>'} {sign * threshold:.4g}"
