"""A cascade with its models in this process: items in, answers out. Source: EBJR section 2."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.cascades.scores import as_logits, available
from sommelier.analysis.links.formats import AnswerFormat, natural
from sommelier.cascade_records import CascadePlan, CascadeStage
from sommelier.runtime.cascade import Cascade, CascadeAnswer
from sommelier.runtime.displays import cascade_html

if TYPE_CHECKING:
    from sommelier.runtime.predictor import Predictor

Array = NDArray[Any]

SUM_TOLERANCE = 1e-3  # of probabilities, as float16 rounds them


class RunnableCascade:
    """Models that are asked in turn, loaded. Threads may share it; `close` lets the models go.

    cascade : decides and counts; its thresholds may be changed, and it tells of drift.
    """

    def __init__(self, plan: CascadePlan, predictors: Sequence[Predictor]) -> None:
        """predictors : of the plan's stages, in their order."""
        self.cascade = Cascade(plan)
        self.predictors = tuple(predictors)
        self._models = [
            _Answerer(stage, predictor)
            for stage, predictor in zip(plan.stages, predictors, strict=True)
        ]

    def run(self, items: Array) -> CascadeAnswer:
        """The answers to raw items (n, ...), images say, as each model's preprocessing takes them.

        values are logits, or logarithms of probabilities, (n, classes). Raises InputError for items
        that a model does not take.
        """
        return self.cascade.run(np.asarray(items), self._models)

    def close(self) -> None:
        """Let the models go."""
        for predictor in self.predictors:
            predictor.close()

    def __enter__(self) -> RunnableCascade:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        names = " -> ".join(stage.model for stage in self.cascade.plan.stages)
        return f"<RunnableCascade {names}>"

    def _repr_html_(self) -> str:
        return cascade_html(self.cascade.plan)


class _Answerer:
    """Items (n, ...) to logits (n, classes) of one model, in batches that it takes."""

    def __init__(self, stage: CascadeStage, predictor: Predictor) -> None:
        self._predictor = predictor
        self._output = stage.output or predictor.outputs[0].name
        self._format = None if stage.format is None else AnswerFormat.from_json(stage.format)
        self._batch = predictor.settings.batch

    def __call__(self, items: Array) -> Array:
        size = self._size()
        parts = [self._answer(items[at : at + size]) for at in range(0, len(items), size)]
        return np.concatenate(parts)

    def _size(self) -> int:
        """1 for a model that takes one item a time."""
        first = self._predictor.inputs[0].shape or (None,)
        return min(self._batch, first[0]) if isinstance(first[0], int) else self._batch

    def _answer(self, items: Array) -> Array:
        found = self._predictor.run(self._predictor.feed_items(items))[self._output]
        raw = found.reshape(len(items), -1)
        return logits_of(raw, self._format)


def logits_of(raw: Array, format: AnswerFormat | None) -> Array:
    """What a model answers (n, d) as logits or logarithms of probabilities (n, classes).

    format : None where it is unknown: then rows that sum to 1 are probabilities, others logits. A
    class id without scores is certain: 0 for it, -inf for the others.
    """
    if format is None:
        values = np.asarray(raw, dtype=np.float64)
        return _logarithms(values) if _are_probabilities(values) else values
    if available(format):
        return as_logits(raw, format)
    return _logarithms(natural(raw, format).values.astype(np.float64))


def _logarithms(shares: Array) -> Array:
    with np.errstate(divide="ignore"):
        return np.log(shares)


def _are_probabilities(values: Array) -> bool:
    """Whether every row (n, classes) is a distribution, which logits hardly ever are."""
    sums = values.sum(axis=1)
    return bool((values >= 0).all() and (np.abs(sums - 1) <= SUM_TOLERANCE).all())
