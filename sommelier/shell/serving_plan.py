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
from collections.abc import Iterable, Sequence
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

_PATIENCE_S = 300.0  # for a database of any size; what takes longer hangs
_NICE = 10  # requests come first


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be served. deployments : None for all. queue : in place of each one's own."""

    database: str
    deployments: tuple[str, ...] | None
    models: tuple[str, ...]
    queue: int | None

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


@dataclass(frozen=True, slots=True)
class Kept:
    """Versions of the database before and after something was kept in it."""

    before: str
    after: str


def serving_plan(wanted: Wanted) -> ServingPlan:
    """Asks another process. Raises SommelierError as `connect` does."""
    found = _asked(wanted)
    assert isinstance(found, ServingPlan), "what it was asked for"
    return found


def keep(database: str, figures: Iterable[ServedFigures]) -> Kept:
    """Lets another process keep what was measured. Raises SommelierError as `connect` does, thus
    DatabaseLockedError while somebody else writes."""
    found = _asked(Measured(database, tuple(figures)))
    assert isinstance(found, Kept), "what it was asked for"
    return found


def _asked(what: Wanted | Measured) -> object:
    try:
        ended = subprocess.run(
            [sys.executable, "-P", "-m", "sommelier.shell.serving_plan"],
            input=pickle.dumps(what),
            stdout=subprocess.PIPE,
            check=False,
            timeout=_PATIENCE_S,
            start_new_session=True,  # Ctrl-C is for the server, which ends in its own way
        )
    except subprocess.TimeoutExpired:
        raise SommelierError(f"the database did not answer within {_PATIENCE_S:g} s") from None
    if ended.returncode != 0:
        raise SommelierError(f"the database could not be read: exit code {ended.returncode}")
    found: object = pickle.loads(ended.stdout)
    if isinstance(found, SommelierError):
        raise found
    return found


# ---- in the other process


def plan(wanted: Wanted) -> ServingPlan:
    """The plan by the database as it is."""
    from sommelier.connection import connect
    from sommelier.shell.databases import exists, no_database

    if not exists(wanted.database):
        raise no_database(wanted.database)
    with connect(wanted.database, read_only=True) as db:
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
    from sommelier.storage.catalog import Catalog
    from sommelier.storage.tasks import TaskQueue

    if not exists(measured.database):  # it would be created
        raise no_database(measured.database)
    with Catalog.open(measured.database, brief=True) as catalog:
        TaskQueue(catalog).interrupt_stale()  # as for everybody who may write: nobody else works
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
