"""A database behind Ray Serve: `serve.run(ray_application("models.sommelier"))`.

A replica reads a snapshot of the database, and writes the database for a moment only, to keep what
it measured: any number of replicas, and of `sommelier serve`, may do so side by side.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sommelier.connection.serving import WRITE_EVERY_S
from sommelier.errors import DatabaseLockedError, SommelierError, StorageError
from sommelier.runtime.ledger import ServedLedger

if TYPE_CHECKING:
    from sommelier.connection.connection import Connection
    from sommelier.runtime.deployment import RunningDeployment
    from sommelier.runtime.ray_serve import Scale
    from sommelier.runtime.server.service import ModelService

logger = logging.getLogger(__name__)

READY_S = 600.0  # for the first model of each deployment; preparing it may take that long
LAST_S = 10.0  # how long the end of a replica waits for others that write, say
AGAIN_S = 0.5  # and how often it tries meanwhile


def ray_application(
    database: str | Path,
    deployments: Sequence[str] = (),
    scale: Scale | None = None,
    *,
    api_key_file: str | Path | None = None,
    write: bool = True,
) -> Any:
    """An application for `ray.serve.run` that answers requests to deployments of a database.

    database : a path that every node of the cluster can read. deployments : names; none: all.
    api_key_file : a path as well, of keys as `sommelier serve` takes them. write : keep what was
    measured in the database. Raises MissingDependencyError without Ray Serve; a name or a file that
    is not there is an error of the replicas.
    """
    from sommelier.runtime.ray_serve import application

    start = partial(served, Path(database).resolve(), tuple(deployments), write=write)
    keys = None if api_key_file is None else Path(api_key_file).expanduser().resolve()
    return application(start, scale, api_key_file=keys)


@contextmanager
def served(
    database: str | Path, names: Sequence[str], *, write: bool = True
) -> Iterator[ModelService]:
    """Deployments of a database that answer here, until the block ends. names : none: all, but for
    those that cannot be served. write : keep what was measured, now and then and at the end, where
    that is allowed. Raises SommelierError for a name, and where nothing can be served."""
    from sommelier.connection.connecting import connect
    from sommelier.runtime.server.service import ModelService

    database = Path(database)
    with connect(database, read_only=True) as db:
        running, failed = _started(db, names)
        for deployment in running:
            deployment.wait_ready(READY_S)
        service = ModelService(db.serving.pool, running)
        for name, error in failed.items():
            logger.warning("deployment %s is not served: %s", name, error.message)
            service.leave_out(name, error.message)
        keeps = write and _writable(database)
        with closing(Figures(database, running)) if keeps else nullcontext():
            yield service


class Figures:
    """Keeps what deployments measured, in a thread of its own; whoever else writes the database is
    not disturbed, and what could not be kept is kept later."""

    def __init__(self, database: Path, running: Sequence[RunningDeployment]) -> None:
        """Begins at once; `close` it before the deployments."""
        self._database = database
        self._running = running
        self._ledger = ServedLedger()
        self._writing = threading.Lock()
        self._told: str | None = None  # why they could not be kept
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._write_often, name="figures", daemon=True)
        self._thread.start()

    def write(self) -> bool:
        """Keep what was measured until now; whether it is. Raises nothing: what fails is logged
        once and tried again."""
        with self._writing:
            for running in self._running:
                self._ledger.collect(running)
            if self._ledger.figures():
                try:
                    self._keep()
                except Exception as error:
                    self._tell(error)
                    return False
            self._told = None
            return True

    def close(self) -> None:
        """Keep what is left, for which others that write are waited for, but not for ever."""
        self._ending.set()
        self._thread.join(LAST_S)
        left = sum(figure.requests for figure in self._ledger.figures())
        if left:
            logger.warning("what %d requests took could not be kept", left)

    # ---- inside

    def _keep(self) -> None:
        """Raises SommelierError: DatabaseLockedError while another connection writes for longer
        than a moment."""
        from sommelier.storage.tasks import written_briefly

        if not self._database.exists():  # it would be created
            raise StorageError(f"there is no database at '{self._database}' any more")
        figures = self._ledger.figures()
        with written_briefly(self._database) as catalog:
            catalog.add_served(figures)
            self._ledger.kept(figures)

    def _write_often(self) -> None:
        while not self._ending.wait(WRITE_EVERY_S):
            self.write()
        until = time.monotonic() + LAST_S
        while not self.write() and time.monotonic() + AGAIN_S < until:
            time.sleep(AGAIN_S)

    def _tell(self, error: Exception) -> None:
        """One line as long as it is the same."""
        locked = isinstance(error, DatabaseLockedError)
        why = "another process writes the database" if locked else str(error)
        if self._told != why:
            self._told = why
            foreseen = isinstance(error, (SommelierError, OSError))
            logger.log(
                logging.INFO if locked else logging.WARNING,
                "what was measured is kept later: %s", why,
                exc_info=None if foreseen else error,
            )  # fmt: skip


def _started(
    db: Connection, names: Sequence[str]
) -> tuple[list[RunningDeployment], dict[str, SommelierError]]:
    """(what runs, why others do not, by name). Raises SommelierError."""
    running: list[RunningDeployment] = []
    failed: dict[str, SommelierError] = {}
    for name in names or db.catalog.deployment_names():
        try:
            running.append(db.deploy(name))
        except SommelierError as error:
            if names:
                raise
            failed[name] = error
    if running:
        return running, failed
    if not failed:
        raise StorageError(
            f"nothing is deployed in {db.path}",
            hint="DEPLOY (SELECT MODELS ...) AS name keeps a deployment",
        )
    raise StorageError(
        "none of the deployments can be served",
        hint="; ".join(f"{name}: {error.message}" for name, error in failed.items()),
    )


def _writable(database: Path) -> bool:
    """Whether figures may be kept in it."""
    return os.access(database, os.W_OK) and os.access(database.parent, os.W_OK)
