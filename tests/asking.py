"""Answers in the form that tests compare."""

from __future__ import annotations

import sommelier as sm


def rows(db: sm.Connection, text: str) -> list[dict[str, object]]:
    """The rows of a statement's answer, each by column."""
    table = db.execute(text)
    names = [column.name for column in table.columns]
    fetched = table.rows if hasattr(table, "rows") else table.fetchall()
    return [dict(zip(names, row, strict=True)) for row in fetched]
