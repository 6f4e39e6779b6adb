"""What a serving process tells Prometheus, in its text format.

Per request three histograms and two counters are touched: 1.3 microseconds, 5 with
prometheus_client. All else is read from the deployments and the pool when
somebody asks. Names are Triton's with our prefix and mean the same; durations are microseconds.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sommelier.runtime.answers import Answer
    from sommelier.runtime.deployment_state import DeploymentState
    from sommelier.runtime.pool import ModelPool
    from sommelier.runtime.pool_entries import ModelState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BOUNDS_US = (*(step * 10**power for power in range(1, 7) for step in (1, 2, 5)), 10**7)
"""Upper bounds of the buckets: 10 microseconds to 10 seconds."""
FAILURES = {429: "REJECTED", 503: "REJECTED", 504: "REJECTED", 499: "CANCELED", 500: "BACKEND"}
"""Reasons of failures by status, in Triton's words; any other status, the client's fault, is OTHER.
"""

Labels = Mapping[str, str]
Sample = tuple[str, Labels, float]  # what follows the family's name, labels, value
_Family = tuple[str, str, str, Sequence[Sample]]  # name without prefix, kind, help, samples


class Histogram:
    """How many values fell between bounds, and their sum. Its user holds a lock."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_US) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(BOUNDS_US, value)] += 1
        self.total += value

    def samples(self, labels: Labels) -> list[Sample]:
        """Cumulative counts, sum and count, as Prometheus wants them."""
        rows: list[Sample] = []
        below = 0
        for bound, count in zip((*BOUNDS_US, "+Inf"), self.counts, strict=True):
            below += count
            rows.append(("_bucket", {**labels, "le": str(bound)}, below))
        return [*rows, ("_sum", labels, self.total), ("_count", labels, below)]


@dataclass(slots=True, eq=False)
class _Served:
    """What became of the requests to one deployment."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    request: Histogram = field(default_factory=Histogram)
    queue: Histogram = field(default_factory=Histogram)
    compute: Histogram = field(default_factory=Histogram)
    samples: int = 0
    decisions: dict[tuple[str, str], int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)


class Metrics:
    """Counts requests as they end, and writes everything down when asked. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._served: dict[str, _Served] = {}

    def answered(self, deployment: str, answer: Answer, total_ms: float) -> None:
        """Count an answer. total_ms : from the request's arrival, reading it included."""
        served = self._of(deployment)
        key = (answer.model, decision_class(answer))
        with served.lock:
            served.request.add(total_ms * 1e3)
            served.queue.add(answer.queue_ms * 1e3)
            served.compute.add(answer.infer_ms * 1e3)
            served.samples += answer.samples
            served.decisions[key] = served.decisions.get(key, 0) + 1

    def refused(self, deployment: str, status: int) -> None:
        """Count a request that got no answer. status : as in ProtocolError."""
        served = self._of(deployment)
        reason = FAILURES.get(status, "OTHER")
        with served.lock:
            served.failures[reason] = served.failures.get(reason, 0) + 1

    def text(self, states: Iterable[DeploymentState], pool: ModelPool) -> str:
        """All metrics at this moment. states : of the deployments that are served."""
        states = tuple(states)
        families = [*self._requests(), *_deployments(states), *_pool(pool)]
        return "\n".join(line for family in families for line in _lines(*family)) + "\n"

    def _of(self, deployment: str) -> _Served:
        found = self._served.get(deployment)
        if found is None:
            with self._lock:
                found = self._served.setdefault(deployment, _Served())
        return found

    def _requests(self) -> list[_Family]:
        with self._lock:
            known = dict(self._served)
        success: list[Sample] = []
        failure: list[Sample] = []
        count: list[Sample] = []
        decisions: list[Sample] = []
        histograms: dict[str, list[Sample]] = {"request": [], "queue": [], "compute": []}
        for name, served in known.items():
            labels = {"deployment": name}
            with served.lock:
                success.append(("", labels, sum(served.request.counts)))
                count.append(("", labels, served.samples))
                failure += [
                    ("", {**labels, "reason": reason}, n) for reason, n in served.failures.items()
                ]
                decisions += [
                    ("", {**labels, "model": model, "reason": reason}, n)
                    for (model, reason), n in served.decisions.items()
                ]
                for kind, rows in histograms.items():
                    rows += getattr(served, kind).samples(labels)
        return [
            ("inference_request_success_total", "counter", "Requests answered", success),
            ("inference_request_failure_total", "counter", "Requests without an answer", failure),
            ("inference_count_total", "counter", "Samples of answered requests", count),
            ("decisions_total", "counter", "Answers by model and reason", decisions),
            *(
                (f"inference_{name}_duration_us", "histogram", text, histograms[kind])
                for name, kind, text in _DURATIONS
            ),
        ]


