"""What the documentation shows must work: every statement parses, every link leads somewhere."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest

from sommelier.grammar.parser import parse, parse_script, split_statements
from sommelier.grammar.reference import topics
from sommelier.grammar.tables import GRAMMAR

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
LANGUAGE = ROOT / "docs" / "language.md"
FENCE = re.compile(r"^```(\S*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s#]*)(?:#([^)\s]*))?\)")
KEYWORD = re.compile(r"^([A-Z_]+)\.7:", re.MULTILINE)


def statements(page: Path) -> list[str]:
    """The statements of a page, those at a shell's prompt too."""
    found = []
    for language, block in FENCE.findall(page.read_text()):
        if language == "sql":
            found += split_statements(block)
        if language == "console":
            shell_lines = [line[2:] for line in block.splitlines() if line.startswith("> ")]
            found += split_statements("\n".join(shell_lines))
    return [statement for statement in found if statement.strip()]


def _all_statements() -> list[str]:
    return [statement for page in PAGES for statement in statements(page)]


def test_the_pages_contain_statements() -> None:
    assert len(_all_statements()) > 150


@pytest.mark.parametrize("statement", _all_statements())
def test_a_documented_statement_parses(statement: str) -> None:
    assert parse(statement) is not None


def test_a_script_of_all_documented_statements_parses() -> None:
    assert len(parse_script(";\n".join(_all_statements()))) == len(_all_statements())


def test_the_language_shows_every_kind_of_statement() -> None:
    shown = {type(parse(statement)) for statement in statements(LANGUAGE)}
    known = {type(parse(example)) for topic in topics() for example in topic.examples}
    assert known <= shown


def test_the_language_tells_of_every_keyword() -> None:
    text = LANGUAGE.read_text().upper()
    keywords = KEYWORD.findall(GRAMMAR.read_text())
    assert len(keywords) > 100
    assert [word for word in keywords if not re.search(rf"\b{word}\b", text)] == []


@pytest.mark.parametrize(
    ("verb", "rule"), [("SHOW", "show_what"), ("DESCRIBE", "described"), ("DROP", "dropped")]
)
def test_the_language_tells_what_can_be_listed_described_and_dropped(verb: str, rule: str) -> None:
    body = re.search(rf"^[!?]*{rule}: (.*?)\n(?:\S|\n)", GRAMMAR.read_text(), re.S | re.M)
    assert body is not None
    kinds = set(re.findall(r"\b[A-Z]{2,}\b", body[1])) - {"OF"}
    assert len(kinds) > 8
    text = LANGUAGE.read_text()
    assert [kind for kind in sorted(kinds) if not re.search(rf"\b{verb} {kind}\b", text)] == []


# ---- links


@cache
def _headings(page: Path) -> frozenset[str]:
    """The anchors that a browser of the repository gives to the headings of a page."""
    prose = FENCE.sub("", page.read_text())
    seen: dict[str, int] = {}
    anchors = set()
    for title in re.findall(r"^#{1,6} +(.+?) *$", prose, re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        anchors.add(slug if slug not in seen else f"{slug}-{seen[slug]}")
        seen[slug] = seen.get(slug, 0) + 1
    return frozenset(anchors)


def _links(page: Path) -> list[tuple[str, str]]:
    found = LINK.findall(FENCE.sub("", page.read_text()))
    return [(target, anchor) for target, anchor in found if not re.match(r"[a-z]+:", target)]


def test_links_are_found() -> None:
    assert sum(len(_links(page)) for page in PAGES) > 100


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_relative_link_leads_to_a_file_and_a_heading_that_exist(page: Path) -> None:
    dead = []
    for target, anchor in _links(page):
        path = page.parent / target if target else page
        known = path.exists() and (not anchor or anchor in _headings(path))
        dead += [] if known else [f"{target}#{anchor}"]
    assert dead == []
