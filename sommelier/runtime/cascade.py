"""Routes requests through a cascade: each stage's answer stands when its score says so.

On the request path: only numpy is loaded, no database, planner or torch. Thresholds may be changed
at any time, also between the stages of a request; no model is loaded again.
Source: EBJR sections 2.1-2.3 and 3.1; algorithms.md G.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf, log, nan, sqrt
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.cascades.scores import agreement, class_score
from sommelier.analysis.links.drift import DriftTest
from sommelier.cascade_records import (
    CascadePlan,
    CascadePromise,
    CascadeStage,
    expected_flops,
)
from sommelier.errors import SommelierError
from sommelier.runtime.share_limit import ShareLimit

Array = NDArray[Any]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Answerer = Callable[[Array], Array]

FALSE_ALARMS = 0.05  # how likely drift is ever called on any stage while nothing changed
AGREEMENT = "agreement"


@dataclass(frozen=True, slots=True)
class CascadeAnswer:
    """values : the answers that stand (n, classes), as the stages that gave them write them.
    stage : which ones did (n,). scores : of them (n,), NaN from the last stage, which has none."""

    values: Array
    stage: NDArray[np.int64]
    scores: Floats


@dataclass(frozen=True, slots=True)
class ShareDrift:
    """A stage that keeps another share of its inputs than its calibration samples.

    kept : share kept since the threshold was set. low, high : what the calibration says of it.
    """

    model: str
    kept: float
    low: float
    high: float
    inputs: int

    @property
    def warning(self) -> str:
        """One sentence, and what to do."""
        return (
            f"{self.model} keeps {self.kept:.1%} of the last {self.inputs} inputs, where its "
            f"calibration says {self.low:.1%} to {self.high:.1%}: the inputs have changed, and "
            "what was promised of the old ones need not hold. Calibrate again on new ones"
        )


class Cascade:
    """Decides stage by stage, counts what it decides, and watches for drift. For several threads.

    A stage's watch compares the share it keeps with what its calibration samples say of that
    threshold: all thresholds at once by the inequality of Dvoretzky, Kiefer and Wolfowitz (Massart
    1990), so a threshold may have been chosen on those samples. While inputs are independent and
    like them, a warning ever comes with probability at most `false_alarms`: proved for two stages;
    of more, the samples that reach the later ones were chosen too, and the rate is an estimate.
    """

    def __init__(
        self,
        plan: CascadePlan,
        *,
        at_most: float | None = None,
        false_alarms: float = FALSE_ALARMS,
    ) -> None:
        """at_most : the share of its inputs that each stage sends on, in [0, 1]; thresholds then
        follow the inputs (ShareLimit), those that were proved only downwards, and nothing is
        promised. Raises SommelierError for a plan of fewer than two stages, or a stage without a
        score."""
        if len(plan.stages) < 2 or any(stage.score is None for stage in plan.stages[:-1]):
            raise SommelierError(
                "a cascade has two stages or more, all but the last with a score",
                hint="calibrate one: sommelier.analysis.cascades.calibrate",
            )
        self._lock = Lock()
        self._false_alarms = false_alarms
        self._limits: tuple[ShareLimit, ...] = ()
        self._proved: tuple[float, ...] | None = None  # thresholds of a promise that is gone
        if at_most is not None:
            proved = plan.promise is not None
            stages = plan.stages[:-1]
            self._limits = tuple(ShareLimit.of(one, at_most, proved=proved) for one in stages)
            begin = [limit.threshold for limit in self._limits]
            reason = f"each stage sends on at most {at_most:.3g} of its inputs; nothing is promised"
            plan = _with_thresholds(plan, begin, None, reason)
        self._begin(plan)

    @property
    def plan(self) -> CascadePlan:
        """The stages with the thresholds that were set; its promise is gone once one was lowered.
        Those that follow the inputs begin there: `thresholds` has them as they are."""
        return self._plan

    @property
    def thresholds(self) -> tuple[float, ...]:
        """Of all stages but the last, as they are now."""
        if self._limits:
            return tuple(limit.threshold for limit in self._limits)
        return self._plan.thresholds

    @thresholds.setter
    def thresholds(self, values: Sequence[float]) -> None:
        """Takes effect with the next decision; counts and watches begin anew.

        Of two stages, a promise of a disagreement or a loss outlives a higher threshold: what is
        sent on loses nothing. Thresholds that follow the inputs go on from here.
        Raises SommelierError for NaN or another number of thresholds.
        """
        _check_thresholds(values, len(self._plan.stages))
        with self._lock:
            promise = self._plan.promise if _outlived(self._plan, values) else None
            reason = self._plan.reason if promise else "thresholds set by hand; nothing is promised"
            if self._plan.promise is not None and promise is None:
                self._proved = self._plan.thresholds
            for limit, value in zip(self._limits, values, strict=False):
                limit.begin(float(value))
            self._begin(_with_thresholds(self._plan, values, promise, reason))

    def resume(self, other: Cascade) -> None:
        """Go on where another cascade of the same plan has followed its inputs to."""
        if self._limits and other.plan == self._plan:
            for limit, threshold in zip(self._limits, other.thresholds, strict=True):
                limit.threshold = threshold

    def route(
        self, stage: int, answers: Array, earlier: Sequence[Array] = ()
    ) -> tuple[Mask, Floats]:
        """(which answers stand (n,), their scores (n,)) of one stage's answers (n, classes).

        answers : logits, or logarithms of probabilities. earlier : those of the stages before, to
        the same inputs, which the score 'agreement' needs. The last stage keeps all. Counts.
        """
        if stage == len(self._plan.stages) - 1:
            return np.ones(len(answers), dtype=np.bool_), np.full(len(answers), nan)
        asked = self._plan.stages[stage]
        scores = _scores(asked, answers, earlier)
        return self._decide(stage, scores), scores

    def keeps(self, stage: int, score: float) -> bool:
        """Whether an answer of this score, of a regressor or detector, stands. Counts."""
        if stage == len(self._plan.stages) - 1:
            return True
        return bool(self._decide(stage, np.array([score]))[0])

    def run(self, items: Array, models: Sequence[Answerer]) -> CascadeAnswer:
        """The answers to items (n, ...): each stage sees only what those before sent on.

        models : by stage, items (m, ...) -> answers (m, classes): logits or logarithms of
        probabilities, of equal width.
        """
        count = len(items)
        left = np.arange(count)
        before: list[Array] = []
        values: Array | None = None
        by, scores = np.zeros(count, dtype=np.int64), np.full(count, nan)
        for stage, model in enumerate(models):
            if not len(left):
                break
            found = np.asarray(model(items[left]))
            kept, sure = self.route(stage, found, before)
            if values is None:
                values = np.empty((count, *found.shape[1:]), dtype=found.dtype)
            values[left[kept]], by[left[kept]], scores[left[kept]] = found[kept], stage, sure[kept]
            left = left[~kept]
            before = [part[~kept] for part in (*before, found)]
        return CascadeAnswer(np.empty((0,)) if values is None else values, by, scores)

    @property
    def answered(self) -> tuple[int, ...]:
        """Inputs each stage answered since the thresholds were set."""
        with self._lock:
            left = self._seen[-1] - self._kept[-1]
            return (*self._kept, left)

    @property
    def flops(self) -> float:
        """FLOPs of an input on average since the thresholds were set; NaN when unknown."""
        costs = [stage.flops for stage in self._plan.stages]
        known = [cost for cost in costs if cost is not None]
        return expected_flops(known, self.answered) if len(known) == len(costs) else nan

    def stood(self, model: str) -> None:
        """Count an answer of a model that stood though its stage would have sent it on."""
        with self._lock:
            self._unsure[model] = self._unsure.get(model, 0) + 1

    @property
    def overruled(self) -> str:
        """That what was proved holds no longer, in one sentence; '' if it does, or nothing was."""
        if self._proved is None:
            return ""
        now, proved = (", ".join(f"{t:.4g}" for t in of) for of in (self.thresholds, self._proved))
        return f"thresholds were set by hand to {now}: what was proved with {proved} does not hold"

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is not as it was calibrated, one sentence each."""
        void = "" if self._plan.promise is None else ": what was proved does not hold for them"
        with self._lock:
            stood = [
                f"{count} answer{'s' * (count > 1)} of {model} stood though it was not sure, or not"
                f" asked in turn{void}"
                for model, count in self._unsure.items()
            ]
        overruled = (self.overruled,) if self.overruled else ()
        return (*overruled, *(found.warning for found in self.drift), *stood)

    @property
    def drift(self) -> tuple[ShareDrift, ...]:
        """The stages that keep another share than they were calibrated to; () while none does."""
        with self._lock:
            return tuple(
                ShareDrift(stage.model, watch.share, watch.low, watch.high, watch.inputs)
                for k, (stage, watch) in enumerate(
                    zip(self._plan.stages[:-1], self._watches, strict=True)
                )
                if watch is not None and watch.alarm
            )

    # ---- inside

    def _begin(self, plan: CascadePlan) -> None:
        """Go by a plan, with counts and watches that begin anew."""
        self._plan = plan
        self._kept = [0] * (len(plan.stages) - 1)
        self._seen = [0] * (len(plan.stages) - 1)
        self._watches = self._fresh_watches()
        self._unsure: dict[str, int] = {}

    def _decide(self, stage: int, scores: Floats) -> Mask:
        """Which answers (n,) of these scores stand, never one of NaN. Counts; a watch looks at the
        threshold that was set, not at one that has followed the inputs since."""
        with self._lock:
            stands = scores >= self._plan.stages[stage].threshold
            kept = stands
            if self._limits:
                limit = self._limits[stage]
                kept = scores >= limit.threshold
                limit.follow(scores, kept)
            self._seen[stage] += len(kept)
            self._kept[stage] += int(np.count_nonzero(kept))
            watch = self._watches[stage]
            if watch is not None:
                watch.update(stands)
            return kept

    def _fresh_watches(self) -> list[_Watch | None]:
        """One a stage; None where its calibration samples, or those that reach it, are unknown."""
        stages = self._plan.stages[:-1]
        known = [_Watch.of(stage, self._false_alarms / len(stages)) for stage in stages]
        # who reaches a later stage depends on the thresholds before it
        if self._plan.promise is None or self._limits:
            return [known[0], *(None for _ in known[1:])]
        return list(known)


