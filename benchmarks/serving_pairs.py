"""A server and ONNX Runtime alone by turns, as far as possible while the machine is calm.

The host of a virtual machine takes its processors away, for 10 to 1000 ms at a time and for up to a
third of the time ("steal"), and how fast they are changes within seconds. So a server's share of
the limit is taken from short slices, each right behind one of ONNX Runtime alone, and of more pairs
than are wanted those count from which least was stolen.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.serving_load import Load

CALM = 0.02  # of the time of all processors, stolen at most
TRIES = 3  # as many pairs are made as are wanted, at most


@dataclass(frozen=True, slots=True)
class Pairs:
    """What the calmest pairs had. share : of the limit. calm : share of them that were calm."""

    load: Load
    limit: Load
    share: float
    calm: float


def paired(
    alone: Callable[[], Load], served: Callable[[], Load], count: int, stolen: Callable[[], float]
) -> Pairs:
    """So many pairs of a slice of each. stolen : share of time until now, as `stolen_s` says."""
    made: list[tuple[float, Load, Load]] = []
    while len(made) < TRIES * count:
        before, started = stolen(), time.monotonic()
        limit, load = alone(), served()
        made.append(((stolen() - before) / (time.monotonic() - started), limit, load))
        if sum(share <= CALM for share, _, _ in made) == count:
            break
    kept = sorted(made, key=lambda pair: pair[0])[:count]
    return Pairs(
        merged([load for _, _, load in kept]),
        merged([limit for _, limit, _ in kept]),
        statistics.median(load.per_second / limit.per_second for _, limit, load in kept),
        sum(share <= CALM for share, _, _ in kept) / count,
    )


def merged(loads: Sequence[Load]) -> Load:
    """Medians of rates and times, sums of counts."""
    names = ("per_second", "p50_ms", "p99_ms", "cpu_ms")
    middle = {name: statistics.median(getattr(load, name) for load in loads) for name in names}
    return Load(
        failed=sum(load.failed for load in loads), sent=sum(load.sent for load in loads), **middle
    )


def stolen_s() -> float:
    """Seconds that the host took from all processors, a processor's share of them; 0 where the
    system does not tell."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
        ticks = int(fields[8])
    except (OSError, IndexError, ValueError):
        return 0.0
    return ticks / os.sysconf("SC_CLK_TCK") / (os.cpu_count() or 1)
