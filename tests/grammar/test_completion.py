"""At every place of a statement: which keywords follow, and which kinds of names."""

from __future__ import annotations

import time

import pytest

from sommelier.errors import UnknownNameError
from sommelier.grammar.completion import complete, help_text, keywords, topics
from sommelier.grammar.parser import parse

CORR_THEN = ("FROM", "LIMIT", "ON", "ORDER", "PICK", "USING", "WHERE")

CASES: list[tuple[str, str, str, str]] = [
    # text before the cursor, some keywords (! means: not offered), kinds of names, prefix
    ("", "SELECT SHOW IMPORT !MODELS", "", ""),
    ("sel", "SELECT", "", "sel"),
    ("SHOW MODELS; DES", "DESCRIBE", "", "DES"),
    ("SELECT ", "MODEL MODELS DISTINCT !SELECT", "", ""),
    ("SELECT name, ", "!FROM", "", ""),
    ("SELECT MODELS ", "CORR WHERE PICK", "column", ""),
    ("SELECT MODELS name, mem", "!CORR", "column", "mem"),
    ("SELECT MODELS CORR ", "TASK ANY ALL", "model", ""),
    ("SELECT MODELS CORR google/eff", "TASK", "model", "google/eff"),
    ("SELECT MODELS CORR resnet50 95% ", "WHERE ON AND CONFIDENCE !CORR", "", ""),
    ("SELECT MODELS WHERE a = 'b' ", "AND OR ON !WHERE", "", ""),
    ("SELECT MODELS WHERE (a = 'b' ", "AND OR !LIMIT", "", ""),
    ("SELECT MODELS WHERE a = 'b' FROM (SELECT MODELS ", "WHERE !AND", "column", ""),
    ("SELECT MODELS CORR a ON ", "FITS NOT", "metric", ""),
    ("SELECT MODELS ON memory ", "BETWEEN", "", ""),
    ("SELECT MODELS ON memory < 200", "", "unit", ""),
    ("SELECT MODELS ON memory < 200 ", "AND", "unit", ""),
    ("SELECT MODELS ON memory < 200 M", "AND", "unit", "M"),
    ("SELECT MODELS ON memory < 80% OF ", "", "model", ""),
    ("SELECT MODELS ON latency < 3 ms ON ", "", "metric device dataset", ""),
    ("SELECT MODELS ON latency < 3 ms ON 'c", "", "device dataset", "c"),
    ("SELECT MODELS name, latency ON ", "", "metric device dataset", ""),
    ("SELECT MODELS name, latency ON 'c", "", "device dataset", "c"),
    ("SELECT MODELS ORDER BY latency ON ", "", "metric device dataset", ""),
    ("EXPLAIN WHY NOT ", "", "model", ""),
    ("SELECT MODELS WHERE FITS ON '", "", "device", ""),
    ("SELECT MODELS WHERE FITS ON ", "", "device", ""),
    ("SELECT MODELS WHERE FITS ON bo", "", "device", "bo"),
    ("SELECT MODELS WHERE FITS FITS ON ", "", "", ""),
    ("SELECT MODELS WHERE task = '", "", "task", ""),
    ("SELECT MODELS WHERE name = 'it''s", "", "", "it''s"),
    ('SELECT MODELS CORR "odd na', "", "model", "odd na"),
    ("SELECT MODELS LIMIT 10 ", "OFFSET !LIMIT", "", ""),
    ("SELECT MODELS ORDER ", "BY", "", ""),
    ("SELECT MODELS ORDER BY memory ", "DESC ASC NULLS", "", ""),
    ("SELECT MODELS PICK MOST ", "SIMILAR ACCURATE !RANDOM", "", ""),
    ("SELECT MODELS FROM ", "POOL VIEW", "connector repository", ""),
    ("SELECT MODELS FROM POOL ", "", "pool", ""),
    ("SELECT MODELS USING ", "", "option", ""),
    ("SELECT MODELS USING batch = 3, ", "", "option", ""),
    ("SELECT MODELS USING device = ", "", "device", ""),
    ("SELECT MODELS USING dataset = '", "", "dataset", ""),
    ("SELECT MODELS -- ", "!WHERE", "", ""),
    ("SELECT MODELS /* ", "!WHERE", "", ""),
    ("SELECT MODELS oops oops ", "", "", ""),
    ("IMPORT MODELS FROM ", "", "connector repository", ""),
    ("CREATE REPOSITORY ", "IF", "", ""),
    ("CREATE REPOSITORY zoo TYPE ", "", "connector", ""),
    ("DROP REPOSITORY IF EXISTS ", "", "repository", ""),
    ("DESCRIBE REPOSITORY ", "", "repository", ""),
    ("EXPORT MODEL ", "", "model", ""),
    ("ANALYZE ", "ALL POOL", "model", ""),
    ("ANALYZE a, ", "", "model", ""),
    ("ANALYZE ALL FOR ", "RESOURCES LATENCY", "", ""),
    ("COMPARE a WITH ", "", "model", ""),
    ("DROP POOL IF EXISTS ", "", "pool", ""),
    ("DROP DATASET ", "IF", "dataset", ""),
    ("CREATE POOL ", "IF", "", ""),
    ("REGISTER MODEL ", "", "", ""),
    ("ALTER MODEL ", "", "model", ""),
    ("ALTER TASK ", "", "task", ""),
    ("DESCRIBE METRIC ", "", "metric", ""),
    ("EXPLAIN WHY ", "", "model", ""),
    ("SELECT DISTINCT ", "MODELS LINKS FUSIONS !PLAN", "", ""),
    ("SELECT FUSIONS ", "OF !WHERE !FROM !ON", "fusion_column", ""),
    ("SELECT FUSIONS shares, ", "!OF !WHERE", "fusion_column", ""),
    ("SELECT FUSIONS shares ", "OF AS !WHERE", "", ""),
    ("SELECT FUSIONS OF ", "POOL", "model", ""),
    ("SELECT FUSIONS OF a, ", "!POOL", "model", ""),
    ("SELECT FUSIONS OF POOL ", "", "pool", ""),
    ("SELECT FUSIONS OF a ", "WHERE ON ORDER LIMIT USING !FROM !CORR !PICK !OF", "", ""),
    ("SELECT FUSIONS OF a ON ", "", "metric", ""),
    ("SELECT FUSIONS OF a ON latency < 60% ", "OF WHERE ORDER !ASYNC", "", ""),
    ("SELECT FUSIONS OF a ON latency < 60% OF ", "", "model", ""),
    ("SELECT FUSIONS OF a WHERE acc", "", "fusion_column", "acc"),
    ("SELECT FUSIONS OF a ORDER BY ", "", "fusion_column", ""),
    ("SELECT FUSIONS OF a USING ", "", "fusions_option", ""),
    ("CREATE MODEL m AS ", "FUSION GRAFT", "", ""),
    ("CREATE MODEL m AS FUSION ", "OF", "", ""),
    ("CREATE MODEL m AS FUSION OF ", "POOL", "model", ""),
    ("CREATE MODEL m AS FUSION OF a, ", "", "model", ""),
    ("CREATE MODEL m AS FUSION OF POOL ", "", "pool", ""),
    ("CREATE MODEL m AS FUSION OF a ", "WITHIN ON FOR USING ASYNC !WHERE", "", ""),
    ("CREATE MODEL m AS FUSION OF a WITHIN 1% ", "OF ON FOR USING ASYNC !WITHIN", "", ""),
    ("CREATE MODEL m AS FUSION OF a WITHIN 1% OF ", "ACCURACY", "", ""),
    ("CREATE MODEL m AS FUSION OF a FOR ", "MEMORY", "", ""),
    ("CREATE MODEL m AS FUSION OF a FOR MEMORY ", "WITHIN ON USING !FOR", "", ""),
    ("CREATE MODEL m AS FUSION OF a ON ", "", "metric", ""),
    ("CREATE MODEL m AS FUSION OF a ON memory < 5 M", "FOR WITHIN ASYNC", "unit", "M"),
    ("CREATE MODEL m AS FUSION OF a USING ", "", "fusion_option", ""),
    ("CREATE MODEL m AS FUSION OF a USING dataset = '", "", "dataset", ""),
    ("CREATE MODEL m AS FUSION OF a USING budget = 20m", "", "unit", "m"),
    ("CREATE MODEL m AS FUSION OF a USING cost = 'x' ", "ASYNC", "", ""),
    ("CREATE MODEL m AS GRAFT a INTO b AT SEGMENT 's' ", "USING !ASYNC", "", ""),
    ("EXPLAIN ", "FUSION SELECT WHY", "", ""),
    ("EXPLAIN FUSION ", "", "fusion", ""),
    ("CANCEL ", "JOB", "", ""),
    ("CANCEL JOB ", "", "", ""),
    (
        "SELECT LINKS ",
        "WHERE ORDER LIMIT USING !FROM !CORR !ON !PICK !INCLUDING",
        "link_column",
        "",
    ),
    ("SELECT LINKS source, ", "!WHERE", "link_column", ""),
    ("SELECT LINKS WHERE perf", "", "link_column", "perf"),
    ("SELECT LINKS WHERE target = ", "", "link_column", ""),
    ("SELECT LINKS WHERE target = 'acc", "", "model", "acc"),
    ("SELECT LINKS WHERE target_dataset = '", "", "dataset", ""),
    ("SELECT LINKS WHERE a = 'b' ", "AND ORDER LIMIT USING !CORR !PICK !WHERE", "", ""),
    ("SELECT LINKS ORDER BY ", "", "link_column", ""),
    ("SELECT LINKS USING ", "", "links_option", ""),
    ("SELECT MODELS WHERE source = '", "", "", ""),
    ("SELECT PLAN ", "FOR", "", ""),
    ("SELECT PLAN FOR ", "POOL", "model", ""),
    ("SELECT PLAN FOR a, ", "!POOL", "model", ""),
    ("SELECT PLAN FOR POOL ", "", "pool", ""),
    ("SELECT PLAN FOR a ", "ON PICK USING !WHERE !ORDER !LIMIT !FROM !CORR", "", ""),
    ("SELECT PLAN FOR a ON ", "", "metric", ""),
    ("SELECT PLAN FOR a ON memory < 50% OF ", "", "model", ""),
    ("SELECT PLAN FOR a ON latency < 3 ms ON 'c", "", "device dataset", "c"),
    ("SELECT PLAN FOR a ON memory < 5 M", "AND PICK !WHERE", "unit", "M"),
    ("SELECT PLAN FOR a USING ", "", "plan_option", ""),
    ("SELECT PLAN FOR a USING confidence = 99%, ", "", "plan_option", ""),
    ("CREATE ", "LINK PLAN POOL MODEL", "", ""),
    ("CREATE LINK ", "FROM IF", "", ""),
    ("CREATE LINK d2s ", "FROM !TO", "", ""),
    ("CREATE LINK FROM ", "", "model", ""),
    ("CREATE LINK d2s FROM a, ", "", "model", ""),
    ("CREATE LINK FROM a ", "TO !FROM", "", ""),
    ("CREATE LINK FROM a TO ", "", "model", ""),
    ("CREATE LINK FROM a TO b ", "USING !ON", "", ""),
    ("CREATE LINK FROM a TO b USING ", "", "link_option", ""),
    ("CREATE LINK FROM a TO b USING target_dataset = '", "", "dataset", ""),
    ("CREATE PLAN ", "IF", "", ""),
    ("CREATE PLAN edge AS SELECT ", "PLAN !MODELS !LINKS", "", ""),
    ("CREATE PLAN edge AS SELECT PLAN FOR ", "POOL", "model", ""),
    ("CREATE PLAN edge AS SELECT PLAN FOR POOL ", "", "pool", ""),
    ("CREATE POOL edge AS SELECT ", "MODELS !LINKS !PLAN", "", ""),
    ("EXPLAIN SELECT ", "MODELS LINKS PLAN FUSIONS", "", ""),
    ("EXPLAIN SELECT PLAN FOR ", "POOL", "model", ""),
    ("ANALYZE POOL audio FOR ", "LINKS", "", ""),
    ("ANALYZE ALL FOR LINKS USING ", "", "link_option", ""),
    ("ANALYZE ALL FOR LATENCY USING ", "", "option", ""),
    ("SHOW ", "LINKS PLANS", "", ""),
    ("SHOW LINKS WHERE ", "", "link_column", ""),
    ("SHOW PLANS WHERE ", "", "", ""),
    ("DROP ", "LINK PLAN", "", ""),
    ("DROP LINK ", "IF", "link", ""),
    ("DROP PLAN IF EXISTS ", "", "plan", ""),
    ("DESCRIBE LINK ", "", "link", ""),
    ("DESCRIBE PLAN ed", "", "plan", "ed"),
    ("SET ", "", "option", ""),
    ("RESET ", "ALL", "option", ""),
]


