"""Text and nodes are two forms of one thing: parse(format(node)) == node."""

from __future__ import annotations

import inspect
import itertools

import pytest
from hypothesis import given, settings

from sommelier.grammar import nodes
from sommelier.grammar.formatter import format, format_expression
from sommelier.grammar.parser import parse, parse_part
from tests.grammar.strategies import (
    EXAMPLES,
    expressions,
    fusions_selects,
    link_statements,
    links_selects,
    made_models,
    plan_selects,
    selects,
    statements,
)

CONCRETE = [
    kind
    for _, kind in inspect.getmembers(nodes, inspect.isclass)
    if issubclass(kind, nodes.Node)
    and kind not in (nodes.Node, nodes.Expression, nodes.Reference, nodes.Statement)
]
CLAUSES = (
    "FROM wheel",
    "CORR resnet50 95%",
    "WHERE task = 'ner'",
    "ON memory < 80%",
    "ORDER BY memory",
    "PICK SMALLEST",
    "LIMIT 3",
    "USING device = 'cpu'",
)


@given(selects())
@settings(max_examples=EXAMPLES, deadline=None)
def test_a_select_reads_back_as_it_was(select: nodes.Select) -> None:
    assert parse(format(select)) == select


@given(statements())
@settings(max_examples=EXAMPLES, deadline=None)
def test_a_statement_reads_back_as_it_was(statement: nodes.Statement) -> None:
    text = format(statement)
    assert parse(text) == statement
    assert format(parse(text)) == text


@given(links_selects() | plan_selects() | link_statements())
@settings(max_examples=EXAMPLES, deadline=None)
def test_what_is_said_of_links_and_plans_reads_back_as_it_was(statement: nodes.Statement) -> None:
    text = format(statement)
    assert parse(text) == statement
    assert format(parse(text)) == text


@given(fusions_selects() | made_models())
@settings(max_examples=EXAMPLES, deadline=None)
def test_what_is_said_of_fusions_reads_back_as_it_was(statement: nodes.Statement) -> None:
    text = format(statement)
    assert parse(text) == statement
    assert format(parse(text)) == text


@given(expressions())
@settings(max_examples=EXAMPLES, deadline=None)
def test_an_expression_reads_back_as_it_was(expression: nodes.Expression) -> None:
    assert parse_part(format_expression(expression), "expr") == expression


@pytest.mark.parametrize("kind", CONCRETE, ids=lambda kind: kind.__name__)
def test_every_node_has_a_text_form(kind: type[nodes.Node]) -> None:
    assert format.dispatch(kind) is not format.dispatch(object)


def test_what_is_no_node_is_refused() -> None:
    with pytest.raises(TypeError, match="int has no text form"):
        format(3)  # type: ignore[arg-type]  # the mistake under test


def test_clauses_in_any_order_have_one_canonical_order() -> None:
    canonical = "SELECT MODELS " + " ".join(CLAUSES)
    orders = itertools.islice(itertools.permutations(CLAUSES), 0, None, 613)
    for order in orders:
        assert format(parse("SELECT MODEL " + " ".join(order))) == canonical


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("select model corr resnet50 equivalence>=95%", "SELECT MODELS CORR resnet50 95%"),
        ("SELECT MODELS ON a<>1 and(b=2 or c=3)", "SELECT MODELS ON a != 1 AND (b = 2 OR c = 3)"),
        ("SELECT MODELS ON (a AND b) AND c", "SELECT MODELS ON a AND b AND c"),
        ("SELECT MODELS ON ('a') = b", "SELECT MODELS ON ('a' = b)"),
        ("SELECT MODELS WHERE a - (b - c) > 0", "SELECT MODELS WHERE a - (b - c) > 0"),
        ("SELECT MODELS WHERE (a - b) - c > -(-1)", "SELECT MODELS WHERE a - b - c > -(-1)"),
        ("SELECT MODELS WHERE memory < 200mb", "SELECT MODELS WHERE memory < 200 mb"),
        ("SELECT MODELS WHERE params < 5 M", "SELECT MODELS WHERE params < 5M"),
        ("SELECT MODELS WHERE x < 7%", "SELECT MODELS WHERE x < 7%"),
        ("SELECT MODELS WHERE x < 1e20", "SELECT MODELS WHERE x < 1e+20"),
        ("DESC resnet50", "DESCRIBE resnet50"),
        ("SET device TO cpu", "SET device = 'cpu'"),
        ("SELECT MODELS tags HAS ANY ('a')", "SELECT MODELS tags HAS 'a'"),
        ("ANALYZE MODELS a, b", "ANALYZE a, b"),
        ("SELECT LINKS LIMIT 2 WHERE a=1", "SELECT LINKS WHERE a = 1 LIMIT 2"),
        ("select links * order by b where a", "SELECT LINKS * WHERE a ORDER BY b"),
        ("SELECT PLAN FOR MODELS a,b", "SELECT PLAN FOR a, b"),
        ("SELECT PLAN FOR POOL 'p' PICK RANDOM ON a", "SELECT PLAN FOR POOL p ON a PICK RANDOM"),
        ("SELECT PLAN FOR a ON ('b') = c", "SELECT PLAN FOR a ON ('b' = c)"),
        ("create link 'd2s' from a to b", "CREATE LINK d2s FROM a TO b"),
        ('CREATE LINK "from" FROM "if" TO "plan"', 'CREATE LINK "from" FROM "if" TO "plan"'),
        ("select fusions of models a,b on x where y", "SELECT FUSIONS OF a, b WHERE y ON x"),
        ("SELECT FUSIONS \"of\", of OF POOL 'p'", 'SELECT FUSIONS "of", "of" OF POOL p'),
        ("SELECT FUSIONS OF a ON ('b') = c", "SELECT FUSIONS OF a ON ('b' = c)"),
        (
            "CREATE MODEL m AS FUSION OF a FOR MEMORY ON x WITHIN 1%",
            "CREATE MODEL m AS FUSION OF a WITHIN 1% OF ACCURACY ON x FOR MEMORY",
        ),
        (
            "create model m as fusion of pool p using budget=20min async",
            "CREATE MODEL m AS FUSION OF POOL p USING budget = 20 min ASYNC",
        ),
        ("cancel job ?", "CANCEL JOB ?"),
        ("analyze all using seed=1 async", "ANALYZE ALL USING seed = 1 ASYNC"),
        ("analyze pool async for links async", "ANALYZE POOL async FOR LINKS ASYNC"),
    ],
)  # fmt: skip
def test_canonical_text(written: str, canonical: str) -> None:
    assert format(parse(written)) == canonical


@pytest.mark.parametrize(
    "node",
    [
        nodes.Number(float("nan")),
        nodes.Percent(float("inf")),
        nodes.Column(""),
        nodes.ModelRef("a", "odd version"),
    ],
)
def test_what_cannot_be_written_is_refused(node: nodes.Node) -> None:
    with pytest.raises(ValueError):
        format(node)
