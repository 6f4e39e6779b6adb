"""Jobs, and deployments with how they do in this server."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sommelier.engine.parameters import as_parameters
from sommelier.engine.result import ColumnInfo, Table
from sommelier.grammar import nodes
from sommelier.grammar.spelling import write_name
from sommelier.shell.explorer.frame import address, asked, page
from sommelier.shell.explorer.markup import Markup, tag
from sommelier.shell.explorer.questions import Answer, answered
from sommelier.shell.explorer.tables import answer_table, rows_table
from sommelier.units import Dimension

if TYPE_CHECKING:
    from sommelier.connection import Connection

_MOST = 200
_JOBS = (
    *("id", "state", "statement", "progress", "now", "took_ms", "started"),
    *("total", "done", "failed", "skipped", "reason"),
)
_LIVE = (
    ColumnInfo("name"),
    ColumnInfo("state"),
    ColumnInfo("models"),
    ColumnInfo("answered", Dimension.COUNT),
    ColumnInfo("refused", Dimension.COUNT),
    ColumnInfo("failed", Dimension.COUNT),
    ColumnInfo("waiting", Dimension.COUNT),
    ColumnInfo("note"),
)


def jobs_page(db: Connection) -> bytes:
    """What SHOW JOBS says, the newest first."""
    began = time.perf_counter()
    found = _in_order(answered(db.run(nodes.Show("jobs")), _MOST, began), _JOBS)
    running = any(row[_JOBS.index("state")] == "running" for row in found.rows)
    content = (
        answer_table(found, caption="Jobs, the newest first")
        if found.rows
        else tag("p", "no statement was a job yet: ANALYZE, IMPORT and others are")
    )
    # the script looks again as long as something runs
    live = tag("div", content, id="live", data_again="3" if running else None)
    return page("Jobs", tag("h1", "Jobs"), live, asked("SHOW JOBS"), db=db, here="/jobs")


def deployments_page(db: Connection, live: list[dict[str, Any]]) -> bytes:
    """What is deployed by the catalog, and what this server makes of it."""
    began = time.perf_counter()
    table = db.session.read(nodes.Show("deployments"), as_parameters(None))
    assert isinstance(table, Table), "a SHOW"
    found = answered(table, _MOST, began)
    written = (f"DESCRIBE DEPLOYMENT {write_name(str(row[0]))}" for row in found.rows)
    hrefs = [address(statement) for statement in written]
    kept = (
        answer_table(found, caption="In the database", hrefs=hrefs)
        if found.rows
        else tag("p", "nothing is deployed")
    )
    return page(
        "Deployments",
        tag("h1", "Deployments"),
        tag(
            "section", tag("h2", "In this server"), tag("div", _here(live), id="live", data_again=5)
        ),
        tag("section", tag("h2", "In the database"), kept, asked("SHOW DEPLOYMENTS")),
        db=db,
        here="/deployments",
    )


def _in_order(found: Answer, names: tuple[str, ...]) -> Answer:
    """With the columns in this order."""
    places = [[column.name for column in found.columns].index(name) for name in names]
    columns = tuple(found.columns[place] for place in places)
    rows = [tuple(row[place] for place in places) for row in found.rows]
    return replace(found, columns=columns, rows=rows)


def _here(live: list[dict[str, Any]]) -> Markup:
    if not live:
        return tag("p", "this server serves nothing")
    rows = [tuple(entry.get(column.name) for column in _LIVE) for entry in live]
    return rows_table(_LIVE, rows, caption="Served here, at this moment")
