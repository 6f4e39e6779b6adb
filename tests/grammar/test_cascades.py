"""Cascades: what their statements become, and where their words are only names."""

from __future__ import annotations

import pytest

from sommelier.errors import ParserError
from sommelier.grammar import nodes as n
from sommelier.grammar.completion import complete
from sommelier.grammar.formatter import format
from sommelier.grammar.parser import is_read_only, parse

A, B, C = (n.ModelRef(name) for name in "abc")
ONE = n.Percent(0.01)


@pytest.mark.parametrize(
    ("text", "node"),
    [
        ("CREATE CASCADE FROM a TO b", n.CreateCascade(None, (A, B))),
        (
            "CREATE OR REPLACE CASCADE q FROM a TO b TO c CONFIDENCE 99% WITHIN 1% OF AGREEMENT",
            n.CreateCascade(
                "q", (A, B, C), or_replace=True, within=ONE, measure="agreement",
                confidence=n.Percent(0.99),
            ),
        ),
        (
            "CREATE CASCADE IF NOT EXISTS FROM a TO $x WITHIN 1% USING seed = 3",
            n.CreateCascade(
                None, (A, n.Parameter("x")), if_not_exists=True, within=ONE,
                options=(n.Option("seed", n.Number(3.0)),),
            ),
        ),
        ("SELECT CASCADES", n.SelectCascades()),
        (
            "SELECT CASCADES ON flops < 70% WITHIN 1% OF ACCURACY CORR a LIMIT 3",
            n.SelectCascades(
                teacher=A, within=ONE, limit=3,
                on=n.Comparison("<", n.Column("flops"), n.Percent(0.7)),
            ),
        ),
        ("SHOW CASCADES", n.Show("cascades")),
        ("DESC CASCADE q", n.Describe(n.ModelRef("q"), "cascade")),
        ("DROP CASCADE IF EXISTS q", n.Drop("cascade", n.ModelRef("q"), True)),
        ("EXPLAIN CASCADE q", n.ExplainCascade("q")),
        ("EXPLAIN SELECT CASCADES", n.Explain(n.SelectCascades())),
    ],
)  # fmt: skip
def test_a_statement_becomes_its_node_and_comes_back(text: str, node: n.Statement) -> None:
    assert parse(text) == node
    assert parse(format(node)) == node


def test_what_may_be_lost_is_written_out_also_where_it_is_the_usual() -> None:
    text = format(parse("create cascade from a to b within 1%"))
    assert text == "CREATE CASCADE FROM a TO b WITHIN 1% OF ACCURACY"


@pytest.mark.parametrize("word", ["cascade", "cascades", "confidence", "within"])
def test_words_of_cascades_are_names_elsewhere(word: str) -> None:
    assert parse(f"SELECT MODELS WHERE {word} = 1") == n.Select(
        where=n.Comparison("=", n.Column(word), n.Number(1))
    )
    assert parse(f"COMPARE {word}-net WITH b") == n.Compare(n.ModelRef(f"{word}-net"), B)


def test_making_a_cascade_writes_and_asking_about_cascades_reads() -> None:
    assert not is_read_only(parse("CREATE CASCADE FROM a TO b"))
    assert not is_read_only(parse("DROP CASCADE q"))
    reads = ("SELECT CASCADES", "SHOW CASCADES", "EXPLAIN CASCADE q", "DESCRIBE CASCADE q")
    assert all(is_read_only(parse(text)) for text in reads)


@pytest.mark.parametrize("clause", ["WITHIN 1%", "CONFIDENCE 99%", "USING seed = 1"])
def test_a_clause_is_written_once(clause: str) -> None:
    with pytest.raises(ParserError, match="is written twice"):
        parse(f"CREATE CASCADE FROM a TO b {clause} {clause}")


def test_ifs_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ParserError, match="contradict"):
        parse("CREATE OR REPLACE CASCADE IF NOT EXISTS q FROM a TO b")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("CREATE CASCADE q FROM ", {"model"}),
        ("CREATE CASCADE q FROM a TO ", {"model"}),
        ("CREATE CASCADE q FROM a TO b USING ", {"cascade_option"}),
        ("SELECT CASCADES WHERE ", {"cascade_column"}),
        ("SELECT CASCADES ON ", {"metric"}),
        ("SELECT CASCADES WHERE student = '", {"model"}),
        ("SELECT CASCADES USING ", {"cascades_option"}),
        ("DROP CASCADE ", {"cascade"}),
        ("EXPLAIN CASCADE ", {"cascade"}),
        ("CREATE CASCADE ", set()),
    ],
)
def test_completion_knows_what_is_named(text: str, wanted: set[str]) -> None:
    assert complete(text).wants == wanted
    assert "WITHIN" in complete("SELECT CASCADES CORR m ").keywords
    assert "WITHIN" not in complete("CREATE CASCADE q FROM a TO b WITHIN 1% ").keywords