@pytest.mark.parametrize(("text", "words", "wants", "prefix"), CASES)
def test_what_is_offered(text: str, words: str, wants: str, prefix: str) -> None:
    found = complete(text)
    offered = set(found.keywords)
    assert {word for word in words.split() if word[0] != "!"} <= offered
    assert not {word[1:] for word in words.split() if word[0] == "!"} & offered
    assert found.wants == frozenset(wants.split())
    assert found.prefix == prefix


def test_a_used_clause_is_not_offered_again() -> None:
    text = "SELECT MODELS FROM a CORR b 90% WHERE c = 'd' ON e < 5% ORDER BY f PICK RANDOM LIMIT 3 "
    assert not {*CORR_THEN, "CORR"} - {"USING"} & set(complete(text).keywords)
    assert "USING" in complete(text).keywords


def test_a_keystroke_costs_less_than_a_millisecond() -> None:
    query = (
        "SELECT MODELS name, memory CORR resnet50 95% ON memory < 80% AND flops <= 60% PICK MOST "
    )
    prefixes = [query[:end] for end in range(len(query) + 1)]
    for prefix in prefixes:
        complete(prefix)  # the lexers of all states are made now
    times = []
    for prefix in prefixes:
        begin = time.perf_counter()
        complete(prefix)
        times.append(time.perf_counter() - begin)
    assert sorted(times)[len(times) // 2] < 1e-3


def test_keywords_are_words_and_known_to_all() -> None:
    assert {"SELECT", "CORR", "ON", "FITS", "PARETO"} <= set(keywords())
    assert all(word.isalpha() and word.isupper() for word in keywords())


@pytest.mark.parametrize("topic", topics(), ids=lambda topic: topic.name)
def test_help_on_a_topic_shows_its_syntax_and_examples_that_parse(topic) -> None:  # type: ignore[no-untyped-def]
    text = help_text(topic.name)
    assert text.startswith(topic.name.upper() + ": ")
    assert topic.examples
    for example in topic.examples:
        assert example in text
        assert parse(example)
    syntax = "\n".join(line for line in text.splitlines() if line.strip() not in topic.examples)
    assert "-> " not in syntax  # the names that only the parser needs
    assert max(len(line) for line in text.splitlines()) <= 110


def test_help_covers_every_statement_and_keyword() -> None:
    shown = " ".join(body for topic in topics() for _, body in topic.rules).split()
    assert all(any(word in part for part in shown) for word in keywords())


@pytest.mark.parametrize(("asked", "begins"), [("Order", "ORDER BY:"), ("pareto", "PICK:")])
def test_help_finds_a_topic_by_its_beginning_or_a_keyword(asked: str, begins: str) -> None:
    assert help_text(asked).startswith(begins)


def test_help_on_nothing_known_offers_the_nearest() -> None:
    with pytest.raises(UnknownNameError) as caught:
        help_text("selekt")
    assert caught.value.suggestions[0] == "select"
    assert caught.value.hint is not None
    assert "register model" in caught.value.hint
