"""What the documentation shows must work: every statement parses, every link leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sommelier.grammar.parser import parse, parse_script, split_statements

ROOT = Path(__file__).parent.parent
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
LINK = re.compile(r"\]\(([^)#]+?)(?:#[^)]*)?\)")


def _statements() -> list[str]:
    found = []
    for page in PAGES:
        for language, block in FENCE.findall(page.read_text()):
            if language == "sql":
                found += split_statements(block)
            if language == "console":
                shell_lines = [line[2:] for line in block.splitlines() if line.startswith("> ")]
                found += split_statements("\n".join(shell_lines))
    return [statement for statement in found if statement.strip()]


def test_the_pages_contain_statements() -> None:
    assert len(_statements()) > 40


@pytest.mark.parametrize("statement", _statements())
def test_a_documented_statement_parses(statement: str) -> None:
    assert parse(statement) is not None


def test_a_script_of_all_documented_statements_parses() -> None:
    assert len(parse_script(";\n".join(_statements()))) == len(_statements())


@pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_relative_link_leads_to_a_file(page: Path) -> None:
    for target in LINK.findall(page.read_text()):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
