"""Notices when a deployment runs under other conditions than those it was planned by.

The catalog's version says whether the question has another answer; this says whether the figures
that the answer was made of still hold: how long models take, and whether there is room for them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from sommelier.deployment_records import Deployment
from sommelier.runtime.deployment import RunningDeployment

FAR = 1.5  # who takes so many times what was planned, or so much less, is another one to plan by
ENOUGH = 50  # answered requests before that is believed


@dataclass(frozen=True, slots=True)
class Change:
    """Why a deployment is to be planned again. reason : one sentence."""

    deployment: str
    kind: Literal["latency", "memory"]
    reason: str


class Watch:
    """Compares a running deployment with what it was planned by. Not for several threads.

    A change is told once: what was told counts as planned by from then on.
    """

    def __init__(self, running: RunningDeployment) -> None:
        self._running = running
        self._planned: Deployment | None = None
        self._means_ms: dict[str, float] = {}
        self._short: frozenset[str] = frozenset()

    def change(self) -> Change | None:
        """What is not as it was planned; to be asked every few seconds, off the request path."""
        planned = self._running.deployment
        if planned is not self._planned:  # it has been planned again
            self._planned = planned
            self._means_ms = {m.name: m.mean_ms for m in planned.models if m.mean_ms is not None}
        return self._latency() or self._memory()

    def _latency(self) -> Change | None:
        for row in self._running.telemetry.summary():
            if row.batch > 1 or row.samples < ENOUGH:
                continue
            before = self._means_ms.get(row.model, math.nan)
            if before / FAR <= row.mean_ms <= before * FAR:
                continue
            self._means_ms[row.model] = row.mean_ms
            if before == before:  # else it was never timed, and is now
                told = f"{row.model} takes {row.mean_ms:.3g} ms, not the {before:.3g} ms planned by"
                return Change(self._running.name, "latency", told)
        return None

    def _memory(self) -> Change | None:
        states = self._running.state().models
        short = frozenset(m.name for m in states if (m.reason or "").startswith("no room"))
        new, self._short = short - self._short, short
        if not new:
            return None
        return Change(
            self._running.name, "memory", f"there is no room for {', '.join(sorted(new))}"
        )
