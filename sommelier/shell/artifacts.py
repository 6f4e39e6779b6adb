"""`sommelier artifacts`: where the model files of a database lie, and how to move them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sommelier.errors import SommelierError
from sommelier.shell.config import load_config
from sommelier.shell.exits import ExitCode
from sommelier.storage.servers import shown

if TYPE_CHECKING:
    from sommelier.storage.artifacts import ArtifactStore

_DESCRIPTION = """\
Says where the model files of a database lie: in the folder beside it, or in a store that databases
share. With --to they are copied there first, and the database uses that from then on; nothing is
deleted where they were. A move that was cut short goes on when it is asked for again.

STORE: s3://bucket/models, gs://bucket/models, file:///mnt/models, or `local`, the folder beside the
database. Endpoint, profile and credentials come from the environment (AWS_ENDPOINT_URL, AWS_PROFILE
...) or fsspec's configuration.
"""


def main(argv: Sequence[str]) -> int:
    """Says or moves; the exit code."""
    parser = argparse.ArgumentParser(
        prog="sommelier artifacts",
        usage="sommelier artifacts [DB] [--to STORE]",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("database", nargs="?", metavar="DB", help="the database file")
    parser.add_argument("--to", metavar="STORE", help="copy them there and use that")
    options = parser.parse_args(argv)
    try:
        database = load_config({"database": options.database}).database
        return _say(database) if options.to is None else _move(database, options.to)
    except (SommelierError, OSError) as error:
        from sommelier.shell.diagnostics import render_error
        from sommelier.shell.terminal import wants_colour

        colour = wants_colour("auto", sys.stderr)
        print(render_error(error, colour=colour), file=sys.stderr)
        return ExitCode.QUERY_ERROR


def _say(database: str) -> int:
    from sommelier.shell.databases import exists, no_database
    from sommelier.storage.artifact_choice import keys_of
    from sommelier.storage.catalog import Catalog

    if not exists(database):
        raise no_database(database)
    with Catalog.open(database, read_only=True) as catalog:
        keys, store = keys_of(catalog), catalog.artifacts
        print(f"{len(keys)} model files in {store.address}")
        in_place = sum(map(store.is_in_place, keys))
        if in_place:
            print(f"{in_place} of them are used where they were imported from (copy = no)")
        fetched = _fetched(store)
        if fetched:
            print(fetched)
    return ExitCode.OK


def _fetched(store: ArtifactStore) -> str | None:
    from sommelier.storage.shared_artifacts import SharedArtifacts
    from sommelier.units import Dimension, format_value

    if not isinstance(store, SharedArtifacts):
        return None
    cache = store.cache
    taken = format_value(cache.size_bytes(), Dimension.BYTES)
    most = format_value(cache.limit_bytes, Dimension.BYTES)
    return f"fetched to {cache.root}: {taken}, at most {most}"


def _move(database: str, store: str) -> int:
    from sommelier.shell.databases import exists, no_database
    from sommelier.storage.artifact_moving import move
    from sommelier.storage.catalog import Catalog

    if not exists(database):
        raise no_database(database)
    with Catalog.open(database) as catalog:
        moved = move(catalog, store, lambda _, done, total, __: _tell(done, total))
        own = catalog.directory / "artifacts"
    print(f"{moved.files} model files are in {store}, which {shown(database)} uses from now on")
    if moved.in_place:
        print(f"{moved.in_place} are used where they were imported from (copy = no)")
    if moved.files and moved.before is not None:
        print(f"nothing was deleted: {moved.before} is as it was")
    elif moved.files and not moved.in_place:
        print(f"nothing was deleted: {own} is used while it is there, and may be removed")
    return ExitCode.OK


def _tell(done: int, total: int | None) -> None:
    if sys.stderr.isatty():
        end = "\n" if done == total else ""
        print(f"\r{done} of {total}", end=end, file=sys.stderr, flush=True)
