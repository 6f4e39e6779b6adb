"""Which statements are SQL over the catalog's views, and which are ours though they look alike."""

from __future__ import annotations

import pytest

from sommelier.errors import CatalogSqlError
from sommelier.grammar import nodes as n
from sommelier.grammar.parser import is_read_only, parse
from sommelier.grammar.vocabulary import CATALOG_VIEWS
from sommelier.storage.catalog import Catalog
from sommelier.storage.views import VIEWS


def test_the_names_of_the_views_are_those_of_the_storage() -> None:
    assert frozenset(VIEWS) == CATALOG_VIEWS


@pytest.mark.parametrize("text", ["SHOW TABLES", "show tables", "SHOW ALL /* c */ TABLES"])
def test_show_tables_is_catalog_sql(text: str) -> None:
    assert parse(f"{text};") == n.CatalogSql(text)
    assert is_read_only(parse(text))


@pytest.mark.parametrize("view", sorted(CATALOG_VIEWS))
@pytest.mark.parametrize("rest", ["", " LIMIT 2", " p WHERE p.value > 3 ORDER BY 1"])
def test_a_column_called_model_of_a_view_is_catalog_sql(view: str, rest: str) -> None:
    for text in (f"SELECT model FROM {view}{rest}", f"select distinct MODELS from {view}{rest}"):
        assert parse(text) == n.CatalogSql(text)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT model FROM profiles p JOIN models m ON p.model = m.name",
        "SELECT model FROM profiles JOIN equivalences USING (model)",
        'SELECT model FROM "profiles"',
        "SELECT model FROM profiles WHERE source = 'on' AND metric <> 'corr'",
    ],
)
def test_sql_behind_the_view_stays_sql(text: str) -> None:
    assert parse(text) == n.CatalogSql(text)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT MODELS FROM models CORR resnet50 90%",
        "SELECT MODELS FROM models ON memory < 80% OF a",
        "SELECT MODELS FROM profiles PICK SMALLEST",
        "SELECT MODELS FROM tasks USING device = 'cpu'",
        "SELECT MODELS FROM wheel LIMIT 2",
        "SELECT MODELS FROM POOL models",
        "SELECT MODELS name FROM models",
        "SELECT MODELS WHERE name = 'profiles'",
    ],
)
def test_a_clause_of_ours_or_another_source_is_ours(text: str) -> None:
    assert isinstance(parse(text), n.Select)


@pytest.mark.parametrize("text", ["SELECT 1 FROM nowhere", "SELECT 1 FROM modelz"])
def test_the_statement_that_the_hint_names_lists_the_views(text: str) -> None:
    with Catalog.open(":memory:") as catalog:
        with pytest.raises(CatalogSqlError) as caught:
            catalog.sql(text)
        assert caught.value.hint == "SHOW TABLES lists what catalog SQL can read"
        assert set(caught.value.suggestions) <= CATALOG_VIEWS
        statement = parse("SHOW TABLES")
        assert isinstance(statement, n.CatalogSql)
        assert {name for (name,) in catalog.sql(statement.text).rows} == CATALOG_VIEWS
