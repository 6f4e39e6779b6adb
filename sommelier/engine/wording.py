"""Plans in words: conditions with their resolved bounds, as EXPLAIN and the stages print them."""

from __future__ import annotations

from functools import singledispatch

from sommelier.engine.plan import (
    AllOf,
    AnswerColumn,
    AnswerMatch,
    AnyOf,
    Binary,
    Compare,
    Condition,
    Constant,
    CorrBound,
    CorrPlan,
    IsUnknown,
    MetricColumn,
    Negated,
    OrderKey,
    PickPlan,
    Shown,
    Similarity,
    SourcePlan,
    TextColumn,
    TextMatch,
)
from sommelier.records import TextPredicate
from sommelier.storage.resource_index import ColumnKey
from sommelier.units import Dimension, format_value

_TEXT_WORDS = {"like": "LIKE", "ilike": "ILIKE", "regexp": "REGEXP", "has_any": "HAS ANY",
               "has_all": "HAS ALL", "in": "IN"}  # fmt: skip


def name_of(key: ColumnKey) -> str:
    """A metric with its context: latency AT p99 ON 'cpu'.

    >>> name_of(ColumnKey("latency", device="cpu", percentile=99))
    "latency AT p99 ON 'cpu'"
    """
    parts = [key.metric]
    if key.percentile is not None:
        parts.append(f"AT p{key.percentile}")
    context = key.device or key.dataset
    if context is not None:
        parts.append(f"ON '{context}'")
    if key.batch is not None:
        parts.append(f"(batch {key.batch})")
    if key.provenance is not None:
        parts.append(f"({key.provenance.value})")
    return " ".join(parts)


# ---- values


@singledispatch
def value_text(value: Shown) -> str:
    raise TypeError(f"no words for {type(value).__name__}")


@value_text.register
def _constant(value: Constant) -> str:
    number = format_value(value.value, value.dimension)
    if number == "NULL":
        number = "unknown"
    return f"{value.origin} = {number}" if value.origin else number


@value_text.register
def _metric(value: MetricColumn) -> str:
    return name_of(value.key)


@value_text.register
def _answer(value: AnswerColumn) -> str:
    return value.name


@value_text.register
def _text(value: TextColumn) -> str:
    return value.name


@value_text.register
def _similarity(value: Similarity) -> str:
    return f"profile_similarity('{value.name}')"


@value_text.register
def _binary(value: Binary) -> str:
    left, right = (
        f"({value_text(side)})" if isinstance(side, Binary) else value_text(side)
        for side in (value.left, value.right)
    )
    return f"{left} {value.operator} {right}"


# ---- conditions


@singledispatch
def condition_text(condition: Condition) -> str:
    """The condition as it is evaluated, relative bounds resolved: memory < 80% of a = 81.6 MB."""
    raise TypeError(f"no words for {type(condition).__name__}")


@condition_text.register
def _compare(condition: Compare) -> str:
    return f"{value_text(condition.left)} {condition.operator} {value_text(condition.right)}"


@condition_text.register
def _text_match(condition: TextMatch) -> str:
    return predicate_text(condition.predicate)


@condition_text.register
def _answer_match(condition: AnswerMatch) -> str:
    return predicate_text(TextPredicate(condition.name, "in", condition.options))


@condition_text.register
def _is_unknown(condition: IsUnknown) -> str:
    return f"{value_text(condition.value)} IS NULL"


@condition_text.register
def _negated(condition: Negated) -> str:
    inner = condition.part
    if isinstance(inner, IsUnknown):
        return f"{value_text(inner.value)} IS NOT NULL"
    return f"NOT ({condition_text(inner)})"


@condition_text.register
def _all_of(condition: AllOf) -> str:
    return " AND ".join(_grouped(part) for part in condition.parts)


@condition_text.register
def _any_of(condition: AnyOf) -> str:
    return " OR ".join(_grouped(part) for part in condition.parts)


def _grouped(part: Condition) -> str:
    text = condition_text(part)
    return f"({text})" if isinstance(part, AllOf | AnyOf) else text


