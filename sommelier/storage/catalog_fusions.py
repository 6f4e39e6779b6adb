"""Fusions: which models were made one, what each task lost by it, and how the search went.

What a fusion knows goes with the model it became. When one of the models it was made of changes or
is dropped, it stays, marked stale: what the tasks lost was measured against that model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from typing import Any

from sommelier.errors import StorageError
from sommelier.fusion_records import FusedModel, FusionStep, FusionTask
from sommelier.storage.catalog_links import LinkTable
from sommelier.storage.naming import unknown_name
from sommelier.storage.rows import known, now, utc
from sommelier.storage.versions import FUSION_STATES, version_of

_COLUMNS = tuple(f.name for f in fields(FusedModel) if f.name not in ("name", "tasks", "stale"))
_TASK_COLUMNS = tuple(field.name for field in fields(FusionTask))
_STEP_COLUMNS = tuple(field.name for field in fields(FusionStep))
_NAME = "coalesce(m.name, f.name)"
_FUSIONS = (
    f"SELECT {', '.join(f'f.{name}' for name in _COLUMNS)}, {_NAME}, s.stale FROM store.fusions f"
    " LEFT JOIN store.models m ON m.id = f.model_id"
    f" LEFT JOIN ({FUSION_STATES}) s ON s.fusion_id = f.id"
    f" WHERE {_NAME} = coalesce(?, {_NAME}) AND f.id = coalesce(?, f.id)"
    " AND (?::VARCHAR IS NULL OR f.model_id = ?)"
    f" ORDER BY {_NAME}, f.model_id IS NULL, f.created_at DESC, f.id"
)
_TASKS = (
    "SELECT t.fusion_id,"
    f" {', '.join('coalesce(m.name, t.name)' if c == 'name' else f't.{c}' for c in _TASK_COLUMNS)}"
    " FROM store.fusion_tasks t LEFT JOIN store.models m ON m.id = t.model_id"
    " ORDER BY t.fusion_id, t.position"
)


class FusionTable(LinkTable):
    """The part of the catalog that knows which models were made one."""

    def add_fusion(self, fusion: FusedModel) -> None:
        """Keep a fusion; one of the same id is replaced, its steps stay.

        One of the same name that led to no model, or of the same model, is replaced with its steps.
        `created_at` is now where it is None; numbers that are NaN are unknown. Raises
        UnknownNameError for a task without a version whose model is not there.
        """
        from sommelier.storage.fusion_schema import FUSION_TASKS, FUSIONS

        if len(fusion.tasks) < 2:
            raise ValueError(f"fusion '{fusion.name}' needs two models or more")
        with self._database.transaction(f"keep the fusion '{fusion.name}'"):
            replaced = self._database.rows(
                "SELECT id FROM store.fusions WHERE id <> ?"
                " AND (model_id = ? OR (name = ? AND model_id IS NULL))",
                [fusion.id, fusion.model_id, fusion.name],
            )
            self._forget_fusions([id_ for (id_,) in replaced])
            row = {name: known(getattr(fusion, name)) for name in (*_COLUMNS, "name")}
            row["created_at"] = utc(fusion.created_at) or now()
            self._database.upsert(FUSIONS, [row])
            # not deleted and inserted: where the disk is full, DuckDB ends the process over it
            tasks, rows = FUSION_TASKS.c, self._task_rows(fusion)
            left_over = (tasks.fusion_id == fusion.id) & (tasks.position >= len(rows))
            self._database.write(FUSION_TASKS.delete().where(left_over))
            self._database.upsert(FUSION_TASKS, rows)

    def fusions(
        self, *, name: str | None = None, id_: str | None = None, model_id: str | None = None
    ) -> list[FusedModel]:
        """Fusions by name: all, or those of a name, an id, or that became a model.

        Of equal names, those that led to a model come first, then the newest.
        """
        rows = self._database.rows(_FUSIONS, [name, id_, model_id, model_id])
        if not rows:
            return []
        tasks: dict[str, list[FusionTask]] = {}
        for fusion, *values in self._database.rows(_TASKS):
            tasks.setdefault(fusion, []).append(FusionTask(*values))
        return [_fusion(row, tasks) for row in rows]

    def fusion(self, name: str) -> FusedModel:
        """The fusion of this name; see fusions. Raises UnknownNameError with the nearest names."""
        found = self.fusions(name=name)
        if not found:
            raise unknown_name("fusion", name, self.fusion_names())
        return found[0]

    def fusion_names(self) -> list[str]:
        """The names of all fusions, sorted, each once."""
        rows = self._database.rows(
            f"SELECT DISTINCT {_NAME} FROM store.fusions f"
            " LEFT JOIN store.models m ON m.id = f.model_id ORDER BY 1"
        )
        return [name for (name,) in rows]

    def drop_fusion(self, fusion_id: str) -> None:
        """Forget a fusion, its tasks and its steps; the model it became stays.

        Raises StorageError if it is not there.
        """
        with self._database.transaction("drop a fusion"):
            self._must_be_fusion(fusion_id)
            self._forget_fusions([fusion_id])

    def add_fusion_steps(self, fusion_id: str, steps: Iterable[FusionStep]) -> None:
        """Keep steps of a search; those of the same number are replaced.

        Raises StorageError if the fusion is not there.
        """
        from sommelier.storage.fusion_schema import FUSION_TRACE

        rows = [
            {"fusion_id": fusion_id} | {name: known(getattr(step, name)) for name in _STEP_COLUMNS}
            for step in steps
        ]
        with self._database.transaction("keep steps of a fusion"):
            self._must_be_fusion(fusion_id)
            self._database.upsert(FUSION_TRACE, rows)

    def fusion_steps(self, fusion_id: str) -> list[FusionStep]:
        """The steps of a search, in order."""
        rows = self._database.rows(
            f"SELECT {', '.join(_STEP_COLUMNS)} FROM store.fusion_trace WHERE fusion_id = ?"
            " ORDER BY step",
            [fusion_id],
        )
        return [FusionStep(*row) for row in rows]

    def drop_model(self, model_id: str) -> None:
        """Forget a model, all that is known of it, and the fusion that it came from."""
        with self._database.transaction("drop a model"):
            super().drop_model(model_id)
            found = self._database.rows(
                "SELECT id FROM store.fusions WHERE model_id = ?", [model_id]
            )
            self._forget_fusions([id_ for (id_,) in found])

    # ---- inside

    def _task_rows(self, fusion: FusedModel) -> list[dict[str, Any]]:
        """Rows of the tasks, with the names and versions their models have now where missing."""
        missing = [t.model_id for t in fusion.tasks if not (t.version and t.name)]
        records = {record.id: record for record in self.models(missing)}
        rows = []
        for position, task in enumerate(fusion.tasks):
            if task.model_id in records:
                record = records[task.model_id]
                version = task.version or version_of(record)
                task = replace(task, name=task.name or record.name, version=version)
            values = {name: known(getattr(task, name)) for name in _TASK_COLUMNS}
            rows.append({"fusion_id": fusion.id, "position": position} | values)
        return rows

    def _must_be_fusion(self, fusion_id: str) -> None:
        found = self._database.row("SELECT 1 FROM store.fusions WHERE id = ?", [fusion_id])
        if found is None:
            raise StorageError(f"there is no fusion with the id '{fusion_id}'")

    def _forget_fusions(self, ids: Sequence[str]) -> None:
        from sommelier.storage.fusion_schema import FUSION_TASKS, FUSION_TRACE, FUSIONS

        if not ids:
            return
        self._database.write(FUSIONS.delete().where(FUSIONS.c.id.in_(ids)))
        for table in (FUSION_TASKS, FUSION_TRACE):
            self._database.write(table.delete().where(table.c.fusion_id.in_(ids)))


def _fusion(row: Sequence[Any], tasks: dict[str, list[FusionTask]]) -> FusedModel:
    *values, name, stale = row
    found = dict(zip(_COLUMNS, values, strict=True))
    members = tuple(tasks.get(found["id"], ()))
    return FusedModel(**found, name=name, stale=stale, tasks=members)
