"""The highest rate at which 99 % are in time, by MLPerf's load generator: one model or four.

    pip install mlcommons-loadgen==6.0.17
    python -m benchmarks.loadgen --quick

The Server scenario sends single requests at the instants of a Poisson process, and a run is valid
if its p99 is within the bound. The rate is bisected between a valid and an invalid one; a run that
is invalid by a little, as by one pause of the machine, is repeated twice. It runs in the process
of the deployment, without HTTP. A request that the deployment refuses is ended after the run, so
that it counts as late. The models are those of `benchmarks.switching real`; the bound is 5 S, S the
time of the largest.
"""

from __future__ import annotations

import math
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from benchmarks.report import arguments, finish, table
from benchmarks.switching import MODELS
from sommelier.deployment_records import DeployedModel, Deployment, DeploymentOptions
from sommelier.errors import MissingDependencyError, SommelierError
from sommelier.runtime.deployment import RunningDeployment
from sommelier.runtime.pool import ModelPool
from sommelier.runtime.session_cache import ServedModel, SessionCache
from sommelier.runtime.sessions import SessionSettings
from tests.factories import conv_classifier

BOUND = 5.0  # times S
PERCENTILE = 0.99
CHANNELS, SIZE = 64, 32
WIDEST, WIDEST_QUICK = 256, 64  # channels of the largest network
TIMED_RUNS = 30
TRIES = 3  # runs of a rate until one is valid ...
HOPELESS = 0.1  # ... unless so large a share was refused
READY_S = 120.0


@dataclass(frozen=True, slots=True)
class Trial:
    """One run of the load generator. refused : share of its requests. accuracy : mean of the models
    that answered."""

    rate: float
    valid: bool
    p99_ms: float
    refused: float
    accuracy: float


def main() -> None:
    parser = arguments("Highest valid rate of MLPerf's Server scenario, fixed against switching")
    parser.add_argument("--seconds", type=float, help="of a run; 20 (quick: 2)")
    options = parser.parse_args()
    seconds = options.seconds or (2.0 if options.quick else 20.0)
    precision = 1.3 if options.quick else 1.03
    with tempfile.TemporaryDirectory() as name, _pool(Path(name)) as pool:
        models = _models(Path(name), WIDEST_QUICK if options.quick else WIDEST)
        deployed = _timed(models, pool)
        bound_ms = BOUND * max(model.mean_ms or 0.0 for model in deployed)
        found = {}
        for label, few in _contenders(deployed).items():
            running = RunningDeployment(_deployment(few, bound_ms), models, pool)
            try:
                assert running.wait_ready(READY_S), running.state()
                found[label] = highest(
                    partial(_trial, running, bound_ms, seconds, options.seed),
                    start=0.3e3 / (few[-1].mean_ms or 1.0),
                    precision=precision,
                )
            finally:
                running.close()
    _print(found, bound_ms)
    figures = {f"{label}_qps": trial.rate for label, trial in found.items()}
    figures["switching_over_fixed"] = figures["switching_qps"] / figures["fixed_qps"]
    figures["switching_accuracy"] = found["switching"].accuracy
    finish(figures, options.json)
    sys.exit(0 if figures["switching_over_fixed"] > 1 else 1)


def highest(trial: Callable[[float], Trial], *, start: float, precision: float) -> Trial:
    """The valid trial of the highest rate, within a factor `precision` of an invalid one.

    start : a rate from which to look, by doubling and halving. Raises ValueError if none is valid.
    """
    best, low, high = None, 0.0, math.inf
    rate = start
    while high > precision * low:
        found = _tried(trial, rate)
        if found.valid:
            best, low = found, rate
        else:
            high = rate
        if high < start / 2**10:
            raise ValueError(f"even {rate:g} requests a second are too many")
        rate = 2 * low if high == math.inf else high / 2 if low == 0 else math.sqrt(low * high)
    assert best is not None, "low is 0 until one was valid"
    return best


