"""The Python surface: what it accepts, what it refuses, and where an error points."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import pytest

import sommelier as sm
from sommelier.errors import (
    BinderError,
    ConnectorError,
    QueryError,
    SommelierError,
    StorageError,
)
from tests.factories import mlp_classifier


@pytest.fixture
def db(tmp_path: Path) -> Iterator[sm.Connection]:
    for index in range(3):
        mlp_classifier(tmp_path / f"net{index}.onnx", seed=index, hidden=(4 * (index + 1),))
    with sm.connect(tmp_path / "m.sommelier") as connection:
        connection.import_models("folder", f"{tmp_path}/*.onnx")
        connection.execute("CREATE VIEW small AS SELECT MODELS ON params < 100")
        yield connection


@pytest.mark.parametrize(
    ("statement", "underlined", "words"),
    [
        ("DROP MODEL net7", "net7", "net0"),
        ("ALTER MODEL net7 ADD TAG 'x'", "net7", "net1"),
        ("ANALYZE net7 FOR RESOURCES", "net7", "net2"),
        ("ALTER MODEL net0 SET bogus = 3", "bogus", "unknown option"),
        ("ALTER MODEL net0 SET flops = 3 MB", "3 MB", "bytes"),
        ("ANALYZE ALL FOR EQUIVALENCE USING dataset = 'cifar'", "dataset = 'cifar'", "cifar"),
        ("ANALYZE ALL USING time_limit = 5", "5", "what"),
        ("REGISTER DEVICE d USING memry = 2 GB", "memry", "memory"),
        ("SET devic = 'x'", "", "device"),
        ("CREATE VIEW small AS SELECT MODELS", "", "OR REPLACE"),
        ("ALTER TASK 'nothing' SET reference = net0", "", "no model has the task"),
        ("REFRESH POOL p9", "", "p9"),
    ],
)
def test_a_mistake_in_any_statement_is_underlined(
    db: sm.Connection, statement: str, underlined: str, words: str
) -> None:
    with pytest.raises(QueryError) as caught:
        db.execute(statement)
    assert words in str(caught.value)
    assert "LINE 1" in str(caught.value)
    span = caught.value.span
    assert span is not None
    assert underlined in statement[span.start : span.end]


def test_a_closed_connection_says_so(db: sm.Connection) -> None:
    db.close()
    db.close()
    for ask in (lambda: db.query("SELECT MODELS").fetchall(), lambda: db.execute("SHOW MODELS")):
        with pytest.raises(StorageError, match="closed"):
            ask()


def test_explain_takes_text(db: sm.Connection) -> None:
    assert "params" in str(db.explain("SELECT MODELS ON params < 100"))


def test_query_takes_a_select_only(db: sm.Connection) -> None:
    with pytest.raises(BinderError, match="takes a SELECT MODELS"):
        db.query("SHOW MODELS")


def test_catalog_sql_takes_parameters(db: sm.Connection) -> None:
    assert db.sql("SELECT name FROM models WHERE name = ?", ["net1"]).rows == [("net1",)]


def test_the_papers_keyword_form_means_shares_of_the_reference(db: sm.Connection) -> None:
    text = str(db.query(ref="net2", mem=0.8, flops=0.5))
    assert text == "SELECT MODELS CORR net2 ON memory <= 0.8x AND flops <= 0.5x"


@pytest.mark.parametrize("value", ["176%", "-3%"])
def test_an_impossible_share_is_refused(db: sm.Connection, value: str) -> None:
    with pytest.raises(SommelierError, match="accuracy cannot be"):
        db.execute(f"ALTER MODEL net0 SET accuracy = {value} ON 'x'")


def test_a_nan_parameter_never_matches_everything(db: sm.Connection) -> None:
    with pytest.raises(SommelierError):
        db.query("SELECT MODELS ON params < $n", params={"n": math.nan}).fetchall()


def test_an_import_of_nothing_acceptable_is_an_error(db: sm.Connection, tmp_path: Path) -> None:
    (tmp_path / "bad.onnx").write_bytes(b"no")
    with pytest.raises(ConnectorError, match="1 rejected"):
        db.import_models("folder", str(tmp_path / "bad.onnx"))
    assert db.sql("SELECT count(*) FROM rejections").rows == [(1,)]


def test_names_serve_completion(db: sm.Connection) -> None:
    assert db.names("model") == ["net0", "net1", "net2"]
    assert "folder" in db.names("connector")
    assert "memory" in db.names("metric")
    assert db.names("view") == ["small"]


def test_completion_offers_the_promises_that_a_deployment_can_make(db: sm.Connection) -> None:
    with pytest.raises(BinderError) as caught:
        db.execute("DEPLOY MODEL net0 AS d UNDER speed < 3")
    assert caught.value.hint == f"it can promise {', '.join(db.names('promise'))}"
