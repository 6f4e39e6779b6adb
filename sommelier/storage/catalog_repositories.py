"""Repositories: the names of places where models come from."""

from __future__ import annotations

import json

from sommelier.repository_records import Repository
from sommelier.storage.catalog_deployments import DeploymentTable
from sommelier.storage.naming import unknown_name
from sommelier.storage.rows import now, to_json, utc


class RepositoryTable(DeploymentTable):
    """The part of the catalog that knows repositories."""

    def save_repository(self, repository: Repository) -> None:
        """Keep a repository; replaces one of its name. `created_at` is now where it is None."""
        from sommelier.storage.repository_schema import REPOSITORIES

        row = {
            "name": repository.name,
            "connector": repository.connector,
            "place": repository.place,
            "options": to_json(dict(repository.options)),
            "created_at": utc(repository.created_at) or now(),
        }
        with self._database.transaction(f"keep the repository '{repository.name}'"):
            self._database.upsert(REPOSITORIES, [row])

    def repositories(self, name: str | None = None) -> list[Repository]:
        """All repositories by name, or the one of a name."""
        rows = self._database.rows(
            "SELECT name, connector, place, options, created_at FROM store.repositories"
            " WHERE name = coalesce(?, name) ORDER BY name",
            [name],
        )
        return [
            Repository(known, connector, place, json.loads(options), made)
            for known, connector, place, options, made in rows
        ]

    def repository(self, name: str) -> Repository:
        """The repository of this name. Raises UnknownNameError with the nearest names."""
        found = self.repositories(name)
        if not found:
            raise unknown_name("repository", name, self.repository_names())
        return found[0]

    def repository_names(self) -> list[str]:
        """The names of all repositories, sorted."""
        return [repository.name for repository in self.repositories()]

    def drop_repository(self, name: str) -> None:
        """Forget a repository; models that came from it stay. Raises UnknownNameError."""
        from sommelier.storage.repository_schema import REPOSITORIES

        with self._database.transaction(f"drop the repository '{name}'"):
            self._drop(REPOSITORIES, "repository", name)
