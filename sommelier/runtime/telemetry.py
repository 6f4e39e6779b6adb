"""What serving teaches about latency: per model, device and batch, apart from time in the queue.

Everything here runs once per request and is plain Python of about 3 microseconds. Callers hold the
lock of their deployment; nothing here is thread safe.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from sommelier.errors import BinderError
from sommelier.runtime.sketch import LatencySketch

SMOOTHING = 0.1  # algorithms.md H.1: EWMA of mean and variance
PRIOR_CV = 0.3  # algorithms.md H.1: deviation / mean of a model whose deviation is not known
STRAGGLER_SDS = 10.0  # algorithms.md H.1: what is so far off is a straggler ...
STRAGGLER_AFTER = 20  # ... once so many samples have told what is usual
SHIFT_RUN = 3  # so many stragglers in a row are no stragglers: the model has become slower ...
USUAL_SDS = 3.0  # ... for a spell, which is over with the first sample as near to what was usual
FORGET = 0.95  # algorithms.md H.3: weight that earlier samples keep at each new one
STALE = 0.997  # algorithms.md H.3: weight they keep at each request another model answers
PRIOR_WEIGHT = 5.0  # samples that a measured profile counts for
LEAST_WEIGHT = 0.5  # however old, a profile is worth half a sample
COLD_AFTER = 100  # requests of others after which a model begins to be believed as profiled again
USUAL_STEP = 1.05  # by which `usual_ms` follows its samples, whatever they are
LOG_FLOOR = 0.01  # no machine repeats a time within 1 %, whatever few samples say


class LatencyEstimate:
    """What is believed of one model's execution time, on one device with one batch size.

    mean_ms, std_ms : exponentially weighted. log_mean, log_std : of the log of the time, from a
    discounted Normal-Inverse-Gamma posterior; `weight` is the number of samples it is worth.
    profiled_ms : what was known before serving. usual_ms : half of the recent runs took less, which
    says more of the model than a mean does where others take the processor away. All NaN while
    nothing is known. samples, requests (that shared them), stragglers : counted since the start.
    last_ms : instant of the last sample, NaN before it. derived : it began from what one
    sample takes alone.

    Source: ModiPick 3.3.3 (moving averages); algorithms.md H.1 and H.3.
    """

    __slots__ = (
        "_before", "_log_squares", "_run", "_slow_since", "derived", "last_ms", "log_mean",
        "log_std", "mean_ms", "profiled_log_mean", "profiled_ms", "requests", "samples", "seen",
        "sketch", "smoothing", "std_ms", "stragglers", "usual_ms", "weight",
    )  # fmt: skip

    def __init__(
        self,
        mean_ms: float | None = None,
        std_ms: float | None = None,
        *,
        smoothing: float = SMOOTHING,
    ) -> None:
        if mean_ms is not None and not 0 < mean_ms < math.inf:
            raise BinderError(
                f"a latency of {mean_ms:g} ms is no measurement", hint="leave it out if unknown"
            )
        self.smoothing = smoothing
        self.samples = self.requests = 0
        self.stragglers = 0
        self.seen = 0
        self.derived = False
        self.last_ms = math.nan
        self.sketch = LatencySketch()
        self._run = 0
        self._before: _Belief | None = None  # a spell of slowness, of which it is not known whether
        self._slow_since = 0  # it will last; the sample that began it
        self.profiled_ms = self.usual_ms = math.nan if mean_ms is None else mean_ms
        self._begin(self.profiled_ms, std_ms, PRIOR_WEIGHT)
        self.profiled_log_mean = self.log_mean

    def record(self, ms: float, now_ms: float) -> None:
        """Learn from one execution of `ms` that ended at `now_ms`. What is not above 0 is ignored:
        a clock that went back says nothing about a model."""
        if not 0 < ms < math.inf:
            return
        self.samples += 1
        self.last_ms = now_ms
        self.sketch.add(ms)
        self.usual_ms *= USUAL_STEP if ms > self.usual_ms else 1 / USUAL_STEP
        if self.mean_ms != self.mean_ms:
            self.usual_ms = ms
            self._begin(ms, None, 1.0)
        elif self._is_straggler(ms):
            self.stragglers += 1
            self._run += 1
            if self._run >= SHIFT_RUN:
                self._slow_down(ms)
        else:
            self._end_spell(ms)
            self._run = 0
            self._learn(ms)

    def suppose(self, mean_ms: float) -> None:
        """Begin from a mean that was measured when the model was prepared, if nothing is known."""
        if self.mean_ms != self.mean_ms and 0 < mean_ms < math.inf:
            self.profiled_ms = self.usual_ms = mean_ms
            self._begin(mean_ms, None, PRIOR_WEIGHT)
            self.profiled_log_mean = self.log_mean

    def derive(self, samples: int, one: LatencyEstimate) -> None:
        """Begin from what so many samples take alone, as long as nothing else is known."""
        self.derived = True
        self.profiled_ms, self.usual_ms = samples * one.mean_ms, samples * one.usual_ms
        self._begin(self.profiled_ms, samples * one.std_ms, PRIOR_WEIGHT)
        self.profiled_log_mean = self.log_mean

    def relax(self, share: float) -> None:
        """Come back to the profile by this share of the way. A model that was slow is not chosen,
        so nobody would notice that it has recovered; this is how it gets another chance."""
        if self.profiled_ms == self.profiled_ms:
            self.mean_ms += share * (self.profiled_ms - self.mean_ms)
            self.log_mean += share * (self.profiled_log_mean - self.log_mean)

    def age_ms(self, now_ms: float) -> float:
        """Time since the last sample; inf before the first."""
        return math.inf if self.last_ms != self.last_ms else now_ms - self.last_ms

    @property
    def in_spell(self) -> bool:
        """Whether it has become slower, and not so long ago that it must be for good."""
        return self._before is not None

    def uncertainty(self, observations: int) -> float:
        """Standard deviation of what is believed of `log_mean`, after `observations` requests of
        the whole deployment: it grows while other models answer."""
        weight = self.weight * STALE ** (observations - self.seen)
        return self.log_std / math.sqrt(max(weight, LEAST_WEIGHT))

    def probability(self, budget_ms: float) -> float:
        """P(T <= budget) by the log-normal of `log_mean` and `log_std`, an estimate; NaN when
        nothing is known, 0 for a budget that is not positive."""
        if budget_ms <= 0:
            return 0.0 if self.log_mean == self.log_mean else math.nan
        return normal_cdf((math.log(budget_ms) - self.log_mean) / self.log_std)

    def _is_straggler(self, ms: float) -> bool:
        return (
            self.samples > STRAGGLER_AFTER and ms - self.mean_ms > STRAGGLER_SDS * self.std_ms > 0
        )

    def _slow_down(self, ms: float) -> None:
        """Believe that it takes so long from now on."""
        if self._before is None:
            self._before = _Belief(
                self.mean_ms, self.std_ms, self.weight,
                self.log_mean, self.log_std, self._log_squares,
            )  # fmt: skip
        self._slow_since = self.samples
        self._begin(ms, None, 1.0)
        self._run = 0

    def _end_spell(self, ms: float) -> None:
        """Believe what was believed before the model became slower, if it is as quick again. To
        learn that from averages takes a dozen samples, and a deployment whose estimate refuses
        requests tries one now and then only: it would refuse for seconds after a pause of the
        machine."""
        before = self._before
        if before is None:
            return
        if ms <= before.mean_ms + USUAL_SDS * before.std_ms:
            self.mean_ms, self.std_ms, self.weight = before.mean_ms, before.std_ms, before.weight
            self.log_mean, self.log_std = before.log_mean, before.log_std
            self._log_squares = before.log_squares
            self._before = None
        elif self.samples - self._slow_since >= STRAGGLER_AFTER:
            self._before = None  # this is what is usual now

    def _begin(self, mean_ms: float, std_ms: float | None, weight: float) -> None:
        """Start from a mean and a deviation; the deviation unknown (or 0), a usual one."""
        cv = std_ms / mean_ms if std_ms else PRIOR_CV
        variance = math.log1p(cv * cv)
        self.mean_ms = mean_ms
        self.std_ms = cv * mean_ms
        self.weight = weight
        self.log_mean = math.log(mean_ms) - variance / 2  # of a log-normal with these moments
        self.log_std = max(math.sqrt(variance), LOG_FLOOR)
        self._log_squares = variance * weight

    def _learn(self, ms: float) -> None:
        difference = ms - self.mean_ms
        step = self.smoothing * difference
        self.mean_ms += step
        kept = 1.0 - self.smoothing
        self.std_ms = math.sqrt(kept * (self.std_ms * self.std_ms + step * difference))
        off = math.log(ms) - self.log_mean
        weight = self.weight * FORGET
        self.log_mean += off / (weight + 1.0)
        self._log_squares = FORGET * self._log_squares + off * off * weight / (weight + 1.0)
        self.weight = weight + 1.0
        self.log_std = max(math.sqrt(self._log_squares / self.weight), LOG_FLOOR)


@dataclass(frozen=True, slots=True)
class _Belief:
    """What a LatencyEstimate believed at some instant; the fields are its own."""

    mean_ms: float
    std_ms: float
    weight: float
    log_mean: float
    log_std: float
    log_squares: float


@dataclass(frozen=True, slots=True)
class ServedLatency:
    """A summary of what one model took. queue_* : waiting before it, not part of the others.
    samples : executions; requests : of clients, several of which may have shared one.

    mean_ms, std_ms and the quantiles are of the same executions: the last ten thousand or so. What
    was profiled before is no part of them. recent_ms : what routing believes, which follows the
    last dozen and began from the profile. Times in ms; NaN where there was no sample. The quantiles
    are within 1 % of the measured ones.
    """

    model: str
    device: str
    batch: int
    samples: int
    stragglers: int
    mean_ms: float
    std_ms: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    queue_mean_ms: float
    queue_p99_ms: float
    last_ms: float
    requests: int
    recent_ms: float


class Telemetry:
    """The estimates of one deployment, and how long requests wait before a model gets them.

    observations : executions that were recorded, over all models. quick_sizes : by model,
    bytes of the largest sample, where they differ, of which a run was quick.
    """

    def __init__(self, *, smoothing: float = SMOOTHING) -> None:
        self.smoothing = smoothing
        self.observations = 0
        self.quick_sizes: dict[str, float] = {}
        self._estimates: dict[tuple[str, str, int], LatencyEstimate] = {}
        self._queues: dict[tuple[str, str, int], LatencySketch] = {}
        self._in_turn: Iterator[LatencyEstimate] = iter(())

    def estimate(self, model: str, *, device: str = "cpu", batch: int = 1) -> LatencyEstimate:
        """What is believed of this model; one that was never heard of begins as unknown."""
        key = (model, device, batch)
        found = self._estimates.get(key)
        return found if found is not None else self.profile(model, device=device, batch=batch)

    def expected(
        self,
        model: str,
        samples: int,
        *,
        device: str = "cpu",
        one: LatencyEstimate | None = None,
    ) -> LatencyEstimate:
        """What is believed of a run of so many samples. Until it was tried, it takes as long as
        each of them alone: on a CPU batches gain little (runtime.md 1.4). one : the estimate of one
        sample, if it is not ours."""
        size = size_class(samples)
        found = self.estimate(model, device=device, batch=size)
        if size == 1 or found.samples or (found.mean_ms == found.mean_ms and not found.derived):
            return found
        one = one or self.estimate(model, device=device)
        if one.mean_ms == one.mean_ms:
            found.derive(size, one)
        return found

    def profile(
        self,
        model: str,
        mean_ms: float | None = None,
        std_ms: float | None = None,
        *,
        device: str = "cpu",
        batch: int = 1,
    ) -> LatencyEstimate:
        """Begin anew from a measured profile (None: unknown) and return the estimate."""
        estimate = LatencyEstimate(mean_ms, std_ms, smoothing=self.smoothing)
        estimate.seen = self.observations
        self._estimates[model, device, batch] = estimate
        self._queues[model, device, batch] = LatencySketch()
        return estimate

    def record(
        self,
        model: str,
        execution_ms: float,
        now_ms: float,
        *,
        queue_ms: float = 0.0,
        device: str = "cpu",
        batch: int = 1,
        requests: int = 1,
    ) -> None:
        """Learn from one execution that ended at `now_ms` after `queue_ms` of waiting. requests :
        of clients, that shared it."""
        estimate = self.estimate(model, device=device, batch=batch)
        self.observations += 1
        estimate.record(execution_ms, now_ms)
        estimate.requests += requests
        estimate.seen = self.observations
        self._queues[model, device, batch].add(queue_ms)
        self._relax_one()

    def cold(self, now_ms: float, *, older_than_ms: float) -> list[tuple[str, str, int]]:
        """(model, device, batch) not run for so long, the longest first; never run comes before.

        For a refresh while a server is idle (ModiPick 3.3.3). Off by default: with Thompson
        sampling it gains at most .1 points of accuracy (algorithms.md H.3).
        """
        ages = {key: known.age_ms(now_ms) for key, known in self._estimates.items()}
        late = [key for key, age in ages.items() if age > older_than_ms]
        return sorted(late, key=lambda key: (-ages[key], key))

    def summary(self) -> tuple[ServedLatency, ...]:
        """One row for each model, device and batch, in the order they came."""
        known = tuple(self._estimates.items())  # at once: other threads may add to it
        return tuple(self._row(key, estimate, self._queues[key]) for key, estimate in known)

    def forget(self, model: str) -> None:
        """Another model has its name from now on."""
        self.quick_sizes.pop(model, None)
        for key in tuple(self._estimates):
            if key[0] == model:
                del self._estimates[key], self._queues[key]

    def _relax_one(self) -> None:
        """Let one estimate, each in its turn, forget what is long past: by half in 230 requests."""
        estimate = next(self._in_turn, None)
        if estimate is None:
            self._in_turn = iter(tuple(self._estimates.values()))
        elif self.observations - estimate.seen >= COLD_AFTER:
            estimate.relax(1.0 - STALE ** (len(self._estimates) + 1))

    @staticmethod
    def _row(
        key: tuple[str, str, int], estimate: LatencyEstimate, queue: LatencySketch
    ) -> ServedLatency:
        model, device, batch = key
        sketch = estimate.sketch
        return ServedLatency(
            model=model,
            device=device,
            batch=batch,
            samples=estimate.samples,
            stragglers=estimate.stragglers,
            mean_ms=sketch.mean,
            std_ms=sketch.std,
            p50_ms=sketch.quantile(0.5),
            p90_ms=sketch.quantile(0.9),
            p99_ms=sketch.quantile(0.99),
            queue_mean_ms=queue.mean,
            queue_p99_ms=queue.quantile(0.99),
            last_ms=estimate.last_ms,
            requests=estimate.requests,
            recent_ms=estimate.mean_ms if estimate.samples else math.nan,
        )


def size_class(samples: int) -> int:
    """The power of two by which requests of so many samples are timed.

    >>> [size_class(samples) for samples in (1, 2, 3, 8, 9)]
    [1, 2, 4, 8, 16]
    """
    return 1 << (samples - 1).bit_length() if samples > 1 else 1


def normal_cdf(z: float) -> float:
    """P(Z <= z) of a standard normal; NaN for NaN.

    >>> round(normal_cdf(1.96), 3)
    0.975
    """
    return 0.5 * math.erfc(-z * 0.7071067811865476)
