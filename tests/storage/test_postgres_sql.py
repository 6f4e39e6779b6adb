"""Columns and catalog SQL of a PostgreSQL server are as those of a file."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from sommelier.errors import CancelledError, CatalogSqlError
from sommelier.storage.catalog import Catalog
from tests.storage.catalog_factories import number, plain_model


def test_columns_are_those_of_duckdb(both: tuple[Catalog, Catalog]) -> None:
    one, _ = both
    with Catalog.open(":memory:") as file:
        for catalog in (one, file):
            ids = [catalog.add_model(plain_model(f"m{i}")).record.id for i in range(3)]
            catalog.add_measurements(
                [
                    number(ids[1], "accuracy", 0.5, low=0.4, high=float("inf"), count=7),
                    number(ids[0], "params", 1e300),
                    number(ids[2], "latency", -0.0, device="cpu", batch=8, source="x"),
                ]
            )
        sql = (
            "SELECT model, value, low, high, count, source, low IS NULL AS unknown, recorded_at,"
            " CASE WHEN source IS NOT NULL THEN 'text' END AS word"
            " FROM store.measurements ORDER BY model"
        )
        found, expected = (catalog.database.columns(sql) for catalog in (one, file))
        assert list(found) == list(expected)
        for name in found:
            if name == "recorded_at":
                assert found[name].dtype == expected[name].dtype
                continue
            assert found[name].dtype == expected[name].dtype, name
            assert np.ma.isMaskedArray(found[name]) == np.ma.isMaskedArray(expected[name]), name
            assert found[name].tolist() == expected[name].tolist(), name
        nothing = one.database.columns(f"{sql.replace('ORDER', 'WHERE false ORDER')}")
        assert {name: len(column) for name, column in nothing.items()} == dict.fromkeys(found, 0)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1; DROP SCHEMA store CASCADE",
        "SELECT 1; COMMIT; DROP SCHEMA store CASCADE",
        "WITH gone AS (DELETE FROM store.meta RETURNING 1) SELECT * FROM gone",
        "SELECT * INTO taken FROM store.meta",
        "DROP SCHEMA store CASCADE",
        "COPY store.meta TO PROGRAM 'cat'",
        "COMMIT",
        "SELECT set_config('transaction_read_only', 'off', false), lo_create(0)",
        "EXPLAIN ANALYZE DELETE FROM store.meta",
        "DO 'BEGIN END'",
    ],
)
def test_catalog_sql_only_reads(both: tuple[Catalog, Catalog], text: str) -> None:
    one, other = both
    with pytest.raises(CatalogSqlError):
        one.sql(text)
    assert other.sql("SELECT count(*) FROM store.meta").rows[0][0] > 3
    other.add_model(plain_model("still there"))


def test_errors_of_catalog_sql_point_at_the_words_at_fault(both: tuple[Catalog, Catalog]) -> None:
    one, _ = both
    text = "SELECT name, ? AS ä, 'it''s ?' FROM models WHERE nme = $2"
    with pytest.raises(CatalogSqlError, match="nme") as caught:
        one.sql("SELECT name, $1 AS ä, 'it''s ?' FROM models WHERE nme = $2", ["x", "y"])
    assert caught.value.span is not None
    assert text.replace("?", "$1", 1)[caught.value.span.start : caught.value.span.end] == "nme"
    with pytest.raises(CatalogSqlError) as caught:
        one.sql("SELECT * FROM modells")
    assert caught.value.suggestions[0] == "models"
    with pytest.raises(CatalogSqlError, match="places for 1 values, and 2"):
        one.sql("SELECT ?", [1, 2])


def test_a_running_statement_is_stopped(both: tuple[Catalog, Catalog]) -> None:
    one, _ = both
    timer = threading.Timer(0.5, one.interrupt)
    timer.start()
    with pytest.raises(CancelledError):
        one.sql("SELECT pg_sleep(60)")
    timer.join()
    assert one.sql("SELECT sum(x) AS s FROM generate_series(1, 3) x").rows == [(6,)]
