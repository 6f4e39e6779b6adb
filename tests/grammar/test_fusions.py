"""Fusions: what their statements become, and where their words are only names."""

from __future__ import annotations

import pytest

from sommelier.errors import ParserError
from sommelier.grammar import nodes as n
from sommelier.grammar.completion import help_text, keywords
from sommelier.grammar.formatter import format
from sommelier.grammar.parser import is_read_only, parse

A, B, C, M = (n.ModelRef(name) for name in "abcm")
SLOW = n.Comparison("<", n.Column("latency"), n.Percent(0.6))
SMALL = n.Comparison("<", n.Column("memory"), n.Quantity(5, "MB"))
DROP = n.Comparison("<", n.Column("accuracy_drop"), n.Percent(0.01))
WORDS = ("fusion", "fusions", "job", "async", "cancel", "memory", "of")


def fusion(text: str) -> n.FusionRecipe:
    """The recipe in CREATE MODEL m AS ..."""
    found = parse(f"CREATE MODEL m AS {text}")
    assert isinstance(found, n.CreateModel)
    assert isinstance(found.recipe, n.FusionRecipe)
    return found.recipe


@pytest.mark.parametrize(
    ("text", "node"),
    [
        ("SELECT FUSIONS OF a", n.SelectFusions(models=(A,))),
        (
            "SELECT FUSIONS OF a, $x ON latency < 60% WHERE accuracy_drop < 1%",
            n.SelectFusions(models=(A, n.Parameter("x")), where=DROP, on=SLOW),
        ),
        (
            "SELECT DISTINCT FUSIONS name, memory AS m OF POOL p ORDER BY m DESC LIMIT 3 OFFSET 2",
            n.SelectFusions(
                (n.Projection(n.Column("name")), n.Projection(n.Column("memory"), "m")),
                True,
                pool="p",
                order_by=(n.OrderItem(n.Column("m"), True),),
                limit=3,
                offset=2,
            ),
        ),
        ("SELECT FUSIONS * OF a", n.SelectFusions((n.Projection(n.Column("*")),), models=(A,))),
        (
            """CREATE OR REPLACE MODEL m AS FUSION OF a, b, c WITHIN 1% OF ACCURACY
               ON latency < 60% USING budget = 20min, seed = 7 ASYNC""",
            n.CreateModel(
                M,
                n.FusionRecipe((A, B, C), within=n.Percent(0.01), on=SLOW),
                or_replace=True,
                options=(
                    n.Option("budget", n.Quantity(20, "min")),
                    n.Option("seed", n.Number(7)),
                ),
                background=True,
            ),
        ),
        (
            "CREATE MODEL IF NOT EXISTS m AS FUSION OF POOL p FOR MEMORY",
            n.CreateModel(M, n.FusionRecipe(pool="p", memory_only=True), if_not_exists=True),
        ),
        (
            "CREATE MODEL m AS GRAFT a INTO b AT SEGMENT 's' USING seed = 7",
            n.CreateModel(M, n.Graft(A, B, ("s",)), options=(n.Option("seed", n.Number(7)),)),
        ),
        ("EXPLAIN FUSION m@2", n.ExplainFusion(n.ModelRef("m", "2"))),
        ("EXPLAIN FUSION $m", n.ExplainFusion(n.Parameter("m"))),
        (
            "EXPLAIN (format = 'json') FUSION m",
            n.ExplainFusion(n.ModelRef("m"), (n.Option("format", n.Text("json")),)),
        ),
        ("EXPLAIN SELECT FUSIONS OF a", n.Explain(n.SelectFusions(models=(A,)))),
        ("CANCEL JOB 7", n.CancelJob(7)),
        ("CANCEL JOB $job", n.CancelJob(n.Parameter("job"))),
    ],
)
def test_what_a_statement_becomes(text: str, node: n.Statement) -> None:
    found = parse(text)
    assert found == node
    assert parse(format(found)) == node


def test_the_parts_of_a_recipe_come_in_any_order_and_each_once() -> None:
    whole = n.FusionRecipe((A, B), None, n.Percent(0.02), SMALL, True)
    parts = ("WITHIN 2%", "ON memory < 5 MB", "FOR MEMORY")
    for first in parts:
        for second in set(parts) - {first}:
            (third,) = set(parts) - {first, second}
            assert fusion(f"FUSION OF a, b {first} {second} {third}") == whole
        with pytest.raises(ParserError, match="is written twice"):
            parse(f"CREATE MODEL m AS FUSION OF a, b {first} {first}")


def test_of_accuracy_says_what_within_means_anyway() -> None:
    assert fusion("FUSION OF a, b WITHIN 1% OF ACCURACY") == fusion("FUSION OF a, b WITHIN 1%")