class _Watch:
    """Two drift tests of one stage: is more kept than calibrated, is less?"""

    def __init__(self, low: float, high: float, alpha: float) -> None:
        self.low, self.high = low, high
        self.inputs = self._kept = 0
        self._falls = DriftTest(low, alpha=alpha / 2)
        self._rises = DriftTest(1 - high, alpha=alpha / 2)

    @classmethod
    def of(cls, stage: CascadeStage, alpha: float) -> _Watch | None:
        """Half of alpha for the calibration's share being wrong, half for the tests."""
        if not stage.samples or not stage.quantiles:
            return None
        low, high = kept_share(stage, stage.threshold, risk=alpha / 2)
        return cls(low, high, alpha / 2)

    def update(self, kept: Mask) -> None:
        self.inputs += len(kept)
        self._kept += int(np.count_nonzero(kept))
        share = kept.astype(np.float64)
        self._falls.update(share)
        self._rises.update(1 - share)

    @property
    def share(self) -> float:
        """Of the inputs, that was kept."""
        return self._kept / self.inputs

    @property
    def alarm(self) -> bool:
        return "reselect" in (self._falls.state.verdict, self._rises.state.verdict)


def kept_share(stage: CascadeStage, threshold: float, *, risk: float) -> tuple[float, float]:
    """(low, high) of the share of inputs like its calibration samples that a stage keeps.

    Holds for all thresholds at once but with probability `risk`. (0, 1) without quantiles.
    """
    if not stage.samples or not stage.quantiles:
        return 0.0, 1.0
    if threshold == inf:
        return 0.0, 0.0 if stage.quantiles[-1] < inf else 1.0
    steps = len(stage.quantiles) - 1
    off = sqrt(log(2 / risk) / (2 * stage.samples))
    under = bisect_left(stage.quantiles, threshold)
    most = 1 - max(under - 1, 0) / steps + off
    # at -inf stand samples without a score, which no threshold keeps
    above = bisect_right(stage.quantiles, threshold) if threshold == -inf else under
    least = 1 - above / steps - off
    return max(0.0, least), min(1.0, most)


