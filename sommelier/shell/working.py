"""`sommelier worker`: a process that does what ANALYZE asks a server's catalog for."""

from __future__ import annotations

import argparse
import logging
import math
import signal
import sys
from collections.abc import Sequence

from sommelier.errors import SommelierError
from sommelier.shell.config import load_config
from sommelier.shell.exits import ExitCode
from sommelier.storage.servers import shown

_DESCRIPTION = """\
Does tasks of ANALYZE ... ASYNC for a catalog on a PostgreSQL server, until it is told to end. Start
as many as there are cores, on as many machines as you like: each task is done by one of them, and
what a killed one had, another takes over after half a minute.

SIGTERM and Ctrl-C let the task that runs end, for --grace seconds at most, then it is given back;
the second one gives it back at once. Exit code: 0 it was told to end, or with --once nothing was
left.
"""
_EPILOG = """\
examples:
  sommelier worker --db postgresql://me@host/models
  sommelier worker --db postgresql://me@host/models --device cuda:0 --name gpu-a
  sommelier worker --db postgresql://me@host/models --once
"""


def main(argv: Sequence[str]) -> int:
    """Works until a signal ends it; the exit code."""
    options = _parser().parse_args(argv)
    try:
        return _work(options)
    except (SommelierError, OSError) as error:
        from sommelier.shell.diagnostics import render_error
        from sommelier.shell.terminal import wants_colour

        colour = wants_colour("auto", sys.stderr)
        print(render_error(error, colour=colour), file=sys.stderr)
        return ExitCode.USAGE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sommelier worker",
        usage="sommelier worker [DB] [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("database", nargs="?", metavar="DB", help="the catalog: postgresql://...")
    add("--db", metavar="DB", help="the same")
    add("--device", default="cpu", help="it has: cpu, or cuda:0 for tasks that need that (cpu)")
    add("--name", help="what it is called in the view workers (host and process)")
    add("--once", action="store_true", help="do what there is, and end")
    add("--grace", type=_seconds, default=30.0, metavar="S", help="see above (30)")
    add("--lease", type=_seconds, default=30.0, metavar="S", help="when it is taken for dead (30)")
    add("--folder", metavar="FOLDER", help="where the catalog keeps its files")
    add("--artifacts", metavar="STORE", help="the store its model files are said to lie in")
    return parser


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of seconds, as 5 or 0.5 is")
    return value


def _work(options: argparse.Namespace) -> int:
    config = load_config({"database": options.db or options.database, "folder": options.folder})
    from sommelier.connection.analyzing_later import no_workers
    from sommelier.storage.servers import is_url

    if not is_url(config.database):
        raise no_workers(str(config.database))
    from sommelier.connection import connect
    from sommelier.connection.working import Worker

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("sommelier").setLevel(logging.INFO)
    with connect(config.database, folder=config.folder, artifacts=options.artifacts) as db:
        worker = Worker(
            db, device=options.device, name=options.name,
            lease_s=max(1.0, options.lease), grace_s=options.grace,
        )  # fmt: skip
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: worker.stop())
        print(
            f"worker {worker.name} ({options.device}) for {shown(str(config.database))}",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        did = worker.run(once=options.once)
    told = ", ".join(f"{count} {state}" for state, count in sorted(did.items()))
    print(f"worker {worker.name} ended: {told or 'nothing was to do'}", file=sys.stderr)
    return ExitCode.OK
