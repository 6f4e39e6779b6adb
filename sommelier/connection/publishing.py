"""Snapshots while a statement runs, so that readers of another process see how far it is."""

from __future__ import annotations

import time
from collections.abc import Callable

from sommelier.storage.catalog import Catalog

Progress = Callable[[str, int, int | None, str | None], None]

PUBLISH_EVERY_S = 5.0  # readers of another process see a long job at most this much later


class Publisher:
    """Publishes a catalog while progress is reported, no more often than every five seconds."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._published_at = time.monotonic()

    def through(self, progress: Progress | None) -> Progress:
        """`progress`, and now and then a snapshot."""

        def report(phase: str, done: int, total: int | None, current: str | None) -> None:
            if progress is not None:
                progress(phase, done, total, current)
            now = time.monotonic()
            if now - self._published_at > PUBLISH_EVERY_S:
                self._published_at = now
                self._catalog.publish()

        return report
