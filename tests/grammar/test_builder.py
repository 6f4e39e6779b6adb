"""The Python builder makes the nodes that its text parses to."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pytest

from sommelier.errors import ParserError
from sommelier.grammar import nodes
from sommelier.grammar.builder import QueryBuilder
from sommelier.grammar.parser import parse

q = QueryBuilder()

CASES: list[tuple[QueryBuilder, str]] = [
    (q, "SELECT MODELS"),
    (q.models("name", "params AS p").models("memory"), "SELECT MODELS name, params AS p, memory"),
    (q.models("family", distinct=True), "SELECT DISTINCT MODELS family"),
    (q.source("wheel", "POOL edge"), "SELECT MODELS FROM wheel, POOL edge"),
    (q.source(q.limit(3)), "SELECT MODELS FROM (SELECT MODELS LIMIT 3)"),
    (q.corr("resnet50", at_least=0.95), "SELECT MODELS CORR resnet50 95%"),
    (q.corr("a/b@2", within="5%"), "SELECT MODELS CORR a/b@2 WITHIN 5%"),
    (q.corr("odd name (1)"), 'SELECT MODELS CORR "odd name (1)"'),
    (
        q.corr("m", at_least=0.9, agreement="95%", confidence=0.99),
        "SELECT MODELS CORR m 90% CONFIDENCE 99% AND AGREEMENT >= 95% CONFIDENCE 99%",
    ),
    (q.corr("m", accuracy=0.9, bound=0.2), "SELECT MODELS CORR m ACCURACY >= 90% AND BOUND <= 20%"),
    (q.corr("$ref", at_least="$tol"), "SELECT MODELS CORR $ref $tol"),
    (q.corr(task="ner", at_least=1), "SELECT MODELS CORR TASK 'ner' 100%"),
    (q.corr(q.pick("most accurate")), "SELECT MODELS CORR (SELECT MODELS PICK MOST ACCURATE)"),
    (q.where("a = 1 OR b = 2").where("c = 3"), "SELECT MODELS WHERE (a = 1 OR b = 2) AND c = 3"),
    (q.where("a = 1 AND b = 2", "c = 3"), "SELECT MODELS WHERE a = 1 AND b = 2 AND c = 3"),
    (q.where(task="ner", family=None), "SELECT MODELS WHERE task = 'ner' AND family IS NULL"),
    (q.where(a="< 5M", name="like 'r%'"), "SELECT MODELS WHERE a < 5M AND name LIKE 'r%'"),
    (q.where(license=["mit", "x"]), "SELECT MODELS WHERE license IN ('mit', 'x')"),
    (q.where(accuracy=np.float32(0.5)), "SELECT MODELS WHERE accuracy = 0.5"),
    (q.where(created=datetime.date(2024, 1, 2)), "SELECT MODELS WHERE created = '2024-01-02'"),
    (q.where(task="$t", x=True, y=-2), "SELECT MODELS WHERE task = $t AND x = TRUE AND y = -2"),
    (q.on("memory < 80%").on(flops="< 60%"), "SELECT MODELS ON memory < 80% AND flops < 60%"),
    (q.on(memory="2 MB", params=5_000), "SELECT MODELS ON memory <= 2 MB AND params <= 5000"),
    (q.on(throughput="100 qps"), "SELECT MODELS ON throughput >= 100 qps"),
    (q.order_by("memory").order_by("name DESC"), "SELECT MODELS ORDER BY memory, name DESC"),
    (q.pick("most similar", top=3), "SELECT MODELS PICK MOST SIMILAR TOP 3"),
    (q.pick("pareto (memory, latency)"), "SELECT MODELS PICK PARETO (memory, latency)"),
    (q.limit(5, offset=2), "SELECT MODELS LIMIT 5 OFFSET 2"),
    (
        q.using(device="cpu", batch=8).using(device="gpu", xs=[1, "a"], none=None),
        "SELECT MODELS USING device = 'gpu', batch = 8, xs = [1, 'a'], none = NULL",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("query", "text"), CASES, ids=[text for _, text in CASES])
def test_a_built_query_is_the_query_of_its_text(query: QueryBuilder, text: str) -> None:
    assert str(query) == text
    assert parse(text) == query.query


def test_a_builder_is_not_changed_by_its_calls() -> None:
    base = q.where(task="ner")
    base.limit(3)
    base.corr("m")
    assert str(base) == "SELECT MODELS WHERE task = 'ner'"


def test_a_parsed_query_can_be_refined() -> None:
    select = parse("SELECT MODELS WHERE a = 1 LIMIT 9")
    assert isinstance(select, nodes.Select)
    assert str(QueryBuilder(select).where("b = 2").limit(3)) == (
        "SELECT MODELS WHERE a = 1 AND b = 2 LIMIT 3"
    )


@pytest.mark.parametrize(
    "call",
    [
        lambda: q.where("a = 1 LIMIT 3"),
        lambda: q.where(""),
        lambda: q.models("name FROM x"),
        lambda: q.on(memory="< 3 MB) OR (1 = 1"),
        lambda: q.pick("best"),
        lambda: q.corr("m", at_least=95),
        lambda: q.corr("m", at_least="AGREEMENT >= 95%"),
        lambda: q.corr("m", at_lest=0.9),
        lambda: q.corr("m", confidence=0.9),
        lambda: q.corr(),
        lambda: q.corr("m", task="ner"),
        lambda: q.corr(3),
        lambda: q.limit(-1),
        lambda: q.limit(2.5),
        lambda: q.using(x=object()),
    ],
)
def test_a_part_that_is_not_one_is_refused(call: Any) -> None:
    with pytest.raises(ParserError):
        call()


def test_contexts_of_columns_are_written_as_in_the_language() -> None:
    built = (
        QueryBuilder()
        .models("name", "accuracy ON 'imagenet' AS a")
        .order_by("latency ON 'cpu' AT p99 DESC")
    )
    text = "SELECT MODELS name, accuracy ON 'imagenet' AS a ORDER BY latency ON 'cpu' AT p99 DESC"
    assert str(built) == text
    assert built.query == parse(text)
