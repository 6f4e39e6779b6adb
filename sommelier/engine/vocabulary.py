"""Which columns an expression may name, and what they stand for: those of models, or of other rows.

Binding is the same for all; a Vocabulary says what a word means. This file has that of models;
those of links, fusions and cascades are ListedWords (listed_columns.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from sommelier.engine.contexts import fitting
from sommelier.engine.names import unknown
from sommelier.engine.plan import (
    AnswerColumn,
    AnswerMatch,
    Condition,
    Negated,
    Similarity,
    TextColumn,
    TextMatch,
    Value,
)
from sommelier.engine.scope import unknown_column
from sommelier.errors import BinderError, Span
from sommelier.grammar import nodes
from sommelier.metrics import ANSWER_COLUMNS, METRICS, TEXT_COLUMNS
from sommelier.records import TextPredicate
from sommelier.units import Dimension

if TYPE_CHECKING:
    from sommelier.engine.facts import Facts
    from sommelier.engine.numbers import Binding, Wanted

ANSWER_TEXTS = ("provenance", "method", "labels", "certainty")
"""Text columns that exist only beside a CORR clause."""

FUNCTIONS = {
    "profile_similarity": "profile_similarity('model'): how alike the models spend their resources"
}


class Vocabulary(Protocol):
    """What words in an expression mean. listed : the text column that holds several words."""

    @property
    def listed(self) -> str: ...

    def text(self, node: nodes.Column, binding: Binding) -> str | None:
        """The text column a word names; None for a number. Raises BinderError for other words."""
        ...

    def number(self, node: nodes.Column, binding: Binding, wanted: Wanted) -> Value:
        """The number a word names. Raises BinderError for text and for other words."""
        ...

    def call(self, node: nodes.Call, binding: Binding) -> Value:
        """The number a function answers. Raises BinderError."""
        ...

    def shown(self, name: str, binding: Binding) -> TextColumn | None:
        """The text column of this name where it can be shown; None for everything else."""
        ...

    def match(
        self, column: str, operator: str, values: tuple[str, ...], source: nodes.Expression
    ) -> Condition:
        """The condition on a text column."""
        ...

    def check_word(self, column: str, word: str, span: Span | None, binding: Binding) -> None:
        """Raises UnknownNameError where `column = word` can only be a spelling mistake."""
        ...

    def check_pattern(self, column: str, pattern: str, facts: Facts) -> None:
        """Raises BinderError for what is not a regular expression."""
        ...

    def limits(self, example: str) -> str:
        """Where a limit that is relative to something stands, or what stands in its place."""
        ...


class ModelWords:
    """The words of SELECT MODELS: metrics, metadata, and what CORR answers."""

    listed = "tags"

    def text(self, node: nodes.Column, binding: Binding) -> str | None:
        name = node.name.lower()
        if name in METRICS or name in ANSWER_COLUMNS:
            return None
        if name not in TEXT_COLUMNS and name not in ANSWER_TEXTS:
            known = [*METRICS, *ANSWER_COLUMNS, *TEXT_COLUMNS]
            raise unknown_column(node.name, node.span, known)
        if binding.clause == "on":
            raise _not_a_resource(name, node.span)
        if name in ANSWER_TEXTS and not binding.has_corr:
            raise _needs_reference(name, node.span)
        return name

    def number(self, node: nodes.Column, binding: Binding, wanted: Wanted) -> Value:
        name = node.name.lower()
        if name in METRICS:
            _check_resource(name, node.span, binding)
            context = wanted.context
            if context is not None and binding.clause in ("select", "order", "pick"):
                context = fitting(context, name)  # the whole expression was checked to have one
            return binding.scope.metric(name, node.span, context)
        if name in ANSWER_COLUMNS:
            return _answer(name, node.span, binding)
        if name in TEXT_COLUMNS or name in ANSWER_TEXTS:
            if binding.clause == "on":
                raise _not_a_resource(name, node.span)
            raise BinderError(f"'{name}' is text, a number is expected here", span=node.span)
        known = [*METRICS, *ANSWER_COLUMNS, *TEXT_COLUMNS, *(c.name for c in binding.aliases)]
        raise unknown_column(node.name, node.span, known)

    def call(self, node: nodes.Call, binding: Binding) -> Value:
        name = node.function.lower()
        if name not in FUNCTIONS:
            raise unknown("function", node.function, FUNCTIONS, node.span)
        if binding.clause == "on":
            raise _not_a_resource(name, node.span)
        if len(node.arguments) != 1:
            raise BinderError(
                f"{name} takes one model, not {len(node.arguments)} arguments",
                span=node.span,
                hint=FUNCTIONS[name],
            )
        model = binding.scope.model(node.arguments[0])
        return Similarity(model.id, model.name)

    def shown(self, name: str, binding: Binding) -> TextColumn | None:
        known = name in TEXT_COLUMNS or (name in ANSWER_TEXTS and binding.has_corr)
        return TextColumn(name) if known else None

    def match(
        self, column: str, operator: str, values: tuple[str, ...], source: nodes.Expression
    ) -> Condition:
        if column not in ANSWER_TEXTS:
            return TextMatch(TextPredicate(column, operator, values), source=source)
        if operator in ("=", "in"):
            return AnswerMatch(column, values, source=source)
        if operator == "!=":
            return Negated(AnswerMatch(column, values, source=source))
        raise BinderError(f"'{column}' is compared with = or IN", span=source.span)

    def check_word(self, column: str, word: str, span: Span | None, binding: Binding) -> None:
        """A task that no model has is a spelling mistake, if there are tasks at all."""
        if column != "task":
            return
        tasks = [task for task, *_ in binding.scope.facts.tasks()]
        if tasks and word not in tasks:
            raise unknown("task", word, tasks, span)

    def check_pattern(self, column: str, pattern: str, facts: Facts) -> None:
        if column in TEXT_COLUMNS:  # the facts remember the answer
            facts.text_mask(TextPredicate(column, "regexp", (pattern,)))

    def limits(self, example: str) -> str:
        return f"bounds relative to the reference stand in ON: ON {example}"


MODELS = ModelWords()


def _check_resource(name: str, span: Span | None, binding: Binding) -> None:
    if binding.clause == "on" and not METRICS[name].resource:
        raise BinderError(
            f"'{name}' is not a resource: ON takes memory, flops, params, latency, ...",
            span=span,
            hint=f"write WHERE {name} >= 75%, or CORR reference WITHIN 2% OF ACCURACY",
        )


def _answer(name: str, span: Span | None, binding: Binding) -> Value:
    if binding.clause == "on":
        raise BinderError(
            f"'{name}' is not a resource: ON takes memory, flops, params, latency, ...",
            span=span,
            hint=f"write CORR reference {name.upper()} >= 95%, or WHERE {name} >= 95%",
        )
    if not binding.has_corr:
        raise _needs_reference(name, span)
    return AnswerColumn(name, Dimension.COUNT if name == "probes" else Dimension.FRACTION)


def _needs_reference(name: str, span: Span | None) -> BinderError:
    return BinderError(
        f"'{name}' needs a reference to compare with",
        span=span,
        hint="add CORR, for example CORR resnet50 >= 95%",
    )


def _not_a_resource(name: str, span: Span | None) -> BinderError:
    return BinderError(
        f"'{name}' is not a resource: ON takes memory, flops, params, latency, ...",
        span=span,
        hint=f"put conditions on {name} into WHERE",
    )
