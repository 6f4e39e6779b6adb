"""SELECT FUSIONS: models are cut and run on a few samples in the sandbox, the engine does the rest.

Only reads the database.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from sommelier.connection.naming import underlined
from sommelier.engine.explain import json_report
from sommelier.engine.explain_fusions import explain_fusions
from sommelier.engine.options import EXPLAIN_OPTIONS, bind_options
from sommelier.engine.parameters import Parameters
from sommelier.engine.result import Report, Table
from sommelier.engine.select_fusions import FusionsQuestion, bind_fusions, choose_fusions
from sommelier.grammar import nodes

if TYPE_CHECKING:
    from sommelier.analysis.fusion_data import FusionData
    from sommelier.analysis.sandbox import Sandbox
    from sommelier.connection.connection import Connection, Progress
    from sommelier.fusion_records import FusionRanking

SAMPLES = 128  # inputs that predictions are made from; maps of features need few
CANDIDATES = 1000


def rank(
    statement: nodes.Statement,
    db: Connection,
    parameters: Parameters,
    progress: Progress | None = None,
) -> Table | Report:
    """The answer to SELECT FUSIONS, or to EXPLAIN of it.

    Raises BinderError, UnknownNameError, AnalysisError for models that cannot be fused with the
    reason, CancelledError.
    """
    report = progress or _silent
    if isinstance(statement, nodes.Explain):
        return _explained(statement, db, parameters, report)
    assert isinstance(statement, nodes.SelectFusions)
    question = bind_fusions(statement, db.session, parameters)
    data = _data(statement, question, db)
    return choose_fusions(question, _ranked(question, data, db, report))


def _explained(
    statement: nodes.Explain, db: Connection, parameters: Parameters, report: Progress
) -> Report:
    """What would be compared; with ANALYZE it is, and the rows are counted."""
    from sommelier.analysis.fusion_pairs import blocks_of

    options = bind_options(statement.options, EXPLAIN_OPTIONS)
    asked = statement.select
    assert isinstance(asked, nodes.SelectFusions)
    started = time.perf_counter()
    question = bind_fusions(asked, db.session, parameters)
    data = _data(asked, question, db)
    report("cutting models into blocks", 0, None, None)
    with _sandbox(db) as sandbox:
        blocks = sandbox.call(blocks_of, data)
    found = None
    if statement.analyze or options.get("analyze"):
        found = choose_fusions(question, _ranked(question, data, db, report))
    told = explain_fusions(
        question,
        blocks,
        samples=min(question.options.get("samples") or SAMPLES, data.samples),
        dataset=data.dataset,
        basis=_basis(question, db),
        notes=data.notes,
        found=None if found is None else (found, (time.perf_counter() - started) * 1e3),
    )
    return json_report(told.data) if options.get("format") == "json" else told


def _data(statement: nodes.SelectFusions, question: FusionsQuestion, db: Connection) -> FusionData:
    from sommelier.analysis.fusion_data import DataOptions, fusion_data

    given = question.options
    records = db.catalog.models([model.id for model in question.group.models])
    options = DataOptions(
        dataset=given.get("dataset"),
        samples=given.get("samples"),
        seed=given.get("seed") or 0,
        most=SAMPLES,
    )
    with underlined(statement.span):
        return fusion_data(db.catalog, records, options)


def _ranked(
    question: FusionsQuestion, data: FusionData, db: Connection, report: Progress
) -> FusionRanking:
    from sommelier.analysis.fusion_requests import RankRequest
    from sommelier.analysis.fusion_work import rank_fusions

    group = question.group
    costs = () if group.device is None else tuple(db.catalog.operator_costs(group.device))
    known = group.latencies_ms
    request = RankRequest(
        data,
        samples=min(question.options.get("samples") or SAMPLES, data.samples),
        most=question.options.get("candidates") or CANDIDATES,
        operator_costs=costs,
        device=group.device or "cpu",
        latencies_ms=None if known is None else dict(zip(data.tasks, known, strict=True)),
    )
    report("ranking fusions", 0, None, None)
    with _sandbox(db) as sandbox:
        found = sandbox.call(rank_fusions, request)
    notes = (*found.notes, *data.notes)
    if len(found.fusions) == request.most:
        chosen = f"conditions choose from the {request.most} most promising fusions"
        notes += (f"{chosen}: USING candidates = {10 * request.most} looks at more",)
    return replace(found, dataset=data.dataset, notes=notes)


def _basis(question: FusionsQuestion, db: Connection) -> str:
    """What latencies will be predicted from, as CostModel chooses it."""
    group = question.group
    if group.device is not None and db.catalog.operator_costs(group.device):
        return "operator table"
    return "FLOPs" if group.latencies_ms is None else "measured originals"


def _sandbox(db: Connection) -> Sandbox:
    """As COMPARE runs models, and ended by Ctrl-C."""
    from sommelier.analysis.sandbox import MODEL_BYTES, MODEL_SECONDS, Sandbox

    return Sandbox(
        time_limit_s=MODEL_SECONDS, memory_limit_bytes=MODEL_BYTES, cancelled=lambda: db.cancelled
    )


def _silent(_phase: str, _done: int, _total: int | None, _current: str | None) -> None:
    """No progress is shown."""
