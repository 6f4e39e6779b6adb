"""Model links, and saved plans of which models to execute and which to predict.

A link outlives its models: it stays, marked stale, until it is dropped or made anew. What it
predicted lies with the sketches, under its id; see SketchStore.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any

from sommelier.errors import StorageError
from sommelier.link_records import ActivationPlan, ModelLink, PlannedModel, SavedPlan
from sommelier.storage.catalog_segments import SegmentTable
from sommelier.storage.naming import unknown_name
from sommelier.storage.rows import known, mapping_from_json, now, to_json, utc
from sommelier.storage.versions import PLAN_STATES, link_states, version_of

LinkGone = Callable[[ModelLink], None]

_DERIVED = ("source_names", "target_name", "stale")  # told by the models as they are now
_LINK_COLUMNS = tuple(f.name for f in fields(ModelLink) if f.name not in _DERIVED)
_MODEL_COLUMNS = tuple(field.name for field in fields(PlannedModel))
_MAPPINGS = ("budget", "cost", "total")
_PLAN_COLUMNS = tuple(field.name for field in fields(ActivationPlan) if field.name != "models")
_LINKS = (
    "WITH asked AS MATERIALIZED (SELECT * FROM store.links WHERE target_id = coalesce(?, target_id)"
    " AND coalesce(?, source_ids[1]) = ANY(source_ids) AND name = coalesce(?, name))"
    f" SELECT {', '.join(f'k.{name}' for name in _LINK_COLUMNS)}, s.source_names, s.target_name,"
    f" s.stale FROM asked k JOIN ({link_states('asked')}) s ON s.id = k.id ORDER BY k.name"
)
_PLANS = (
    f"SELECT {', '.join(f'p.{name}' for name in _PLAN_COLUMNS)}, p.name, p.query_text,"
    f" p.created_at, s.stale FROM store.plans p LEFT JOIN ({PLAN_STATES}) s ON s.plan = p.name"
)
_PLAN_MODELS = f"SELECT plan, {', '.join(_MODEL_COLUMNS)} FROM store.plan_models"


class LinkTable(SegmentTable):
    """The part of the catalog that knows what predicts one model's answers from others'."""

    _gone_listeners: tuple[LinkGone, ...] = ()

    # ---- links

    def add_links(self, links: Iterable[ModelLink]) -> None:
        """Keep links; those there are of the same id or name are replaced.

        So a link that is made again with nothing else decided, under another name, is renamed. Call
        `new_link_name` for a name that no other models' link has. `created_at` is now where it is
        None; numbers that are NaN are unknown.
        """
        from sommelier.storage.schema import LINKS

        given = list(links)
        if not given:
            return
        with self._database.transaction("keep links"):
            name, count = Counter(link.name for link in given).most_common(1)[0]
            if count > 1:
                raise StorageError(f"two links would be called '{name}'")
            names = self._names_of({id_ for link in given for id_ in _models_of(link)})
            self._forget_links(self._replaced_by(given))
            self._database.upsert(LINKS, [_link_row(link, names) for link in given])

    def links(
        self,
        *,
        target_id: str | None = None,
        source_id: str | None = None,
        name: str | None = None,
    ) -> list[ModelLink]:
        """Links by name: all, or those into a target, from a source (alone or with others)."""
        rows = self._database.rows(_LINKS, [target_id, source_id, name])
        return [_link(row) for row in rows]

    def link(self, name: str) -> ModelLink:
        """The link of this name. Raises UnknownNameError with the nearest names."""
        found = self.links(name=name)
        if not found:
            raise unknown_name("link", name, self.link_names())
        return found[0]

    def link_names(self) -> list[str]:
        """The names of all links, sorted."""
        return [n for (n,) in self._database.rows("SELECT name FROM store.links ORDER BY name")]

    def link_ids(self) -> list[str]:
        """The ids of all links, sorted."""
        return [i for (i,) in self._database.rows("SELECT id FROM store.links ORDER BY id")]

    def new_link_name(
        self, source_ids: Sequence[str], target_id: str, dataset: str | None = None
    ) -> str:
        """'<source>_to_<target>', of several sources '<one>_<other>_to_<target>', for a link that
        is learned on a dataset.

        '_on_<dataset>' is behind it where the same models' link of another dataset is called that,
        a number where one of other models is. One of the same models and dataset is replaced, and
        so is a stale one, whose models are gone or answer otherwise now.
        """
        names = self._names_of({*source_ids, target_id})
        base = f"{'_'.join(names[id_] for id_ in source_ids)}_to_{names[target_id]}"
        alike = self._database.rows(
            "SELECT name FROM store.links WHERE starts_with(name, ?)", [base]
        )
        valid = [link for (n,) in alike for link in self.links(name=n) if link.stale is None]
        owners = {link.name: link for link in valid}
        own = (*source_ids, target_id)
        for stem in (base, *(f"{base}_{number}" for number in range(2, len(owners) + 3))):
            owner = owners.get(stem)
            if owner is None or (_models_of(owner) == own and dataset in (None, owner.dataset)):
                return stem
            apart = f"{stem}_on_{dataset}"
            if _models_of(owner) == own and (
                apart not in owners or _models_of(owners[apart]) == own
            ):
                return apart
        raise AssertionError("more names than links")

    def drop_link(self, name: str) -> None:
        """Forget a link, and what it predicted once that is committed; its ONNX file stays, as
        those of models do. Raises UnknownNameError."""
        with self._database.transaction(f"drop the link '{name}'"):
            self._forget_links([self.link(name)])

    def on_link_gone(self, remove: LinkGone) -> None:
        """Have `remove(link)` called after a link was dropped or replaced by one of another id."""
        self._gone_listeners = (*self._gone_listeners, remove)

    # ---- plans

    def save_plan(self, name: str, plan: ActivationPlan, query_text: str) -> None:
        """Keep a plan under a name; replaces a plan of that name.

        A model of it without a version gets the version it has now. Raises UnknownNameError if that
        model is not there.
        """
        from sommelier.storage.schema import PLAN_MODELS, PLANS

        with self._database.transaction(f"save the plan '{name}'"):
            missing = [model.model_id for model in plan.models if not model.version]
            versions = {record.id: version_of(record) for record in self.models(missing)}
            members = [
                {"plan": name, "position": place}
                | {column: known(getattr(model, column)) for column in _MODEL_COLUMNS}
                | {"source_ids": list(model.source_ids), "link_ids": list(model.link_ids)}
                | {"version": model.version or versions[model.model_id]}
                for place, model in enumerate(plan.models)
            ]
            self._database.write(PLAN_MODELS.delete().where(PLAN_MODELS.c.plan == name))
            self._database.upsert(PLANS, [_plan_row(name, plan, query_text)])
            self._database.insert(PLAN_MODELS, members)

    def plan(self, name: str) -> SavedPlan:
        """The plan of this name. Raises UnknownNameError with the nearest names."""
        for saved in self.plans():
            if saved.name == name:
                return saved
        raise unknown_name("plan", name, self.plan_names())

    def plans(self) -> list[SavedPlan]:
        """All plans, by name."""
        members: dict[str, list[PlannedModel]] = {}
        for plan, *values in self._database.rows(f"{_PLAN_MODELS} ORDER BY plan, position"):
            members.setdefault(plan, []).append(_planned(values))
        rows = self._database.rows(f"{_PLANS} ORDER BY p.name")
        return [_saved_plan(row, members) for row in rows]

    def plan_names(self) -> list[str]:
        """The names of all plans, sorted."""
        return [n for (n,) in self._database.rows("SELECT name FROM store.plans ORDER BY name")]

    def drop_plan(self, name: str) -> None:
        """Forget a plan; its models and links stay. Raises UnknownNameError."""
        from sommelier.storage.schema import PLAN_MODELS, PLANS

        with self._database.transaction(f"drop the plan '{name}'"):
            self._drop(PLANS, "plan", name)
            self._database.write(PLAN_MODELS.delete().where(PLAN_MODELS.c.plan == name))

    # ---- inside

    def _names_of(self, ids: Iterable[str]) -> dict[str, str]:
        """The names of models; the id of one that is not there."""
        wanted = list(ids)
        found = self._database.rows(
            "SELECT id, name FROM store.models WHERE id IN (SELECT unnest(?::VARCHAR[]))", [wanted]
        )
        return {id_: id_ for id_ in wanted} | dict(found)

    def _replaced_by(self, links: Sequence[ModelLink]) -> list[ModelLink]:
        """Links that are there under the name of one of these, and are others."""
        rows = self._database.rows(
            "SELECT name FROM store.links WHERE name IN (SELECT unnest(?::VARCHAR[]))"
            " AND id NOT IN (SELECT unnest(?::VARCHAR[]))",
            [[link.name for link in links], [link.id for link in links]],
        )
        return [self.link(name) for (name,) in rows]

    def _forget_links(self, links: Sequence[ModelLink]) -> None:
        from sommelier.storage.schema import LINKS

        if not links:
            return
        self._database.write(LINKS.delete().where(LINKS.c.id.in_([link.id for link in links])))
        for link in links:
            self._database.after_commit(partial(self._tell_gone, link))

    def _tell_gone(self, link: ModelLink) -> None:
        if link.id not in self.link_ids():  # or it was kept again, under another name
            for remove in self._gone_listeners:
                remove(link)


def _models_of(link: ModelLink) -> tuple[str, ...]:
    return (*link.source_ids, link.target_id)


def _link_row(link: ModelLink, names: Mapping[str, str]) -> dict[str, Any]:
    if len(link.source_ids) != len(link.source_versions) or not link.source_ids:
        raise ValueError(f"link '{link.name}' needs a version for each of its sources")
    row = {column: known(getattr(link, column)) for column in _LINK_COLUMNS}
    return row | {
        "source_ids": list(link.source_ids),
        "source_versions": list(link.source_versions),
        "source_names": [names[id_] for id_ in link.source_ids],
        "target_name": names[link.target_id],
        "created_at": utc(link.created_at) or now(),
    }


def _link(row: Sequence[Any]) -> ModelLink:
    values = dict(zip((*_LINK_COLUMNS, *_DERIVED), row, strict=True))
    for column in ("source_ids", "source_versions", "source_names"):
        values[column] = tuple(values[column])
    return ModelLink(**values)


def _plan_row(name: str, plan: ActivationPlan, query_text: str) -> dict[str, Any]:
    row = {column: known(getattr(plan, column)) for column in _PLAN_COLUMNS}
    row |= {column: to_json(dict(row[column])) for column in _MAPPINGS}
    row |= {"notes": to_json(plan.notes), "name": name, "query_text": query_text}
    return row | {"created_at": now()}


def _planned(values: Sequence[Any]) -> PlannedModel:
    model = PlannedModel(*values)
    return replace(model, source_ids=tuple(model.source_ids), link_ids=tuple(model.link_ids))


def _saved_plan(row: Sequence[Any], members: Mapping[str, Sequence[PlannedModel]]) -> SavedPlan:
    count = len(_PLAN_COLUMNS)
    values: dict[str, Any] = dict(zip(_PLAN_COLUMNS, row[:count], strict=True))
    name, query, created_at, stale = row[count:]
    values |= {column: mapping_from_json(values[column]) for column in _MAPPINGS}
    values["notes"] = tuple(json.loads(values["notes"]))
    plan = ActivationPlan(models=tuple(members.get(name, ())), **values)
    return SavedPlan(name, query, plan, created_at, stale)
