"""What the runs teach of requests that were decided about together."""

from __future__ import annotations

from sommelier.runtime.jobs import Shared, SharedRun
from sommelier.runtime.scheduling import Scheduler
from sommelier.runtime.telemetry import size_class

LEARN_EVERY = 8  # run: to learn from one costs as much as a quick model takes
MOST_LEARNED = 16  # of the runs of one decision and one size


def learn_from(shared: Shared, model: str, scheduler: Scheduler, now_ms: float) -> None:
    """Of some of the runs that ended; all requests are counted, by the size of their run."""
    by_size: dict[int, list[SharedRun]] = {}
    for run in shared.runs:
        by_size.setdefault(size_class(run[0]), []).append(run)
    for size, runs in by_size.items():
        step = max(LEARN_EVERY, -(-len(runs) // MOST_LEARNED))
        requests = sum([run[1] for run in runs])
        for _, _, waited_ms, ms in runs[(len(runs) - 1) % step :: step]:
            scheduler.learn(model, ms, now_ms, size, queue_ms=waited_ms, requests=requests)
            requests = 0  # all of them are counted
