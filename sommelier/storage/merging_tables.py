"""What catalogs keep beside models, numbers and answers, when one is taken into another.

Most rows have a key that means the same in every catalog: ids are hashes of contents. They are
added where the key is new. Datasets, pools, views, repositories, plans, cascades and links have
names that somebody gave them; merging_names.py decides about those. What is about a model, a link
or a dataset that stays behind does so too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sommelier.storage.catalog import Catalog
from sommelier.storage.merging_names import Names, matched

if TYPE_CHECKING:
    from sqlalchemy import Table

Row = dict[str, Any]
Arriving = list[tuple["Table", list[Row]]]
_DATASETS = ("dataset", "target_dataset")
_NOT_COMPARED = ("created_at", "job_id")  # when, and by which job, it was kept


@dataclass(frozen=True, slots=True)
class _Keyed:
    """A table whose keys mean the same everywhere. models : columns with ids of models it is about.
    emptied : of one that may be unknown. children : tables, and their column with the key."""

    table: str
    models: tuple[str, ...] = ()
    emptied: str | None = None
    children: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Named:
    """A table whose keys are names. compared : columns that make two the same; None: all but the
    name. thins : whether members that stay behind are left out of it, and it goes all the same."""

    kind: str
    table: str
    compared: tuple[str, ...] | None = None
    children: tuple[tuple[str, str], ...] = ()
    thins: bool = False


_FIRST = (
    _Keyed("label_spaces"), _Keyed("label_maps"), _Keyed("devices"), _Keyed("operator_costs"),
    _Keyed("rejections"), _Keyed("probe_sets"), _Keyed("profiles", ("model_id",)),
    _Keyed("originals", ("model_id",)), _Keyed("task_references", ("model_id",)),
    _Keyed("edges", ("reference_id", "candidate_id")), _Keyed("lineage", ("model_id",)),
    _Keyed("segments", ("host_id", "donor_id"), emptied="hybrid_id"),
    _Keyed("fusions", ("model_id",),
           children=(("fusion_tasks", "fusion_id"), ("fusion_trace", "fusion_id"))),
)  # fmt: skip
_DATASET = _Named("dataset", "datasets", compared=("id",))
_LAST = (
    _Named("pool", "pools", children=(("pool_members", "pool"),), thins=True),
    _Named("view", "saved_views"),
    _Named("repository", "repositories"),
    _Named("plan", "plans", children=(("plan_models", "plan"),)),
    _Named("cascade", "cascades", children=(("cascade_stages", "cascade"),)),
)


def arriving_rows(source: Catalog, target: Catalog, names: Names) -> Arriving:
    """The rows that are to be added to each table, under the names they have in `target`.

    Decides about names on the way; models are decided about before.
    """
    merge = _Merge(source, target, names)
    merge.named(_DATASET)  # others name them
    for keyed in _FIRST:
        merge.keyed(keyed)
    merge.links()  # before plans, which are made of them
    for named in _LAST:
        merge.named(named)
    return merge.arriving


class _Merge:
    def __init__(self, source: Catalog, target: Catalog, names: Names) -> None:
        self._source, self._target, self._names = source, target, names
        self.arriving: Arriving = []

    def keyed(self, rule: _Keyed) -> None:
        table = _table(rule.table)
        keys = [column.name for column in table.primary_key]
        known = {_of(row, keys) for row in _rows(self._target, table)}
        children = self._children(self._source, rule.children)
        new = []
        for row in _rows(self._source, table):
            about = [*(row[name] for name in rule.models)]
            own = children[_of(row, keys)[0]]
            about += [child["model_id"] for _, child in own if "model_id" in child]
            if _of(row, keys) in known or self._stays(row, about):
                continue
            if rule.emptied and self._names.is_left("model", row[rule.emptied]):
                row[rule.emptied] = None
            new.append(self._here(row))
            if "job_id" in row:
                row["job_id"] = None  # jobs stay behind
            self._add_children(own)
        self._add(table, new)

    def links(self) -> None:
        table = _table("links")
        ours = _rows(self._target, table)
        known, taken = {row["id"] for row in ours}, {row["name"] for row in ours}
        new = []
        for row in _rows(self._source, table):
            if row["id"] in known:
                continue
            if self._stays(row, [row["target_id"], *row["source_ids"]]):
                self._names.leave("link", row["id"])
                continue
            name: str | None = row["name"]
            if name in taken:
                name = self._names.settle("link", row["name"], row["id"], taken)
            if name is not None:
                taken.add(name)
                new.append(self._here(row) | {"name": name})
        self._add(table, new)

    def named(self, rule: _Named) -> None:
        table = _table(rule.table)
        theirs = self._contents(self._source, rule)
        ours = self._contents(self._target, rule)
        if rule is not _DATASET and not rule.thins:
            for name in [name for name, (row, own) in theirs.items() if self._goes_not(row, own)]:
                self._names.leave(rule.kind, name)
                del theirs[name]
        kept = [
            {name: _compared(rule, row, own) for name, (row, own) in contents.items()}
            for contents in (theirs, ours)
        ]
        new = []
        for name in matched(rule.kind, kept[0], kept[1], self._names):
            row, own = theirs[name]
            here = self._names.here(rule.kind, name)
            new.append(row | {"name": here})
            self._add_children(
                (table, child | {column: here})
                for (table, child), column in zip(own, _columns(rule, own), strict=True)
            )
        self._add(table, new)

    # ---- inside

    def _contents(
        self, catalog: Catalog, rule: _Named
    ) -> dict[str, tuple[Row, list[tuple[Table, Row]]]]:
        """Name -> row and those of its children, as they are to be here."""
        children = self._children(catalog, rule.children)
        found = {}
        for row in _rows(catalog, _table(rule.table)):
            own = children[row["name"]]
            if catalog is self._source:
                row = self._here(row)
                if rule.thins:
                    own = [
                        (t, c) for t, c in own if not self._names.is_left("model", c["model_id"])
                    ]
            found[row["name"]] = row, own
        return found

    def _goes_not(self, row: Row, own: Sequence[tuple[Table, Row]]) -> bool:
        models = [child["model_id"] for _, child in own]
        links = [link for _, child in own for link in child.get("link_ids", ())]
        return self._stays(row, models) or self._names.is_left("link", *links)

    def _stays(self, row: Row, models: Sequence[str | None]) -> bool:
        datasets = [row[name] for name in _DATASETS if name in row]
        # a name that was mapped is another's here, and not what stays behind
        return self._names.is_left("model", *models) or self._names.is_left("dataset", *datasets)

    def _here(self, row: Row) -> Row:
        """The same row with the names that datasets have here."""
        for name in _DATASETS:
            if name in row:
                row[name] = self._names.here("dataset", row[name])
        return row

    def _children(
        self, catalog: Catalog, kinds: Iterable[tuple[str, str]]
    ) -> dict[str, list[tuple[Table, Row]]]:
        found: dict[str, list[tuple[Table, Row]]] = defaultdict(list)
        for name, column in kinds:
            for row in _rows(catalog, _table(name)):
                found[row[column]].append((_table(name), row))
        return found

    def _add_children(self, rows: Iterable[tuple[Table, Row]]) -> None:
        for table, row in rows:
            self._add(table, [row])

    def _add(self, table: Table, rows: list[Row]) -> None:
        known = next((kept for there, kept in self.arriving if there is table), None)
        if known is not None:
            known.extend(rows)
        elif rows:
            self.arriving.append((table, rows))


def _compared(rule: _Named, row: Row, own: Sequence[tuple[Table, Row]]) -> object:
    """What has to be equal for two to be the same, whatever they are called."""
    ignored = {"name", *_NOT_COMPARED}
    chosen = rule.compared or tuple(name for name in row if name not in ignored)
    parents = {column for _, column in rule.children}
    members = [
        [(name, value) for name, value in child.items() if name not in parents] for _, child in own
    ]
    return [row[name] for name in chosen], members


def _columns(rule: _Named, own: Sequence[tuple[Table, Row]]) -> list[str]:
    by_table = dict(rule.children)
    return [by_table[table.name] for table, _ in own]


def _table(name: str) -> Table:
    from sommelier.storage.schema import METADATA

    return METADATA.tables[f"store.{name}"]


def _rows(catalog: Catalog, table: Table) -> list[Row]:
    names = [column.name for column in table.columns]
    listed = ", ".join(f'"{name}"' for name in names)
    order = ", ".join(f'"{column.name}"' for column in table.primary_key)
    found = catalog.database.rows(f"SELECT {listed} FROM {table.fullname} ORDER BY {order}")
    return [dict(zip(names, row, strict=True)) for row in found]


def _of(row: Row, keys: Sequence[str]) -> tuple[Any, ...]:
    return tuple(row[key] for key in keys)
