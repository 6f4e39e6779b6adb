"""A fused model's latency beside that of the originals run one after the other, in ONNX Runtime."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.execution import open_session
from sommelier.analysis.latency import quantile_bounds

if TYPE_CHECKING:
    from onnx import ModelProto

WARMUP = 5


@dataclass(frozen=True, slots=True)
class PairedLatency:
    """Medians of `runs` paired runs. share : median of the quotients, fused over originals.

    low, high : 95 % bounds of that median; None with too few runs.
    """

    original_ms: float
    fused_ms: float
    share: float
    low: float | None
    high: float | None
    runs: int
    batch: int
    threads: int

    @property
    def speedup(self) -> float:
        return 1 / self.share


def paired_latency(
    originals: Sequence[tuple[ModelProto, Mapping[str, NDArray[Any]]]],
    fused: tuple[ModelProto, Mapping[str, NDArray[Any]]],
    *,
    runs: int = 50,
    threads: int = 1,
) -> PairedLatency:
    """Each model with its feed. A pair is one run of all originals and one of the fused model, in
    alternating order, so that what else the machine does falls on both.

    Raises AnalysisError when a model cannot be loaded or run.
    """
    theirs = [_runner(model, feed, threads) for model, feed in originals]
    ours = [_runner(*fused, threads)]
    for _ in range(WARMUP):
        _milliseconds([*theirs, *ours])
    times = np.empty((runs, 2))
    for i in range(runs):
        order = (theirs, ours) if i % 2 else (ours, theirs)
        first, second = (_milliseconds(side) for side in order)
        times[i] = (first, second) if i % 2 else (second, first)
    quotients = np.sort(times[:, 1] / times[:, 0])
    low, high = quantile_bounds(quotients, 0.5)
    original_ms, fused_ms = np.median(times, axis=0).tolist()
    batch = len(next(iter(fused[1].values())))
    share = float(np.median(quotients))
    return PairedLatency(original_ms, fused_ms, share, low, high, runs, batch, threads)


def _runner(model: ModelProto, feed: Mapping[str, NDArray[Any]], threads: int) -> Callable[[], Any]:
    session = open_session(model.SerializeToString(), threads)
    given = dict(feed)
    return lambda: session.run(None, given)


def _milliseconds(runners: Sequence[Callable[[], Any]]) -> float:
    start = time.perf_counter_ns()
    for run in runners:
        run()
    return (time.perf_counter_ns() - start) / 1e6
