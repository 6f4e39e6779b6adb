"""Statements that change the database: one function a statement, chosen by its node type.

Each answers a Table of one row (status, object, rows, took_ms), with notes where something was
skipped or refused.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import singledispatch
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sommelier.connection import (
    altering,
    analyzing,
    cascading,
    deploying,
    fusing,
    grafting,
    importing,
    linking,
)
from sommelier.connection.background import made_by
from sommelier.connection.naming import name_taken, reference_name, underlined
from sommelier.connection.plain import plain_options
from sommelier.engine.names import nearest, unknown
from sommelier.engine.options import bind_options, bind_value
from sommelier.engine.result import ColumnInfo, Table
from sommelier.errors import BinderError, SommelierError, UnknownNameError
from sommelier.grammar import nodes
from sommelier.grammar.builder import model_name
from sommelier.grammar.formatter import format as format_query
from sommelier.records import Device, ModelRecord
from sommelier.units import Dimension

if TYPE_CHECKING:
    from sommelier.connection.connection import Connection

Progress = Callable[[str, int, int | None, str | None], None]

_COLUMNS = (
    ColumnInfo("status"),
    ColumnInfo("object"),
    ColumnInfo("rows", Dimension.COUNT),
    ColumnInfo("took_ms", Dimension.TIME),
)


@dataclass(frozen=True, slots=True)
class Call:
    """What a statement needs besides its text."""

    db: Connection
    parameters: Any
    progress: Progress
    cancelled: Callable[[], bool]

    def options(self, options: tuple[nodes.Option, ...], schema: dict[str, Any]) -> dict[str, Any]:
        """The options as Python values. Raises BinderError on an unknown or ill-typed one."""
        return bind_options(options, schema, self.parameters)

    def resolve(self, reference: nodes.ModelRef | nodes.Parameter) -> ModelRecord:
        """The model a statement names. Raises UnknownNameError that underlines the name."""
        name, version = reference_name(reference, self.parameters)
        with underlined(reference.span):
            return self.db.catalog.resolve(name, version)


def perform(statement: nodes.Statement, call: Call) -> Table:
    """The outcome of a state-changing statement, with the time it took."""
    started = time.perf_counter()
    done = _perform(statement, call)
    columns: tuple[ColumnInfo, ...] = _COLUMNS
    row: tuple[object, ...] = (
        done.status, done.name, done.rows, (time.perf_counter() - started) * 1e3,
    )  # fmt: skip
    if done.job is not None:
        columns, row = (*columns, ColumnInfo("job")), (*row, done.job)
        where = f"job {done.job} runs in the background: SHOW JOBS, CANCEL JOB {done.job}"
        done = replace(done, notes=(where, *done.notes))
    return Table("", columns, [row], done.notes, done.failure)


@dataclass(frozen=True, slots=True)
class Done:
    """What a statement did, before it is timed. job : the one that does it in the background."""

    status: str
    name: str
    rows: int = 1
    notes: tuple[str, ...] = ()
    failure: SommelierError | None = None
    job: int | None = None


@singledispatch
def _perform(statement: nodes.Statement, _call: Call) -> Done:
    raise TypeError(f"no statement handler for {type(statement).__name__}")


# ---- models and data


@_perform.register
def _import(statement: nodes.Import, call: Call) -> Done:
    summary = importing.import_models(
        call.db,
        statement,
        options=plain_options(statement.options, call.parameters),
        parameters=call.parameters,
        progress=call.progress,
        cancelled=call.cancelled,
    )
    return Done("imported", statement.connector, summary.accepted, summary.notes())


@_perform.register
def _register_model(statement: nodes.RegisterModel, call: Call) -> Done:
    name = _spelled(statement.name)
    if statement.if_not_exists and _exists(call, statement.name):
        return Done("exists", name, 0)
    options = call.options(statement.options, importing.REGISTER_OPTIONS)
    summary = importing.register_model(
        call.db,
        statement.name.name,
        Path(statement.path),
        version=statement.name.version,
        declared={**options, **({"task": statement.task} if statement.task else {})},
    )
    return Done("registered", name, summary.accepted, summary.notes())


@_perform.register
def _register_dataset(statement: nodes.RegisterDataset, call: Call) -> Done:
    from sommelier.analysis.datasets import register

    if statement.if_not_exists and statement.name in call.db.names("dataset"):
        return Done("exists", statement.name, 0)
    options = plain_options(statement.options, call.parameters)
    dataset = register(call.db.catalog, statement.path, options, statement.name)
    labelled = "labelled" if dataset.labelled else "unlabelled"
    return Done(
        "registered", statement.name, dataset.samples, (f"{labelled}, kind {dataset.kind}",)
    )


@_perform.register
def _register_device(statement: nodes.RegisterDevice, call: Call) -> Done:
    options = call.options(
        statement.options,
        {
            "memory": Dimension.BYTES,
            "peak": Dimension.FLOPS,
            "bandwidth": Dimension.BYTES,
            "note": str,
        },
    )
    call.db.catalog.add_device(
        Device(
            statement.name,
            options.get("memory"),
            options.get("peak"),
            options.get("bandwidth"),
            options.get("note"),
        )
    )
    return Done("registered", statement.name)


@_perform.register
def _analyze(statement: nodes.Analyze, call: Call) -> Done:
    from sommelier.connection.analyzing_later import analyze_later, analyze_on_ray, is_on_ray

    if is_on_ray(call.db) and not statement.background:
        return Done("analyzed", *analyze_on_ray(statement, call))
    if statement.background:
        title, notes, job = analyze_later(statement, call)
        return Done("started", title, 0, notes, job=job)
    return Done("analyzed", *analyzing.analyze(statement, call))


@_perform.register
def _alter_model(statement: nodes.AlterModel, call: Call) -> Done:
    record = call.resolve(statement.model)
    return Done("altered", record.name, notes=altering.alter_model(record, statement, call))


@_perform.register
def _alter_task(statement: nodes.AlterTask, call: Call) -> Done:
    options = call.options(statement.options, {"reference": str})
    if "reference" not in options:
        raise BinderError("a task has one thing to set: reference")
    known = {task for task, *_ in call.db.catalog.tasks()}
    if statement.task not in known:
        raise UnknownNameError(
            f"no model has the task '{statement.task}'",
            span=statement.span,
            suggestions=nearest(statement.task, known),
        )
    with underlined(statement.options[0].span):
        record = call.db.catalog.resolve(*model_name(options["reference"]))
    call.db.catalog.set_task_reference(statement.task, record.id)
    return Done(
        "altered", statement.task, 1, (f"CORR TASK '{statement.task}' means {record.name}",)
    )


# ---- pools, views, settings


@_perform.register
def _create_pool(statement: nodes.CreatePool, call: Call) -> Done:
    if statement.name in call.db.names(statement.kind) and not statement.or_replace:
        if statement.if_not_exists:
            return Done("exists", statement.name, 0)
        raise name_taken(statement.kind, statement.name, statement.span)
    text = format_query(statement.select)
    ids = call.db.session.run(statement.select, call.parameters).ids  # also checks a view's names
    if statement.kind == "view":
        call.db.catalog.save_view(statement.name, text)
    else:
        call.db.catalog.save_pool(statement.name, list(ids), text)
    return Done("created", statement.name, len(ids))


@_perform.register
def _create_repository(statement: nodes.CreateRepository, call: Call) -> Done:
    from sommelier.connection.repositories import create_repository

    status = create_repository(statement, call)
    return Done(status, statement.name, 0 if status == "exists" else 1)


@_perform.register
def _create_model(statement: nodes.CreateModel, call: Call) -> Done:
    maker = call.db.background.maker("model", _spelled(statement.name))
    if maker is not None:
        with underlined(statement.name.span):
            raise made_by(maker, "model", _spelled(statement.name))
    exists = _exists(call, statement.name)
    if exists:
        if statement.if_not_exists:
            return Done("exists", _spelled(statement.name), 0)
        if not statement.or_replace:
            raise name_taken("model", _spelled(statement.name), statement.name.span)
    replaced = call.resolve(statement.name) if statement.or_replace and exists else None
    if isinstance(statement.recipe, nodes.FusionRecipe):
        status, notes, job = fusing.create_fusion(statement, call, replaced)
        return Done(status, _spelled(statement.name), 1 if job is None else 0, notes, job=job)
    name, notes = grafting.create_hybrid(statement, call, replaced)
    return Done("created", name, 1, notes)


@_perform.register
def _create_link(statement: nodes.CreateLink, call: Call) -> Done:
    status, name, notes = linking.create_link(statement, call)
    return Done(status, name, 0 if status == "exists" else 1, notes)


@_perform.register
def _create_cascade(statement: nodes.CreateCascade, call: Call) -> Done:
    status, name, notes = cascading.create_cascade(statement, call)
    return Done(status, name, 0 if status == "exists" else 1, notes)


@_perform.register
def _create_plan(statement: nodes.CreatePlan, call: Call) -> Done:
    status, notes = linking.create_plan(statement, call)
    return Done(status, statement.name, 0 if status == "exists" else 1, notes)


@_perform.register
def _deploy(statement: nodes.Deploy, call: Call) -> Done:
    status, models, notes = deploying.deploy(statement, call)
    return Done(status, statement.name, models, notes)


@_perform.register
def _undeploy(statement: nodes.Undeploy, call: Call) -> Done:
    status, notes = deploying.undeploy(statement, call)
    return Done(status, statement.name, 0 if status == "absent" else 1, notes)


@_perform.register
def _refresh_pool(statement: nodes.RefreshPool, call: Call) -> Done:
    from sommelier.grammar.parser import parse

    with underlined(statement.span):
        pool = call.db.catalog.pool(statement.name)
    select = parse(pool.query)
    assert isinstance(select, nodes.Select)
    ids = call.db.session.run(select, None).ids
    before = set(pool.ids)
    call.db.catalog.save_pool(statement.name, list(ids), pool.query)
    came, left = len(set(ids) - before), len(before - set(ids))
    return Done("refreshed", statement.name, len(ids), (f"{came} came, {left} left",))


@_perform.register
def _drop(statement: nodes.Drop, call: Call) -> Done:
    name = _spelled(statement.name)
    catalog = call.db.catalog
    if statement.if_exists and not _exists(call, statement.name, kind=statement.kind):
        return Done("absent", name, 0)
    if statement.kind == "model":
        catalog.drop_model(call.resolve(statement.name).id)
    elif statement.kind == "link" and name not in (known := catalog.link_names()):
        raise unknown("link", name, known, statement.name.span)
    else:
        with underlined(statement.name.span):
            getattr(catalog, f"drop_{statement.kind}")(name)
    return Done("dropped", name)


@_perform.register
def _cancel_job(statement: nodes.CancelJob, call: Call) -> Done:
    number = statement.job
    if isinstance(number, nodes.Parameter):
        number = bind_value(number, int, call.parameters, name="the number of a job")
    job_id = int(number)
    with underlined(statement.span):
        job = call.db.background.cancel(job_id)
    if job.state == "running":
        note = "it was asked to stop and is still leaving things in order"
        return Done("cancelling", f"job {job_id}", 1, (note,))
    return Done(job.state, f"job {job_id}", 1, (job.reason,) if job.reason else ())


@_perform.register
def _set(statement: nodes.SetOption, call: Call) -> Done:
    value = call.db.session.set_option(statement, call.parameters)
    return Done("set", f"{statement.name} = {value}")


@_perform.register
def _reset(statement: nodes.ResetOption, call: Call) -> Done:
    call.db.session.reset_option(statement)
    return Done("reset", statement.name or "all settings")


# ---- names


def _spelled(reference: nodes.ModelRef) -> str:
    return f"{reference.name}@{reference.version}" if reference.version else reference.name


def _exists(call: Call, reference: nodes.ModelRef, *, kind: str = "model") -> bool:
    if kind != "model":
        return reference.name in call.db.names(kind)
    from sommelier.errors import UnknownNameError

    try:
        call.db.catalog.resolve(reference.name, reference.version)
    except UnknownNameError:
        return False
    return True
