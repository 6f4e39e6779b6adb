"""`sommelier serve`: the deployments of a database, and single models, behind the open protocol."""

from __future__ import annotations

import argparse
import logging
import math
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sommelier.errors import SommelierError, StorageError
from sommelier.shell.config import ConfigError, load_config
from sommelier.shell.exits import ExitCode
from sommelier.shell.following import LEAST_S, Follower
from sommelier.shell.served import ServedDatabase
from sommelier.shell.serving_plan import Wanted, serving_plan
from sommelier.units import Dimension, parse

if TYPE_CHECKING:
    from sommelier.runtime.server.pages import Pages
    from sommelier.runtime.server.process import Listening, ServerSettings
    from sommelier.runtime.server.service import ModelService
    from sommelier.shell.console import Console
    from sommelier.shell.explorer.desk import QuestionDesk

_DESCRIPTION = """\
Serves the deployments of a database: Open Inference Protocol v2, REST and gRPC.

It follows the database: DEPLOY, UNDEPLOY and whatever else changes what a deployment means take
effect within seconds, without losing a request. What requests took is kept in it every 30 seconds:
served_latency, served_p99 and served_requests of the models.

SIGTERM ends it without losing a request: not ready from then on, everything is answered for
--drain-delay seconds, then no new connections, what was begun is finished. Ctrl-C does without
the delay; the second one ends it at once. Exit code: 0 served until it was told to end.
"""
_EPILOG = """\
examples:
  sommelier serve zoo.sommelier
  sommelier serve zoo.sommelier --deployment vision --port 8080 --grpc-port 8081
  sommelier serve zoo.sommelier --models resnet20 resnet56
  sommelier serve zoo.sommelier --query         questions too where nothing is deployed yet
"""
_QUERY = "the explorer at /, and POST /query (where --host is this machine only)"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_EVERYWHERE = ("", "0.0.0.0", "::")
_LOOK_EVERY_S = 0.1
_LAST_PORT = 65535


def main(argv: Sequence[str]) -> int:
    """Serves until a signal ends it; the exit code."""
    options = _parser().parse_args(argv)
    try:
        return _serve(options)
    except (SommelierError, OSError) as error:
        from sommelier.shell.diagnostics import render_error
        from sommelier.shell.terminal import wants_colour

        colour = wants_colour(options.color, sys.stderr)
        print(render_error(error, colour=colour), file=sys.stderr)
        return ExitCode.USAGE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sommelier serve",
        usage="sommelier serve [DB] [options]",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("database", nargs="?", metavar="DB", help="the database: a file, or postgresql://...")
    add("--deployment", nargs="+", action="extend", metavar="NAME", help="only these (all)")
    add("--models", nargs="+", action="extend", metavar="NAME", help="single models to serve")
    add("--folder", metavar="FOLDER", help="where a server's catalog keeps its files")
    add("--artifacts", metavar="STORE", help="the store its model files are said to lie in")
    add("--host", default="127.0.0.1", help="address to listen on (127.0.0.1: this machine only)")
    add("--port", type=_port, default=8000, help="of REST (8000); 0 is any free one")
    add("--grpc-port", type=_port, metavar="PORT", help="of gRPC (none: no gRPC)")
    add("--api-key-file", metavar="FILE", help="keys, one a line; requests need one of them")
    add("--tls-cert", metavar="FILE", help="certificate chain in PEM")
    add("--tls-key", metavar="FILE", help="its private key")
    add("--drain-delay", type=_seconds, default=5.0, metavar="S", help="see above (5)")
    add("--drain-timeout", type=_seconds, default=30.0, metavar="S", help="see above (30)")
    add("--max-body", default="64 MiB", metavar="SIZE", help="of a request (64 MiB)")
    add("--max-queue", type=_count, metavar="N", help="requests that wait, of each deployment")
    add("--max-connections", type=_count, default=1024, metavar="N", help="of REST (1024)")
    add("--query", action=argparse.BooleanOptionalAction, help=_QUERY)
    add("--no-write", action="store_true", help="keep nothing of what is measured in DB")
    add("--color", choices=("auto", "always", "never"), default="auto")
    return parser


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"'{text}' is no number of seconds, as 5 or 0.5 is")
    return value


