"""burst-v1 on real ONNX Runtime sessions: worker threads around the scheduler that serves."""

from __future__ import annotations

import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.switching import (
    CONTENDERS,
    MODELS,
    Contender,
    Ladder,
    burst,
    print_results,
    simulated,
)
from benchmarks.zoo_pairs import prepared
from sommelier.runtime.policy import Decision, Request
from sommelier.runtime.scheduling import Scheduler
from sommelier.runtime.simulator import (
    LATE_RATHER_THAN_NEVER,
    Measured,
    SimulatedModel,
    SimulationResult,
    profiled,
)
from sommelier.runtime.telemetry import Telemetry
from sommelier.runtime.traces import Trace
from tests.factories import conv_classifier

CHANNELS, SIZE, WIDEST = 64, 32, 256  # a convolution whose width sets the cost
WARM_UP, RUNS = 10, 200
ZOO_LADDER = (
    "cifar10_resnet56", "cifar10_resnet44", "cifar10_resnet32", "cifar10_resnet20",
    "ic_resnet_large_int8", "ic_resnet8_int8",
)  # fmt: skip
JUDGED = 2_000  # images that accuracy is measured on

Runs = Mapping[str, Callable[[], object]]


def measured(periods: int, seed: int) -> dict[str, SimulationResult]:
    """The ladder of runtime.md's costs for real, after what the simulator says of the same times;
    printed before: the CIFAR-10 models of the zoo with the accuracy they have."""
    folder = os.environ.get("SOMMELIER_ZOO")
    if folder:
        _both("models of the zoo", *_zoo(Path(folder), seed), periods, seed)
    else:
        print("\nSOMMELIER_ZOO is not set: no models of the zoo")
    with tempfile.TemporaryDirectory() as made:
        return _both("networks of the given costs", *_built(Path(made)), periods, seed)


def _both(
    title: str, ladder: Ladder, runs: Runs, periods: int, seed: int
) -> dict[str, SimulationResult]:
    print_results(f"{title}, simulated", simulated(ladder, periods, seed))
    trace = burst(ladder, periods, seed)
    found = {
        label: _Deployment(ladder, runs, contender).replay(trace)
        for label, contender in CONTENDERS.items()
    }
    print_results(f"{title}, real", found)
    return found


class _Deployment:
    """A scheduler, its worker threads and what became of each request. Instants in ms."""

    def __init__(self, ladder: Ladder, runs: Runs, contender: Contender) -> None:
        telemetry = Telemetry()
        self.ladder, self.runs = ladder, runs
        self.scheduler = Scheduler(
            contender.policy_for(ladder.sla),
            profiled(ladder.models, telemetry),
            telemetry,
            rules=LATE_RATHER_THAN_NEVER,
            servers=contender.servers,
        )
        self.changed = threading.Condition()
        self.closed = False
        self.answers: dict[int, tuple[str, float, float]] = {}  # model, latency, wait

    def replay(self, trace: Trace) -> SimulationResult:
        """Send every request at its instant and wait for all answers."""
        workers = [threading.Thread(target=self._work) for _ in range(self.scheduler.servers)]
        for worker in workers:
            worker.start()
        start = _now() + 50.0
        for index, after in enumerate(trace.arrived_ms.tolist()):
            due = start + after
            time.sleep(max(due - _now(), 0.0) / 1e3)
            with self.changed:
                request = Request(due, self.ladder.sla.deadline_ms(due), payload=index)
                self.scheduler.submit(request, _now())
                self.changed.notify()
        with self.changed:
            self.closed = True
            self.changed.notify_all()
        for worker in workers:
            worker.join()
        return self._result()

    def _work(self) -> None:
        while True:
            with self.changed:
                while (turn := self.scheduler.next_turn(_now())) is None:
                    if self.closed and not len(self.scheduler.queue):
                        return
                    self.changed.wait()
            if not isinstance(turn.answer, Decision):
                continue
            began = _now()
            self.runs[turn.answer.model]()
            ended = _now()
            with self.changed:
                self.scheduler.finished(turn, ended - began, ended)
                index = turn.request.payload
                assert isinstance(index, int)
                latency = ended - turn.request.arrived_ms
                self.answers[index] = (turn.answer.model, latency, turn.waited_ms)

    def _result(self) -> SimulationResult:
        names = tuple(model.name for model in self.ladder.models)
        n = max(self.answers) + 1
        chosen, status = np.full(n, -1, np.int64), np.full(n, 504, np.int64)
        latency, waits = np.full(n, np.nan), np.full(n, np.nan)
        for index, (model, ms, waited) in self.answers.items():
            chosen[index], status[index] = names.index(model), 200
            latency[index], waits[index] = ms, waited
        return SimulationResult(
            policy=self.scheduler.policy.name,
            sla=self.ladder.sla,
            models=names,
            accuracies=np.array([model.accuracy for model in self.ladder.models]),
            chosen=chosen,
            latency_ms=latency,
            waits_ms=waits,
            status=status,
        )


def _built(folder: Path) -> tuple[Ladder, Runs]:
    """Four networks whose costs stand to each other as those of runtime.md, with its accuracies."""
    image = np.random.default_rng(0).normal(size=(1, CHANNELS, SIZE, SIZE)).astype(np.float32)
    runs = {}
    for name, cost, _ in MODELS:
        width = max(round(WIDEST * cost), 1)
        path = conv_classifier(
            folder / f"{name}.onnx", channels=CHANNELS, size=SIZE, width=width, batch=1
        )
        runs[name] = _runner(_session(path), image)
    return _ladder({name: accuracy for name, _, accuracy in MODELS}, runs), runs


def _zoo(folder: Path, seed: int) -> tuple[Ladder, Runs]:
    """Classifiers of CIFAR-10 and the accuracy they have on some of its test images."""
    stored = np.load(folder / "data" / "cifar10_test.npz")
    rows = np.random.default_rng(seed).permutation(len(stored["y"]))[:JUDGED]
    x, y = stored["x"][rows], stored["y"][rows]
    runs, accuracies = {}, {}
    for name in ZOO_LADDER:
        session = _session(folder / "onnx" / f"{name}.onnx")
        inputs = prepared(name, x)
        given = session.get_inputs()[0].name
        answers = [session.run(None, {given: one[None]})[0].argmax() for one in inputs]
        accuracies[name] = float((np.array(answers) == y).mean())
        runs[name] = _runner(session, inputs[:1])
    return _ladder(accuracies, runs), runs


def _ladder(accuracies: Mapping[str, float], runs: Runs) -> Ladder:
    """With measured times; S is that of the most accurate model."""
    models = tuple(
        SimulatedModel(name, accuracies[name], Measured(_times(run))) for name, run in runs.items()
    )
    best = max(models, key=lambda model: model.accuracy)
    assert isinstance(best.service, Measured)
    return Ladder(models, float(np.median(best.service.times_ms)))


def _times(run: Callable[[], object]) -> NDArray[np.float64]:
    for _ in range(WARM_UP):
        run()
    times = []
    for _ in range(RUNS):
        began = _now()
        run()
        times.append(_now() - began)
    return np.array(times)


def _runner(session: Any, feed: NDArray[Any]) -> Callable[[], object]:
    given = session.get_inputs()[0].name
    return lambda: session.run(None, {given: feed})


def _session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _now() -> float:
    return time.perf_counter() * 1e3
