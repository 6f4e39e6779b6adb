"""Links and plans: what their statements become, and where their words are only names."""

from __future__ import annotations

import pytest

from sommelier.grammar import nodes as n
from sommelier.grammar.completion import help_text, keywords
from sommelier.grammar.formatter import format
from sommelier.grammar.parser import is_read_only, parse

A, B, C = (n.ModelRef(name) for name in "abc")
MEMORY = n.Comparison("<", n.Column("memory"), n.Quantity(5, "MB"))
WORDS = ("link", "links", "plan", "plans")


@pytest.mark.parametrize(
    ("text", "node"),
    [
        ("CREATE LINK FROM a TO b", n.CreateLink(None, (A,), B)),
        (
            "CREATE OR REPLACE LINK d2s FROM a, b TO c USING dataset = 'x', samples = 300",
            n.CreateLink(
                "d2s",
                (A, B),
                C,
                or_replace=True,
                options=(n.Option("dataset", n.Text("x")), n.Option("samples", n.Number(300))),
            ),
        ),
        ("CREATE LINK IF NOT EXISTS FROM a TO b", n.CreateLink(None, (A,), B, if_not_exists=True)),
        ("CREATE LINK FROM $x TO $y", n.CreateLink(None, (n.Parameter("x"),), n.Parameter("y"))),
        ("SHOW LINKS", n.Show("links")),
        ("SHOW PLANS LIKE 'e%'", n.Show("plans", like="e%")),
        ("DROP LINK d2s", n.Drop("link", n.ModelRef("d2s"))),
        ("DROP PLAN IF EXISTS edge", n.Drop("plan", n.ModelRef("edge"), True)),
        ("DESCRIBE LINK d2s", n.Describe(n.ModelRef("d2s"), "link")),
        ("DESC PLAN edge", n.Describe(n.ModelRef("edge"), "plan")),
        ("ANALYZE POOL p FOR LINKS", n.Analyze("pool", "p", aspects=("links",))),
        (
            "ANALYZE a, b FOR RESOURCES, LINKS",
            n.Analyze("models", models=(A, B), aspects=("resources", "links")),
        ),
        (
            "SELECT DISTINCT LINKS a AS t WHERE skill > 0 ORDER BY skill DESC LIMIT 3 OFFSET 2",
            n.SelectLinks(
                (n.Projection(n.Column("a"), "t"),),
                True,
                n.Comparison(">", n.Column("skill"), n.Number(0)),
                (n.OrderItem(n.Column("skill"), True),),
                3,
                2,
            ),
        ),
        ("SELECT LINKS *", n.SelectLinks((n.Projection(n.Column("*")),))),
        (
            "SELECT PLAN FOR a, $x ON memory < 5 MB PICK MOST ACCURATE USING objective = 'skill'",
            n.SelectPlan(
                (A, n.Parameter("x")),
                None,
                MEMORY,
                n.Pick("accurate"),
                (n.Option("objective", n.Text("skill")),),
            ),
        ),
        ("SELECT PLAN FOR POOL audio", n.SelectPlan(pool="audio")),
        (
            "CREATE OR REPLACE PLAN edge AS SELECT PLAN FOR POOL p ON memory < 5 MB",
            n.CreatePlan("edge", n.SelectPlan(pool="p", on=MEMORY), or_replace=True),
        ),
        ("EXPLAIN SELECT PLAN FOR a, b", n.Explain(n.SelectPlan((A, B)))),
        ("EXPLAIN ANALYZE SELECT LINKS", n.Explain(n.SelectLinks(), True)),
    ],
)
def test_what_a_statement_becomes(text: str, node: n.Statement) -> None:
    found = parse(text)
    assert found == node
    assert parse(format(found)) == node


def test_a_device_after_a_limit_belongs_to_the_limit() -> None:
    plan = parse("SELECT PLAN FOR a ON memory < 60% AND latency < 30 ms ON 'cpu' PICK RANDOM")
    assert isinstance(plan, n.SelectPlan)
    assert isinstance(plan.on, n.And)
    limit = plan.on.operands[1]
    assert isinstance(limit, n.Comparison)
    assert limit.context == n.Context("cpu")


def test_questions_about_links_leave_the_database_as_it_is_and_making_one_does_not() -> None:
    reading = ("SELECT LINKS", "SELECT PLAN FOR a", "SHOW LINKS", "DESC LINK a", "SHOW PLANS")
    writing = (
        *("CREATE LINK FROM a TO b", "CREATE PLAN p AS SELECT PLAN FOR a", "DROP LINK a"),
        *("DROP PLAN a", "ANALYZE ALL FOR LINKS"),
    )
    assert all(is_read_only(parse(text)) for text in reading)
    assert not any(is_read_only(parse(text)) for text in writing)


