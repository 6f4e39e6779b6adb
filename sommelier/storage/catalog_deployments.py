"""Deployments: what was asked to answer requests, the models it was planned to, what serving told.

A deployment outlives its models: its statement is run again when it is started, and whenever the
catalog changed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from sommelier.cascade_records import CascadePlan, CascadePromise, CascadeStage
from sommelier.deployment_records import (
    DeployedModel,
    Deployment,
    DeploymentOptions,
    ServedFigures,
)
from sommelier.records import Measurement, Provenance
from sommelier.storage.catalog_cascades import CascadeTable
from sommelier.storage.naming import unknown_name
from sommelier.storage.rows import known, now, to_json, utc

SERVED_METHOD = "served"  # of the measurements that serving makes

_COLUMNS = tuple(f.name for f in fields(Deployment) if f.name != "models")
_MODEL_COLUMNS = tuple(field.name for field in fields(DeployedModel))
_SERVED_COLUMNS = tuple(field.name for field in fields(ServedFigures))
_DEPLOYMENTS = (
    f"SELECT {', '.join(_COLUMNS)} FROM store.deployments WHERE name = coalesce(?, name)"
    " ORDER BY name"
)
_MODELS = (
    f"SELECT deployment, {', '.join(_MODEL_COLUMNS)} FROM store.deployed_models"
    " ORDER BY deployment, position"
)
_SERVED = (
    f"SELECT {', '.join(_SERVED_COLUMNS)} FROM store.served"
    " WHERE deployment = coalesce(?, deployment) ORDER BY deployment, model_id, device, batch"
)
# A model that several deployments answered with, on one device with one batch size: their means,
# weighed by requests. p99 is the largest, since quantiles do not add up.
_SERVED_MODELS = """
    SELECT s.model_id, s.device, s.batch, CAST(sum(s.requests) AS BIGINT),
        sum(s.mean_ms * s.requests)
            / nullif(sum(s.requests) FILTER (WHERE s.mean_ms IS NOT NULL), 0),
        max(s.p99_ms)
    FROM store.served s JOIN store.models m ON m.id = s.model_id
    WHERE s.model_id IN (SELECT unnest(?::VARCHAR[])) GROUP BY s.model_id, s.device, s.batch"""


class DeploymentTable(CascadeTable):
    """The part of the catalog that knows what answers requests."""

    def save_deployment(self, deployment: Deployment) -> None:
        """Keep a deployment; replaces one of its name. `created_at` is now where it is None.

        One that was planned by the catalog as it is remains up to date: that it is kept is the next
        change.
        """
        from sommelier.storage.deployment_schema import DEPLOYED_MODELS, DEPLOYMENTS

        row = {name: getattr(deployment, name) for name in _COLUMNS}
        row["cascade"] = None if deployment.cascade is None else _to_json(deployment.cascade)
        row["knobs"] = to_json(dict(deployment.knobs))
        row["options"] = to_json(_given(deployment.options))
        row["notes"] = list(deployment.notes)
        row["catalog_version"] += deployment.catalog_version == self._database.generation
        row["created_at"] = utc(deployment.created_at) or now()
        models = [
            {"deployment": deployment.name, "position": place}
            | {name: known(getattr(model, name)) for name in _MODEL_COLUMNS}
            | {"stand_ins": list(model.stand_ins)}
            for place, model in enumerate(deployment.models)
        ]
        with self._database.transaction(f"keep the deployment '{deployment.name}'"):
            self._database.upsert(DEPLOYMENTS, [row])
            own = DEPLOYED_MODELS.c
            left = (own.deployment == deployment.name) & (own.position >= len(models))
            self._database.write(DEPLOYED_MODELS.delete().where(left))
            self._database.upsert(DEPLOYED_MODELS, models)

    def deployments(self, name: str | None = None) -> list[Deployment]:
        """All deployments by name, or the one of a name."""
        rows = self._database.rows(_DEPLOYMENTS, [name])
        models: dict[str, list[DeployedModel]] = {}
        for deployment, *values in self._database.rows(_MODELS) if rows else ():
            fields_ = dict(zip(_MODEL_COLUMNS, values, strict=True))
            fields_["stand_ins"] = tuple(fields_["stand_ins"])
            models.setdefault(deployment, []).append(DeployedModel(**fields_))
        return [_deployment(row, models) for row in rows]

    def deployment(self, name: str) -> Deployment:
        """The deployment of this name. Raises UnknownNameError with the nearest names."""
        found = self.deployments(name)
        if not found:
            raise unknown_name("deployment", name, self.deployment_names())
        return found[0]

    def deployment_names(self) -> list[str]:
        """The names of all deployments, sorted."""
        rows = self._database.rows("SELECT name FROM store.deployments ORDER BY name")
        return [name for (name,) in rows]

    def drop_deployment(self, name: str) -> None:
        """Forget a deployment; what serving measured stays. Raises UnknownNameError."""
        from sommelier.storage.deployment_schema import DEPLOYED_MODELS, DEPLOYMENTS

        if name not in (names := self.deployment_names()):
            raise unknown_name("deployment", name, names)
        with self._database.transaction(f"undeploy '{name}'"):
            self._database.write(DEPLOYMENTS.delete().where(DEPLOYMENTS.c.name == name))
            of = DEPLOYED_MODELS.c.deployment == name
            self._database.write(DEPLOYED_MODELS.delete().where(of))

    # ---- what serving measured

    def add_served(self, figures: Iterable[ServedFigures]) -> None:
        """Keep how long requests took. `requests` are added to those kept of the same deployment,
        model, device and batch, everything else takes the place of what was kept. They become the
        metrics served_latency, served_p99 and served_requests of their models; figures of models
        that are gone are left out."""
        from sommelier.storage.deployment_schema import SERVED

        given = list(figures)
        ids = set(self._numbers([figure.model_id for figure in given]))
        rows = []
        for figure in given:
            if figure.model_id in ids:
                row = {name: known(getattr(figure, name)) for name in _SERVED_COLUMNS}
                rows.append(row | {"measured_at": utc(figure.measured_at) or now()})
        if not rows:
            return
        with self._database.transaction("keep what serving measured"):
            before = {kept.key: kept.requests for kept in self.served()}
            for row in rows:
                row["requests"] += before.get(ServedFigures(**row).key, 0)
            self._database.upsert(SERVED, rows)
            found = self._database.rows(_SERVED_MODELS, [sorted(ids)])
            self.add_measurements(m for row in found for m in _measurements(*row))

    def served(self, deployment: str | None = None) -> list[ServedFigures]:
        """What serving measured, of all deployments or of one; also of those that are gone."""
        rows = self._database.rows(_SERVED, [deployment])
        return [ServedFigures(**dict(zip(_SERVED_COLUMNS, row, strict=True))) for row in rows]

    def drop_model(self, model_id: str) -> None:
        """Forget a model, and what serving measured of it."""
        from sommelier.storage.deployment_schema import SERVED

        with self._database.transaction("drop a model"):
            super().drop_model(model_id)
            self._database.write(SERVED.delete().where(SERVED.c.model_id == model_id))


def _measurements(
    model_id: str, device: str, batch: int, requests: int, mean: float | None, p99: float | None
) -> Iterable[Measurement]:
    values = {"served_requests": requests, "served_latency": mean, "served_p99": p99}
    for metric, value in values.items():
        if value is not None:
            yield Measurement(
                model_id, metric, float(value), Provenance.MEASURED, SERVED_METHOD,
                device=device, batch=batch, count=requests,
            )  # fmt: skip


def _deployment(row: Sequence[Any], models: Mapping[str, list[DeployedModel]]) -> Deployment:
    values = dict(zip(_COLUMNS, row, strict=True))
    cascade = values["cascade"]
    values["cascade"] = None if cascade is None else _cascade(json.loads(cascade))
    values["knobs"] = json.loads(values["knobs"])
    values["options"] = DeploymentOptions(**json.loads(values["options"]))
    values["notes"] = tuple(values["notes"])
    return Deployment(**values, models=tuple(models.get(values["name"], ())))


def _given(options: DeploymentOptions) -> dict[str, Any]:
    return {name: value for name, value in asdict(options).items() if value is not None}


def _to_json(cascade: CascadePlan) -> str:
    return to_json(asdict(cascade))


def _cascade(values: Mapping[str, Any]) -> CascadePlan:
    stages = tuple(
        CascadeStage(**{**stage, "quantiles": tuple(stage["quantiles"])})
        for stage in values["stages"]
    )
    promise = values["promise"]
    return CascadePlan(
        stages, None if promise is None else CascadePromise(**promise), values["reason"]
    )
