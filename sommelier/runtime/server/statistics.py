"""What a served model has done: the statistics of the protocol, and refusals told in few lines."""

from __future__ import annotations

import logging
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sommelier.runtime.jobs import SharedRun

logger = logging.getLogger(__name__)

LOG_EVERY_S = 60.0
AT_ONCE = 16  # answers that are counted together: one in so many requests pays for all
BOUNDS_US = (*(step * 10**power for power in range(1, 7) for step in (1, 2, 5)), 10**7)
"""Upper bounds of the buckets of histograms: 10 microseconds to 10 seconds."""
FAILURES = {429: "REJECTED", 503: "REJECTED", 504: "REJECTED", 499: "CANCELED", 500: "BACKEND"}
"""Reasons of failures by status, in Triton's words; any other status, the client's fault, is OTHER.
"""


class Histogram:
    """How many values fell between bounds, and their sum. Its user holds a lock."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_US) + 1)
        self.total = 0.0

    def add(self, us: float, times: int = 1) -> None:
        self.counts[bisect_left(BOUNDS_US, us)] += times
        self.total += times * us


@dataclass(slots=True)
class Answered:
    """What is counted of an answer, which is not changed (frozen, it would take thrice as long to
    make). reason : why this model answered, in one of a few words. at_s :
    when, since 1970. ns : durations, of the whole, in the queue, to check the request and put it in
    the queue, of the models, and to make the answer up; a transport's own time is in none.
    parts : of a cascade, whose samples several models may have answered, (model, reason, samples)
    of each. runs : of models, (samples, ns) of each, in order; () stands for one of all samples.
    shared : of requests that were decided about together, their runs, in place of all that."""

    model: str
    reason: str
    samples: int
    at_s: float
    ns: tuple[int, int, int, int, int]
    parts: tuple[tuple[str, str, int], ...] = ()
    runs: tuple[tuple[int, int], ...] = ()
    shared: Sequence[SharedRun] = ()


@dataclass(slots=True)
class Runs:
    """Of models, with so many samples each. begun, done : how many of them were the first and the
    last one of an answer, to which its input and output count."""

    count: int = 0
    ns: int = 0
    begun: int = 0
    input_ns: int = 0
    done: int = 0
    output_ns: int = 0

    def to_json(self, samples: int) -> dict[str, Any]:
        """One entry of `batch_stats`."""
        return {
            "batch_size": samples,
            "compute_input": {"count": self.begun, "ns": self.input_ns},
            "compute_infer": {"count": self.count, "ns": self.ns},
            "compute_output": {"count": self.done, "ns": self.output_ns},
        }


@dataclass(slots=True)
class Counts:
    """Of one name, since the start. request, queue, compute : durations, us. runs : of models, by
    samples. decisions : answers by model and reason, of a cascade samples. failures : by reason, in
    Triton's words."""

    request: Histogram = field(default_factory=Histogram)
    queue: Histogram = field(default_factory=Histogram)
    compute: Histogram = field(default_factory=Histogram)
    answers: int = 0
    samples: int = 0
    input_ns: int = 0
    output_ns: int = 0
    last_s: float = 0.0
    failed_ns: int = 0
    runs: dict[int, Runs] = field(default_factory=dict)
    decisions: dict[tuple[str, str], int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)

    def add(self, answer: Answered) -> None:
        self.last_s = max(self.last_s, answer.at_s)
        if answer.shared:
            self._add_shared(answer)
            return
        total, queue, given, infer, made = answer.ns
        self.request.add(total / 1e3)
        self.queue.add(queue / 1e3)
        self.compute.add(infer / 1e3)
        self.answers += 1
        self.samples += answer.samples
        self.input_ns += given
        self.output_ns += made
        for model, reason, count in answer.parts or ((answer.model, answer.reason, 1),):
            key = model, reason
            self.decisions[key] = self.decisions.get(key, 0) + count
        ran = None
        for samples, ns in answer.runs or ((answer.samples, infer),):
            begins = ran is None
            ran = self._runs_of(samples)
            ran.count += 1
            ran.ns += ns
            if begins:
                ran.begun += 1
                ran.input_ns += given
        if ran is not None:
            ran.done += 1
            ran.output_ns += made

    def _add_shared(self, answer: Answered) -> None:
        count, request, waited, compute = 0, self.request, self.queue, self.compute
        for samples, requests, queue, infer in answer.shared:
            request.counts[bisect_left(BOUNDS_US, 1e3 * (queue + infer))] += requests
            waited.counts[bisect_left(BOUNDS_US, 1e3 * queue)] += requests
            compute.counts[bisect_left(BOUNDS_US, 1e3 * infer)] += requests
            waited.total += 1e3 * queue * requests
            compute.total += 1e3 * infer * requests
            request.total += 1e3 * (queue + infer) * requests
            ran = self.runs.get(samples) or self._runs_of(samples)
            ran.count += 1
            ran.begun += 1
            ran.done += 1
            ran.ns += int(1e6 * infer)
            self.samples += samples
            count += requests
        self.answers += count
        key = answer.model, answer.reason
        self.decisions[key] = self.decisions.get(key, 0) + count

    def _runs_of(self, samples: int) -> Runs:
        found = self.runs.get(samples)
        if found is None:
            found = self.runs[samples] = Runs()
        return found

    @property
    def executions(self) -> int:
        """Runs of models, each of one request or of several."""
        return sum(runs.count for runs in self.runs.values())

    def to_json(self) -> dict[str, Any]:
        """`inference_stats`."""
        ns = {
            "success": self.request.total * 1e3,
            "queue": self.queue.total * 1e3,
            "compute_input": self.input_ns,
            "compute_infer": self.compute.total * 1e3,
            "compute_output": self.output_ns,
        }
        none = {"count": 0, "ns": 0}
        return {
            **{p: {"count": self.answers, "ns": round(value)} for p, value in ns.items()},
            "fail": {"count": sum(self.failures.values()), "ns": self.failed_ns},
            "cache_hit": none,
            "cache_miss": none,
        }


