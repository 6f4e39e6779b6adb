"""A cascade behind a dispatcher: each stage is a turn of its own in the queue of the deployment."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.links.formats import AnswerFormat
from sommelier.errors import AnalysisError, InputError
from sommelier.runtime.cascade import Cascade
from sommelier.runtime.cascade_runner import logits_of
from sommelier.runtime.interface import Inputs, Interface
from sommelier.runtime.jobs import Job, Outcome
from sommelier.runtime.policy import Decision, PoolState, Rejection, Request, decision
from sommelier.runtime.predictor import Cancellation, Predictor
from sommelier.units import Dimension, format_value

Array = NDArray[Any]
Indices = NDArray[np.intp]


@dataclass(slots=True)
class Progress:
    """How far a cascade has come with a request of n samples.

    owner : the cascade, in whose place a switch may put another. left : samples without an answer.
    stages, scores (n,) : of those that have one. stage : that is next. values : outputs by name.
    earlier : logits of the stages before, of the samples left. last_score : of the one that is
    least sure. unproved : an answer stands that its stage did not keep.
    """

    owner: Cascade
    left: Indices
    stages: Array
    scores: Array
    stage: int = 0
    values: dict[str, Array] = field(default_factory=dict)
    earlier: list[Array] = field(default_factory=list)
    last_score: float = nan
    unproved: bool = False


class CascadePolicy:
    """The next stage whose model may answer.

    A stage is left out whose model is not loaded, failed on the request, or is less accurate than
    it wants. Where a promise was proved the last model answers then: what a stage in between keeps
    was tested only of inputs that those before it had sent on. Else the next one is asked.
    """

    name = "cascade"

    def __init__(self, cascade: Cascade, accuracies: Mapping[str, float | None]) -> None:
        """accuracies : of its models."""
        self._cascade = cascade
        self._accuracies = accuracies
        self._models = [stage.model for stage in cascade.plan.stages]

    def choose(self, request: Request, pool: PoolState, now_ms: float) -> Decision | Rejection:
        first, told = self._reached(request)
        able = {model.name: model for model in pool.models}
        stage = first
        if self._models[first] not in able:
            instead = range(first + 1, len(self._models))
            why = self._why_not(self._models[first], request)
            if self._cascade.plan.promise is not None:
                instead = instead[-1:]
                why += ", so the last one answers: what was proved holds"
            found = next((k for k in instead if self._models[k] in able), None)
            if found is None:
                missing = [self._models[k] for k in (first, *instead)]
                return Rejection(503, "; ".join(self._why_not(name, request) for name in missing))
            stage, told = found, f"{told}: {_literal(why)}"
        rule = f"{_nth(stage)} stage of {len(self._models)}{told}"
        model = able[self._models[stage]]
        return decision(self.name, rule, model, request.deadline_ms - now_ms, pool)

    def _reached(self, request: Request) -> tuple[int, str]:
        """(the stage that is next, what there is to say of those before it)."""
        progress = request.payload.progress if isinstance(request.payload, Job) else None
        if not isinstance(progress, Progress) or progress.owner is not self._cascade:
            return 0, ""  # it begins, or another cascade has taken the place of its own
        told = f": the score before it was {progress.last_score:.3g}" if progress.stage else ""
        return progress.stage, told

    def _why_not(self, name: str, request: Request) -> str:
        """Why a model may not answer a request."""
        accuracy, wanted = self._accuracies.get(name), request.min_accuracy
        if wanted is not None and accuracy is None:
            return f"the accuracy of {name} is unknown, and {_share(wanted)} is asked for"
        if wanted is not None and accuracy is not None and accuracy < wanted:
            return (
                f"the accuracy of {name} is {_share(accuracy)}, less than the {_share(wanted)} "
                "asked for"
            )
        if name in request.excluded:
            return f"{name} failed on this request or does not take its inputs"
        return f"{name} is not loaded"


def _nth(stage: int) -> str:
    """In words, for stages are counted from 0 wherever they have numbers.

    >>> [_nth(stage) for stage in (0, 1, 3)]
    ['first', 'second', '4th']
    """
    return ("first", "second", "third")[stage] if stage < 3 else f"{stage + 1}th"


def _literal(text: str) -> str:
    """As a part of a rule, which is a template."""
    return text.replace("{", "{{").replace("}", "}}")


def _share(accuracy: float) -> str:
    return format_value(accuracy, Dimension.FRACTION)


class CascadeAnswering:
    """Asks a stage; what it is not sure of goes on to the next. `cascade.thresholds` may be set at
    any time. fallback : the stage whose answers stand, sure or not, where the time that is left is
    too short for the next one.
    """

    def __init__(
        self,
        cascade: Cascade,
        interface: Interface,
        *,
        fallback: str | None = None,
        in_time: Callable[[str, int, float], bool] | None = None,
    ) -> None:
        """in_time : whether a model is likely to answer so many samples before a deadline."""
        self.cascade = cascade
        self._interface = interface
        self._fallback = fallback
        self._in_time = in_time
        self._stages = cascade.plan.stages
        self._index = {stage.model: k for k, stage in enumerate(self._stages)}
        formats = [stage.format for stage in self._stages]
        self._formats = [AnswerFormat.from_json(text) if text else None for text in formats]

    def run(
        self, job: Job, name: str, model: Predictor, cancellation: Cancellation
    ) -> Outcome | None:
        """The outcome once every sample has its answer."""
        progress = self._progress(job)
        stage = self._index.get(name, len(self._stages) - 1)  # else it is the model of last resort
        inputs = _of_samples(job.inputs, progress.left)
        feed = self._interface.feed(inputs, name, model)
        found: Mapping[str, Array] = model.run(feed, cancellation)
        if inputs is job.inputs:
            found = _rows_of(found, progress.left, inputs.samples, name)
        kept, scores, logits = self._kept(stage, found, model, progress)
        note = ""
        unsure = int((~kept).sum())
        if unsure and self._stands(name, stage, unsure, job.request.deadline_ms):
            note = f"{name} was not sure, but the time left is too short for the next stage"
            kept = np.ones_like(kept)
        _take(progress, stage, kept, scores, self._interface.outputs_of(name, found, None))
        if kept.all():
            job.progress = None
            outcome = _outcome(progress, job.outputs, self._noted(name, progress, note))
            outcome.models = tuple(one.model for one in self._stages)
            return outcome
        progress.left = progress.left[~kept]
        progress.earlier = [part[~kept] for part in (*progress.earlier, logits)]
        progress.stage, progress.last_score = stage + 1, float(scores[~kept].min())
        job.left = unsure if _is_divisible(job.inputs) else job.inputs.samples
        return None

    def _progress(self, job: Job) -> Progress:
        """From the start where the deployment has switched to another cascade meanwhile."""
        found = job.progress
        if not isinstance(found, Progress) or found.owner is not self.cascade:
            count = job.inputs.samples
            by, scores = np.zeros(count, np.int64), np.full(count, np.nan)
            found = Progress(self.cascade, np.arange(count), by, scores)
            job.progress = found
        return found

    def _kept(
        self, stage: int, found: Mapping[str, Array], model: Predictor, progress: Progress
    ) -> tuple[NDArray[np.bool_], Array, Array]:
        """(which answers stand (m,), their scores (m,), logits (m, classes)) of m samples."""
        count = len(progress.left)
        if stage == len(self._stages) - 1:
            return np.ones(count, np.bool_), np.full(count, np.nan), np.empty((count, 0))
        if self._out_of_turn(stage, progress):
            progress.unproved = True
            return np.ones(count, np.bool_), np.full(count, np.nan), np.empty((count, 0))
        raw = found[self._stages[stage].output or model.outputs[0].name].reshape(count, -1)
        logits = logits_of(raw, self._formats[stage])
        return *self.cascade.route(stage, logits, progress.earlier), logits

    def _out_of_turn(self, stage: int, progress: Progress) -> bool:
        """Whether the fallback is asked because no stage that may answer is left, so that all its
        answers stand."""
        skipped = stage > progress.stage and self.cascade.plan.promise is not None
        return stage < progress.stage or skipped

    def _noted(self, name: str, progress: Progress, note: str) -> str:
        """What to say of an answer. note : that it stands though the model was not sure."""
        if not note and not progress.unproved:
            return ""
        self.cascade.stood(name)
        void = "what was proved does not hold for this answer"
        told = [note, void if self.cascade.plan.promise is not None else ""]
        return "; ".join(part for part in told if part)

    def _stands(self, name: str, stage: int, unsure: int, deadline_ms: float) -> bool:
        """Whether an unsure answer is better than none."""
        if name != self._fallback or self._in_time is None:
            return False
        return not self._in_time(self._stages[stage + 1].model, unsure, deadline_ms)


def _of_samples(inputs: Inputs, left: Indices) -> Inputs:
    """The inputs of these samples; all of them where several tensors cannot be told apart."""
    given = inputs.given
    if len(left) == inputs.samples or not _is_divisible(inputs):
        return inputs
    if isinstance(given, Mapping):
        ((name, tensor),) = given.items()
        return Inputs({name: np.asarray(tensor)[left]}, len(left), {}, inputs.unfit)
    chosen = given[left] if isinstance(given, np.ndarray) else [given[k] for k in left]
    return Inputs(chosen, len(left), {}, inputs.unfit)


def _is_divisible(inputs: Inputs) -> bool:
    return not isinstance(inputs.given, Mapping) or len(inputs.given) == 1


def _rows_of(
    found: Mapping[str, Array], left: Indices, samples: int, name: str
) -> Mapping[str, Array]:
    """The answers to these samples, of answers to all."""
    if len(left) == samples == 1:
        return found
    if any(value.ndim == 0 or len(value) != samples for value in found.values()):
        raise AnalysisError(
            f"{name} does not answer sample by sample", hint="send one sample a request"
        )
    return {key: value[left] for key, value in found.items()}


def _take(
    progress: Progress,
    stage: int,
    kept: NDArray[np.bool_],
    scores: Array,
    outputs: Mapping[str, Array],
) -> None:
    """Add the answers that stand to those of the stages before."""
    count = len(progress.stages)
    rows = progress.left[kept]
    progress.stages[rows], progress.scores[rows] = stage, scores[kept]
    if len(rows) == count:
        progress.values = dict(outputs)
        return
    for name, value in outputs.items() if len(rows) else ():
        if name not in progress.values:
            progress.values[name] = np.zeros((count, *value.shape[1:]), value.dtype)
        whole = progress.values[name]
        if whole.shape[1:] != value.shape[1:]:
            raise AnalysisError(
                f"the stages' answers '{name}' have shapes {list(whole.shape[1:])} and "
                f"{list(value.shape[1:])}",
                hint="send one sample a request",
            )
        whole = whole.astype(np.result_type(whole, value), copy=False)
        whole[rows] = value[kept]
        progress.values[name] = whole


def _outcome(progress: Progress, wanted: Sequence[str] | None, note: str) -> Outcome:
    names = tuple(progress.values) if wanted is None else wanted
    missing = [name for name in names if name not in progress.values]
    if missing:
        raise InputError(
            f"there is no output '{missing[0]}'", hint=f"there is {', '.join(progress.values)}"
        )
    return Outcome(
        {name: progress.values[name] for name in names},
        stage=int(progress.stages.max()),
        stages=tuple(progress.stages.tolist()),
        scores=tuple(progress.scores.tolist()),
        note=note,
    )
