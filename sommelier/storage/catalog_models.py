"""Models in the catalog: adding, finding by name, changing, dropping."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sommelier.errors import StorageError, UnknownNameError
from sommelier.records import LabelSpace, ModelRecord
from sommelier.storage.catalog_labels import LabelTable
from sommelier.storage.change_log import ChangeLog
from sommelier.storage.database import EDITED_MODELS
from sommelier.storage.naming import unknown_name
from sommelier.storage.rows import MODEL_COLUMNS, model_from_row, model_to_row, now

if TYPE_CHECKING:
    from sommelier.storage.database import Database
    from sommelier.storage.model_ids import ModelIds
    from sommelier.storage.positions import Positions

_SELECT = f"SELECT {', '.join(f'm.{name}' for name in MODEL_COLUMNS)} FROM store.models m"
_ID_PREFIX = "sha256:"


@dataclass(frozen=True, slots=True)
class AddedModel:
    """What became of a model that was added.

    status : 'new'; 'version' (the name existed with other bytes); 'alias' (the bytes existed under
    another name, which `record` has, with this one among its aliases); 'unchanged'.
    """

    record: ModelRecord
    status: str


class ModelTable(LabelTable):
    """The part of the catalog that knows models."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        database.on_change(self._forget_models)
        self._resolved: dict[tuple[str, str | None], ModelRecord] = {}
        self.model_edits = ChangeLog(database, EDITED_MODELS)
        self._positions: Positions | None = None
        self._positions_stale = True

    # ---- reading

    def model(self, model_id: str) -> ModelRecord:
        """The model with this id. Raises UnknownNameError."""
        row = self._database.row(f"{_SELECT} WHERE m.id = ?", [model_id])
        if row is None:
            raise UnknownNameError(f"there is no model with the id '{model_id}'")
        return model_from_row(row)

    def models(self, ids: Iterable[str] | None = None) -> list[ModelRecord]:
        """The models with these ids, in their order; all, by insertion, for None.

        Raises UnknownNameError if one is not there.
        """
        if ids is None:
            return [
                model_from_row(row) for row in self._database.rows(f"{_SELECT} ORDER BY number")
            ]
        wanted = list(ids)
        if not wanted:
            return []
        rows = self._database.rows(
            f"{_SELECT} WHERE m.id IN (SELECT unnest(?::VARCHAR[]))", [list(dict.fromkeys(wanted))]
        )
        found = {row[0]: model_from_row(row) for row in rows}
        missing = [model_id for model_id in wanted if model_id not in found]
        if missing:
            raise UnknownNameError(f"there is no model with the id '{missing[0]}'")
        return [found[model_id] for model_id in wanted]

    def model_names(self) -> list[str]:
        """Every name a model can be called by, aliases included, each once; not of proposals."""
        rows = self._database.rows(
            "SELECT name FROM store.models WHERE proposal IS NULL"
            " UNION SELECT unnest(aliases) FROM store.models ORDER BY 1"
        )
        return [name for (name,) in rows]

    def model_ids(self) -> ModelIds:
        """The ids of all models, in the order they were added."""
        return self._known_positions().ids

    def resolve(self, name: str, version: str | None = None) -> ModelRecord:
        """The model a person means: a name (its newest version), an alias, 'name@version', or the
        beginning of an id ('sha256:1f0c'). Costs a dictionary look-up the second time.

        Raises UnknownNameError with the nearest names, or the versions there are.
        """
        key = (name, version)
        with self._database.steady():  # or a commit may come between reading and remembering
            if key not in self._resolved:
                self._resolved[key] = self._look_up(name, version)
            return self._resolved[key]

    # ---- writing

    def add_model(
        self, record: ModelRecord, *, label_space: LabelSpace | None = None
    ) -> AddedModel:
        """Add a model, or find out that it is there already; see AddedModel.

        A version that is taken by other bytes, or empty, becomes the next free number.
        """
        with self._database.transaction(f"add the model '{record.name}'"):
            if label_space is not None:
                self.add_label_space(label_space)
            known = self._database.row(f"{_SELECT} WHERE m.id = ?", [record.id])
            if known is not None:
                return self._add_name(model_from_row(known), record)
            rows = self._database.rows(
                "SELECT version FROM store.models WHERE name = ?", [record.name]
            )
            taken = {version for (version,) in rows}
            if not record.version or record.version in taken:
                record = replace(record, version=_next_version(taken))
            self._insert(record)
            return AddedModel(record, "version" if taken else "new")

    def add_models_bulk(self, records: Iterable[ModelRecord]) -> int:
        """Add many models at once; the number added. Ids that are there already are left alone.

        About 12 s per 100 000. Raises StorageError if two models would have the same name and
        version, or the same id; nothing is added then.
        """
        from sommelier.storage.schema import MODELS

        with self._database.transaction("add models"):
            given = list(records)
            known = self._numbers([record.id for record in given])
            fresh = [record for record in given if record.id not in known]
            if not fresh:
                return 0
            first, moment = self._next_number(), now()
            rows = [
                model_to_row(record) | {"number": number, "added_at": moment}
                for number, record in enumerate(fresh, first)
            ]
            self._database.insert(MODELS, rows)
            twice = self._database.row(
                "SELECT name, version FROM store.models WHERE name IN"
                " (SELECT unnest(?::VARCHAR[])) GROUP BY name, version HAVING count(*) > 1",
                [[record.name for record in fresh]],
            )
            if twice is not None:
                raise StorageError(f"two models would be called {twice[0]}@{twice[1]}")
            return len(fresh)

    def update_model(self, record: ModelRecord) -> None:
        """Replace what is known of the model with this id.

        Raises UnknownNameError, or StorageError if another model has its name and version.
        """
        from sommelier.storage.schema import MODELS

        with self._database.transaction(f"change the model '{record.name}'"):
            self.model(record.id)
            self._must_be_free(record.name, record.version, record.id)
            values = {key: value for key, value in model_to_row(record).items() if key != "id"}
            self._database.write(MODELS.update().where(MODELS.c.id == record.id).values(**values))

    def rename_model(self, model_id: str, name: str) -> ModelRecord:
        """The model under its new name. Raises StorageError if that name and version are taken."""
        record = self.model(model_id)
        aliases = tuple(alias for alias in record.aliases if alias != name)
        renamed = replace(record, name=name, aliases=aliases)
        self.update_model(renamed)
        return renamed

    def drop_model(self, model_id: str) -> None:
        """Forget a model and all that is known of it, but not its file. Raises UnknownNameError.

        Proposals that are made of it go too: nobody could build them any more.
        """
        from sqlalchemy import or_

        from sommelier.storage import schema

        with self._database.transaction("drop a model"):
            self.model(model_id)
            for proposal in self._proposals_of(model_id):
                self.drop_model(proposal)
            number = self._numbers([model_id])[model_id]
            edges, numbers = schema.EDGES, schema.MEASUREMENTS
            self._database.write(numbers.delete().where(numbers.c.model == number))
            for table in (
                schema.PROFILES, schema.SKETCHES, schema.TASKS,
                schema.TASK_REFERENCES, schema.POOL_MEMBERS,
            ):  # fmt: skip
                self._database.write(table.delete().where(table.c.model_id == model_id))
            tasks = schema.TASKS  # a pair's task names the other model among its parameters
            self._database.write(tasks.delete().where(tasks.c.parameters.contains(model_id)))
            about = or_(edges.c.reference_id == model_id, edges.c.candidate_id == model_id)
            self._database.write(edges.delete().where(about))
            segments, lineage = schema.SEGMENTS.c, schema.LINEAGE.c
            about = or_(segments.host_id == model_id, segments.donor_id == model_id)
            self._database.write(schema.SEGMENTS.delete().where(about))
            self._database.write(
                schema.SEGMENTS.update()
                .where(segments.hybrid_id == model_id)
                .values(hybrid_id=None)
            )
            self._database.write(schema.LINEAGE.delete().where(lineage.model_id == model_id))
            self._database.write(schema.MODELS.delete().where(schema.MODELS.c.id == model_id))

    # ---- inside

    def _proposals_of(self, model_id: str) -> list[str]:
        """Models nobody created yet that a model is a part of."""
        found = self._database.rows(
            "SELECT DISTINCT l.model_id FROM store.lineage l JOIN store.models m"
            " ON m.id = l.model_id WHERE l.parent_id = ? AND l.provenance = 'built'"
            " AND m.proposal IS NOT NULL ORDER BY 1",
            [model_id],
        )
        return [str(row[0]) for row in found]

    def _forget_models(self) -> None:
        self._resolved = {}
        self._positions_stale = True

    def _known_positions(self) -> Positions:
        with self._database.steady():
            if self._positions is None or self._positions_stale:
                from sommelier.storage.positions import read_positions

                self._positions = read_positions(self._database, self._positions)
                self._positions_stale = False
            return self._positions

    def _numbers(self, ids: Sequence[str]) -> dict[str, int]:
        """models.number of the ids that exist."""
        return dict(
            self._database.rows(
                "SELECT id, number FROM store.models WHERE id IN (SELECT unnest(?::VARCHAR[]))",
                [list(ids)],
            )
        )

    def _next_number(self) -> int:
        # a dropped model leaves nothing behind that its number could be mistaken for
        found = self._database.row("SELECT coalesce(max(number), 0) FROM store.models")
        return int(found[0]) + 1 if found else 1

    def _insert(self, record: ModelRecord) -> None:
        from sommelier.storage.schema import MODELS

        number = self._next_number()
        self._database.insert(
            MODELS, [model_to_row(record) | {"number": number, "added_at": now()}]
        )

    def _add_name(self, known: ModelRecord, record: ModelRecord) -> AddedModel:
        """The same bytes again: under the same name, or under one that becomes an alias."""
        alias = record.name
        if record.name == known.name:
            if record.version in ("", known.version):
                return AddedModel(known, "unchanged")
            alias = f"{record.name}@{record.version}"
        if alias in known.aliases:
            return AddedModel(known, "unchanged")
        known = replace(known, aliases=(*known.aliases, alias))
        self.update_model(known)
        return AddedModel(known, "alias")

    def _must_be_free(self, name: str, version: str, model_id: str) -> None:
        taken = self._database.row(
            "SELECT id FROM store.models WHERE name = ? AND version = ? AND id <> ?",
            [name, version, model_id],
        )
        if taken is not None:
            raise StorageError(
                f"another model is called {name}@{version}", hint="choose another name"
            )

    def _look_up(self, name: str, version: str | None) -> ModelRecord:
        if name.startswith(_ID_PREFIX):
            return self._by_id_prefix(name)
        row = self._database.row(
            f"{_SELECT} WHERE m.name = ? AND m.version = coalesce(?, m.version)"
            " ORDER BY number DESC LIMIT 1",
            [name, version],
        ) or self._database.row(
            f"{_SELECT} WHERE ? = ANY(m.aliases) ORDER BY number DESC LIMIT 1",
            [name if version is None else f"{name}@{version}"],
        )
        if row is not None:
            return model_from_row(row)
        if version is None and "@" in name:
            bare, _, wanted = name.rpartition("@")
            return self._look_up(bare, wanted)
        raise self._unknown(name, version)

    def _by_id_prefix(self, prefix: str) -> ModelRecord:
        rows = self._database.rows(f"{_SELECT} WHERE starts_with(m.id, ?) LIMIT 2", [prefix])
        if len(rows) == 1:
            return model_from_row(rows[0])
        problem = "more than one model has" if rows else "no model has"
        raise UnknownNameError(f"{problem} an id that starts with '{prefix}'")

    def _unknown(self, name: str, version: str | None) -> UnknownNameError:
        rows = self._database.rows(
            "SELECT version FROM store.models WHERE name = ? ORDER BY number", [name]
        )
        versions = [found for (found,) in rows]
        if versions:
            return UnknownNameError(
                f"the model '{name}' has no version '{version}'",
                hint=f"its versions: {', '.join(versions)}",
            )
        none = "the database has no models yet; IMPORT MODELS FROM ... adds some"
        return unknown_name("model", name, self.model_names(), none=none)


def _next_version(taken: set[str]) -> str:
    number = max((int(version) for version in taken if version.isdigit()), default=len(taken)) + 1
    return str(number)
