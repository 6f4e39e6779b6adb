"""What a serving process tells Prometheus, in its text format.

What requests became is counted in tallies; all else is read from the deployments and the pool when
somebody asks. Names are Triton's with our prefix and mean the same; durations are microseconds.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from sommelier.runtime.server.statistics import BOUNDS_US, Answered, Histogram, Tally

if TYPE_CHECKING:
    from sommelier.runtime.answers import Answer
    from sommelier.runtime.deployment_state import DeploymentState
    from sommelier.runtime.pool import ModelPool
    from sommelier.runtime.pool_entries import ModelState

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Labels = Mapping[str, str]
Sample = tuple[str, Labels, float]  # what follows the family's name, labels, value
_Family = tuple[str, str, str, Sequence[Sample]]  # name without prefix, kind, help, samples


class Metrics:
    """The tally of every name that was ever served, and all of it in writing. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tallies: dict[str, Tally] = {}

    def tally(self, deployment: str) -> Tally:
        """Of one name; it goes on when the name is served again."""
        with self._lock:
            return self._tallies.setdefault(deployment, Tally())

    def text(self, states: Iterable[DeploymentState], pool: ModelPool) -> str:
        """All metrics at this moment. states : of the deployments that are served."""
        states = tuple(states)
        families = [*self._requests(), *_deployments(states), *_pool(pool)]
        return "\n".join(line for family in families for line in _lines(*family)) + "\n"

    def _requests(self) -> list[_Family]:
        with self._lock:
            known = dict(self._tallies)
        success: list[Sample] = []
        failure: list[Sample] = []
        count: list[Sample] = []
        decisions: list[Sample] = []
        histograms: dict[str, list[Sample]] = {"request": [], "queue": [], "compute": []}
        for name, tally in known.items():
            labels = {"deployment": name}
            with tally.counts() as served:
                success.append(("", labels, served.answers))
                count.append(("", labels, served.samples))
                failure += [
                    ("", {**labels, "reason": reason}, n) for reason, n in served.failures.items()
                ]
                decisions += [
                    ("", {**labels, "model": model, "reason": reason}, n)
                    for (model, reason), n in served.decisions.items()
                ]
                for kind, rows in histograms.items():
                    rows += histogram_rows(getattr(served, kind), labels)
        return [
            ("inference_request_success_total", "counter", "Requests answered", success),
            ("inference_request_failure_total", "counter", "Requests without an answer", failure),
            ("inference_count_total", "counter", "Samples of answered requests", count),
            ("decisions_total", "counter", "Answers (of a cascade, samples) by model", decisions),
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


def histogram_rows(of: Histogram, labels: Labels) -> list[Sample]:
    """Cumulative counts, sum and count, as Prometheus wants them."""
    rows: list[Sample] = []
    below = 0
    for bound, count in zip((*BOUNDS_US, "+Inf"), of.counts, strict=True):
        below += count
        rows.append(("_bucket", {**labels, "le": str(bound)}, below))
    return [*rows, ("_sum", labels, of.total), ("_count", labels, below)]


def decision_class(answer: Answer) -> str:
    """Why this model answered, in one of a few words: the reason itself has figures in it."""
    if answer.predicted:
        return "predicted"
    return answer.policy if answer.stage is None else _stage(answer.stage)


def counted(answer: Answer, at_s: float, ns: tuple[int, int, int, int, int]) -> Answered:
    """What is counted of an answer; the arguments are those of Answered."""
    parts: tuple[tuple[str, str, int], ...] = ()
    runs: tuple[tuple[int, int], ...] = ()
    if answer.models:
        parts = tuple((model, _stage(stage), count) for stage, model, count in answer.by_stage)
    if answer.runs:
        runs = tuple((samples, int(ms * 1e6)) for samples, ms in answer.runs)
    reason = decision_class(answer)
    return Answered(answer.model, reason, answer.samples, at_s, ns, parts, runs)


def _stage(stage: int) -> str:
    return f"stage {stage}"  # from 0, as in answers


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
        met.append(("", labels, state.promised - state.late))
        late.append(("", labels, state.late))
        known = [(m.samples, m.accuracy) for m in state.models if m.accuracy is not None]
        if answers := sum(n for n, _ in known):
            mean = sum(n * value for n, value in known) / answers
            accuracy.append(("", labels, mean))
    return [
        ("inference_pending_request_count", "gauge", "Requests that wait for a model", waiting),
        ("inference_running_request_count", "gauge", "Requests that a model answers", running),
        ("sla_met_total", "counter", "Answers before their deadline, if they had one", met),
        ("sla_missed_total", "counter", "Answers after their deadline", late),
        (
            "accuracy_expected",
            "gauge",
            "Mean accuracy of the models that answered, weighted by the samples of each",
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
