"""The pages of the explorer as a browser without a script gets them, from a real server."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psutil
import pytest

from tests.runtime.server.asking import wait_until
from tests.shell.explorer.serving import HOSTILE, SOON_S, Serve, serving

PAGES = (
    "/", "/?q=SELECT+MODELS", "/?q=SELECT+MODLES", "/?q=SHOW+MODELS", "/?q=SHOW+JOBS", "/jobs",
    "/?q=SELECT+MODELS+name,+accuracy,+memory,+flops", "/deployments", "/model?name=base",
    "/?q=EXPLAIN+SELECT+MODELS", "/model?name=grafted", "/model?name=nobody",
    "/?q=SELECT+name,+id+FROM+models",
)  # fmt: skip


def cells(html: str) -> list[list[str]]:
    """Texts of the first table's rows."""
    body = html.partition("<tbody>")[2].partition("</tbody>")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", body, re.S)
    return [[words(cell) for cell in re.findall(r"<td.*?>(.*?)</td>", row, re.S)] for row in rows]


def words(html: str) -> str:
    return unescape(re.sub(r"<[^>]*>", "", html))


def links(html: str) -> list[tuple[str, str]]:
    """(where it leads, its words)."""
    found = re.findall(r'<a href="([^"]*)"[^>]*>(.*?)</a>', html, re.S)
    return [(unescape(href), words(text)) for href, text in found]


