"""What the statements of the language become, where their parts stand, and what is left to SQL."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from sommelier.errors import ParserError
from sommelier.grammar import nodes as n
from sommelier.grammar.completion import keywords
from sommelier.grammar.parser import DEEPEST, is_read_only, parse, parse_script
from sommelier.grammar.scanning import pieces
from sommelier.grammar.vocabulary import RESERVED_COLUMNS, RESERVED_NAMES
from sommelier.units import SPELLINGS

FIXTURE = (Path(__file__).parent / "fixtures" / "statements.sql").read_text()
STATEMENTS = [line for line in FIXTURE.splitlines() if not line.startswith(("--", "/*", "   "))]


def _nodes(value: object) -> Iterator[n.Node]:
    if isinstance(value, tuple):
        for item in value:
            yield from _nodes(item)
    if isinstance(value, n.Node):
        yield value
        for field in fields(value):
            yield from _nodes(getattr(value, field.name))


def test_the_script_of_the_design_is_read_whole() -> None:
    assert len(parse_script(FIXTURE)) == len(STATEMENTS) + 1


@pytest.mark.parametrize("statement", STATEMENTS)
def test_every_node_knows_its_place(statement: str) -> None:
    for node in _nodes(parse(statement)):
        assert node.span is not None, node
        text = statement[node.span.start : node.span.end]
        assert text == text.strip() != ""


@pytest.mark.parametrize("statement", STATEMENTS)
def test_a_comment_in_any_gap_changes_nothing(statement: str) -> None:
    expected = parse(statement)
    gaps = [piece.start for piece in pieces(statement) if piece.kind == "space"]
    for gap in gaps:
        for comment in (" /* ' ; */ ", " -- it's ; \n"):
            assert parse(statement[:gap] + comment + statement[gap:]) == expected


@pytest.mark.parametrize("statement", STATEMENTS)
def test_case_of_keywords_does_not_matter(statement: str) -> None:
    words = set(keywords())
    lowered = "".join(
        p.value.lower() if p.kind == "word" and p.value in words else p.value
        for p in pieces(statement)
    )
    assert parse(lowered) == parse(statement)


# ---- what statements become


def test_figure_6_of_the_paper() -> None:
    query = "SELECT MODEL CORR resnet50 95% ON memory < 80% AND flops <= 60% PICK MOST SIMILAR"
    assert parse(query) == n.Select(
        corr=n.Corr(
            n.ModelRef("resnet50"), (n.CorrCondition("equivalence", ">=", n.Percent(0.95)),)
        ),
        on=n.And(
            (
                n.Comparison("<", n.Column("memory"), n.Percent(0.8)),
                n.Comparison("<=", n.Column("flops"), n.Percent(0.6)),
            )
        ),
        pick=n.Pick("similar"),
    )


def test_a_context_belongs_to_its_comparison_and_a_clause_does_not() -> None:
    query = parse("SELECT MODELS WHERE latency < 30 ms ON 'cpu' AT p99 ON memory < 80%")
    assert isinstance(query, n.Select)
    assert query.where == n.Comparison(
        "<", n.Column("latency"), n.Quantity(30, "ms"), n.Context("cpu", 99)
    )
    assert query.on == n.Comparison("<", n.Column("memory"), n.Percent(0.8))


def test_a_context_belongs_to_its_column_and_a_clause_does_not() -> None:
    query = parse(
        "SELECT MODELS name, accuracy ON 'imagenet' AS a, latency ON 'cpu' AT p99 ON memory < 80% "
        "ORDER BY a, accuracy ON 'imagenet' DESC NULLS LAST, latency AT p50"
    )
    latency, accuracy = n.Column("latency"), n.Column("accuracy")
    assert query == n.Select(
        (
            n.Projection(n.Column("name")),
            n.Projection(accuracy, "a", n.Context("imagenet")),
            n.Projection(latency, context=n.Context("cpu", 99)),
        ),
        on=n.Comparison("<", n.Column("memory"), n.Percent(0.8)),
        order_by=(
            n.OrderItem(n.Column("a")),
            n.OrderItem(accuracy, True, False, n.Context("imagenet")),
            n.OrderItem(latency, context=n.Context(None, 50)),
        ),
    )


def test_a_condition_in_a_projection_keeps_its_own_context() -> None:
    query = parse("SELECT MODELS latency < 30 ms ON 'cpu' AS fast, (latency + 1) * 2 ON 'cpu'")
    assert isinstance(query, n.Select)
    condition, value = query.projection
    assert isinstance(condition.expression, n.Comparison)
    assert (condition.expression.context, condition.context) == (n.Context("cpu"), None)
    assert value.context == n.Context("cpu")


@pytest.mark.parametrize(
    ("options", "analyze", "names"),
    [
        ("(FORMAT json)", False, ["format"]),
        ("(format = json)", False, ["format"]),
        ("(ANALYZE)", True, []),
        ("(analyze, FORMAT 'json')", True, ["format"]),
        ("(FORMAT json, ANALYZE)", True, ["format"]),
        ("ANALYZE (FORMAT json)", True, ["format"]),
    ],
)
def test_options_of_explain_as_postgres_writes_them(
    options: str, analyze: bool, names: list[str]
) -> None:
    explain = n.Explain(
        n.Select(), analyze, tuple(n.Option(name, n.Text("json")) for name in names)
    )
    assert parse(f"EXPLAIN {options} SELECT MODELS") == explain


def test_an_option_of_explain_without_its_value() -> None:
    with pytest.raises(ParserError, match="the option VERBOSE of EXPLAIN needs a value") as caught:
        parse("EXPLAIN (VERBOSE) SELECT MODELS")
    assert caught.value.column == 10


def test_explain_why_not_is_the_same_at_either_place() -> None:
    ours = n.ExplainWhy(n.ModelRef("m"), n.Select(), True)
    assert parse("EXPLAIN WHY m NOT IN (SELECT MODELS)") == ours
    assert parse("EXPLAIN WHY NOT m IN (SELECT MODELS)") == ours
    assert parse("explain why /* c */ not 'm' in (SELECT MODELS)") == ours
    named_not = n.ModelRef("not")
    assert parse("EXPLAIN WHY not IN (SELECT MODELS)") == n.ExplainWhy(named_not, n.Select())
    assert parse("EXPLAIN WHY not NOT IN (SELECT MODELS)") == n.ExplainWhy(
        named_not, n.Select(), True
    )
    with pytest.raises(ParserError, match="NOT is written twice"):
        parse("EXPLAIN WHY NOT m NOT IN (SELECT MODELS)")


def test_precedence_is_that_of_sql() -> None:
    a, b, c = (n.Comparison("=", n.Column(x), n.Number(1)) for x in "abc")
    select = parse("SELECT MODELS WHERE a = 1 OR NOT b = 1 AND c = 1")
    assert isinstance(select, n.Select)
    assert select.where == n.Or((a, n.And((n.Not(b), c))))


def test_arithmetic_associates_to_the_left() -> None:
    select = parse("SELECT MODELS 8 - 4 - 2 * 3")
    assert isinstance(select, n.Select)
    eight, four, two, three = (n.Number(x) for x in (8, 4, 2, 3))
    assert select.projection[0].expression == n.Arithmetic(
        "-", n.Arithmetic("-", eight, four), n.Arithmetic("*", two, three)
    )


def test_statements_that_are_not_select() -> None:
    assert parse("ALTER MODEL m SET accuracy = 76.1% ON 'imagenet'") == n.AlterModel(
        n.ModelRef("m"), "set", None, (n.Option("accuracy", n.Percent(0.761)),), "imagenet"
    )
    assert parse("IMPORT MODELS FROM wheel 'a', 'b' LIKE 'x%' LIMIT 3 USING k = v") == n.Import(
        "wheel", ("a", "b"), "x%", 3, (n.Option("k", n.Text("v")),)
    )
    small = n.Comparison("<", n.Column("params"), n.Quantity(30, "M"))
    wanted = n.Import("huggingface", where=small, limit=20)
    assert parse("IMPORT MODELS FROM huggingface WHERE params < 30M LIMIT 20") == wanted
    assert parse("EXPLAIN IMPORT MODELS FROM huggingface WHERE params < 30M LIMIT 20") == (
        n.ExplainImport(wanted)
    )
    assert parse("SHOW MODELS FROM folder './a', './b' LIKE 'x%'") == n.Show(
        "models", like="x%", source="folder", locations=("./a", "./b")
    )
    assert parse("EXPLAIN ANALYZE (format = json) SELECT MODELS") == n.Explain(
        n.Select(), True, (n.Option("format", n.Text("json")),)
    )
    assert parse("SHOW PROFILES OF a@2 LIMIT 3") == n.Show(
        "profiles", (n.ModelRef("a", "2"),), limit=3
    )
    assert parse("REGISTER DEVICE d USING memory = 8 GB") == n.RegisterDevice(
        "d", (n.Option("memory", n.Quantity(8, "GB")),)
    )
    assert parse("SET xs = [1, 'b', c-d]") == n.SetOption(
        "xs", (n.Number(1), n.Text("b"), n.Text("c-d"))
    )
    assert parse("DROP VIEW IF EXISTS v") == n.Drop("view", n.ModelRef("v"), True)
    assert parse("ANALYZE POOL p FOR LATENCY, ACCURACY AGAINST a, $b") == n.Analyze(
        "pool", "p", (), ("latency", "accuracy"), (n.ModelRef("a"), n.Parameter("b"))
    )


@pytest.mark.parametrize(
    ("written", "name", "version"),
    [
        ("resnet50", "resnet50", None),
        ("google/efficientnet-b7@2", "google/efficientnet-b7", "2"),
        ("tf_efficientnet_b0.ns_jft_in1k@v1.0-rc", "tf_efficientnet_b0.ns_jft_in1k", "v1.0-rc"),
        ('"my ""net"""@3', 'my "net"', "3"),
        ("'mail@home'", "mail@home", None),
        ("'it''s'", "it's", None),
        ("sha256:12ab", "sha256:12ab", None),
    ],
)
def test_names_of_models(written: str, name: str, version: str | None) -> None:
    query = parse(f"SELECT MODELS CORR {written} 90%")
    assert isinstance(query, n.Select)
    assert query.corr is not None
    assert query.corr.reference == n.ModelRef(name, version)


