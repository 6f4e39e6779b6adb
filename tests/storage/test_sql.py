"""Catalog SQL reads everything and touches nothing."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sommelier.errors import CancelledError, CatalogSqlError
from sommelier.records import AnalysisTask, LabelSpace
from sommelier.storage.catalog import Catalog
from sommelier.storage.tasks import TaskQueue
from sommelier.storage.views import VIEWS
from tests.storage.catalog_factories import number, plain_model, rich_model


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catalog]:
    with Catalog.open(tmp_path_factory.mktemp("sql") / "m.sommelier") as opened:
        space = LabelSpace("labels:1", "pets", ("cat", "dog"))
        model = opened.add_model(rich_model(), label_space=space).record
        opened.add_model(plain_model("plain"))
        opened.add_measurements(
            [
                number(model.id, "params", 25.5e6),
                number(model.id, "latency", 3.0, device="cpu", percentile=99, source="t.csv"),
            ]
        )
        opened.set_task_reference("image-classification", model.id)
        opened.save_pool("edge", [model.id], "SELECT MODELS")
        TaskQueue(opened).start_job("ANALYZE ALL", [AnalysisTask("k", 0, "latency", model.id, {})])
        yield opened


@pytest.mark.parametrize("view", sorted(VIEWS))
def test_every_view_can_be_read(catalog: Catalog, view: str) -> None:
    result = catalog.sql(f"SELECT * FROM {view}")
    assert len(result.columns) == len(result.types) > 0
    assert all(len(row) == len(result.columns) for row in result.rows)


def test_views_answer_with_names_and_base_units(catalog: Catalog) -> None:
    assert catalog.sql("SELECT name, params, label_space FROM models").rows == [
        ("resnet50", 25.5e6, "pets"),
        ("plain", None, None),
    ]
    profile = "SELECT model, value, device, source FROM profiles WHERE metric = 'latency'"
    assert catalog.sql(profile).rows == [("resnet50", 3.0, "cpu", "t.csv")]
    assert catalog.sql("SELECT * FROM tasks").rows == [("image-classification", 1, "resnet50")]
    assert catalog.sql("SELECT position, label FROM labels").rows == [(0, "cat"), (1, "dog")]
    assert catalog.sql("SELECT pool, model FROM pool_models").rows == [("edge", "resnet50")]
    assert catalog.sql("SELECT state, total, done FROM jobs").rows == [("running", 1, 0)]


@pytest.mark.parametrize(
    "text",
    [
        "WITH m AS (SELECT name FROM models) SELECT count(*) FROM m;",
        "FROM models",
        "DESCRIBE models",
        pytest.param("SUMMARIZE profiles", marks=pytest.mark.duckdb("it is DuckDB's")),
        "SHOW TABLES",
        "VALUES (1)",
        "/* a comment */ SELECT 1 -- another",
    ],
)
def test_every_way_to_read_is_open(catalog: Catalog, text: str) -> None:
    assert catalog.sql(text).rows


@pytest.mark.parametrize(
    "text",
    [
        "DELETE FROM store.models",
        "INSERT INTO store.meta VALUES ('a', 'b')",
        "UPDATE store.models SET name = 'x'",
        "CREATE TABLE t AS SELECT 1",
        "DROP VIEW models",
        "COPY store.models TO '/tmp/stolen.csv'",
        "ATTACH '/tmp/other.db'",
        "SET enable_external_access = true",
        "INSTALL httpfs",
        "LOAD httpfs",
        "CALL pragma_version()",
        "CHECKPOINT",
        "EXPORT DATABASE '/tmp/stolen'",
        "BEGIN",
        "PREPARE p AS DELETE FROM store.models",
        "EXPLAIN ANALYZE DELETE FROM store.models",
        "SELECT 1; DELETE FROM store.models",
        "",
        "-- nothing",
    ],
)
def test_what_does_not_read_is_refused(catalog: Catalog, text: str) -> None:
    before = catalog.sql("FROM models").rows
    with pytest.raises(CatalogSqlError):
        catalog.sql(text)
    assert catalog.sql("FROM models").rows == before
    assert not Path("/tmp/stolen.csv").exists()


@pytest.mark.parametrize(
    "text",
    [
        "SELECT * FROM read_csv('/etc/passwd')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM '/etc/passwd'",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM read_parquet('https://example.com/x.parquet')",
        "SELECT * FROM sqlite_scan('/tmp/x', 't')",
        "SELECT * FROM catalog",
        "SELECT getenv('HOME')",
    ],
)
def test_files_python_variables_and_the_environment_are_out_of_reach(
    catalog: Catalog, text: str
) -> None:
    with pytest.raises(CatalogSqlError):
        catalog.sql(text)


def test_an_error_points_at_the_word_and_names_what_exists(catalog: Catalog) -> None:
    text = "SELECT name,\n  'é', prams\nFROM models"
    with pytest.raises(CatalogSqlError) as caught:
        catalog.sql(text)
    error = caught.value
    assert (error.line, error.column) == (2, 8)
    assert error.span is not None
    assert text[error.span.start : error.span.end] == "prams"
    assert "params" in error.suggestions
    assert "{" not in str(error)


def test_parameters_are_values(catalog: Catalog) -> None:
    hostile = "x'; DELETE FROM store.models; --"
    assert catalog.sql("SELECT ?", [hostile]).rows == [(hostile,)]
    assert catalog.sql("SELECT name FROM models WHERE name = $n", {"n": "plain"}).rows == [
        ("plain",)
    ]


def test_a_limit_cuts_rows_and_says_so(catalog: Catalog) -> None:
    cut = catalog.sql("SELECT * FROM generate_series(1, 10)", limit=3)
    assert (len(cut.rows), cut.more) == (3, True)
    whole = catalog.sql("SELECT * FROM generate_series(1, 3)", limit=3)
    assert (len(whole.rows), whole.more) == (3, False)


def test_a_long_statement_is_interrupted_from_another_thread(catalog: Catalog) -> None:
    def interrupt() -> None:
        time.sleep(0.3)
        catalog.interrupt()

    stopper = threading.Thread(target=interrupt)
    stopper.start()
    started = time.perf_counter()
    with pytest.raises(CancelledError):
        catalog.sql(
            "SELECT count(*) FROM generate_series(1, 10000000) a (x),"
            " generate_series(1, 10000000) b (x) WHERE a.x + b.x < 0"
        )
    stopper.join()
    assert time.perf_counter() - started < 10
    assert catalog.sql("SELECT 1").rows == [(1,)]


@pytest.mark.duckdb("DuckDB itself hears Ctrl-C")
def test_ctrl_c_that_duckdb_itself_sees_is_a_cancelled_statement_too(catalog: Catalog) -> None:
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    with pytest.raises(CancelledError):
        catalog.sql("SELECT sum(x) FROM generate_series(1, 100000000000) a (x)")
    assert catalog.sql("SELECT 1").rows == [(1,)]  # and nothing goes on
