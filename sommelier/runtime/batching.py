"""Whether requests that come together are answered in one run, and what that saves.

Dense layers read all their weights for every run, whatever the number of samples: eight together
take little longer than one. Convolutions gain nothing or lose, as what is between layers leaves the
processor's caches (runtime.md 1.4 and 3); their samples run one after the other, for which no
request is dispatched in between. So it is measured for each model once, when it is prepared, of
those whose graph keeps samples apart (analysis/samples_apart.py); that kernels do so too is tried.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Array = NDArray[Any]

WORTH = 0.8  # of the time that requests take alone; what saves less is not worth the waiting
DISPATCH_MS = 0.1  # of a request besides the run of its model, behind a socket; ADR 9
SLOWEST_MS = 1.0  # models that take longer are not run in the event loop, where requests meet
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


def worthwhile(cost: float | None, run_ms: float | None) -> bool:
    """Whether requests that meet are better answered in one run.

    cost : of `cost_together`. run_ms : of one sample alone.
    """
    if cost is None or run_ms is None:
        return False
    return min(cost, 1.0) * run_ms <= WORTH * (run_ms + DISPATCH_MS)


def apart(cost: float | None) -> bool:
    """Whether the samples of a run are faster one after the other. cost : of `cost_together`."""
    return cost is not None and cost > 1.0


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