def predicate_text(predicate: TextPredicate) -> str:
    """
    >>> predicate_text(TextPredicate("task", "=", ("ner",)))
    "task = 'ner'"
    """
    if predicate.operator == "is_null":
        return f"{predicate.column} IS NULL"
    quoted = [f"'{value}'" for value in predicate.values]
    word = _TEXT_WORDS.get(predicate.operator, predicate.operator)
    if word.startswith("HAS") and len(quoted) == 1:
        return f"{predicate.column} HAS {quoted[0]}"
    several = predicate.operator in ("in", "has_any", "has_all")
    if several and len(quoted) == 1:
        word, several = "=", False
    values = f"({', '.join(quoted)})" if several else quoted[0]
    return f"{predicate.column} {word} {values}"


# ---- clauses


def corr_text(corr: CorrPlan) -> str:
    names = references_text(corr)
    asked = [bound_text(bound) for bound in corr.bounds]
    if corr.accuracy is not None:
        asked.append(condition_text(corr.accuracy))
    return f"{names}: {' AND '.join(asked)}" if asked else f"{names}: any agreement, ranked"


_CORRECTED = {
    "none": "for each model on its own",
    "bonferroni": "for all compared models together",
    "fwer": "for all rows together, by Holm's steps",
    "fdr": "with a false discovery rate, by Benjamini-Hochberg's steps",
    "fdr_by": "with a false discovery rate, by Benjamini-Yekutieli's steps",
    "split": "for the winners together, chosen on the other half of the probes",
}
_WAYS = {
    "betting": " by betting",
    "anytime": " valid at any stopping time",
    "wilson": " by Wilson's estimate",
    "hoeffding": " by Hoeffding",
    "bernstein": " by empirical Bernstein",
    "minimum": " by the minimum over datasets",
    "prediction": " by t-prediction over datasets, an estimate",
}


def statement_text(corr: CorrPlan) -> str:
    """What the bounds of CORR state: by which method, at which confidence, about what."""
    if corr.method == "observed":
        return "the agreement observed, without a bound (generalization = off)"
    if corr.method == "spectral":
        return "no bound of a pair: spectral is shown beside the agreement observed"
    confidence = format_value(corr.confidence, Dimension.FRACTION)
    way = _WAYS.get(corr.method, "")
    text = f"bounds{way} at confidence {confidence} {_CORRECTED[corr.correction]}"
    if corr.across:
        names = ", ".join(f"'{name}'" for name, _ in corr.across)
        text += f", about a new dataset like {names}"
    return text


def references_text(corr: CorrPlan) -> str:
    """What CORR compares with, as it is written: a, or ANY (a, b)."""
    names = ", ".join(reference.name for reference in corr.references)
    return names if corr.quantifier == "one" else f"{corr.quantifier.upper()} ({names})"


def bound_text(bound: CorrBound) -> str:
    """
    >>> bound_text(CorrBound("equivalence", ">=", 0.95, 0.95))
    'equivalence >= 95% at confidence 95%'
    """
    threshold = format_value(bound.threshold, Dimension.FRACTION)
    if bound.confidence is None:
        return f"observed agreement {bound.operator} {threshold}"
    confidence = format_value(bound.confidence, Dimension.FRACTION)
    return f"equivalence {bound.operator} {threshold} at confidence {confidence}"


def order_text(keys: tuple[OrderKey, ...]) -> str:
    return ", ".join(
        value_text(key.value)
        + (" DESC" if key.descending else "")
        + (" NULLS FIRST" if key.nulls_first else "")
        for key in keys
    )


def pick_text(pick: PickPlan) -> str:
    top = f" TOP {pick.top}" if pick.top is not None else ""
    keys = f" by {order_text(pick.keys)}" if pick.keys else ""
    return f"{pick.label}{top}{keys}"


def source_text(sources: tuple[SourcePlan, ...]) -> str:
    if not sources:
        return "all models"
    return ", ".join(
        "(query)" if source.name is None else f"{source.kind} {source.name}" for source in sources
    )