def _port(text: str) -> int:
    """The system itself would take 99999 for 34463."""
    if not (text.isascii() and text.isdigit() and int(text) <= _LAST_PORT):
        raise argparse.ArgumentTypeError(f"there is no port {text}: take one up to {_LAST_PORT}")
    return int(text)


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(f"'{text}' is no number from 1 on")
    return int(text)


# ---- running


def _serve(options: argparse.Namespace) -> int:
    from sommelier.runtime.server.process import serve
    from sommelier.shell.console import Console

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("sommelier").setLevel(logging.INFO)
    console = Console(color=options.color)
    settings = _settings(options)
    serving = _Serving(options)
    pages = serving.pages(settings.host) if _with_pages(options) else None
    try:
        left = serve(
            serving.start,
            settings,
            listening=lambda where, service: _tell(
                console, settings, where, service, pages=pages is not None
            ),
            pages=pages,
        )
    finally:
        serving.close()
    if left:
        console.talk(f"{left} requests were cut off after {options.drain_timeout:g} s", "error")
    return ExitCode.OK


def _with_pages(options: argparse.Namespace) -> bool:
    """Whether the database may be asked: as a rule by this machine alone."""
    return options.host in _LOOPBACK if options.query is None else bool(options.query)


class _Serving:
    """What runs behind a server, and what keeps it up to date."""

    def __init__(self, options: argparse.Namespace) -> None:
        config = load_config({"database": options.database, "folder": options.folder})
        database = config.database
        names, models = options.deployment, options.models or ()
        _check_names(names or (), models)
        self._wanted = Wanted(
            database, None if names is None else tuple(names), tuple(models), options.max_queue,
            options.artifacts, config.folder or None, options.query is True,
        )  # fmt: skip
        self._write = not options.no_write
        self._served = ServedDatabase(self._wanted)
        self._follower: Follower | None = None
        self._service: ModelService | None = None
        self._desk: QuestionDesk | None = None
        self._drain_delay_s: float = options.drain_delay
        self._drain_timeout_s: float = options.drain_timeout

    def pages(self, host: str) -> Pages:
        """Who answers people; nothing is begun for it before the first question."""
        from sommelier.runtime.server.pages import LOOPBACK, Pages
        from sommelier.shell.explorer.desk import QuestionDesk

        desk = self._desk = QuestionDesk(
            self._wanted.database, self._live, folder=self._wanted.folder
        )
        named = {host.lower(), *LOOPBACK}
        return Pages(desk.ask, None if host in _EVERYWHERE else frozenset(named))

    def _live(self) -> list[dict[str, Any]]:
        from sommelier.shell.explorer.live import live

        return [] if self._service is None else live(self._service)

    def start(self) -> ModelService:
        """Everything that is served, on its way into memory. Raises SommelierError."""
        plan = serving_plan(self._wanted)
        service = self._service = self._served.start(plan)
        self._follower = Follower(
            self._wanted, self._served, plan, write=self._write, draining=lambda: service.draining
        )
        self._follower.start()
        return service

    def close(self) -> None:
        """Ends what was started. What was measured is kept in what is left of --drain-timeout, or
        two seconds if that is more."""
        if self._desk is not None:
            self._desk.close()
        if self._follower is not None:
            left_s = self._ends_s() - time.monotonic()
            self._follower.close(within_s=max(LEAST_S, left_s))
        self._served.close()

    def _ends_s(self) -> float:
        """The instant at which the drain is to be over, and everything with it."""
        begun_s = None if self._service is None else self._service.draining_from_s
        from_s = time.monotonic() if begun_s is None else begun_s + self._drain_delay_s
        return from_s + self._drain_timeout_s


