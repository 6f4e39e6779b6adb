"""Copying the model files of a database to another store, which it uses from then on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sommelier.errors import ReadOnlyError, StorageError
from sommelier.storage.artifact_choice import SETTING, keep, keys_of, store_at
from sommelier.storage.artifact_places import place_of
from sommelier.storage.catalog import Catalog

Progress = Callable[[str, int, int | None, str | None], None]


@dataclass(frozen=True, slots=True)
class Moved:
    """files : artifacts that are in the new store now. in_place : those that stay where they were
    imported from, which only this machine has. before : where they were, None: the own folder."""

    files: int
    in_place: int
    before: str | None


def move(catalog: Catalog, asked: str, progress: Progress = lambda *_: None) -> Moved:
    """Copy all model files to the store `asked`, or 'local', and use it from now on.

    What is there already is not sent again, so a move that was cut short goes on. Nothing is
    deleted where they were. Raises StorageError, and then the database uses what it used before.
    """
    if catalog.read_only:
        raise ReadOnlyError(f"{catalog.path} is open read-only, so its files cannot be moved")
    place, before = place_of(asked), catalog.setting(SETTING)
    keys = keys_of(catalog)
    if (None if place is None else place.address) == before:
        return Moved(0, 0, before)
    old, new = catalog.artifacts, store_at(catalog, place, prepare=True)
    in_place = 0
    for done, key in enumerate(keys):
        progress("copy", done, len(keys), key)
        if old.is_in_place(key):
            in_place += 1
            continue
        with old.using():
            files = old.files(key)
            found = new.put(files[0], external=files[1:])
        if found != key:
            raise StorageError(
                f"the model file '{files[0]}' is damaged: its content is {found}, not {key}",
                hint="import it again, or DROP its model; then move the others",
            )
    progress("copy", len(keys), len(keys), None)
    new.close()
    keep(catalog, place)
    return Moved(len(keys) - in_place, in_place, before)
