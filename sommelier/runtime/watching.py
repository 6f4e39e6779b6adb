"""Notices when a deployment runs under other conditions than those it was planned by.

The catalog's version says whether the question has another answer; this says whether the figures
that the answer was made of still hold: how long models take, and whether there is room for them.

Other times are a reason to keep what was measured and to plan again: a statement that asks for
served_latency may have another answer then. Want of room is none, because the catalog knows nothing
of it and the answer would be the same; both are told as long as they last.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from sommelier.deployment_records import Deployment
from sommelier.runtime.deployment import RunningDeployment
from sommelier.runtime.telemetry import ServedLatency

logger = logging.getLogger(__name__)

FAR = 1.5  # who takes so many times what was planned, or so much less, is another one to plan by
ENOUGH = 100  # answered requests before that is believed, and before it is believed again
AGAIN_S = 300.0  # a deployment is planned again for its times no more often


class Watch:
    """Compares a running deployment with what it was planned by, and writes its notices: what was
    told of the last planning, and what is not as planned. Safe for threads.

    What led to planning again counts as planned by from then on, so the same times do not do it
    twice, whatever the plan says.
    """

    def __init__(
        self, running: RunningDeployment, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """clock : seconds."""
        self._running = running
        self._clock = clock
        self._lock = threading.Lock()
        self._planned: Deployment | None = None
        self._by_ms: dict[str, float] = {}
        self._samples: dict[str, int] = {}
        self._told: tuple[str, ...] = ()
        self._short = ""
        self._again_s = -AGAIN_S

    def planned(self, *told: str) -> None:
        """What the last planning brought, in place of what was told of the one before."""
        with self._lock:
            self._told = told
            self._tell(self._rows())

    def look(self) -> str | None:
        """Why to keep what was measured and plan again, if there is a reason now: one sentence.

        To be asked every few seconds, off the request path.
        """
        with self._lock:
            rows = self._rows()
            self._tell(rows)
            return self._reason(rows)

    def _rows(self) -> list[ServedLatency]:
        """What was measured of models that were timed before they were planned with."""
        self._follow(self._running.deployment)
        return [
            row
            for row in self._running.telemetry.summary()
            if row.batch == 1 and row.samples >= ENOUGH and row.model in self._by_ms
        ]

    def _tell(self, rows: list[ServedLatency]) -> None:
        short = self._no_room()
        if short and short != self._short:
            logger.warning("deployment %s: %s", self._running.name, short)
        self._short = short
        times = [told for row in rows if (told := self._other_time(row))]
        self._running.notice(*self._told, *times, *([short] if short else []))

    def _follow(self, planned: Deployment) -> None:
        """Planned by other figures: of models it knows, those that were measured stay."""
        if planned is not self._planned:
            self._planned = planned
            known = {m.name: m.mean_ms for m in planned.models if m.mean_ms is not None}
            self._by_ms = {name: self._by_ms.get(name, ms) for name, ms in known.items()}

    def _reason(self, rows: list[ServedLatency]) -> str | None:
        now_s = self._clock()
        if now_s - self._again_s < AGAIN_S:
            return None
        found = [
            row
            for row in rows
            if _far(row.recent_ms, self._by_ms[row.model])
            and row.samples - self._samples.get(row.model, 0) >= ENOUGH
        ]
        for row in found:
            self._by_ms[row.model], self._samples[row.model] = row.recent_ms, row.samples
        if not found:
            return None
        self._again_s = now_s
        told = "; ".join(self._other_time(row) or f"{row.model} is as planned" for row in found)
        logger.info("deployment %s: %s", self._running.name, told)
        return told

    def _other_time(self, row: ServedLatency) -> str | None:
        """What to say of a model that takes another time than it was planned by."""
        assert self._planned is not None
        planned = next(m.mean_ms for m in self._planned.models if m.name == row.model)
        if planned is None or not _far(row.recent_ms, planned):
            return None
        return f"{row.model} takes {row.recent_ms:.3g} ms, not the {planned:.3g} ms planned by"

    def _no_room(self) -> str:
        states = self._running.state().models
        names = sorted(m.name for m in states if (m.reason or "").startswith("no room"))
        return f"there is no room for {', '.join(names)}" if names else ""


def _far(ms: float, planned_ms: float) -> bool:
    return not planned_ms / FAR <= ms <= planned_ms * FAR