def _check_names(deployments: Sequence[str], models: Sequence[str]) -> None:
    """Clients ask by name, and would get one of two of the same name."""
    for name in deployments:
        if name in models:
            raise ConfigError(
                f"'{name}' is asked for as a deployment and as a model, but a name serves one",
                hint=f"leave one of them out, or DEPLOY MODELS {name} AS another name",
            )


def _settings(options: argparse.Namespace) -> ServerSettings:
    from sommelier.runtime.server.http_messages import Limits
    from sommelier.runtime.server.process import ServerSettings, TlsFiles

    if (options.tls_cert is None) != (options.tls_key is None):
        raise ConfigError("--tls-cert and --tls-key go together")
    tls = None
    if options.tls_cert is not None:
        tls = TlsFiles(Path(options.tls_cert), Path(options.tls_key))
    body = int(parse(options.max_body, Dimension.BYTES))
    return ServerSettings(
        host=options.host,
        port=options.port,
        grpc_port=options.grpc_port,
        api_keys=_keys(options.api_key_file),
        tls=tls,
        drain_delay_s=options.drain_delay,
        drain_timeout_s=options.drain_timeout,
        limits=Limits(
            body=body, buffered=max(8 * body, 64 << 20), connections=options.max_connections
        ),
    )


def _keys(path: str | None) -> frozenset[str]:
    from sommelier.runtime.server.keys import keys_of

    if path is None:
        return frozenset()
    try:
        return keys_of(Path(path))
    except StorageError as error:
        raise ConfigError(error.message, hint=error.hint) from error


# ---- what a person is told


def _tell(
    console: Console,
    settings: ServerSettings,
    where: Listening,
    service: ModelService,
    *,
    pages: bool,
) -> None:
    """What is served where, and how to ask."""
    from sommelier.shell.boxes import box
    from sommelier.shell.terminal import terminal_width

    scheme = "https" if settings.tls else "http"
    host = f"[{where.host}]" if ":" in where.host else where.host
    url = f"{scheme}://{host}:{where.port}"
    rows = [[entry.name, entry.kind, ", ".join(entry.models)] for entry in service.deployments]
    table = box(
        ["name", "kind", "models"],
        rows,
        right=[False] * 3,
        width=terminal_width(),
        colour=console.talk_colour,
    )
    console.talk(table.rstrip("\n") if rows else "nothing is deployed yet")
    for out in service.left_out:
        console.talk(f"{out.name} is not served: {out.reason}", "error")
    name = rows[0][0] if rows else "NAME"
    console.talk(f"REST  {url}/v2/models/{name}/infer   {url}/docs   {url}/metrics")
    if pages:
        console.talk(f"open  {url}/ in a browser to ask the database")
    if where.grpc_port is not None:
        console.talk(f"gRPC  {host}:{where.grpc_port}")
    key = " -H 'Authorization: Bearer KEY'" if settings.api_keys else ""
    console.talk(f"\n  curl{key} {url}/v2/models/{name}\n", "note")
    if settings.host not in _LOOPBACK and not settings.api_keys:
        console.talk(
            f"whoever reaches {settings.host} may use this server: --api-key-file asks for keys",
            "error",
        )
    threading.Thread(target=_tell_when_ready, args=(console, service), daemon=True).start()


def _tell_when_ready(console: Console, service: ModelService) -> None:
    started = time.monotonic()
    while not service.ready():
        if service.draining:
            return
        time.sleep(_LOOK_EVERY_S)
    told = {out.name for out in service.left_out}  # by _tell
    entries = [entry for entry in service.index() if entry["name"] not in told]
    failed = [entry for entry in entries if entry["state"] != "READY"]
    for entry in failed:
        console.talk(f"{entry['name']} cannot be served: {entry['reason']}", "error")
    ready = len(entries) - len(failed)
    console.talk(f"{ready} ready after {time.monotonic() - started:.1f} s", "note")
