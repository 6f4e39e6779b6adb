"""One catalog taken into another, of whichever kind both are: two zoos become one.

Models of the same content become one, with the names, tags and numbers of both; what is new is
added. A number keeps where it is from: method, source, interval and time. Where both catalogs have
one in the same context, the later measurement stays. Merged twice, nothing changes.

    plan (names, merging_names.py) -> model files -> one transaction: models, numbers, answers,
    tables (merging_tables.py)

What belongs to a database and not to its models stays behind: settings, jobs and workers,
deployments and what serving measured of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from sommelier.errors import StorageError
from sommelier.records import Measurement, Provenance
from sommelier.storage.catalog import Catalog
from sommelier.storage.merging_names import CHOICES, ModelNames, NameConflict, Names, merged_models
from sommelier.storage.merging_tables import Arriving, arriving_rows
from sommelier.storage.sketches import SketchStore

_ROWS = 200_000  # numbers that are in memory as records at once
_SKETCHES = 2_000  # answers that are


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge did. added, joined : models that are new, and those in both of which something
    was added. conflicts : names that stood for two things. rows : by table, without `models`;
    numbers and answers that replaced older ones count."""

    added: int
    joined: int
    both: int
    conflicts: tuple[NameConflict, ...]
    rows: dict[str, int]

    @property
    def changed(self) -> bool:
        """Whether anything is different now."""
        return bool(self.added or self.joined or sum(self.rows.values()))


def merge_catalog(source: Catalog, target: Catalog, *, conflicts: str = "fail") -> Merged:
    """Take everything in `source` into `target`; see Merged.

    conflicts : what is done where a name stands for something else in `target`. 'fail' raises
    StorageError and nothing is merged; 'rename' adds it as name_2; 'skip' leaves it out, with all
    that is about it. `source` is not changed; nothing is in `target` if it fails, but files that no
    row names.
    """
    if conflicts not in CHOICES:
        raise StorageError(
            f"conflicts = '{conflicts}' is not known", hint=f"one of {', '.join(CHOICES)}"
        )
    with source.steady():
        with target.steady():  # for an early refusal, before files are copied
            plan = _planned(source, target, conflicts)
        _take_files(source, target, plan)
        with target.database.transaction("merge a catalog"):
            return _merge(source, target, _planned(source, target, conflicts))


class _Plan(NamedTuple):
    models: ModelNames
    arriving: Arriving
    names: Names


def _planned(source: Catalog, target: Catalog, choice: str) -> _Plan:
    names = Names(choice)
    models = merged_models(source, target, names)
    arriving = arriving_rows(source, target, names)
    names.check()
    return _Plan(models, arriving, names)


def _merge(source: Catalog, target: Catalog, plan: _Plan) -> Merged:
    models, names = plan.models, plan.names
    target.add_models_bulk(models.arriving)
    for record in models.joined:
        target.update_model(record)
    rows = {}
    for table, found in plan.arriving:
        target.database.insert(table, found)
        rows[table.name] = len(found)
    rows["measurements"] = _merge_numbers(source, target, names)
    rows["sketches"] = _merge_answers(source, target, names)
    return Merged(
        len(models.arriving), len(models.joined), len(models.both), tuple(names.conflicts),
        {name: count for name, count in rows.items() if count},
    )  # fmt: skip


# ---- files


def _take_files(source: Catalog, target: Catalog, plan: _Plan) -> None:
    """The files of models that arrive, and of links. What is there already is not copied again."""
    if source.artifacts.address == target.artifacts.address:
        return
    keys = {record.artifact for record in (*plan.models.arriving, *plan.models.joined)}
    keys |= {link.artifact for link in source.links() if not plan.names.is_left("link", link.id)}
    for key in sorted(key for key in keys if key is not None):
        with source.artifacts.using():
            file, *external = source.artifacts.files(key)
            in_place = source.artifacts.is_in_place(key)
            target.artifacts.put(file, external=external, reference_in_place=in_place)


# ---- numbers


def _merge_numbers(source: Catalog, target: Catalog, names: Names) -> int:
    known = {
        (model_id, _context(context)): moment for model_id, context, moment in _moments(target)
    }
    waiting: list[Measurement] = []
    count = 0
    for found in _numbers(source, names):
        moment = known.get((found.model_id, _context_of(found)))
        if moment is not None and found.recorded_at is not None and found.recorded_at <= moment:
            continue
        waiting.append(found)
        if len(waiting) == _ROWS:
            count += target.add_measurements(waiting)
            waiting = []
    return count + target.add_measurements(waiting)


def _numbers(catalog: Catalog, names: Names) -> Iterator[Measurement]:
    """Every number that is to go, with the names of datasets that they have here."""
    contexts = catalog.contexts()
    rows = catalog.database.rows(
        "SELECT o.id, m.context, m.value, m.low, m.high, m.count, s.source, m.recorded_at"
        " FROM store.measurements m JOIN store.models o ON o.number = m.model"
        " LEFT JOIN store.sources s ON s.id = m.source ORDER BY m.model, m.context"
    )
    for model_id, context_id, value, low, high, count, origin, moment in rows:
        context = contexts[context_id]
        if names.is_left("model", model_id) or names.is_left("dataset", context["dataset"]):
            continue
        fields = context | {
            "dataset": names.here("dataset", context["dataset"]),
            "provenance": Provenance(context["provenance"]),
        }
        yield Measurement(
            model_id=model_id, value=value, low=low, high=high, count=count, source=origin,
            recorded_at=moment, **fields,
        )  # fmt: skip


def _moments(catalog: Catalog) -> Iterator[tuple[str, dict[str, Any], datetime]]:
    contexts = catalog.contexts()
    rows = catalog.database.rows(
        "SELECT o.id, m.context, m.recorded_at FROM store.measurements m"
        " JOIN store.models o ON o.number = m.model"
    )
    for model_id, context_id, moment in rows:
        yield model_id, contexts[context_id], moment


def _context(context: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(context[name] for name in sorted(context))


def _context_of(found: Measurement) -> tuple[Any, ...]:
    from sommelier.storage.catalog_measurements import CONTEXT_COLUMNS

    told = {name: getattr(found, name) for name in CONTEXT_COLUMNS}
    return _context(told | {"provenance": found.provenance.value})


# ---- answers


def _merge_answers(source: Catalog, target: Catalog, names: Names) -> int:
    """What models answered, and what links predicted, where it is not known yet."""
    theirs, ours = (SketchStore(one.directory / "sketches", one) for one in (source, target))
    count = 0
    for probe_set in source.probe_sets():
        known = set(ours.model_ids(probe_set.id))
        rows = [
            row
            for row in source.sketch_rows(probe_set.id)
            if row.model_id not in known and not names.is_left("model", row.model_id)
        ]
        for start in range(0, len(rows), _SKETCHES):
            part = rows[start : start + _SKETCHES]
            ours.add_many(theirs.sketch(row) for row in part)
        count += len(rows)
        for row in rows:
            _take_outputs(theirs, ours, row.model_id, probe_set.id)
    for link in source.links():
        if link.probe_set_id and not names.is_left("link", link.id):
            _take_outputs(theirs, ours, link.id, link.probe_set_id)
    return count


def _take_outputs(theirs: SketchStore, ours: SketchStore, key: str, probe_set_id: str) -> None:
    found = theirs.outputs(key, probe_set_id)
    if found is not None and ours.outputs(key, probe_set_id) is None:
        ours.add_outputs(key, probe_set_id, found)