@pytest.mark.parametrize(
    ("written", "node"),
    [
        ("80%", n.Percent(0.8)),
        ("7 %", n.Percent(0.07)),
        ("0.5x", n.Times(0.5)),
        ("25M", n.Quantity(25, "M")),
        ("1.5e3 MiB", n.Quantity(1500, "MiB")),
        ("10min", n.Quantity(10, "min")),
        ("5parsec", n.Quantity(5, "parsec")),
        (".5", n.Number(0.5)),
        ("1e3", n.Number(1000)),
        ("-3", n.Negative(n.Number(3))),
        ("50% OF a-b", n.Percent(0.5, n.ModelRef("a-b"))),
        ("TRUE", n.Boolean(True)),
        ("null", n.Null()),
        ("'it''s'", n.Text("it's")),
        ('"odd ""name"""', n.Column('odd "name"')),
        ("profile_similarity(a)", n.Call("profile_similarity", (n.ModelRef("a"),))),
    ],
)
def test_values(written: str, node: n.Expression) -> None:
    query = parse(f"SELECT MODELS {written}")
    assert isinstance(query, n.Select)
    assert query.projection == (n.Projection(node),)


@pytest.mark.parametrize("unit", [u for us in SPELLINGS.values() for u in us if u != "%"])
def test_every_unit_stands_behind_a_space_or_not(unit: str) -> None:
    for space in ("", " "):
        query = parse(f"SELECT MODELS WHERE memory < 2{space}{unit} AND a = 1")
        assert isinstance(query, n.Select)
        assert isinstance(query.where, n.And)
        first = query.where.operands[0]
        assert isinstance(first, n.Comparison)
        assert first.right == n.Quantity(2, unit)


