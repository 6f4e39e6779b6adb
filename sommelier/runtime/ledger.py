"""What deployments measured and nobody has kept yet: figures for the catalog, without a database.

Requests are counted since they were last kept, so that the catalog can add them up: over runs of a
deployment, and over processes that serve it side by side.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from sommelier.deployment_records import ServedFigures

if TYPE_CHECKING:
    from sommelier.runtime.deployment import RunningDeployment

_Key = tuple[str, str, str, int]


class ServedLedger:
    """For all deployments of a process. Safe for threads; one at a time should keep `figures`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ids: WeakKeyDictionary[RunningDeployment, dict[str, str]] = WeakKeyDictionary()
        self._counted: WeakKeyDictionary[RunningDeployment, dict[_Key, int]] = WeakKeyDictionary()
        self._open: dict[_Key, ServedFigures] = {}

    def collect(self, running: RunningDeployment) -> None:
        """Take down what a deployment measured; before it is switched or closed, and now and then.

        Of models of its own, now or before a switch: their names are known to the catalog.
        """
        own = {model.name: model.model_id for model in running.deployment.models}
        with self._lock:
            ids = self._ids[running] = {**self._ids.get(running, {}), **own}
            before = self._counted.get(running, {})
            counted: dict[_Key, int] = {}
            for row in running.telemetry.summary():
                if not row.samples or row.model not in ids:
                    continue
                found = ServedFigures(
                    running.name, ids[row.model], row.device, row.batch, row.requests, row.mean_ms,
                    row.std_ms, row.p50_ms, row.p99_ms, row.queue_mean_ms,
                )  # fmt: skip
                counted[found.key] = row.requests
                known = before.get(found.key, 0)
                self._add(found, row.requests - known if row.requests >= known else row.requests)
            self._counted[running] = counted

    def figures(self) -> list[ServedFigures]:
        """What was collected and not kept yet; `requests` are those since then."""
        with self._lock:
            return list(self._open.values())

    def kept(self, figures: Iterable[ServedFigures]) -> None:
        """These are in the catalog now."""
        with self._lock:
            for figure in figures:
                left = self._open[figure.key]
                more = left.requests - figure.requests
                if more:
                    self._open[figure.key] = replace(left, requests=more)
                else:
                    del self._open[figure.key]

    def _add(self, found: ServedFigures, requests: int) -> None:
        if requests:
            known = self._open.get(found.key)
            total = requests + (0 if known is None else known.requests)
            self._open[found.key] = replace(found, requests=total)