@pytest.mark.parametrize("unit", ["s", "min", "h"])
def test_a_budget_is_a_time(unit: str) -> None:
    for text in (f"20{unit}", f"20 {unit}"):
        made = parse(f"CREATE MODEL m AS FUSION OF a, b USING budget = {text}")
        assert isinstance(made, n.CreateModel)
        assert made.options == (n.Option("budget", n.Quantity(20, unit)),)


def test_a_share_of_a_model_may_stand_before_the_models() -> None:
    share = n.Projection(n.Percent(0.8, n.ModelRef("x")))
    assert parse("SELECT FUSIONS 80% OF x OF a") == n.SelectFusions((share,), models=(A,))
    plain = n.Projection(n.Percent(0.8), "p")
    assert parse("SELECT FUSIONS 80% AS p OF a") == n.SelectFusions((plain,), models=(A,))
    bare = n.SelectFusions((n.Projection(n.Percent(0.8)),), models=(A,))
    assert format(bare) == "SELECT FUSIONS (80%) OF a"
    assert parse(format(bare)) == bare


def test_only_looking_at_fusions_leaves_the_database_as_it_is() -> None:
    reading = ("SELECT FUSIONS OF a", "EXPLAIN FUSION m", "EXPLAIN SELECT FUSIONS OF a")
    writing = ("CREATE MODEL m AS FUSION OF a, b", "CANCEL JOB 7")
    assert all(is_read_only(parse(text)) for text in reading)
    assert not any(is_read_only(parse(text)) for text in writing)


# ---- words that are names


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("suffix", ["", "-net", ".net", "/net", "_net", "@2", ":x"])
def test_a_model_may_be_called_what_a_keyword_is(word: str, suffix: str) -> None:
    name = word + suffix
    model = n.ModelRef(word, "2") if suffix == "@2" else n.ModelRef(name)
    assert parse(f"SELECT FUSIONS OF {name}, {name}") == n.SelectFusions(models=(model, model))
    assert fusion(f"FUSION OF {name}, {name}") == n.FusionRecipe((model, model))
    made = parse(f"CREATE MODEL {name} AS FUSION OF {name}")
    assert made == n.CreateModel(model, n.FusionRecipe((model,)))
    assert parse(f"EXPLAIN FUSION {name}") == n.ExplainFusion(model)
    assert parse(f"DESCRIBE {name}") == n.Describe(model)
    query = parse(f"SELECT MODELS {word} CORR {name} 90% ON {word} < 80% OF {name}")
    assert isinstance(query, n.Select)
    assert query.on == n.Comparison("<", n.Column(word), n.Percent(0.8, model))


@pytest.mark.parametrize(
    "word", [w.lower() for w in keywords() if w not in ("FITS", "NOT", "NULL", "TRUE", "FALSE")]
)
def test_a_keyword_may_name_a_column_of_fusions(word: str) -> None:
    query = parse(
        f"SELECT FUSIONS shares, {word} OF a WHERE {word} = 1 ORDER BY {word} DESC USING {word} = 1"
    )
    column = n.Column(word)
    assert query == n.SelectFusions(
        (n.Projection(n.Column("shares")), n.Projection(column)),
        models=(A,),
        where=n.Comparison("=", column, n.Number(1)),
        order_by=(n.OrderItem(column, True),),
        options=(n.Option(word, n.Number(1)),),
    )
    assert parse(format(query)) == query


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM fusions",
        "SELECT fusions FROM fusions WHERE a = 1",
        "select distinct FUSIONS from fusion_tasks t ORDER BY 1",
        "SELECT fusions FROM (SELECT 1 AS fusions)",
        "SELECT fusions FROM main.fusions",
        "SELECT fusions, name FROM fusions",
        "SELECT fusions.name FROM fusions",
        "SELECT fusions AS f FROM x",
        "SELECT fusion FROM fusion_trace",
        "SELECT name, accuracy_drop FROM fusions WHERE speedup > 1.5",
        "WITH fusions AS (SELECT 1) SELECT * FROM fusions",
    ],
)
def test_sql_that_reads_a_table_stays_sql(text: str) -> None:
    assert parse(text) == n.CatalogSql(text)


# ---- help


@pytest.mark.parametrize(
    ("asked", "begins"),
    [
        ("select fusions", "SELECT FUSIONS: "),
        ("create model", "CREATE MODEL: "),
        ("explain fusion", "EXPLAIN FUSION: "),
        ("cancel", "CANCEL: "),
    ],
)
def test_help_on_a_statement_about_fusions(asked: str, begins: str) -> None:
    assert help_text(asked).startswith(begins)


def test_help_on_a_word_shows_every_statement_that_has_it() -> None:
    fusion_help = help_text("fusion")
    assert "EXPLAIN FUSION: " in fusion_help
    assert "CREATE MODEL: " in fusion_help
    both = help_text("async")
    assert both.startswith("ANALYZE: ")
    assert "CREATE MODEL: " in both
    assert help_text("job").startswith("CANCEL: ")