# ---- keywords as names


@pytest.mark.parametrize("word", [w.lower() for w in keywords() if w not in RESERVED_COLUMNS])
def test_a_keyword_may_name_a_column(word: str) -> None:
    query = parse(
        f"SELECT MODELS name, {word} AS {word} WHERE {word} = 1 ORDER BY {word} USING {word} = 2"
    )
    assert isinstance(query, n.Select)
    assert query.projection[1] == n.Projection(n.Column(word), word)
    assert query.options[0].name == word


@pytest.mark.parametrize("word", [w.lower() for w in keywords() if w not in RESERVED_NAMES])
def test_a_keyword_may_name_a_model_pool_or_device(word: str) -> None:
    query = parse(f"SELECT MODELS FROM POOL {word} CORR {word} 90% ON memory < 50% OF {word}")
    assert isinstance(query, n.Select)
    assert query.sources == (n.Source("pool", word),)
    assert query.corr is not None
    assert query.corr.reference == n.ModelRef(word)
    assert parse(f"DROP MODEL {word}") == n.Drop("model", n.ModelRef(word))


@pytest.mark.parametrize("word", [w.lower() for w in keywords()])
def test_any_keyword_is_a_name_in_quotes_or_with_a_suffix(word: str) -> None:
    query = parse(f'SELECT MODELS "{word}", {word}_ CORR "{word}" 90%')
    assert isinstance(query, n.Select)
    assert query.projection == (
        n.Projection(n.Column(word)),
        n.Projection(n.Column(f"{word}_")),
    )
    assert query.corr is not None
    assert query.corr.reference == n.ModelRef(word)
    for suffix in ("-net", ".net", "/net"):
        assert parse(f"DESCRIBE {word}{suffix}") == n.Describe(n.ModelRef(word + suffix))