def _check_thresholds(values: Sequence[float], stages: int) -> None:
    hint = "one number for each stage but the last; inf sends everything on"
    if len(values) != stages - 1:
        raise SommelierError(f"{len(values)} thresholds for {stages} stages", hint=hint)
    if any(value != value for value in values):
        given = ", ".join(f"{value:g}" for value in values)
        raise SommelierError(f"a threshold cannot be NaN, and given are {given}", hint=hint)


def _scores(stage: CascadeStage, answers: Array, earlier: Sequence[Array]) -> Floats:
    assert stage.score is not None, "checked when the cascade was made"
    if stage.score == AGREEMENT:
        votes = [np.asarray(part).argmax(axis=1) for part in (*earlier, answers)]
        unknown = np.isnan(np.asarray(answers, dtype=np.float64)).any(axis=1)
        return np.where(unknown, nan, agreement(votes))
    return class_score(stage.score, answers, temperature=stage.temperature)


def _with_thresholds(
    plan: CascadePlan, values: Sequence[float], promise: CascadePromise | None, reason: str
) -> CascadePlan:
    stages = [
        replace(stage, threshold=float(value))
        for stage, value in zip(plan.stages, values, strict=False)
    ]
    return CascadePlan((*stages, plan.stages[-1]), promise, reason)


def _outlived(plan: CascadePlan, thresholds: Sequence[float]) -> bool:
    """Whether what was promised of the plan holds with these thresholds too."""
    if plan.promise is None or len(plan.stages) > 2 or plan.promise.loss == "accuracy drop":
        return plan.promise is not None and tuple(thresholds) == plan.thresholds
    return thresholds[0] >= plan.thresholds[0]
