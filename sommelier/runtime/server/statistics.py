"""What a served model has done: the statistics of the protocol, and refusals told in few lines."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from operator import add
from typing import Any

logger = logging.getLogger(__name__)

LOG_EVERY_S = 60.0
_PHASES = ("success", "queue", "compute_input", "compute_infer", "compute_output")


class ServedStatistics:
    """Counts and durations of one name. Safe for threads.

    `compute_input` is the time to check a request and put it in the queue, `compute_output` the
    time to make its answer up; a transport's own time is in neither.
    """

    def __init__(self, name: str, version: str) -> None:
        self._name = name
        self._version = version
        self._lock = threading.Lock()
        self._answers = self._samples = self._failures = self._failures_ns = 0
        self._ns = [0] * len(_PHASES)
        self._last_s = 0.0

    def succeeded(self, samples: int, *ns: int) -> None:
        """Count an answer. ns : durations of the whole, in the queue, and of the three
        `compute_...`."""
        with self._lock:
            self._answers += 1
            self._samples += samples
            self._ns = list(map(add, self._ns, ns))
            self._last_s = time.time()

    def failed(self, ns: int) -> None:
        """Count a request that got no answer."""
        with self._lock:
            self._failures += 1
            self._failures_ns += ns

    def to_json(self) -> dict[str, Any]:
        """One entry of `model_stats`."""
        with self._lock:
            phases = {
                phase: {"count": self._answers, "ns": ns}
                for phase, ns in zip(_PHASES, self._ns, strict=True)
            }
            failed = {"count": self._failures, "ns": self._failures_ns}
            none = {"count": 0, "ns": 0}
            return {
                "name": self._name,
                "version": self._version,
                "last_inference": int(self._last_s * 1e3),
                "inference_count": self._samples,
                "execution_count": self._answers,
                "inference_stats": {
                    **phases,
                    "fail": failed,
                    "cache_hit": none,
                    "cache_miss": none,
                },
                "batch_stats": [],
            }


class RefusalLog:
    """Tells of the first refusal of each class, then at most once a minute how many there were."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """clock : seconds."""
        self._clock = clock
        self._lock = threading.Lock()
        self._classes: dict[tuple[str, int], tuple[float, int]] = {}  # told when, and since then

    def refused(self, name: str, status: int, reason: str) -> None:
        """Count a refusal of requests to `name`; reason : of this one, for the log."""
        key, now = (name, status), self._clock()
        with self._lock:
            told_s, more = self._classes.get(key, (-LOG_EVERY_S, 0))
            if now - told_s < LOG_EVERY_S:
                self._classes[key] = (told_s, more + 1)
                return
            self._classes[key] = (now, 0)
        others = f" ({more} more since it was last told)" if more else ""
        logger.warning("%s: %d %s%s", name, status, reason, others)
