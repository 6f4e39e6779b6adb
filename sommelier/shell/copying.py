"""`sommelier copy`: a whole database in another one, of a file on a server or back."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from sommelier.errors import SommelierError
from sommelier.shell.exits import ExitCode
from sommelier.storage.servers import shown

_DESCRIPTION = """\
Copies everything in database A to B: models with their files, measurements, answers, links,
deployments. A and B are files, or catalogs on a server: postgresql://user@host/database. B has to
be new; nothing is in it if the copy fails. A is read as it is at this moment and not changed.

Model files in a store (s3://...) stay there, and both databases use it.
"""


def main(argv: Sequence[str]) -> int:
    """Copies; the exit code."""
    parser = argparse.ArgumentParser(
        prog="sommelier copy",
        usage="sommelier copy A B [--folder FOLDER] [--from-folder FOLDER]",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("source", metavar="A", help="the database to copy")
    parser.add_argument("target", metavar="B", help="the new one")
    parser.add_argument("--folder", help="where B, on a server, is to keep its files")
    parser.add_argument(
        "--from-folder", metavar="FOLDER", help="where A has them, if not where it remembers"
    )
    options = parser.parse_args(argv)
    try:
        _copy(options.source, options.target, options.folder, options.from_folder)
    except (SommelierError, OSError) as error:
        from sommelier.shell.diagnostics import render_error
        from sommelier.shell.terminal import wants_colour

        colour = wants_colour("auto", sys.stderr)
        print(render_error(error, colour=colour), file=sys.stderr)
        return ExitCode.QUERY_ERROR
    return ExitCode.OK


def _copy(source: str, target: str, folder: str | None, from_folder: str | None) -> None:
    from sommelier.shell.databases import exists, no_database
    from sommelier.storage.catalog import Catalog
    from sommelier.storage.copying_catalogs import copy_catalog

    if not exists(source):
        raise no_database(source)
    with Catalog.open(source, folder=from_folder, read_only=True) as old:
        if old.notice:
            print(old.notice, file=sys.stderr)
        with Catalog.open(target, folder=folder) as new:
            rows = copy_catalog(old, new)
            models = len(new.model_ids())
    print(f"copied {models} models, {rows} rows, from {shown(source)} to {shown(target)}")
