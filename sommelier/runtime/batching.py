"""Whether requests that come together are answered in one run, and what that saves.

Dense layers read all their weights for every run, whatever the number of samples: eight together
take little longer than one. Convolutions gain nothing or lose, as what is between layers leaves the
processor's caches (runtime.md 1.4 and 3); such requests are decided about together, run in turn,
and each has its answer when its run ends. So it is measured for each model once, when it is
prepared, of those whose graph keeps samples apart (analysis/samples_apart.py); that kernels do so
too is tried.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Array = NDArray[Any]

WORTH = 0.8  # of the time that runs in turn take; what saves less is not worth the waiting
TURN_MS = 0.02  # of a run in turn besides its model: its tensors, its answer
LONGEST_MS = 10.0  # that requests which meet may hold up an event loop


def _slowest_ms() -> float:
    """Another thread gains nothing where there is one processor: the event loop stands still while
    a model runs there too, and each request changes threads twice."""
    affinity = getattr(os, "sched_getaffinity", None)
    processors = os.cpu_count() or 1 if affinity is None else len(affinity(0))
    return LONGEST_MS if processors == 1 else 1.0


SLOWEST_MS = _slowest_ms()
"""Models that take longer are not run in the event loop, which stands still meanwhile; handing a
request to another thread and back takes 40 microseconds, as long as the smallest models."""
TOLERANCE = 1e-4  # of the largest number in an answer: kernels of several samples round otherwise
ROUNDS, BUDGET_S = 20, 0.25


def cost_together(session: InferenceSession, feed: Mapping[str, Array]) -> float | None:
    """What a sample takes among others over what it takes alone, measured, above 0; None where
    samples are not independent of each other, or nobody can tell.

    feed : samples that differ, at least two, each input (samples, ...).
    """
    counts = {len(array) if array.ndim else 0 for array in feed.values()}
    if len(counts) != 1 or (count := counts.pop()) < 2:
        return None
    alone = [{name: array[i : i + 1] for name, array in feed.items()} for i in range(count)]
    try:
        if not _independent(session, feed, alone):
            return None
        shares = [_share(session, feed, alone)]  # it warms up
        until = time.perf_counter() + BUDGET_S
        while len(shares) < ROUNDS and time.perf_counter() < until:
            shares.append(_share(session, feed, alone))
    except Exception:  # ONNX Runtime's have no common base class; it takes one sample at a time
        return None
    return statistics.median(shares)  # whatever else the machine does


def _share(
    session: InferenceSession, feed: Mapping[str, Array], alone: Sequence[Mapping[str, Array]]
) -> float:
    """What one run of all takes over what runs of each take, one right behind the other: a machine
    that becomes slower meanwhile makes both slower."""
    started = time.perf_counter()
    session.run(None, dict(feed))
    between = time.perf_counter()
    for one in alone:
        session.run(None, dict(one))
    return (between - started) / (time.perf_counter() - between)


def joined(cost: float, run_ms: float) -> bool:
    """Whether requests that meet are better answered in one run than by runs in turn.

    cost : of `cost_together`. run_ms : of one sample alone.
    """
    return cost * run_ms <= WORTH * (run_ms + TURN_MS)


def _independent(
    session: InferenceSession, feed: Mapping[str, Array], alone: Sequence[Mapping[str, Array]]
) -> bool:
    """Whether each sample is answered as it is without the others."""
    single = [session.run(None, dict(one)) for one in alone]
    for place, whole in enumerate(session.run(None, dict(feed))):
        parts = [answers[place] for answers in single]
        if any(not isinstance(part, np.ndarray) or len(part) != 1 for part in parts):
            return False
        wanted = np.concatenate(parts)
        if whole.shape != wanted.shape or whole.dtype.kind not in "fiub":
            return False
        if whole.dtype.kind != "f":
            if not np.array_equal(whole, wanted):
                return False
        elif not np.all(np.abs(whole - wanted) <= TOLERANCE * np.abs(wanted).max(initial=0.0)):
            return False  # NaN too
    return True
