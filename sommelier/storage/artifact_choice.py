"""Which store the model files of a database lie in: its setting `artifacts`.

Without that setting they lie in its own folder, and nothing of fsspec is loaded.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sommelier.errors import ReadOnlyError, StorageError
from sommelier.storage.artifact_places import Place, place_of
from sommelier.storage.artifacts import ArtifactStore

if TYPE_CHECKING:
    from sommelier.storage.catalog import Catalog

SETTING = "artifacts"
VARIABLE = "SOMMELIER_ARTIFACTS"
_KEYS = """
    SELECT artifact FROM store.models WHERE artifact IS NOT NULL
    UNION SELECT artifact FROM store.links WHERE artifact IS NOT NULL"""


def artifacts_of(catalog: Catalog) -> ArtifactStore:
    """The files of the models of a database, where it keeps them."""
    address = catalog.setting(SETTING)
    return store_at(catalog, None if address is None else Place(address))


def settled(catalog: Catalog, asked: str | None) -> Catalog:
    """The same catalog, just opened, with its store settled; it is closed where that fails."""
    try:
        settle(catalog, asked)
    except BaseException:
        catalog.close()
        raise
    return catalog


def settle(catalog: Catalog, asked: str | None) -> None:
    """Keep the store that a database without files is to use, and check the one of any other.

    asked : by whoever connects; None: the database's own, and for one without files what
    $SOMMELIER_ARTIFACTS says. Raises StorageError where the database keeps its files elsewhere, and
    where the store cannot be used.
    """
    by_default = asked is None
    if asked is None:
        asked = os.environ.get(VARIABLE) or None
        if asked is None or catalog.read_only or catalog.setting(SETTING) is not None:
            return
    place = place_of(asked)
    address = None if place is None else place.address
    known = catalog.setting(SETTING)
    if address == known:
        return
    kept = len(keys_of(catalog))
    if kept and by_default:
        return
    if kept:
        raise _elsewhere(catalog, kept, known, asked)
    if catalog.read_only:
        raise ReadOnlyError(
            f"{catalog.path} is open read-only, so its store cannot be chosen",
            hint="connect without read_only=True once",
        )
    store_at(catalog, place, prepare=True)
    keep(catalog, place)


def keep(catalog: Catalog, place: Place | None) -> None:
    """Use a store from now on; None: the database's own folder. Connections that are open do not
    notice."""
    if place is None:
        catalog.reset_setting(SETTING)
    else:
        catalog.set_setting(SETTING, place.address)
    catalog.publish()


def store_at(catalog: Catalog, place: Place | None, *, prepare: bool = False) -> ArtifactStore:
    """The model files of a database at a place, None: its own folder. prepare : make the place a
    store if it is none yet; raises StorageError where it cannot be used."""
    root = catalog.directory / "artifacts"
    if place is None:
        return ArtifactStore(root)
    from sommelier.storage.shared_artifacts import SharedArtifacts

    store = SharedArtifacts(root, place)
    if prepare:
        store.prepare()
    return store


def keys_of(catalog: Catalog) -> list[str]:
    """The keys of all files of the models and links of a database, in order."""
    return sorted(key for (key,) in catalog.database.rows(_KEYS))


def _elsewhere(catalog: Catalog, kept: int, known: str | None, asked: str) -> StorageError:
    where = "in its own folder" if known is None else f"in '{known}'"
    return StorageError(
        f"{catalog.path} keeps {kept} model files {where}, not in '{asked}'",
        hint=f"leave the store out to use it; `sommelier artifacts {catalog.path} --to {asked}`"
        " copies them there and uses that from then on",
    )
