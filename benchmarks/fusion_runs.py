"""One search for a fusion, what it cost, and what the fusion found is worth on the test samples."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from benchmarks.fusion_suites import Suite
from sommelier.analysis.fusion.distillation import FineTuning
from sommelier.analysis.fusion.search import (
    Finalist,
    Latencies,
    SearchOptions,
    paired_latency,
    search,
)
from sommelier.analysis.fusion.search.finishing import certificate
from sommelier.fusion_records import FusionStep

CONFIDENCE = 0.95  # of what is lost on the test samples
RUNS = 200  # paired runs that latency is measured with
ANNEALING = "plain annealing"
ITERATIONS = 200  # of plain annealing; GMorph 6.1
PRODUCT = FineTuning()
# batches of 64 and seven or eight looks, as in GMorph 6.1, where there are 35 epochs
PLAIN = FineTuning(epochs=8, batch=64, learning_rate=1e-3, predictor=None)


@dataclass(frozen=True, slots=True)
class Effort:
    """What every search may use. epochs : of fine-tuning, of all candidates together.

    iterations : of plain annealing, which has no other budget. training : of one candidate, and
    plain : of one of plain annealing's. patience : how many times the processor time of gain first
    plain annealing may take before it is stopped; None lets it end.
    """

    epochs: int
    iterations: int
    training: FineTuning = PRODUCT
    plain: FineTuning = PLAIN
    tolerances: tuple[float, ...] = (0.0, 0.01, 0.02)
    runs: int = RUNS
    patience: float | None = None


class Point(NamedTuple):
    """A fusion that a search found better than those before. share : of the originals' latency, as
    predicted. epochs, seconds : spent until then; the latter of the processor."""

    share: float
    epochs: int
    seconds: float


class Loss(NamedTuple):
    """What a task loses on the test samples, a fraction, and where that lies at 95 % (Tango)."""

    task: str
    drop: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Run:
    """A search that is over. epochs, seconds : of the search; finishing : epochs of its finalists.

    refused : why finalists were not the answer. cut : it was stopped before its budget was used.
    The rest is of the answer, and of the originals
    where there is none: certified : the worst drop on the samples that certify. losses : of all
    tasks on the test samples.
    """

    method: str
    tolerance: float
    points: tuple[Point, ...]
    epochs: int
    seconds: float
    finishing: int
    refused: tuple[str, ...]
    found: bool = False
    speedup: float = 1.0
    low: float = 1.0
    high: float = 1.0
    original_ms: float = float("nan")
    fused_ms: float = float("nan")
    flops_share: float = 1.0
    certified: float = 0.0
    losses: tuple[Loss, ...] = ()
    cut: bool = False

    @property
    def worst(self) -> Loss:
        return max(self.losses, key=lambda loss: loss.drop)

    @property
    def best(self) -> Point:
        """What the search ended with, before anything was certified."""
        return self.points[-1] if self.points else Point(1.0, self.epochs, self.seconds)

    def reaching(self, share: float) -> Point | None:
        """The first point at least as good."""
        return next((point for point in self.points if point.share <= share), None)


def searches(effort: Effort, *, seed: int) -> Iterator[SearchOptions]:
    """Every method at every tolerance, with the same epochs."""
    for tolerance in effort.tolerances:
        for method in ("gain first", "all shared", "random"):
            yield SearchOptions(
                method=method, tolerance=tolerance, epochs=effort.epochs, seed=seed,
                training=effort.training, runs=effort.runs,
            )  # fmt: skip


def plain_annealing(
    suite: Suite,
    latencies_ms: Mapping[str, float],
    effort: Effort,
    tolerance: float,
    *,
    seed: int,
    most_s: float | None = None,
) -> Run:
    """GMorph's Algorithm 1: random maps, the released code's probability of elites, every candidate
    trained until it is good enough or its epochs are over, and no budget but the iterations.

    most_s : seconds of the processor after which it is stopped all the same.
    """
    asked = SearchOptions(
        method="annealing", tolerance=tolerance, steps=effort.iterations, seed=seed,
        training=effort.plain, initialise="random", formula="released", filtered=False,
        runs=effort.runs,
    )  # fmt: skip
    return run(suite, latencies_ms, asked, name=ANNEALING, most_s=most_s)


def run(
    suite: Suite,
    latencies_ms: Mapping[str, float],
    options: SearchOptions,
    *,
    name: str | None = None,
    most_s: float | None = None,
) -> Run:
    """One search. latencies_ms : of the originals, by task. most_s : as plain_annealing's."""
    total, start = sum(latencies_ms.values()), time.process_time()
    points: list[Point] = []
    epochs, seconds = 0, 0.0

    def spent(step: FusionStep) -> None:
        nonlocal epochs, seconds
        epochs, seconds = epochs + (step.epochs or 0), time.process_time() - start
        if step.accepted and step.latency_ms is not None:
            points.append(Point(step.latency_ms / total, epochs, seconds))

    def late() -> bool:
        return most_s is not None and time.process_time() - start > most_s

    found = search(
        suite.blocks, suite.lessons, options, on_step=spent, cancelled=late,
        latencies=Latencies(originals_ms=latencies_ms),
    )  # fmt: skip
    spent_all = Run(
        name or options.method, options.tolerance, tuple(points), epochs, seconds,
        sum(finalist.epochs for finalist in found.finalists),
        tuple(f.refusal for f in found.finalists if f.refusal is not None),
        cut=found.stopped == "cancelled",
    )  # fmt: skip
    return spent_all if found.best is None else _judged(suite, found.best, spent_all)


def original_latencies(suite: Suite, runs: int) -> dict[str, float]:
    """Milliseconds at batch 1, by task, the models taking turns."""
    feed = {"image": suite.lessons.inputs[0][:1]}
    first, *others = suite.models.items()
    found: dict[str, float] = {}
    for task, model in others:
        pair = paired_latency([(first[1], feed)], (model, feed), runs=runs)
        found |= {first[0]: pair.original_ms, task: pair.fused_ms}
    return {task: found[task] for task in suite.models}


def _judged(suite: Suite, best: Finalist, spent: Run) -> Run:
    """The run with what its answer is worth."""
    assert best.certificate is not None
    tested = certificate(suite.tested, best.model, CONFIDENCE)
    losses = []
    for task, drop in zip(suite.models, tested.drops, strict=True):
        shown = drop.displayed or drop.interval
        losses.append(Loss(task, drop.drop, shown.low, shown.high))
    latency = best.latency
    return replace(
        spent, found=True, speedup=latency.speedup, low=1 / (latency.high or latency.share),
        high=1 / (latency.low or latency.share), original_ms=latency.original_ms,
        fused_ms=latency.fused_ms, flops_share=best.flops_share,
        certified=best.certificate.worst.drop, losses=tuple(losses),
    )  # fmt: skip
