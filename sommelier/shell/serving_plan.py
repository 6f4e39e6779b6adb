"""What a serving process asks of a database, answered by a process of its own.

The serving process then has neither DuckDB nor the parser in memory: a third of what it would take.
The other one ends with its answer, so that the database is open, and locked for writers if need be,
for a moment only.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sommelier.deployment_records import ServedFigures
from sommelier.errors import SommelierError

if TYPE_CHECKING:
    from sommelier.connection import Connection
    from sommelier.deployment_records import Deployment
    from sommelier.runtime.pool_entries import PoolRules
    from sommelier.runtime.session_cache import ServedModel
    from sommelier.runtime.sessions import SessionSettings

PATIENCE_S = 300.0  # for a database of any size; what takes longer hangs
_LOOK_S = 0.2  # how often it is looked whether anybody still waits for it
_NICE = 10  # requests come first


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be served. deployments : None for all. queue : in place of each one's own.
    artifacts : the store that the database is said to use. folder : of a server's catalog.
    questions : whether it may start with nothing to serve, to answer questions."""

    database: str
    deployments: tuple[str, ...] | None
    models: tuple[str, ...]
    queue: int | None
    artifacts: str | None = None
    folder: str | None = None
    questions: bool = False

    @property
    def everything(self) -> bool:
        """Whether all deployments are, those that are to come as well."""
        return self.deployments is None and not self.models


@dataclass(frozen=True, slots=True)
class ServingPlan:
    """What that takes. with_database : names of deployments that only a process with the database
    open can run (activation plans). failed : of deployments and models that cannot be planned,
    why. settings, rules : of the pool. sessions : folder of saved sessions. version : of the
    database (Catalog.version)."""

    deployments: tuple[tuple[Deployment, dict[str, ServedModel]], ...]
    models: tuple[ServedModel, ...]
    with_database: tuple[str, ...]
    failed: tuple[tuple[str, SommelierError], ...]
    settings: SessionSettings
    rules: PoolRules
    sessions: Path
    version: str


@dataclass(frozen=True, slots=True)
class Measured:
    """What serving measured and is to be kept."""

    database: str
    figures: tuple[ServedFigures, ...]
    folder: str | None = None


@dataclass(frozen=True, slots=True)
class Kept:
    """Versions of the database before and after something was kept in it."""

    before: str
    after: str


def serving_plan(wanted: Wanted, given_up: Callable[[], bool] = lambda: False) -> ServingPlan:
    """Asks another process, which is ended once nobody waits for it any more. Raises SommelierError
    as `connect` does."""
    found = _asked(wanted, given_up=given_up)
    assert isinstance(found, ServingPlan), "what it was asked for"
    return found


def keep(wanted: Wanted, figures: Iterable[ServedFigures], within_s: float = PATIENCE_S) -> Kept:
    """Lets another process keep what was measured. Raises SommelierError as `connect` does, thus
    DatabaseLockedError while somebody else writes."""
    found = _asked(Measured(wanted.database, tuple(figures), wanted.folder), within_s)
    assert isinstance(found, Kept), "what it was asked for"
    return found


def _asked(
    what: Wanted | Measured,
    within_s: float = PATIENCE_S,
    given_up: Callable[[], bool] = lambda: False,
) -> object:
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "sommelier.shell.serving_plan"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,  # Ctrl-C is for the server, which ends in its own way
    ) as process:
        try:
            answer = _said(process, pickle.dumps(what), within_s, given_up)
        except BaseException:
            process.kill()
            raise
    if process.returncode != 0:
        raise SommelierError(f"the database could not be read: exit code {process.returncode}")
    found: object = pickle.loads(answer)
    if isinstance(found, SommelierError):
        raise found
    return found


def _said(
    process: subprocess.Popen[bytes], asked: bytes, within_s: float, given_up: Callable[[], bool]
) -> bytes:
    """What it writes. Raises SommelierError when that takes too long."""
    until = time.monotonic() + within_s
    told: bytes | None = asked
    while True:
        left_s = until - time.monotonic()
        try:
            return process.communicate(told, timeout=max(0.0, min(_LOOK_S, left_s)))[0]
        except subprocess.TimeoutExpired:
            told = None  # it has it
        if left_s <= 0:
            raise SommelierError(f"the database did not answer within {within_s:.3g} s")
        if given_up():
            raise SommelierError("the server ends")


# ---- in the other process


def plan(wanted: Wanted) -> ServingPlan:
    """The plan by the database as it is."""
    from sommelier.connection import connect
    from sommelier.shell.databases import exists, no_database

    if not exists(wanted.database):
        raise no_database(wanted.database)
    with connect(
        wanted.database, read_only=True, artifacts=wanted.artifacts, folder=wanted.folder
    ) as db:
        names = _names(db, wanted)
        prepared, no_deployment = _each(names, db.serving.prepared)
        models, no_model = _each(wanted.models, lambda name: _served(db, name))
        settings, rules = db.serving.settings()
        return ServingPlan(
            tuple((_queued(d, wanted), files) for d, files in prepared if d.plan is None),
            tuple(models),
            tuple(d.name for d, _ in prepared if d.plan is not None),
            (*no_deployment, *no_model),
            settings,
            rules,
            db.catalog.directory / "sessions",
            db.catalog.version,
        )


def kept(measured: Measured) -> Kept:
    """Keeps figures, as briefly as possible: statements and indexes are not needed for it."""
    from sommelier.shell.databases import exists, no_database
    from sommelier.storage.tasks import written_briefly

    if not exists(measured.database):  # it would be created
        raise no_database(measured.database)
    with written_briefly(measured.database, folder=measured.folder) as catalog:
        before = catalog.version
        catalog.add_served(measured.figures)
        return Kept(before, catalog.version)


def _each(names: Sequence[str], find: Any) -> tuple[list[Any], list[tuple[str, SommelierError]]]:
    """(what is found by the names, why the others are not)."""
    found, failed = [], []
    for name in names:
        try:
            found.append(find(name))
        except SommelierError as error:
            failed.append((name, error))
    return found, failed


def _names(db: Connection, wanted: Wanted) -> list[str]:
    if wanted.everything:
        return db.catalog.deployment_names()
    return list(dict.fromkeys(wanted.deployments or ()))


def _queued(deployment: Deployment, wanted: Wanted) -> Deployment:
    if wanted.queue is None:
        return deployment
    return replace(deployment, options=replace(deployment.options, queue=wanted.queue))


def _served(db: Connection, name: str) -> ServedModel:
    from sommelier.runtime.session_cache import ServedModel

    model = db.model(name)
    return ServedModel(name, model.onnx_path, model.record.id, model.record.preprocessing)


def _main() -> None:
    # as a module of that name, or what is pickled would be of __main__
    from sommelier.shell import serving_plan as here

    asked: Wanted | Measured = pickle.load(sys.stdin.buffer)
    if hasattr(os, "nice") and isinstance(asked, here.Wanted):  # others wait for who writes
        os.nice(_NICE)
    out, sys.stdout = sys.stdout.buffer, sys.stderr
    try:
        answer: object
        answer = here.plan(asked) if isinstance(asked, here.Wanted) else here.kept(asked)
    except SommelierError as error:
        answer = error
    except OSError as error:
        answer = SommelierError(str(error))
    out.write(pickle.dumps(answer))


if __name__ == "__main__":
    _main()
