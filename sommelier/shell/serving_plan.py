"""What a serving process needs of a database, found out by a process of its own.

The serving process then has neither DuckDB nor the parser in memory: a third of what it would take.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from sommelier.errors import SommelierError
from sommelier.shell.config import ConfigError

if TYPE_CHECKING:
    from sommelier.connection import Connection
    from sommelier.deployment_records import Deployment
    from sommelier.runtime.pool_entries import PoolRules
    from sommelier.runtime.session_cache import ServedModel
    from sommelier.runtime.sessions import SessionSettings


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be served. deployments : None for all. queue : in place of each one's own."""

    database: str
    deployments: tuple[str, ...] | None
    models: tuple[str, ...]
    queue: int | None


@dataclass(frozen=True, slots=True)
class ServingPlan:
    """What that takes. sessions : folder of saved sessions. with_database : names of deployments
    that only a process with the database open can run (activation plans)."""

    deployments: tuple[tuple[Deployment, dict[str, ServedModel]], ...]
    models: tuple[ServedModel, ...]
    with_database: tuple[str, ...]
    settings: SessionSettings
    rules: PoolRules
    sessions: Path


def serving_plan(wanted: Wanted) -> ServingPlan:
    """Asks another process. Raises SommelierError as `connect` and `deploy` do."""
    ended = subprocess.run(
        [sys.executable, "-m", "sommelier.shell.serving_plan"],
        input=pickle.dumps(wanted),
        stdout=subprocess.PIPE,
        check=False,
    )
    if ended.returncode != 0:
        raise SommelierError(f"the database could not be read: exit code {ended.returncode}")
    found: ServingPlan | SommelierError = pickle.loads(ended.stdout)
    if isinstance(found, SommelierError):
        raise found
    return found


def plan(wanted: Wanted) -> ServingPlan:
    """The same in this process."""
    from sommelier.connection import connect
    from sommelier.shell.databases import exists, no_database

    if not exists(wanted.database):
        raise no_database(wanted.database)
    with connect(wanted.database, read_only=True) as db:
        prepared = [db.serving.prepared(name) for name in _names(db, wanted)]
        settings, rules = db.serving.settings()
        return ServingPlan(
            tuple((_queued(d, wanted), models) for d, models in prepared if d.plan is None),
            tuple(_served(db, name) for name in wanted.models),
            tuple(d.name for d, _ in prepared if d.plan is not None),
            settings,
            rules,
            db.catalog.directory / "sessions",
        )


def _names(db: Connection, wanted: Wanted) -> list[str]:
    kept = db.catalog.deployment_names()
    if wanted.deployments is not None:
        return list(dict.fromkeys(wanted.deployments))
    if wanted.models:
        return []
    if not kept:
        raise ConfigError(
            f"nothing is deployed in {db.path}",
            hint="DEPLOY (SELECT MODELS ...) AS name keeps a deployment; --models NAME serves"
            " a single model",
        )
    return kept


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

    wanted: Wanted = pickle.load(sys.stdin.buffer)
    out, sys.stdout = sys.stdout.buffer, sys.stderr
    try:
        answer: object = here.plan(wanted)
    except SommelierError as error:
        answer = error
    out.write(pickle.dumps(answer))


if __name__ == "__main__":
    _main()
