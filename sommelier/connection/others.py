"""The part of a connection that knows other databases: copying into one, and taking one in."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sommelier.storage.catalog import Catalog

if TYPE_CHECKING:
    import threading

    from sommelier.storage.merging_catalogs import Merged


class OtherDatabases:
    """What `Connection` inherits."""

    catalog: Catalog
    _lock: threading.RLock

    def copy_to(self, place: str | Path, *, folder: str | Path | None = None) -> int:
        """Everything in this database in another one that is new: of a file on a server, or back;
        how many rows that were. place, folder : as `connect` takes them."""
        from sommelier.storage.copying_catalogs import copy_catalog

        with self._lock, Catalog.open(place, folder=folder) as target:
            return copy_catalog(self.catalog, target)

    def merge(
        self, place: str | Path, *, folder: str | Path | None = None, conflicts: str = "fail"
    ) -> Merged:
        """Take everything in another database into this one: models, files, numbers, answers,
        links; what that changed. The other is only read.

        place, folder : as `connect` takes them. conflicts : of names that stand for two things:
        'fail' (StorageError, nothing is merged), 'rename' (the arriving one becomes name_2) or
        'skip' (it is left out, with what is about it).
        """
        from sommelier.storage.merging_catalogs import merge_catalog

        with self._lock, Catalog.open(place, folder=folder, read_only=True) as source:
            try:
                return merge_catalog(source, self.catalog, conflicts=conflicts)
            finally:
                self.catalog.publish()
