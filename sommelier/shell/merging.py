"""`sommelier merge`: everything in one database taken into another."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sommelier.errors import SommelierError
from sommelier.shell.exits import ExitCode
from sommelier.storage.servers import shown

if TYPE_CHECKING:
    from sommelier.storage.merging_catalogs import Merged

_DESCRIPTION = """\
Takes everything in database A into database B: models with their files, measurements, answers,
links. A and B are files, or catalogs on a server: postgresql://user@host/database. Both have to be
there; A is read as it is at this moment and not changed, and nothing is in B if the merge fails.

Models of the same content become one, with the names, tags and numbers of both. A number keeps
where it is from; where both have one in the same context the later one stays. A name that stands
for something else in B is a conflict:
  fail     says which, and merges nothing
  rename   adds A's as NAME_2
  skip     leaves A's out, with all that is about it
Merging again changes nothing. Settings, jobs and deployments of A stay behind.
"""
_SHOWN = 20  # conflicts that are told


def main(argv: Sequence[str]) -> int:
    """Merges; the exit code."""
    parser = argparse.ArgumentParser(
        prog="sommelier merge",
        usage="sommelier merge A B [--conflicts fail|rename|skip] [--folder FOLDER]"
        " [--from-folder FOLDER]",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("source", metavar="A", help="the database to take from")
    parser.add_argument("target", metavar="B", help="the one that grows")
    parser.add_argument("--conflicts", choices=("fail", "rename", "skip"), default="fail")
    parser.add_argument("--folder", help="where B, on a server, keeps its files")
    parser.add_argument(
        "--from-folder", metavar="FOLDER", help="where A has them, if not where it remembers"
    )
    options = parser.parse_args(argv)
    try:
        _merge(options)
    except (SommelierError, OSError) as error:
        from sommelier.shell.diagnostics import render_error
        from sommelier.shell.terminal import wants_colour

        colour = wants_colour("auto", sys.stderr)
        print(render_error(error, colour=colour), file=sys.stderr)
        return ExitCode.QUERY_ERROR
    return ExitCode.OK


def _merge(options: argparse.Namespace) -> None:
    from sommelier.shell.databases import exists, no_database
    from sommelier.storage.catalog import Catalog
    from sommelier.storage.merging_catalogs import merge_catalog

    for place in (options.source, options.target):
        if not exists(place):
            raise no_database(place)
    with Catalog.open(options.source, folder=options.from_folder, read_only=True) as old:
        if old.notice:
            print(old.notice, file=sys.stderr)
        with Catalog.open(options.target, folder=options.folder) as new:
            merged = merge_catalog(old, new, conflicts=options.conflicts)
    _tell(merged, shown(options.source), shown(options.target))


def _tell(merged: Merged, source: str, target: str) -> None:
    for conflict in merged.conflicts[:_SHOWN]:
        print(conflict, file=sys.stderr)
    if len(merged.conflicts) > _SHOWN:
        print(f"and {len(merged.conflicts) - _SHOWN} more", file=sys.stderr)
    if not merged.changed:
        print(f"nothing in {source} is new to {target}")
        return
    rows = ", ".join(f"{count} {table.replace('_', ' ')}" for table, count in merged.rows.items())
    print(
        f"merged {source} into {target}: {merged.added} models added, {merged.joined} of the"
        f" {merged.both} in both know more" + (f"; {rows}" if rows else "")
    )
