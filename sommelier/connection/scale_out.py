"""A database behind Ray Serve: `serve.run(ray_application("models.sommelier"))`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sommelier.runtime.ray_serve import Scale
    from sommelier.runtime.server.service import ModelService

READY_S = 600.0  # for the first model of each deployment; preparing it may take that long


def ray_application(
    database: str | Path, deployments: Sequence[str] = (), scale: Scale | None = None
) -> Any:
    """An application for `ray.serve.run` that answers requests to deployments of a database.

    database : a path that every node of the cluster can read. deployments : names; none: all.
    Raises MissingDependencyError without Ray Serve; a name that is not there is an error of the
    replicas.
    """
    from sommelier.runtime.ray_serve import application

    return application(partial(served, Path(database).resolve(), tuple(deployments)), scale)


@contextmanager
def served(database: Path, names: Sequence[str]) -> Iterator[ModelService]:
    """Deployments of a database that answer here, until the block ends. names : none: all."""
    from sommelier.connection.connection import connect
    from sommelier.runtime.server.service import ModelService

    with connect(database, read_only=True) as db:
        names = names or db.catalog.deployment_names()
        running = [db.deploy(name) for name in names]
        for deployment in running:
            deployment.wait_ready(READY_S)
        yield ModelService(db.serving.pool, running)
