"""Jobs, and deployments with how they do in this server."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from sommelier.engine.parameters import as_parameters
from sommelier.engine.result import ColumnInfo, Table
from sommelier.grammar import nodes
from sommelier.grammar.spelling import write_name
from sommelier.shell.explorer.frame import page, question
from sommelier.shell.explorer.markup import Markup, tag
from sommelier.shell.explorer.questions import answered
from sommelier.shell.explorer.tables import answer_table, rows_table
from sommelier.units import Dimension

if TYPE_CHECKING:
    from sommelier.connection import Connection

_MOST = 200
_LIVE = (
    ColumnInfo("name"),
    ColumnInfo("state"),
    ColumnInfo("models"),
    ColumnInfo("answered", Dimension.COUNT),
    ColumnInfo("refused", Dimension.COUNT),
    ColumnInfo("failed", Dimension.COUNT),
    ColumnInfo("waiting", Dimension.COUNT),
    ColumnInfo("told"),
)


def jobs_page(db: Connection) -> bytes:
    """What SHOW JOBS says, the newest first."""
    began = time.perf_counter()
    found = answered(db.run(nodes.Show("jobs")), _MOST, began)
    states = [c.name for c in found.columns].index("state")
    running = any(row[states] == "running" for row in found.rows)
    content = (
        answer_table(found, caption="Jobs, the newest first")
        if found.rows
        else tag("p", "no statement was a job yet: ANALYZE, IMPORT and others are")
    )
    # the script looks again as long as something runs
    live = tag("div", content, id="live", data_again="3" if running else None)
    return page("Jobs", tag("h1", "Jobs"), live, _asked("SHOW JOBS"), db=db, here="/jobs")


def deployments_page(db: Connection, live: list[dict[str, Any]]) -> bytes:
    """What is deployed by the catalog, and what this server makes of it."""
    began = time.perf_counter()
    table = db.session.read(nodes.Show("deployments"), as_parameters(None))
    assert isinstance(table, Table), "a SHOW"
    found = answered(table, _MOST, began)
    kept = (
        answer_table(found, caption="In the database")
        if found.rows
        else tag("p", "nothing is deployed")
    )
    names = [str(row[0]) for row in found.rows]
    return page(
        "Deployments",
        tag("h1", "Deployments"),
        tag(
            "section", tag("h2", "In this server"), tag("div", _here(live), id="live", data_again=5)
        ),
        tag("section", tag("h2", "In the database"), kept, _described(names)),
        db=db,
        here="/deployments",
    )


def _here(live: list[dict[str, Any]]) -> Markup:
    if not live:
        return tag("p", "this server serves nothing")
    rows = [tuple(entry.get(column.name) for column in _LIVE) for entry in live]
    return rows_table(_LIVE, rows, caption="Served here, at this moment")


def _described(names: list[str]) -> Markup | None:
    if not names:
        return None
    items = [tag("li", question(f"DESCRIBE DEPLOYMENT {write_name(name)}", name)) for name in names]
    return tag("ul", *items, class_="inline", aria_label="More of each")


def _asked(text: str) -> Markup:
    return tag("p", question(text, "Ask for this"), class_="asked")