# ---- words that are names


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("suffix", ["-net", ".net", "/net", "_net", "@2", ":x"])
def test_a_model_may_have_a_name_that_begins_with_a_keyword(word: str, suffix: str) -> None:
    name = word + suffix
    model = n.ModelRef(word, "2") if suffix == "@2" else n.ModelRef(name)
    plan = n.SelectPlan((model,))
    assert parse(f"SELECT PLAN FOR {name}") == plan
    assert parse(f"CREATE LINK FROM {name} TO {name}") == n.CreateLink(None, (model,), model)
    assert parse(f"DESCRIBE {name}") == n.Describe(model)
    assert parse(f"COMPARE {name} WITH {name}") == n.Compare(model, model)


@pytest.mark.parametrize("word", [*WORDS, "from", "to", "for", "target", "source"])
def test_where_a_keyword_could_not_stand_it_is_a_name(word: str) -> None:
    model = n.ModelRef(word)
    assert parse(f"SELECT PLAN FOR {word}, {word}") == n.SelectPlan((model, model))
    assert parse(f"CREATE LINK FROM {word}, {word} TO {word}") == n.CreateLink(
        None, (model, model), model
    )
    assert parse(f"CREATE PLAN {word} AS SELECT PLAN FOR a") == n.CreatePlan(
        word, n.SelectPlan((A,))
    )
    assert parse(f"DROP LINK {word}") == n.Drop("link", model)
    assert parse(f"DROP PLAN {word}") == n.Drop("plan", model)
    query = parse(f"SELECT MODELS {word}_, x AS {word} CORR {word} 90%")
    assert isinstance(query, n.Select)
    assert query.corr == n.Corr(model, (n.CorrCondition("equivalence", ">=", n.Percent(0.9)),))


@pytest.mark.parametrize("word", WORDS)
def test_a_link_may_have_any_name_but_from(word: str) -> None:
    assert parse(f"CREATE LINK {word} FROM a TO b") == n.CreateLink(word, (A,), B)
    named_from = n.CreateLink("from", (A,), B)
    assert format(named_from) == 'CREATE LINK "from" FROM a TO b'
    assert parse(format(named_from)) == named_from
    assert parse("CREATE LINK from-net FROM a TO b") == n.CreateLink("from-net", (A,), B)


@pytest.mark.parametrize(
    "word", [w.lower() for w in keywords() if w not in ("FITS", "NOT", "NULL", "TRUE", "FALSE")]
)
def test_a_keyword_may_name_a_column_of_links(word: str) -> None:
    allowed = word.upper() not in ("WHERE", "ORDER", "LIMIT", "USING")
    name = word if allowed else f'"{word}"'
    query = parse(f"SELECT LINKS source, {name} WHERE {name} = 1 ORDER BY {name} DESC")
    column = n.Column(word)
    assert query == n.SelectLinks(
        (n.Projection(n.Column("source")), n.Projection(column)),
        where=n.Comparison("=", column, n.Number(1)),
        order_by=(n.OrderItem(column, True),),
    )
    assert parse(format(query)) == query


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM links",
        "SELECT plan FROM plans",
        "SELECT links FROM plans WHERE a = 1",
        "select distinct PLAN from plans p ORDER BY 1",
        "SELECT links FROM (SELECT 1 AS links)",
        "SELECT plan FROM main.plans",
        "SELECT links FROM range(3)",
        "SELECT plan, name FROM plans",
        "SELECT links.source FROM links",
        "SELECT plan AS p FROM plans",
        "SELECT link FROM links",
        "SELECT plans FROM x",
        "SELECT source, target FROM links WHERE performance > 0.9",
        "WITH links AS (SELECT 1) SELECT * FROM links",
    ],
)
def test_sql_that_reads_a_table_stays_sql(text: str) -> None:
    assert parse(text) == n.CatalogSql(text)


# ---- help


@pytest.mark.parametrize(
    ("asked", "begins"),
    [
        ("select links", "SELECT LINKS: "),
        ("select plan", "SELECT PLAN: "),
        ("create link", "CREATE LINK: "),
        ("create plan", "CREATE PLAN: "),
    ],
)
def test_help_on_a_statement_about_links(asked: str, begins: str) -> None:
    assert help_text(asked).startswith(begins)


@pytest.mark.parametrize("word", WORDS)
def test_help_on_a_word_shows_every_statement_that_has_it(word: str) -> None:
    shown = help_text(word)
    assert word.upper() in shown
    assert ("DROP:" in shown) == (word in ("link", "plan"))
