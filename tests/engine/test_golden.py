"""Golden answers: fixtures/*.sql hold a question each, fixtures/*.txt its plan, rows and notes.

After a deliberate change run `SOMMELIER_GOLDEN=write pytest tests/engine/test_golden.py` and read
the difference before committing it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from sommelier.engine.result import Report, Result
from sommelier.errors import QueryError
from tests.engine.cascade_bench import CascadeBench
from tests.engine.conftest import Ask
from tests.engine.link_bench import LinkBench
from tests.postgres_server import VARIABLE

FIXTURES = Path(__file__).parent / "fixtures"
RULE = "=" * 40


def questions(name: str) -> list[tuple[str, str]]:
    """(what it shows, statement) of each block of a fixture."""
    text = (FIXTURES / f"{name}.sql").read_text()
    found, title = [], ""
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = block.splitlines()
        if lines[0].startswith("-- "):
            title = lines.pop(0)[3:]
        found.append((title, "\n".join(lines).strip().removesuffix(";")))
    return found


def golden(name: str) -> dict[str, str]:
    """Expected text by statement."""
    path = FIXTURES / f"{name}.txt"
    if not path.exists():
        return {}
    blocks = path.read_text().split(f"{RULE}\n")
    pairs = (block.split("\n\n", 1) for block in blocks if block.strip())
    return {statement: expected.rstrip("\n") for statement, expected in pairs}


def rendered_select(ask: Ask, statement: str) -> str:
    report = ask(f"EXPLAIN {statement}")
    result = ask(statement)
    assert isinstance(report, Report)
    assert isinstance(result, Result)
    return "\n".join([*report.lines, "", repr(result)])


def rendered_error(ask: Ask, statement: str) -> str:
    with pytest.raises(QueryError) as caught:
        ask(statement)
    return f"{type(caught.value).__name__}\n{caught.value}"


def rendered_report(ask: Ask, statement: str) -> str:
    return repr(ask(statement))


def rendered_any(ask: Ask, statement: str) -> str:
    try:
        return rendered_report(ask, statement)
    except QueryError:
        return rendered_error(ask, statement)


def rendered_whole(ask: Ask, statement: str) -> str:
    """With texts that a table of this width would cut."""
    if not statement.startswith("DESCRIBE"):
        return rendered_any(ask, statement)
    try:
        return "\n".join(f"{name:<10} {value}" for name, value in ask(statement).rows)
    except QueryError:
        return rendered_error(ask, statement)


RENDERERS = {
    "select": rendered_select,
    "errors": rendered_error,
    "why": rendered_report,
    "reading": rendered_report,
    "links": rendered_any,
    "cascades": rendered_whole,
    "deployments": rendered_whole,
}
DATES = re.compile(r"\d{4}-\d\d-\d\d")
DATABASES = {
    r'("catalog_version"): \d+': r"\1: <n>",
    r"(is not a regular expression): .+": r"\1: <the database's words>",
}
"""What differs from one kind of database to another; the fixtures have what DuckDB says."""


def steady(text: str) -> str:
    """Without what hangs on the day and, over PostgreSQL, on the database."""
    text = DATES.sub("<date>", text)
    for pattern, stands in DATABASES.items() if VARIABLE in os.environ else ():
        text = re.sub(pattern, stands, text)
    return text


@pytest.fixture(scope="session")
def asks(ask: Ask, audio: LinkBench, stairs: CascadeBench) -> dict[str, Ask]:
    """Whom the questions of each fixture are put to."""
    others = {"links": audio.ask, "cascades": stairs.ask, "deployments": stairs.ask}
    return {name: others.get(name, ask) for name in RENDERERS}


@pytest.mark.parametrize(
    ("name", "title", "statement"),
    [(name, *question) for name in RENDERERS for question in questions(name)],
)
def test_golden(asks: dict[str, Ask], name: str, title: str, statement: str) -> None:
    found = steady(RENDERERS[name](asks[name], statement))
    assert found == steady(golden(name).get(statement, "")), title


@pytest.mark.parametrize("name", RENDERERS)
def test_every_golden_answer_has_its_question(name: str) -> None:
    assert set(golden(name)) == {statement for _, statement in questions(name)}


@pytest.fixture(scope="module", autouse=True)
def _rewritten(asks: dict[str, Ask]) -> None:
    """With SOMMELIER_GOLDEN=write the files are made anew from what the engine answers."""
    if os.environ.get("SOMMELIER_GOLDEN") != "write":
        return
    for name, render in RENDERERS.items():
        blocks = []
        for _, statement in questions(name):
            text = steady(render(asks[name], statement))
            blocks.append(f"{statement}\n\n{text}\n")
        (FIXTURES / f"{name}.txt").write_text(f"{RULE}\n".join(blocks))
