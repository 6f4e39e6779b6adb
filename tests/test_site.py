"""The documentation site: what is shown of docstrings and notebooks, and that it builds alone."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path

import pytest

import sommelier
from docs.website import build
from docs.website.docstrings import markup
from docs.website.notebook_pages import write_page
from docs.website.syntax_page import syntax_page
from sommelier.connection import dbapi
from sommelier.connection.plotting import Plots
from sommelier.engine.plots.of_result import ResultPlots
from sommelier.engine.result import Match, Report, Result, Table
from sommelier.grammar.reference import topics
from sommelier.runtime.cascade_runner import RunnableCascade
from sommelier.runtime.collaborate import CollaborativePlan
from sommelier.runtime.deployment import RunningDeployment

API = (build.DOCS / "api").glob("*.md")
SHOWN = set(
    re.findall(r"\.\. auto(?:class|function):: ([\w.]+)", "".join(p.read_text() for p in API))
)
FETCHED = re.compile(
    r"""<(?:script|img|iframe|link)[^>]+(?:src|href)="(?:https?:)?//"""
    r"""|@import|url\(['"]?(?:https?:)?//"""
)
PUBLIC = [
    sommelier.Connection,
    sommelier.Model,
    sommelier.Relation,
    Result,
    Match,
    Table,
    Report,
    Plots,
    ResultPlots,
    CollaborativePlan,
    RunnableCascade,
    RunningDeployment,
    dbapi.Connection,
    dbapi.Cursor,
]


@pytest.mark.parametrize("kind", PUBLIC, ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_public_method_says_what_it_does(kind: type) -> None:
    members = {n: m for n, m in vars(kind).items() if not n.startswith("_")}
    functions = {
        n: m for n, m in members.items() if inspect.isfunction(m) or isinstance(m, property)
    }
    assert kind.__doc__
    silent = [name for name in functions if not inspect.getdoc(getattr(kind, name))]
    assert [
        name for name in silent if name not in ("name", "kind")
    ] == []  # these say it themselves


def test_every_public_name_is_in_the_reference() -> None:
    names = {f"sommelier.{name}" for name in sommelier.__all__} - {"sommelier.SommelierError"}
    classes = {f"{kind.__module__}.{kind.__name__}" for kind in PUBLIC}
    inside = {f"{k.__module__}.{k.__name__}" for k in PUBLIC if k.__name__ in sommelier.__all__}
    modules = {name for name in classes if name.startswith(dbapi.__name__)}
    assert (names | (classes - inside - modules)) - SHOWN == set()


def test_what_is_said_of_parameters_becomes_a_list_and_of_errors_links() -> None:
    said = "The rows. count : 1 to 9, of what\nis there. Raises StorageError, or BinderError."
    shown = markup(said, frozenset({"count"}))
    assert ":param count: 1 to 9, of what is there." in shown
    assert shown.count(":py:exc:`~sommelier.errors.") == 2
    assert shown.index("Raises") > shown.index(":param")


def test_nothing_of_a_plain_docstring_is_taken_for_markup() -> None:
    assert markup("a * b, *args, state_ | x, `k` of `n`").strip() == (
        r"a \* b, \*args, state\_ \| x, ``k`` of ``n``"
    )
    assert "code-block:: sql\n\n    SELECT MODELS" in markup("Like\n\n    SELECT MODELS")


def test_every_topic_has_a_section_with_its_syntax() -> None:
    page = syntax_page()
    assert len(topics()) > 40
    for topic in topics():
        assert f"\n## {topic.name.capitalize()}\n" in page
        assert all(example in page for example in topic.examples)


def test_a_notebook_becomes_a_page_with_its_outputs(tmp_path: Path) -> None:
    outputs = [
        {"output_type": "stream", "text": ["\x1b[31mred\x1b[0m\n"]},
        {"output_type": "execute_result", "data": {"text/html": "<b>1</b>", "text/plain": "1"}},
        {"output_type": "display_data", "data": {"image/png": "aGVsbG8="}},
    ]
    cells = [
        {"cell_type": "markdown", "source": ["# Title\n", "[bounds](../docs/bounds.md)"]},
        {"cell_type": "code", "source": ["%%sommelier\nSELECT MODELS"], "outputs": outputs},
    ]
    notebook = tmp_path / "nb.ipynb"
    notebook.write_text(json.dumps({"cells": cells}))
    page = write_page(notebook, tmp_path).read_text()
    assert "(../bounds.md)" in page
    assert "sql\n%%sommelier" in page
    assert "text\nred\n" in page
    assert '{raw} html\n<div class="output"><b>1</b></div>' in page
    (picture,) = re.findall(r"!\[\]\((.+)\)", page)
    assert (tmp_path / picture).read_bytes() == b"hello"


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_asks_no_other_machine(tmp_path: Path) -> None:
    out = tmp_path / "site"
    assert build.main([str(out)]) == 0
    pages = list(out.rglob("*.html"))
    assert len(pages) > 45
    for page in [*pages, *out.rglob("*.css")]:
        text = page.read_text()
        assert not FETCHED.search(text), page
    assert (out / "notebooks" / "01_first_questions.html").exists()


@pytest.mark.slow
def test_a_link_that_leads_nowhere_fails_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_a_dead_link(pages: Path) -> None:
        pages.mkdir()
        (pages / "static").mkdir()
        (pages / "index.md").write_text("# Here\n\n[gone](gone.md)\n")

    monkeypatch.setattr(build, "stage", with_a_dead_link)
    assert build.main([str(tmp_path / "site")]) != 0
    assert not (tmp_path / "site").exists()