class Tally:
    """Counts what becomes of requests to one name. Safe for threads.

    Answers are counted several at once, and all before anything is told: what is counted in a row
    finds its code and its numbers in the processor's caches, where a model's weights have driven
    them out between two requests.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._late: deque[Answered] = deque()
        self._counts = Counts()

    def answered(self, answer: Answered) -> None:
        """Count an answer, soon; those of a stint, which are many, at once."""
        self._late.append(answer)
        if answer.shared or len(self._late) >= AT_ONCE:
            with self._lock:
                self._settle()

    def failed(self, status: int, ns: int) -> None:
        """Count a request that got no answer. status : as in ProtocolError."""
        reason = FAILURES.get(status, "OTHER")
        with self._lock:
            failures = self._counts.failures
            failures[reason] = failures.get(reason, 0) + 1
            self._counts.failed_ns += ns

    @contextmanager
    def counts(self) -> Iterator[Counts]:
        """All that was counted, still while it is looked at."""
        with self._lock:
            self._settle()
            yield self._counts

    def to_json(self, name: str, version: str) -> dict[str, Any]:
        """One entry of `model_stats`."""
        with self.counts() as counts:
            return {
                "name": name,
                "version": version,
                "last_inference": int(counts.last_s * 1e3),
                "inference_count": counts.samples,
                "execution_count": counts.executions,
                "inference_stats": counts.to_json(),
                "batch_stats": [runs.to_json(size) for size, runs in sorted(counts.runs.items())],
            }

    def _settle(self) -> None:
        """With the lock."""
        while self._late:
            self._counts.add(self._late.popleft())


class RefusalLog:
    """Tells of the first refusal of each class, then at most once a minute how many there were."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """clock : seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._classes: dict[tuple[str, int], tuple[float, int]] = {}  # told when, and since then

    def refused(self, name: str, status: int, reason: str) -> None:
        """Count a refusal of requests to `name`; reason : of this one, for the log."""
        key, now = (name, status), self._clock()
        with self._lock:
            told_s, more = self._classes.get(key, (-LOG_EVERY_S, 0))
            if now - told_s < LOG_EVERY_S:
                self._classes[key] = (told_s, more + 1)
                return
            self._classes[key] = (now, 0)
        others = f" ({more} more since it was last told)" if more else ""
        logger.warning("%s: %d %s%s", name, status, reason, others)
