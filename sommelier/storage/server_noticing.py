"""Whether a catalog on a server may say something else than before: one row, on a connection that
stays open. Importing it imports psycopg."""

from __future__ import annotations

import contextlib
from typing import Any

import psycopg

from sommelier.errors import StorageError
from sommelier.storage.postgres_server import server_at

_VERSION = """
    SELECT g.value || '-' || i.value FROM store.meta g, store.meta i
    WHERE g.key = 'generation' AND i.key = 'identity'"""


class ServerWatch:
    """Looks at one catalog of a server. Not for several threads; see noticing.Watch."""

    def __init__(self, url: str) -> None:
        """Raises StorageError for what is no URL of a server's."""
        self._server = server_at(url)
        self._raw: psycopg.Connection[Any] | None = None
        self._told: str | None = None

    def changed(self, version: str) -> bool:
        """True also of a server that does not answer: who asks it then is told why."""
        seen = self._version()
        if seen is None:
            return True
        if seen in (self._told, version):
            return False
        self._told = seen
        return True

    def is_being_written(self) -> bool:
        """Never: its writers take turns."""
        return False

    def forget(self) -> None:
        self._told = None

    def writable(self) -> bool:
        """Whoever may not is told when it is tried."""
        return True

    def close(self) -> None:
        if self._raw is not None:
            self._raw.close()
            self._raw = None

    def _version(self) -> str | None:
        """Of the catalog (Catalog.version); None while it does not answer."""
        for _ in range(2):  # a connection that was lost is made anew
            fresh = self._raw is None
            try:
                if self._raw is None:
                    self._raw = self._server.connect(read_only=True)
                found = self._raw.execute(_VERSION).fetchone()
            except StorageError:
                return None
            except psycopg.Error:
                with contextlib.suppress(psycopg.Error):
                    self.close()
                if fresh:
                    return None
                continue
            return str(found[0]) if found else None
        return None
