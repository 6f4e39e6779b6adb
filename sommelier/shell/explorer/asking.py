"""The page one asks at: the box, the answer below it, and examples before the first question."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from sommelier.errors import ReadOnlyError, SommelierError, StorageError
from sommelier.shell.explorer import pareto
from sommelier.shell.explorer.frame import page, question
from sommelier.shell.explorer.markup import Markup, tag
from sommelier.shell.explorer.mistakes import mistake
from sommelier.shell.explorer.questions import Answer, ask
from sommelier.shell.explorer.tables import answer_table

if TYPE_CHECKING:
    from sommelier.connection import Connection

MOST_ROWS = 200
_LINES = 3


def asking_page(db: Connection, given: Mapping[str, str]) -> tuple[int, bytes]:
    """(status, page). given : `q`, the statement; `x` and `y`, what is drawn."""
    text = given.get("q", "").strip()
    if not text:
        return 200, page("Ask", _box(""), _examples(db), db=db, here="/")
    try:
        found = ask(db, text, most=MOST_ROWS)
    except SommelierError as error:
        if isinstance(error, StorageError) and not isinstance(error, ReadOnlyError):
            raise
        return 400, page("Mistake", _box(text, wrong=True), mistake(error, text), db=db)
    return 200, page("Answer", _box(text), _answer(db, found, text, given), db=db)


def _box(text: str, *, wrong: bool = False) -> Markup:
    area = tag(
        "textarea",
        # a first line break is no part of what a textarea holds
        Markup("\n") if text.startswith("\n") else None,
        text,
        id="q", name="q", rows=max(_LINES, text.count("\n") + 1), spellcheck="false",
        autocomplete="off", autocapitalize="off", autofocus=not text,
        placeholder="SELECT MODELS WHERE accuracy >= 90% ORDER BY latency",
        aria_invalid="true" if wrong else None, aria_errormessage="mistake" if wrong else None,
        aria_describedby="keys",
    )  # fmt: skip
    return tag(
        "form",
        tag("label", tag("h1", "Ask the database"), for_="q"),
        tag("div", area, class_="editor"),
        tag(
            "p",
            tag("button", "Ask", type="submit"),
            tag("span", id="keys", class_="keys"),
        ),
        action="/",
        method="get",
        id="ask",
    )


def _answer(db: Connection, found: Answer, text: str, given: Mapping[str, str]) -> Markup:
    drawing = pareto.section(db, found, text, given)
    return tag("section", answer_table(found), drawing, id="answer", aria_label="Answer")


def _examples(db: Connection) -> Markup:
    """Questions that this database can answer."""
    items = [tag("li", question(one)) for one in example_statements(db)]
    count = len(db.catalog.model_names())
    told = f"{count} model{'' if count == 1 else 's'} in this database. For example:"
    return tag(
        "section",
        tag("p", told),
        tag("ul", *items, class_="examples"),
        tag(
            "p",
            "Statements that read are answered here; ",
            tag("code", "sommelier shell"),
            " answers all of them.",
        ),
    )


def example_statements(db: Connection) -> list[str]:
    """Statements about what there is; none that would be a mistake."""
    found = ["SELECT MODELS name, task, params, memory ORDER BY memory LIMIT 20"]
    rows = db.catalog.sql(
        "SELECT metric, count(DISTINCT model_id) FROM profiles GROUP BY metric"
    ).rows
    known = {str(metric) for metric, models in rows if models > 1}
    cost = next((one for one in ("latency", "flops", "memory") if one in known), None)
    if "accuracy" in known and cost is not None:
        found.append(f"SELECT MODELS name, accuracy, {cost} PICK PARETO (accuracy DESC, {cost})")
    if (reference := _reference(db)) is not None:
        found.append(f"SELECT MODELS name, equivalence, confidence, flops CORR {reference} >= 80%")
    found += ["SHOW DATASETS", "SHOW METRICS"]
    return found


def _reference(db: Connection) -> str | None:
    """A model whose answers were compared with those of others."""
    from sommelier.grammar.spelling import write_name

    found = db.catalog.sql(
        "SELECT reference FROM equivalences GROUP BY reference ORDER BY count(*) DESC, 1 LIMIT 1"
    ).rows
    return write_name(str(found[0][0])) if found else None
