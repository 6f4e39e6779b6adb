"""What `db.plot.deployment` draws: of one that runs in this process, or what was kept of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from sommelier.deployment_records import promise
from sommelier.engine.plots.deployment import ModelServed, Served

if TYPE_CHECKING:
    from sommelier.connection.connection import Connection
    from sommelier.runtime.deployment import RunningDeployment


def served(db: Connection, name: str) -> Served:
    """Raises UnknownNameError for a name that no deployment has."""
    running = next((one for one in db.deployments() if one.name == name), None)
    return _kept(db, name) if running is None else _running(running)


def _running(running: RunningDeployment) -> Served:
    state, plan = running.state(), running.deployment
    timed = {row.model: row for row in running.telemetry.summary() if row.batch == 1}
    planned = {model.name: model.mean_ms for model in plan.models}
    models = []
    for model in state.models:
        row = timed.get(model.name)
        times = (None, None, None) if row is None else (row.p50_ms, row.p90_ms, row.p99_ms)
        known = map(_known, (*times, planned.get(model.name)))
        models.append(ModelServed(model.name, model.answered, *known))
    unanswered = {f"refused, {status}": n for status, n in sorted(state.rejected.items())}
    unanswered |= {"failed": state.failed, "cancelled": state.cancelled}
    return Served(
        name=state.name,
        promise=promise(plan),
        since=f"{state.status} in this process, since its start; policy {state.policy}",
        models=models,
        sla_ms=plan.sla_ms,
        quantile=plan.quantile,
        promised=state.promised,
        late=state.late,
        unanswered={why: count for why, count in unanswered.items() if count},
        notes=state.warnings,
    )


def _kept(db: Connection, name: str) -> Served:
    plan = db.catalog.deployment(name)
    figures = {one.model_id: one for one in db.catalog.served(name) if one.batch == 1}
    models = []
    for model in plan.models:
        row, planned = figures.get(model.model_id), _known(model.mean_ms)
        if row is None:
            models.append(ModelServed(model.name, 0, planned_ms=planned))
            continue
        times = _known(row.p50_ms), None, _known(row.p99_ms), planned
        models.append(ModelServed(model.name, row.requests, *times))
    return Served(
        name=name,
        promise=promise(plan),
        since="it does not run here; answers over all of its runs, times of the last one",
        models=models,
        sla_ms=plan.sla_ms,
        quantile=plan.quantile,
    )


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value