def _tried(trial: Callable[[float], Trial], rate: float) -> Trial:
    """The first valid run of a rate, or the last of those that are not."""
    for _ in range(TRIES):
        found = trial(rate)
        print(f"  {rate:9.2f}/s: p99 {found.p99_ms:8.2f} ms, {found.refused:.1%} refused"
              f"{'' if found.valid else ', invalid'}", flush=True)  # fmt: skip
        if found.valid or found.refused > HOPELESS:
            break
    return found


def _contenders(models: tuple[DeployedModel, ...]) -> dict[str, tuple[DeployedModel, ...]]:
    """The most accurate model alone, the two best ones, and all."""
    return {"fixed": models[:1], "switching_two": models[:2], "switching": models}


# ---- the load generator


def _trial(
    running: RunningDeployment, bound_ms: float, seconds: float, seed: int, rate: float
) -> Trial:
    """One run. Raises MissingDependencyError."""
    lg = _loadgen()
    asked = _Asked(running)
    before = _answered(running)
    settings = lg.TestSettings()
    settings.scenario, settings.mode = lg.TestScenario.Server, lg.TestMode.PerformanceOnly
    settings.server_target_qps = rate
    settings.server_target_latency_ns = int(bound_ms * 1e6)
    settings.server_target_latency_percentile = PERCENTILE
    settings.min_duration_ms = int(seconds * 1e3)
    settings.min_query_count = max(100, int(rate * seconds))
    settings.max_query_count = settings.min_query_count
    settings.schedule_rng_seed = settings.sample_index_rng_seed = seed + 1
    sut = lg.ConstructSUT(asked.issue, asked.flush)
    qsl = lg.ConstructQSL(len(asked.inputs), len(asked.inputs), _nothing, _nothing)
    try:
        with tempfile.TemporaryDirectory() as folder:
            log = lg.LogSettings()
            output = lg.LogOutputSettings()
            output.outdir, output.copy_summary_to_stdout = folder, False
            log.log_output = output
            lg.StartTestWithLogSettings(sut, qsl, settings, log)
            summary = (Path(folder) / "mlperf_log_summary.txt").read_text()
    finally:
        with asked.completer.calling:  # the last call may not have come back yet
            lg.DestroyQSL(qsl)
            lg.DestroySUT(sut)
    found = re.search(r"99\.00 percentile latency \(ns\)\s*: (\d+)", summary)
    assert found is not None, summary
    p99_ms = int(found[1]) / 1e6
    # not "Result is": short runs are INVALID for their length whatever their latency is
    refused = asked.refused / settings.min_query_count
    return Trial(rate, p99_ms <= bound_ms, p99_ms, refused, _accuracy(running, before))


class _Asked:
    """The system under test: requests go to the deployment, tickets come back to loadgen."""

    def __init__(self, running: RunningDeployment) -> None:
        rng = np.random.default_rng(0)
        shape = (1, CHANNELS, SIZE, SIZE)
        self.inputs = [rng.normal(size=shape).astype(np.float32) for _ in range(8)]
        self.refused = 0
        self.completer = _completer()
        self._running = running
        self._late: list[int] = []
        self._lock = threading.Lock()
        self._flushed = False

    def issue(self, samples: list[Any]) -> None:
        for sample in samples:
            number = sample.id
            try:
                ticket = self._running.submit({"image": self.inputs[sample.index]})
            except SommelierError:
                self._refuse(number)
            else:
                ticket.add_done_callback(lambda done, number=number: self._done(number, done))

    def flush(self) -> None:
        """No more queries come: end those that were refused."""
        with self._lock:
            late, self._late, self._flushed = self._late, [], True
        threading.Timer(2.0, lambda: [self._complete(number) for number in late]).start()

    def _done(self, number: int, ticket: Any) -> None:
        if ticket.cancelled() or ticket.exception() is not None:
            self._refuse(number)
        else:
            self._complete(number)

    def _refuse(self, number: int) -> None:
        with self._lock:
            self.refused += 1
            if not self._flushed:
                self._late.append(number)
                return
        threading.Timer(2.0, self._complete, (number,)).start()

    def _complete(self, number: int) -> None:
        self.completer.numbers.put(number)


