"""Cascades: which models are asked in turn, when an answer stands, and what was proved of that.

A cascade outlives its models: it stays, marked stale, until it is dropped or made anew.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from sommelier.cascade_records import (
    CascadeMember,
    CascadePlan,
    CascadePromise,
    CascadeStage,
    KeptCascade,
)
from sommelier.records import ModelRecord
from sommelier.storage.catalog_fusions import FusionTable
from sommelier.storage.naming import unknown_name
from sommelier.storage.rows import known, now, to_json, utc
from sommelier.storage.versions import CASCADE_STATES, version_of

_OWN = ("loss", "flops", "flops_share", "dataset", "probe_set_id", "seed", "statement")
_PROMISE = ("at_most", "confidence", "samples")
_STAGE = tuple(f.name for f in fields(CascadeStage) if f.name not in ("model", "quantiles"))
_MEMBER = ("model_id", "version", "answered", "accuracy")
_CASCADES = (
    f"SELECT c.name, c.promised, {', '.join(f'c.{name}' for name in (*_PROMISE, *_OWN))},"
    " c.reason, c.notes, c.created_at, s.stale FROM store.cascades c"
    f" LEFT JOIN ({CASCADE_STATES}) s ON s.cascade = c.name"
    " WHERE c.name = coalesce(?, c.name) ORDER BY c.name"
)
_STAGES = (
    "SELECT p.cascade, coalesce(m.name, p.name), p.quantiles, p.ranking,"
    f" {', '.join(f'p.{name}' for name in (*_STAGE, *_MEMBER))} FROM store.cascade_stages p"
    " LEFT JOIN store.models m ON m.id = p.model_id ORDER BY p.cascade, p.position"
)
_Stage = tuple[CascadeStage, CascadeMember]


class CascadeTable(FusionTable):
    """The part of the catalog that knows which models are asked in turn."""

    def add_cascade(self, cascade: KeptCascade) -> None:
        """Keep a cascade; one of that name is replaced.

        `created_at` is now where it is None, a member's version what its model has now where it is
        missing. Raises UnknownNameError for such a model that is not there.
        """
        from sommelier.storage.cascade_schema import CASCADE_STAGES, CASCADES

        if len(cascade.members) != len(cascade.plan.stages):
            raise ValueError(f"cascade '{cascade.name}' needs a member for each stage")
        with self._database.transaction(f"keep the cascade '{cascade.name}'"):
            missing = [one.model_id for one in cascade.members if not one.version]
            records = {record.id: record for record in self.models(missing)}
            rows = [_stage_row(cascade, place, records) for place in range(len(cascade.members))]
            # not deleted and inserted: where the disk is full, DuckDB ends the process over it
            stages = CASCADE_STAGES.c
            left_over = (stages.cascade == cascade.name) & (stages.position >= len(rows))
            self._database.write(CASCADE_STAGES.delete().where(left_over))
            self._database.upsert(CASCADES, [_cascade_row(cascade)])
            self._database.upsert(CASCADE_STAGES, rows)

    def cascades(self, *, name: str | None = None) -> list[KeptCascade]:
        """All cascades by name, or the one of a name."""
        rows = self._database.rows(_CASCADES, [name])
        if not rows:
            return []
        stages: dict[str, list[_Stage]] = {}
        for cascade, *values in self._database.rows(_STAGES):
            stages.setdefault(cascade, []).append(_stage(values))
        return [_cascade(row, stages.get(row[0], [])) for row in rows]

    def cascade(self, name: str) -> KeptCascade:
        """The cascade of this name. Raises UnknownNameError with the nearest names."""
        found = self.cascades(name=name)
        if not found:
            raise unknown_name("cascade", name, self.cascade_names())
        return found[0]

    def cascade_names(self) -> list[str]:
        """The names of all cascades, sorted."""
        return [n for (n,) in self._database.rows("SELECT name FROM store.cascades ORDER BY name")]

    def new_cascade_name(self, model_ids: Sequence[str]) -> str:
        """'<first>_to_<last>' with all models between, for a cascade of these models in turn; with
        a number where a valid cascade of other models is called so."""
        names = self._names_of(model_ids)
        base = "_to_".join(names[id_] for id_ in model_ids)
        owners = {kept.name: kept for kept in self.cascades() if kept.stale is None}
        for stem in (base, *(f"{base}_{number}" for number in range(2, len(owners) + 3))):
            owner = owners.get(stem)
            if owner is None or [one.model_id for one in owner.members] == list(model_ids):
                return stem
        raise AssertionError("more names than cascades")

    def drop_cascade(self, name: str) -> None:
        """Forget a cascade; its models stay. Raises UnknownNameError."""
        from sommelier.storage.cascade_schema import CASCADE_STAGES, CASCADES

        with self._database.transaction(f"drop the cascade '{name}'"):
            self._drop(CASCADES, "cascade", name)
            self._database.write(CASCADE_STAGES.delete().where(CASCADE_STAGES.c.cascade == name))


def _cascade_row(cascade: KeptCascade) -> dict[str, Any]:
    promise = cascade.plan.promise
    row = {column: known(getattr(cascade, column)) for column in _OWN}
    row |= {"promised": None, "at_most": None, "confidence": None, "samples": 0}
    if promise is not None:
        row |= {"promised": promise.loss}
        row |= {column: getattr(promise, column) for column in _PROMISE}
    return row | {
        "name": cascade.name,
        "reason": cascade.plan.reason,
        "notes": to_json(cascade.notes),
        "created_at": utc(cascade.created_at) or now(),
    }


def _stage_row(
    cascade: KeptCascade, place: int, records: Mapping[str, ModelRecord]
) -> dict[str, Any]:
    stage, one = cascade.plan.stages[place], cascade.members[place]
    row = {column: known(getattr(stage, column)) for column in _STAGE}
    row |= {column: known(getattr(one, column)) for column in _MEMBER}
    return row | {
        "cascade": cascade.name,
        "position": place,
        "name": stage.model,
        "version": one.version or version_of(records[one.model_id]),
        "quantiles": to_json([_written(value) for value in stage.quantiles]),
        "ranking": to_json(one.ranking),
    }


def _written(value: float) -> float | str:
    """JSON has no infinite numbers."""
    return value if abs(value) < float("inf") else str(value)


def _stage(values: Sequence[Any]) -> _Stage:
    model, quantiles, ranking, *rest = values
    stage = CascadeStage(
        model,
        quantiles=tuple(float(value) for value in json.loads(quantiles)),
        **dict(zip(_STAGE, rest, strict=False)),
    )
    member = CascadeMember(
        **dict(zip(_MEMBER, rest[len(_STAGE) :], strict=True)),
        ranking=tuple((score, area) for score, area in json.loads(ranking)),
    )
    return stage, member


def _cascade(row: Sequence[Any], stages: Sequence[_Stage]) -> KeptCascade:
    name, promised, at_most, confidence, samples, *rest = row
    *own, reason, notes, created_at, stale = rest
    promise = None
    if promised is not None:
        promise = CascadePromise(promised, at_most, confidence, samples)
    return KeptCascade(
        name,
        CascadePlan(tuple(stage for stage, _ in stages), promise, reason),
        tuple(member for _, member in stages),
        **dict(zip(_OWN, own, strict=True)),
        notes=tuple(json.loads(notes)),
        created_at=created_at,
        stale=stale,
    )
