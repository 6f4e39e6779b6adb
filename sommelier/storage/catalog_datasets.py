"""Datasets, probe sets, the places of output sketches, and equivalence edges."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sommelier.errors import UnknownNameError
from sommelier.records import Dataset, EquivalenceEdge, ProbeSet
from sommelier.storage.catalog_measurements import MeasurementTable
from sommelier.storage.naming import unknown_name
from sommelier.storage.rows import mapping_from_json, now, to_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sommelier.storage.sketches import SketchRow

_DATASET = (
    "SELECT id, name, kind, path, samples, item_shape, dtype, labelled, label_space_id, options,"
    " held_out FROM store.datasets"
)
_PROBE_SET = (
    "SELECT id, dataset_id, name, samples, seed, synthetic, labels, label_space_id, indices"
    " FROM store.probe_sets"
)
_EDGE = (
    "SELECT reference_id, candidate_id, nullif(probe_set_id, ''), samples, agreements, lower,"
    " upper, confidence, method, labels, difference, difference_low, difference_high"
    " FROM store.edges"
)
_SKETCH = (
    "SELECT model_id, probe_set_id, kind, file, row_index, width, exact, label_space_id, classes,"
    " failures, topk_row FROM store.sketches"
)
_CHUNK = 500  # models in one condition


class DatasetTable(MeasurementTable):
    """The part of the catalog that knows data, and what models answered on it."""

    # ---- datasets

    def add_dataset(self, dataset: Dataset) -> None:
        """Remember a dataset; one of the same name is replaced."""
        from sommelier.storage.schema import DATASETS

        row = {
            "name": dataset.name,
            "id": dataset.id,
            "kind": dataset.kind,
            "path": str(dataset.path),
            "samples": dataset.samples,
            "item_shape": None if dataset.item_shape is None else to_json(dataset.item_shape),
            "dtype": dataset.dtype,
            "labelled": dataset.labelled,
            "label_space_id": dataset.label_space_id,
            "options": to_json(dict(dataset.options)),
            "held_out": dataset.held_out,
        }
        with self._database.transaction(f"add the dataset '{dataset.name}'"):
            self._database.upsert(DATASETS, [row])

    def dataset(self, name: str) -> Dataset:
        """The dataset of this name. Raises UnknownNameError."""
        row = self._database.row(f"{_DATASET} WHERE name = ?", [name])
        if row is None:
            raise unknown_name("dataset", name, [known.name for known in self.datasets()])
        return _dataset(row)

    def datasets(self) -> list[Dataset]:
        """All datasets, by name."""
        return [_dataset(row) for row in self._database.rows(f"{_DATASET} ORDER BY name")]

    def drop_dataset(self, name: str) -> None:
        """Forget a dataset and all that was measured on it: another may then have its name.

        Declared numbers stay; so do the files of answers, which nothing names any more. Raises
        UnknownNameError.
        """
        from sqlalchemy import and_, select

        from sommelier.storage import schema

        datasets, probes, contexts = schema.DATASETS, schema.PROBE_SETS, schema.CONTEXTS
        with self._database.transaction(f"drop the dataset '{name}'"):
            dropped = self.dataset(name)
            ids = [p.id for p in self.probe_sets() if p.dataset_id == dropped.id]
            for table in (schema.SKETCHES, schema.EDGES):
                self._database.write(table.delete().where(table.c.probe_set_id.in_(ids)))
            for probe_set_id in ids:
                about = schema.TASKS.c.parameters.contains(probe_set_id)
                self._database.write(schema.TASKS.delete().where(about))
            self._database.write(probes.delete().where(probes.c.id.in_(ids)))
            measured = select(contexts.c.id).where(
                and_(contexts.c.dataset == name, contexts.c.provenance == "measured")
            )
            numbers = schema.MEASUREMENTS
            self._database.write(numbers.delete().where(numbers.c.context.in_(measured)))
            self._database.write(datasets.delete().where(datasets.c.name == name))

    # ---- probe sets

    def add_probe_set(self, probe_set: ProbeSet) -> None:
        """Remember a probe set; one of the same id is replaced."""
        from sommelier.storage.schema import PROBE_SETS

        row = {column.name: getattr(probe_set, column.name) for column in PROBE_SETS.columns}
        with self._database.transaction("add a probe set"):
            self._database.upsert(PROBE_SETS, [row])

    def probe_set(self, probe_set_id: str) -> ProbeSet:
        """The probe set with this id. Raises UnknownNameError."""
        row = self._database.row(f"{_PROBE_SET} WHERE id = ?", [probe_set_id])
        if row is None:
            raise UnknownNameError(f"there is no probe set with the id '{probe_set_id}'")
        return ProbeSet(*row)

    def probe_sets(self) -> list[ProbeSet]:
        """All probe sets, by name."""
        return [ProbeSet(*row) for row in self._database.rows(f"{_PROBE_SET} ORDER BY name, id")]

    # ---- where sketches lie

    def add_sketch_row(self, entry: SketchRow) -> None:
        """Remember where a sketch lies; one of the same model and probe set is replaced."""
        self.add_sketch_rows([entry])

    def add_sketch_rows(self, entries: Iterable[SketchRow]) -> None:
        """Like add_sketch_row, for many; about 2 s per 100 000.

        Comparisons with the answers of a sketch that is replaced are forgotten.
        """
        from sommelier.storage.schema import SKETCHES

        with self._database.transaction("add sketches"):
            found = self._database.row("SELECT coalesce(max(number), 0) FROM store.sketches")
            first = 1 + (found[0] if found else 0)
            rows = [_sketch(entry, first + place) for place, entry in enumerate(entries)]
            self._forget_comparisons(rows)
            self._database.upsert(SKETCHES, rows)

    def sketch_rows(
        self, probe_set_id: str | None = None, *, model_id: str | None = None
    ) -> list[SketchRow]:
        """Where sketches lie, in the order they were added; None: of every probe set, model."""
        from sommelier.storage.sketches import SketchRow

        rows = self._database.rows(
            f"{_SKETCH} WHERE probe_set_id = coalesce(?, probe_set_id)"
            " AND model_id = coalesce(?, model_id) ORDER BY number",
            [probe_set_id, model_id],
        )
        return [SketchRow(*row) for row in rows]

    def sketches_from(self, number: int) -> list[tuple[int, SketchRow]]:
        """(number, sketch) from a number on, ascending; each sketch that is added or replaced gets
        the next number."""
        from sommelier.storage.sketches import SketchRow

        rows = self._database.rows(
            f"{_SKETCH.replace('SELECT', 'SELECT number,', 1)} WHERE number >= ? ORDER BY number",
            [number],
        )
        return [(row[0], SketchRow(*row[1:])) for row in rows]

    def sketch_count(self) -> int:
        """How many sketches there are."""
        found = self._database.row("SELECT count(*) FROM store.sketches")
        return int(found[0]) if found else 0

    def sketch_columns(self) -> tuple[list[tuple[Any, ...]], dict[str, NDArray[Any]]]:
        """Every sketch of a model that exists, in order: (groups, columns).

        A group is (probe set, kind, file, width, exact, label space, classes). Columns: number;
        row, as in `model_ids`; file_row; code, the place of its group. About 0.5 s a million.
        """
        names = "probe_set_id, kind, file, width, exact, label_space_id, classes"
        groups = f"SELECT DISTINCT {names} FROM store.sketches"
        coded = f"SELECT *, row_number() OVER (ORDER BY {names}) - 1 AS code FROM ({groups}) d"
        same = " AND ".join(f"g.{name} IS NOT DISTINCT FROM s.{name}" for name in names.split(", "))
        with self._database.steady():
            listed = self._database.rows(f"SELECT {names} FROM ({coded}) g ORDER BY code")
            found = self._database.columns(
                "SELECT s.number, m.number AS model, s.row_index AS file_row, g.code"
                " FROM store.sketches s JOIN store.models m ON m.id = s.model_id"
                f" JOIN ({coded}) g ON {same} ORDER BY s.number"
            )
            places = self._known_positions()
        row = places.of_number[found["model"]]
        return listed, {"row": row, **{n: found[n] for n in ("number", "file_row", "code")}}

    def sketch_rows_named(self, probe_set_id: str, file: str) -> int:
        """How many rows a file of a probe set has at least: one more than the last one named."""
        named = "topk_row" if file.startswith("topk-") else "CASE WHEN file = ? THEN row_index END"
        values = [file, probe_set_id] if "?" in named else [probe_set_id]
        found = self._database.row(
            f"SELECT coalesce(max({named}) + 1, 0) FROM store.sketches WHERE probe_set_id = ?",
            values,
        )
        return int(found[0]) if found else 0

    # ---- equivalence

    def add_edges(self, edges: Iterable[EquivalenceEdge]) -> None:
        """Remember comparisons; one of the same pair, probe set and method is replaced."""
        from sommelier.storage.schema import EDGES

        names = [column.name for column in EDGES.columns]
        rows = [{name: getattr(edge, name) for name in names} for edge in edges]
        for row in rows:
            row["probe_set_id"] = row["probe_set_id"] or ""
        with self._database.transaction("add equivalences"):
            self._database.upsert(EDGES, rows)

    def replace_edges(
        self,
        probe_set_id: str | None,
        edges: Iterable[EquivalenceEdge],
        *,
        references: Iterable[str] = (),
    ) -> None:
        """Remember all comparisons of each reference in `edges` on a probe set.

        What was known of these references on this probe set is forgotten first, so no pair is left
        that is not found any more; streamed pairs (method 'anytime') stay. references : more of
        them, for those that have no comparison now. Raises ValueError for an edge of another probe
        set.
        """
        from sommelier.storage.schema import EDGES

        given = list(edges)
        if any(edge.probe_set_id != probe_set_id for edge in given):
            raise ValueError(f"an edge is not of the probe set {probe_set_id}")
        about = list(dict.fromkeys([*references, *(edge.reference_id for edge in given)]))
        with self._database.transaction("replace equivalences"):
            for start in range(0, len(about), _CHUNK):
                self._database.write(
                    EDGES.delete().where(
                        EDGES.c.probe_set_id == (probe_set_id or ""),
                        EDGES.c.reference_id.in_(about[start : start + _CHUNK]),
                        EDGES.c.method != "anytime",
                    )
                )
            self.add_edges(given)

    def edges(self, reference_id: str) -> list[EquivalenceEdge]:
        """The comparisons with a reference, those that agree most first."""
        rows = self._database.rows(
            f"{_EDGE} WHERE reference_id = ?"
            " ORDER BY agreements::DOUBLE PRECISION / greatest(samples, 1) DESC, candidate_id,"
            " probe_set_id, method",
            [reference_id],
        )
        return [EquivalenceEdge(*row) for row in rows]

    # ---- inside

    def _forget_comparisons(self, sketches: Sequence[dict[str, Any]]) -> None:
        """Forget the comparisons with those of the sketches that are there already."""
        from sqlalchemy import or_

        from sommelier.storage.schema import EDGES

        known = self._database.rows(
            "SELECT probe_set_id, model_id FROM store.sketches"
            " WHERE model_id IN (SELECT unnest(?::VARCHAR[]))",
            [[row["model_id"] for row in sketches]],
        )
        replaced: dict[str, list[str]] = {}
        fresh = {(row["probe_set_id"], row["model_id"]) for row in sketches}
        for probe_set_id, model_id in fresh.intersection(known):
            replaced.setdefault(probe_set_id, []).append(model_id)
        for probe_set_id, models in replaced.items():
            for start in range(0, len(models), _CHUNK):
                some = models[start : start + _CHUNK]
                either = or_(EDGES.c.reference_id.in_(some), EDGES.c.candidate_id.in_(some))
                self._database.write(
                    EDGES.delete().where(EDGES.c.probe_set_id == probe_set_id, either)
                )


def _dataset(row: Sequence[Any]) -> Dataset:
    shape = None if row[5] is None else tuple(json.loads(row[5]))
    return Dataset(
        id=row[0], name=row[1], kind=row[2], path=Path(row[3]), samples=row[4], item_shape=shape,
        dtype=row[6], labelled=row[7], label_space_id=row[8], options=mapping_from_json(row[9]),
        held_out=row[10],
    )  # fmt: skip


def _sketch(entry: SketchRow, number: int) -> dict[str, Any]:
    return {
        "model_id": entry.model_id,
        "probe_set_id": entry.probe_set_id,
        "number": number,
        "kind": entry.kind,
        "file": entry.file,
        "row_index": entry.row,
        "width": entry.width,
        "exact": entry.exact,
        "label_space_id": entry.label_space_id,
        "classes": entry.classes,
        "failures": entry.failures,
        "topk_row": entry.topk_row,
        "added_at": now(),
    }
