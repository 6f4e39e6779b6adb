"""Where models come from: repositories by name, and what a converted model was before."""

from __future__ import annotations

import json

from sommelier.origin_records import Original, Repository
from sommelier.storage.catalog_deployments import DeploymentTable
from sommelier.storage.naming import unknown_name
from sommelier.storage.rows import now, to_json, utc


class OriginTable(DeploymentTable):
    """The part of the catalog that knows where models come from."""

    def save_repository(self, repository: Repository) -> None:
        """Keep a repository; replaces one of its name. `created_at` is now where it is None."""
        from sommelier.storage.origin_schema import REPOSITORIES

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
        from sommelier.storage.origin_schema import REPOSITORIES

        with self._database.transaction(f"drop the repository '{name}'"):
            self._drop(REPOSITORIES, "repository", name)

    # ---- originals

    def save_original(self, model_id: str, original: Original) -> None:
        """Keep what a model was; replaces what was said of it before."""
        from sommelier.storage.origin_schema import ORIGINALS

        row = {
            "model_id": model_id,
            "format": original.format,
            "path": original.path,
            "options": to_json(dict(original.options)),
            "fingerprint": original.fingerprint,
        }
        with self._database.transaction("keep what a model was"):
            self._database.upsert(ORIGINALS, [row])

    def original(self, model_id: str) -> Original | None:
        """What a model was; None for one that came as ONNX, or that nobody kept it of."""
        row = self._database.row(
            "SELECT format, path, options, fingerprint FROM store.originals WHERE model_id = ?",
            [model_id],
        )
        return None if row is None else Original(row[0], row[1], json.loads(row[2]), row[3])

    def drop_model(self, model_id: str) -> None:
        """Forget a model, and what it was."""
        from sommelier.storage.origin_schema import ORIGINALS

        with self._database.transaction("drop a model"):
            super().drop_model(model_id)
            self._database.write(ORIGINALS.delete().where(ORIGINALS.c.model_id == model_id))