def tags(html: str) -> list[tuple[str, dict[str, str | None]]]:
    """As a browser reads them."""
    found: list[tuple[str, dict[str, str | None]]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, given: found.append((tag, dict(given)))  # type: ignore
    parser.feed(html)
    return found


def test_the_first_page_has_a_box_and_questions_that_can_be_asked(served: Serve) -> None:
    heard = served.page()
    assert heard.status == 200
    assert '<form action="/" method="get" id="ask">' in heard.text
    asked = [(href, text) for href, text in links(heard.text) if href.startswith("/?q=")]
    assert len(asked) > 4
    assert any("CORR" in text for _, text in asked)
    assert any("PICK PARETO" in text for _, text in asked)
    for href, text in asked:
        assert served.ask(href).status == 200, text


def test_an_answer_is_a_table_with_units_and_links_to_its_models(served: Serve) -> None:
    heard = served.page(q="SELECT MODELS name, memory, accuracy WHERE name = 'base'")
    assert heard.status == 200
    assert re.search(r"<th[^>]*>memory<small>bytes</small></th>", heard.text)
    assert [row[0] for row in cells(heard.text)] == ["base"]
    with_title = re.search(r'<td class="number" title="(\d+)">([\d.]+ k?B)</td>', heard.text)
    assert with_title is not None, "the exact value stands behind the rounded one"
    assert "1 row (" in heard.text
    (href,) = [href for href, text in links(heard.text) if text == "base"]
    assert "<h1>base " in served.ask(href).text


def test_notes_stand_below_the_table(served: Serve) -> None:
    heard = served.page(q="SELECT MODELS name, equivalence CORR base >= 10%")
    assert re.search(r'<ul class="notes".*confidence', heard.text, re.S)


def test_the_words_at_fault_are_underlined_and_what_would_work_is_a_link(served: Serve) -> None:
    heard = served.page(q="SELECT MODELS\nWHERE memry < 3 MB")
    assert heard.status == 400
    assert "<mark>memry</mark>" in heard.text
    assert 'data-start="20" data-end="25"' in heard.text
    assert "Hint: " in heard.text
    assert 'aria-invalid="true"' in heard.text
    assert ">SELECT MODELS\nWHERE memry &lt; 3 MB</textarea>" in heard.text, "it is not lost"
    (href,) = [href for href, text in links(heard.text) if text == "memory"]
    assert parse_qs(urlsplit(href).query)["q"] == ["SELECT MODELS\nWHERE memory < 3 MB"]
    assert served.ask(href).status == 200


def test_a_model_page_has_profile_neighbours_lineage_and_segments(served: Serve) -> None:
    text = served.page("/model", name="base").text
    sections = dict(re.findall(r"<section><h2>(\w+)</h2>(.*?)</section>", text, re.S))
    assert set(sections) == {"Profile", "Neighbours", "Lineage", "Segments"}
    profile = {row[0]: row for row in cells(sections["Profile"])}
    assert profile["flops"][2:4] == ["measured", "graph"]
    assert profile["accuracy"][7] == "points"
    names = [row[0] for row in cells(sections["Neighbours"])]
    assert set(names[:2]) == {"tuned", "grafted"}
    assert "confidence" in sections["Neighbours"]
    assert ["grafted", "base"] in [row[:2] for row in cells(sections["Lineage"])]
    heads = re.findall(r"<th [^>]*>(\w+)", sections["Segments"])
    assert heads[:3] == ["segment", "donor", "kind"], "what a row is about is seen first"
    assert "tuned" in {row[1] for row in cells(sections["Segments"])}
    made_of = cells(served.page("/model", name="grafted").text.partition("<h2>Lineage")[2])
    assert {row[1] for row in made_of} == {"base", "tuned"}


def test_an_unknown_model_is_404_with_the_nearest_names(served: Serve) -> None:
    heard = served.page("/model", name="tunde")
    assert heard.status == 404
    assert "tuned" in heard.text
    assert served.page("/model").status == 400


def test_jobs_and_deployments_are_listed(served: Serve) -> None:
    jobs = served.page("/jobs").text
    assert "<progress" in jobs
    assert "ANALYZE base, tuned FOR SEGMENTS" in jobs
    before = served.page("/deployments").text
    assert served.infer().status == 200
    after = served.page("/deployments").text
    here = [cells(page)[0] for page in (before, after)]
    assert here[0][:3] == ["vision", "ready", "base, tuned"]
    assert int(here[1][3]) == int(here[0][3]) + 1, "what it answered here, at this moment"
    (href,) = [href for href, text in links(after) if text == "vision"]
    assert "MODELS base, tuned AS vision" in words(served.ask(href).text)


@pytest.mark.parametrize("path", PAGES)
def test_every_page_is_guarded_and_names_nobody_else(served: Serve, path: str) -> None:
    heard = served.ask(path)
    policy = heard.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert heard.headers["x-content-type-options"] == "nosniff"
    assert heard.headers["referrer-policy"] == "no-referrer"
    assert "set-cookie" not in heard.headers
    for tag, given in tags(heard.text):
        assert not any(name.startswith("on") or name == "style" for name in given), (tag, given)
        assert tag != "style"
        assert tag != "script" or given == {"src": "/explorer.js", "defer": None}
        for name in {"src", "href", "action"} & given.keys():
            assert re.match(r"/(?!/)|#|data:,$", given[name] or ""), (tag, given)


def test_what_a_stranger_named_is_text_everywhere(served: Serve) -> None:
    shown = (
        served.page(q="SELECT MODELS"), served.page(q="SELECT MODELS name, accuracy, memory"),
        served.page(q="SELECT name FROM models"), served.page("/model", name=HOSTILE),
        served.page(q=f"SELECT MODELS CORR {HOSTILE}"), served.page("/model", name=HOSTILE + "x"),
        served.page(q="SELECT MODELS name, equivalence CORR other >= 1%", x=HOSTILE, y="<b>"),
        served.page("/model", name="other"),
        served.page("/jobs"),
    )  # fmt: skip
    for heard in shown:
        assert "<img" not in heard.text
        assert heard.text.count("<script") == 1, "our own"
    assert HOSTILE in unescape(shown[0].text)
    assert f"<title>{HOSTILE} · Sommelier" in unescape(shown[3].text)


def test_the_plot_has_its_front_and_a_link_for_each_point(served: Serve) -> None:
    text = served.page(q="SELECT MODELS name, accuracy, memory").text
    drawn = text.partition("<svg")[2].partition("</svg>")[0]
    assert len(re.findall(r'<a href="/model\?id=', drawn)) == len(cells(text))
    assert 'class="best"' in drawn
    assert "memory · less is better" in drawn
    assert "accuracy · more is better" in drawn
    other = served.page(q="SELECT MODELS name, accuracy, memory, flops", x="flops", y="memory").text
    assert "flops · less is better" in other
    assert "memory · less is better" in other
    assert "<svg" not in served.page(q="SELECT MODELS name, memory").text


def test_an_answer_of_many_rows_is_cut_and_says_so(served: Serve) -> None:
    text = served.page(q="SELECT * FROM range(100000)").text
    assert "the first 200 rows" in text
    assert len(cells(text)) == 200


def test_pages_follow_the_database_and_its_loss(database: Path, tmp_path: Path) -> None:
    shutil.copytree(database.parent, tmp_path / "own")
    own = tmp_path / "own" / database.name
    with serving(own) as served:
        assert served.page("/model", name="renamed").status == 404
        code = "import sys, sommelier as sm\nwith sm.connect(sys.argv[1]) as db:\n"
        code += "    db.execute('ALTER MODEL other RENAME TO renamed')\n"
        subprocess.run([sys.executable, "-c", code, str(own)], check=True, timeout=SOON_S)
        assert served.page("/model", name="renamed").status == 200
        shutil.rmtree(own.parent)
        lost = served.page(q="SELECT MODELS")
        assert lost.status == 503
        assert "zoo.sommelier" in lost.text


def test_the_serving_process_stays_small_and_its_helper_ends_with_it(database: Path) -> None:
    with serving(database) as served:
        for path in PAGES:
            served.ask(path)
        process = psutil.Process(served.process.pid)
        assert process.memory_info().rss < 120 * 2**20
        maps = Path(f"/proc/{process.pid}/maps")
        if maps.exists():
            assert not re.search("duckdb|torch|pandas|matplotlib", maps.read_text())
        helpers = [p for p in process.children() if "answering" in " ".join(p.cmdline())]
        assert len(helpers) == 1
        served.process.terminate()
        assert served.process.wait(SOON_S) == 0
        wait_until(lambda: not helpers[0].is_running(), within_s=SOON_S)