class _Completer:
    """Tells the load generator what has ended, from one thread that never ends: its log reads what
    a thread left in it after the thread is gone, and crashes (mlcommons-loadgen 6.0.17)."""

    def __init__(self) -> None:
        self.numbers: SimpleQueue[int] = SimpleQueue()
        self.calling = threading.Lock()
        threading.Thread(target=self._tell, name="completer", daemon=True).start()

    def _tell(self) -> None:
        lg = _loadgen()
        while True:
            number = self.numbers.get()
            with self.calling:
                lg.QuerySamplesComplete([lg.QuerySampleResponse(number, 0, 0)])


_completer = cache(_Completer)


def _nothing(_: object) -> None:
    """Samples lie in memory already."""


def _loadgen() -> Any:
    try:
        import mlperf_loadgen
    except ImportError as error:
        raise MissingDependencyError(
            "MLPerf's load generator is not installed", hint="pip install mlcommons-loadgen"
        ) from error
    return mlperf_loadgen


# ---- models


@contextmanager
def _pool(folder: Path) -> Iterator[ModelPool]:
    with ModelPool(SessionCache(folder / "sessions"), SessionSettings(batch=1)) as pool:
        yield pool


def _models(folder: Path, widest: int) -> dict[str, ServedModel]:
    """Four networks whose costs stand to each other as those of runtime.md 6."""
    found = {}
    for name, cost, _ in MODELS:
        width = max(round(widest * cost), 1)
        path = folder / f"{name}.onnx"
        conv_classifier(path, channels=CHANNELS, size=SIZE, width=width, batch=1)
        found[name] = ServedModel.of_file(path)
    return found


def _timed(models: dict[str, ServedModel], pool: ModelPool) -> tuple[DeployedModel, ...]:
    """With runtime.md's accuracies and measured times, the most accurate first."""
    import time

    image = {"image": np.ones((1, CHANNELS, SIZE, SIZE), np.float32)}
    found = []
    for name, _, accuracy in MODELS:
        pool.add(models[name])
        times = []
        with pool.lease(name) as predictor:
            feed = predictor.check(image)
            for _ in range(TIMED_RUNS):
                began = time.perf_counter()
                predictor.run(feed)
                times.append(1e3 * (time.perf_counter() - began))
        mean, std = float(np.mean(times)), float(np.std(times))
        found.append(DeployedModel(name, models[name].id, accuracy, mean, std))
    return tuple(found)


def _deployment(models: tuple[DeployedModel, ...], bound_ms: float) -> Deployment:
    return Deployment(
        name="vision",
        kind="models",
        statement="",
        models=models,
        sla_ms=bound_ms,
        quantile=PERCENTILE,
        options=DeploymentOptions(servers=1),
    )


def _answered(running: RunningDeployment) -> dict[str, int]:
    return {model.name: model.answered for model in running.state().models}


def _accuracy(running: RunningDeployment, before: dict[str, int]) -> float:
    """Of the answers since `before`; NaN without any."""
    rows = [
        (model.answered - before[model.name], model.accuracy)
        for model in running.state().models
        if model.accuracy is not None
    ]
    answers = sum(count for count, _ in rows)
    return sum(count * value for count, value in rows) / answers if answers else math.nan


def _print(found: dict[str, Trial], bound_ms: float) -> None:
    rows = [
        (label, trial.rate, trial.p99_ms, trial.refused, trial.accuracy)
        for label, trial in found.items()
    ]
    header = ("models", "requests/s", "p99 ms", "refused", "accuracy")
    print(table(f"Server scenario, p99 within {bound_ms:.1f} ms", header, rows))


if __name__ == "__main__":
    main()
