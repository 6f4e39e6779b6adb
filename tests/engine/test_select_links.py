"""SELECT LINKS against DuckDB's answers on the same rows, and what belongs to links alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sommelier.engine.link_columns import DEFAULT_COLUMNS, LINK_COLUMNS, LINK_NUMBERS
from sommelier.engine.result import Table
from sommelier.errors import BinderError, ParameterError, UnknownNameError
from sommelier.shell.output import Layout, pieces
from sommelier.shell.terminal import display_width
from sommelier.storage.catalog_text import LINK_TEXTS
from sommelier.storage.versions import link_id, version_of
from tests.engine.link_bench import LinkBench

Written = tuple[str, str]  # a condition in our language, and in DuckDB's over the view `links`

SHARES = ("performance", "low", "high", "skill", "constant", "screen")
AMOUNTS = (  # ours, in the view, unit, its factor, values around those of the rows
    ("memory", "memory", "kB", 1e3, (1, 2.5, 5)),
    ("size", "size", "B", 1, (400, 401)),
    ("flops", "flops", "FLOPs", 1, (199, 200)),
    ("latency", "latency_ms", "us", 1e-3, (9, 10, 11)),
    ("samples", "samples", "", 1, (165, 200)),
)
TEXTS = ("name", "source", "target", "metric", "unit", "method", "state", "reason", "dataset")
WORDS = ("linked", "stale", "digit_net", "accent_net", "no skill", "accuracy", "both", "photos")
PATTERNS = ("%net%", "s_a%", "%_to_accent_net", "no%", "L%")


def _shares() -> st.SearchStrategy[Written]:
    return st.builds(
        lambda column, sign, percent: (
            f"{column} {sign} {percent}%",
            f"{column} {sign} {percent / 100!r}",
        ),
        st.sampled_from(SHARES),
        st.sampled_from(("<", "<=", ">", ">=", "=", "!=")),
        st.sampled_from((0, 38, 50, 90, 100)),
    )


def _amounts() -> st.SearchStrategy[Written]:
    def written(amount: tuple[Any, ...], sign: str, place: int) -> Written:
        ours, theirs, unit, factor, values = amount
        value = values[place % len(values)]
        return f"{ours} {sign} {value} {unit}".strip(), f"{theirs} {sign} {value * factor!r}"

    return st.builds(
        written, st.sampled_from(AMOUNTS), st.sampled_from(("<", "<=", ">", ">=")), st.integers(0)
    )


def _texts() -> st.SearchStrategy[Written]:
    ends = st.sampled_from(("source", "target"))
    plain = st.sampled_from([text for text in TEXTS if text not in ("source", "target")])
    word, pattern = st.sampled_from(WORDS), st.sampled_from(PATTERNS)
    same = st.one_of(
        st.builds("{} = '{}'".format, plain, word),
        st.builds("{} != '{}'".format, plain, word),
        st.builds("{} < '{}'".format, st.sampled_from(TEXTS), word),
        st.builds("{} IN ('{}', '{}')".format, st.sampled_from(TEXTS), word, word),
        st.builds("{} LIKE '{}'".format, st.sampled_from(TEXTS), pattern),
        st.builds("{} NOT ILIKE '{}'".format, st.sampled_from(TEXTS), pattern),
        st.builds("{} = '{}'".format, ends, st.sampled_from(("digit_net", "accent_net"))),
        st.builds("{} IS NULL".format, st.sampled_from((*TEXTS, *SHARES, "memory"))),
        st.builds("{} IS NOT NULL".format, st.sampled_from((*TEXTS, *SHARES, "flops"))),
    )
    return same.map(lambda text: (text, text))


def _sums() -> st.SearchStrategy[Written]:
    def between(low: int, high: int) -> Written:
        bounds = f"BETWEEN {low / 100} AND {high / 100}"
        return f"performance BETWEEN {low}% AND {high}%", f"performance {bounds}"

    def gain(percent: int) -> Written:
        sides = "performance - constant >"
        return f"{sides} {percent}%", f"{sides} {percent / 100}"

    return st.builds(between, st.integers(0, 60), st.integers(40, 100)) | st.builds(
        gain, st.sampled_from((-5, 1, 20, 50))
    )


def _joined(part: st.SearchStrategy[Written]) -> st.SearchStrategy[Written]:
    both = st.builds(
        lambda word, a, b: tuple(f"({x} {word} {y})" for x, y in zip(a, b, strict=True)),
        st.sampled_from(("AND", "OR")), part, part,
    )  # fmt: skip
    negated = part.map(lambda a: tuple(f"NOT ({x})" for x in a))
    return both | negated


CONDITIONS = st.recursive(_shares() | _amounts() | _texts() | _sums(), _joined, max_leaves=6)


def names(table: Table) -> list[object]:
    return [row[0] for row in table.rows]


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(written=CONDITIONS)
def test_conditions_keep_the_links_that_duckdb_keeps(audio: LinkBench, written: Written) -> None:
    ours, theirs = written
    expected = audio.catalog.sql(f"SELECT name FROM links WHERE {theirs} ORDER BY name")
    assert names(audio.ask(f"SELECT LINKS name WHERE {ours}")) == [row[0] for row in expected.rows]


@pytest.mark.parametrize("column", LINK_COLUMNS)
@pytest.mark.parametrize("direction", ["", "DESC", "DESC NULLS FIRST"])
def test_columns_and_their_order_are_those_of_the_view(
    audio: LinkBench, column: str, direction: str
) -> None:
    theirs = {"latency": "latency_ms", "cost": "memory"}.get(column, column)
    if column == "created":
        theirs = "left(created_at::VARCHAR, 19)"
    nulls = "" if "NULLS" in direction else "NULLS LAST"
    expected = audio.catalog.sql(
        f"SELECT {theirs}, name FROM links ORDER BY 1 {direction} {nulls}, name"
    )
    found = audio.ask(f"SELECT LINKS {column}, name ORDER BY {column} {direction}")
    assert [tuple(row) for row in found.rows] == [tuple(row) for row in expected.rows]


def test_every_column_is_a_text_or_a_number() -> None:
    assert set(LINK_COLUMNS) == {*LINK_TEXTS, *LINK_NUMBERS, "cost"}
    assert not set(LINK_TEXTS) & set(LINK_NUMBERS)
    assert set(DEFAULT_COLUMNS) < set(LINK_COLUMNS)


def test_has_looks_into_the_sources_of_an_ensemble(audio: LinkBench) -> None:
    found = audio.ask("SELECT LINKS name WHERE source HAS ALL ('digit_net', 'speaker_net')")
    assert names(found) == ["both"]
    every = audio.ask("SELECT LINKS name WHERE source HAS 'digit_net'")
    assert set(names(every)) == {"both", "digit_net_to_accent_net", "digit_net_to_speaker_net"}


@pytest.mark.parametrize("cost", ["memory", "latency", "flops", "size"])
def test_cost_is_the_number_that_using_names(audio: LinkBench, cost: str) -> None:
    found = audio.ask(f"SELECT LINKS cost, {cost} ORDER BY cost DESC USING cost = '{cost}'")
    assert all(row[0] == row[1] for row in found.rows)
    assert found.columns[0].dimension is found.columns[1].dimension


def test_a_link_without_a_number_never_matches_and_is_counted(audio: LinkBench) -> None:
    for condition in ("performance >= 0%", "NOT performance >= 0%"):
        found = audio.ask(f"SELECT LINKS name WHERE {condition}")
        assert "noise_net_to_digit_net" not in names(found)
        assert "2 links have no performance: not linkable" in found.notes


def test_parameters_stand_for_values(audio: LinkBench) -> None:
    text = "SELECT LINKS name WHERE target = $to AND performance >= $least LIMIT $most"
    found = audio.ask(text, {"to": "accent_net", "least": "97%", "most": 1})
    assert names(found) == ["both"]
    with pytest.raises(ParameterError, match="does not use"):
        audio.ask("SELECT LINKS", {"unused": 1})


def test_a_model_without_links_answers_with_no_rows(audio: LinkBench) -> None:
    assert not audio.ask("SELECT LINKS WHERE target = 'noise_net'").rows
    with pytest.raises(UnknownNameError, match="unknown model 'nois_net'"):
        audio.ask("SELECT LINKS WHERE target = 'nois_net'")
    # a model that is gone still has links
    assert audio.ask("SELECT LINKS WHERE source = 'gone_net'").rows


@pytest.mark.parametrize(
    ("condition", "told"),
    [
        ("tags HAS 'mobile'", "links have no column 'tags'"),
        ("name HAS 'x'", "HAS looks into a list, and source"),
        ("name REGEXP '('", "is not a regular expression"),
        ("performance > 95", "95 what"),
        ("name > 3 MB", "'name' is text"),
        ("name + 1 > 3", "'name' is text"),
        ("state = NULL", "nothing equals NULL"),
        ("profile_similarity('a') > 0.5", "links have no function"),
        ("memory < 0.5x", "relative to the reference"),
        ("memory < 3 ms", "measures time"),
    ],
)
def test_what_cannot_be_asked_is_refused_with_the_reason(
    audio: LinkBench, condition: str, told: str
) -> None:
    with pytest.raises(BinderError, match=told) as caught:
        audio.ask(f"SELECT LINKS WHERE {condition}")
    assert caught.value.span is not None


def test_an_empty_catalog_has_no_links(links: LinkBench) -> None:
    assert not links.ask("SELECT LINKS * WHERE performance > 50% ORDER BY skill").rows
    assert not links.ask("SELECT DISTINCT LINKS state").rows


def test_a_link_is_seen_as_soon_as_it_is_kept_and_stale_as_soon_as_a_model_changes(
    links: LinkBench,
) -> None:
    links.probes()
    links.model("a")
    b = links.model("b")
    assert not links.ask("SELECT LINKS").rows
    links.link("a", "b", wrong=0.1)
    assert links.ask("SELECT LINKS state WHERE state = 'linked'").rows == [("linked",)]
    links.catalog.drop_model(b)
    found = links.ask("SELECT LINKS state, reason WHERE state = 'stale'")
    assert found.rows == [("stale", "the target 'b' is gone")]


def test_eighty_columns_show_what_a_link_is_worth_and_costs_however_long_names_are(
    links: LinkBench,
) -> None:
    links.probes()
    names = ("coral_tf2_mobilenet_v2_1.0_224_ptq", "coral_mobilenet_v1_0.75_192_quant")
    for name in names:
        links.model(name)
    links.link(*names, wrong=0.2, memory=12_345.0)
    links.link(*names[::-1], wrong=0.95, state="useless")
    links.together("both", names, names[0], wrong=0.1)
    for question in ("SELECT LINKS", "SHOW LINKS"):
        text = "".join(pieces(links.ask(question), "table", Layout(width=80)))
        head = {word.strip() for word in text.splitlines()[1].split("│")}
        assert {"state", "source", "target", "performance", "skill", "cost"} <= head
        assert max(map(display_width, text.splitlines())) <= 80


@pytest.fixture
def versions(links: LinkBench) -> LinkBench:
    """a@1 and a@2 predict b, b predicts both; b has one version."""
    links.probes()
    first = links.catalog.model(links.model("a"))
    links.model("b")
    links.link("a", "b", wrong=0.1, name="one_to_b")
    into = links.link("b", "a", wrong=0.1, name="b_to_one")
    second = replace(first, id="sha256:a2", version="2")
    links.catalog.add_model(second)
    out = links.catalog.link("one_to_b")
    kept = [
        replace(
            out, name="two_to_b", source_ids=(second.id,), source_versions=(version_of(second),)
        ),
        replace(into, name="b_to_two", target_id=second.id, target_version=version_of(second)),
    ]
    links.catalog.add_links([replace(link, id=link_id(link)) for link in kept])
    return links


def test_versions_of_one_name_are_told_apart(versions: LinkBench) -> None:
    found = versions.ask("SELECT LINKS name, source, target ORDER BY source, target")
    assert found.rows == [
        ("one_to_b", "a@1", "b"),
        ("two_to_b", "a@2", "b"),
        ("b_to_one", "b", "a@1"),
        ("b_to_two", "b", "a@2"),
    ]
    told = dict(versions.ask("DESCRIBE LINK b_to_two").rows)
    assert (told["source"], told["target"]) == ("b", "a@2")
    assert "a@2" in told["use"]
    assert dict(versions.ask("DESCRIBE b").rows)["predicts"].count("a@") == 2


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ("target = 'a@2'", {"b_to_two"}),
        ("target != 'a@2'", {"one_to_b", "two_to_b", "b_to_one"}),
        ("NOT target = 'a@2'", {"one_to_b", "two_to_b", "b_to_one"}),
        ("target = 'a'", {"b_to_one", "b_to_two"}),
        ("source IN ('a@1', 'b@1')", {"one_to_b", "b_to_one", "b_to_two"}),
        ("source HAS 'a@2'", {"two_to_b"}),
        ("source HAS ALL ('a@2', 'b')", set()),
        ("source = 'b@1' AND target = 'a@1'", {"b_to_one"}),
    ],
)
def test_a_version_is_named_behind_an_at(
    versions: LinkBench, condition: str, expected: set[str]
) -> None:
    assert set(names(versions.ask(f"SELECT LINKS name WHERE {condition}"))) == expected


@pytest.mark.parametrize("word", ["a@3", "aa@1", "aa", "a, bb"])
def test_versions_and_models_there_are_not_are_refused(versions: LinkBench, word: str) -> None:
    with pytest.raises(UnknownNameError) as caught:
        versions.ask(f"SELECT LINKS WHERE target = '{word}'")
    assert caught.value.span is not None
    assert caught.value.suggestions or caught.value.hint


def test_an_ensemble_says_how_its_file_is_run(links: LinkBench) -> None:
    links.probes()
    for name in ("a", "b", "c"):
        links.model(name)
    together = links.together("both", ("a", "b"), "c", wrong=0.1)
    rows = dict(links.ask("DESCRIBE LINK both").rows)
    assert not {"use", "run", "inputs"} & set(rows)  # it has no file here
    links.catalog.add_links([replace(together, artifact="sha256:file")])
    rows = dict(links.ask("DESCRIBE LINK both").rows)
    assert "use" not in rows
    assert rows["inputs"].startswith("source_0: a, source_1: b; natural")
    assert "db.artifacts.path('sha256:file')" in rows["run"]