_DURATIONS = (
    ("request", "request", "Time from a request's arrival to its answer"),
    ("queue", "queue", "Time a request waited for a model"),
    ("compute_infer", "compute", "Time models ran for a request"),
)


def decision_class(answer: Answer) -> str:
    """Why this model answered, in one of a few words: the reason itself has figures in it."""
    if answer.predicted:
        return "predicted"
    return answer.policy if answer.stage is None else f"stage {answer.stage}"


def _deployments(states: Sequence[DeploymentState]) -> list[_Family]:
    waiting: list[Sample] = []
    running: list[Sample] = []
    met: list[Sample] = []
    late: list[Sample] = []
    accuracy: list[Sample] = []
    for state in states:
        labels = {"deployment": state.name}
        waiting.append(("", labels, state.waiting))
        running.append(("", labels, state.running))
        met.append(("", labels, state.answered - state.late))
        late.append(("", labels, state.late))
        known = [(m.answered, m.accuracy) for m in state.models if m.accuracy is not None]
        if answers := sum(n for n, _ in known):
            mean = sum(n * value for n, value in known) / answers
            accuracy.append(("", labels, mean))
    return [
        ("inference_pending_request_count", "gauge", "Requests that wait for a model", waiting),
        ("inference_running_request_count", "gauge", "Requests that a model answers", running),
        ("sla_met_total", "counter", "Answers before their deadline", met),
        ("sla_missed_total", "counter", "Answers after their deadline", late),
        (
            "accuracy_expected",
            "gauge",
            "Mean accuracy of the models that answered, weighted by their answers",
            accuracy,
        ),
    ]


def _pool(pool: ModelPool) -> list[_Family]:
    states, rules = pool.states(), pool.rules
    limits = {"host": rules.host_bytes, "device": rules.device_bytes}
    used = {"host": pool.host_bytes(), "device": pool.device_bytes()}
    return [
        ("pool_memory_bytes", "gauge", "Memory of loaded models", _kinds(used)),
        ("pool_memory_limit_bytes", "gauge", "Memory that models may take", _kinds(limits)),
        ("pool_evictions_total", "counter", "Models that made room", [("", {}, pool.evictions)]),
        ("model_memory_bytes", "gauge", "Memory of a model", _of_models(states)),
        (
            "model_ready",
            "gauge",
            "1 if a model is loaded",
            [("", {"model": s.name}, float(s.state == "ready")) for s in states],
        ),
        (
            "process_memory_bytes",
            "gauge",
            "Memory of the process and its models' files",
            [("", {}, pool.process_bytes())],
        ),
    ]


def _of_models(states: Sequence[ModelState]) -> list[Sample]:
    return [
        ("", {"model": state.name, "kind": kind}, size)
        for state in states
        for kind, size in (("host", state.host_bytes), ("device", state.device_bytes))
    ]


def _kinds(sizes: Mapping[str, int | None]) -> list[Sample]:
    return [("", {"kind": kind}, size) for kind, size in sizes.items() if size is not None]


def _lines(name: str, kind: str, text: str, samples: Sequence[Sample]) -> list[str]:
    full = f"sommelier_{name}"
    return [
        f"# HELP {full} {text}",
        f"# TYPE {full} {kind}",
        *(f"{full}{suffix}{_braced(labels)} {value:.17g}" for suffix, labels, value in samples),
    ]


def _braced(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