# ---- parameters


def test_question_marks_are_numbered_in_reading_order() -> None:
    query = parse("SELECT MODELS LIMIT ? OFFSET ? WHERE a = ? CORR ? ?")
    assert isinstance(query, n.Select)
    names = sorted(
        (node.span.start, node.name)
        for node in _nodes(query)
        if isinstance(node, n.Parameter) and node.span
    )
    assert [name for _, name in names] == ["?1", "?2", "?3", "?4", "?5"]
    assert query.limit == n.Parameter("?1")


def test_a_question_mark_in_a_text_is_no_parameter() -> None:
    query = parse("SELECT MODELS WHERE a = '?' AND b = $x")
    assert [x for x in _nodes(query) if isinstance(x, n.Parameter)] == [n.Parameter("x")]


# ---- catalog SQL


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT name FROM models",
        "SELECT model.name FROM profiles AS model",
        "SELECT model, device FROM profiles",
        "SELECT DISTINCT model, device FROM profiles",
        "SELECT model AS m FROM profiles",
        "WITH a AS (SELECT 1) SELECT * FROM a",
        "select corr(a, b) from models",
        "SELECT corr FROM models",
        "SELECT corr, pick FROM models ORDER BY corr",
        "SELECT E'it\\'s ;' AS x, $$;$$, \";\" -- ;\n FROM models",
        "SELECT (SELECT max(x) FROM y)",
    ],
)
def test_other_selects_are_catalog_sql(sql: str) -> None:
    assert parse(f"  {sql} ; ") == n.CatalogSql(sql)


@pytest.mark.parametrize(
    "text",
    ["SELECT MODELS", "select model", "SELECT /* c */ DISTINCT -- x\n MODELS", "SELECT MODELS -x"],
)
def test_select_models_is_ours(text: str) -> None:
    assert isinstance(parse(text), n.Select)


# ---- the rest


def test_places_in_a_script_are_places_in_the_whole_text() -> None:
    text = "SHOW MODELS;\n\n  SELECT MODELS WHERE a = 1;"
    _, select = parse_script(text)
    assert select.span is not None
    assert (select.span.line, select.span.column) == (3, 3)
    with pytest.raises(ParserError) as caught:
        parse_script("SHOW MODELS;\n SHOW NOTHING;")
    assert (caught.value.line, caught.value.column) == (2, 7)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT MODELS WHERE " + "NOT " * 5000 + "a = 1",
        "SELECT MODELS WHERE a = " + "1 + " * 5000 + "1",
        "SELECT MODELS WHERE a = " + "- " * 5000 + "1",
        "SELECT MODELS FROM " + "(SELECT MODELS FROM " * 500 + "a" + ")" * 500,
    ],
)
def test_nesting_has_a_limit_that_is_said(text: str) -> None:
    with pytest.raises(ParserError, match=f"nested more than {DEEPEST} levels"):
        parse(text)


def test_width_has_no_limit() -> None:
    names = ", ".join(f"'{i}'" for i in range(20_000))
    query = parse(f"SELECT MODELS WHERE name IN ({names}) AND {'(' * 400}a = 1{')' * 400}")
    assert isinstance(query, n.Select)


def test_what_changes_the_database_is_not_read_only() -> None:
    reading = [
        *("SELECT MODELS", "SELECT 1", "EXPLAIN SELECT MODELS", "SHOW MODELS", "DESC a"),
        *("COMPARE a WITH b", "EXPLAIN WHY a IN (SELECT MODELS)"),
    ]
    writing = [
        *("SET a = 1", "RESET ALL", "DROP MODEL a", "REFRESH POOL a", "ANALYZE ALL"),
        *(
            "IMPORT MODELS FROM a 'b'",
            "CREATE POOL a AS SELECT MODELS",
            "REGISTER MODEL a FROM 'b'",
        ),
    ]
    assert all(is_read_only(parse(text)) for text in reading)
    assert not any(is_read_only(parse(text)) for text in writing)
