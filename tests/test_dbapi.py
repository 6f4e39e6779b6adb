"""DB-API 2.0: the points of PEP 249, on a real database."""

from __future__ import annotations

import datetime
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sommelier as sm
from sommelier.connection import dbapi
from sommelier.errors import ParserError
from tests.factories import mlp_classifier

NAMES = ["large", "middle", "small"]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dbapi")
    for name, width in zip(NAMES, (64, 16, 4), strict=True):
        mlp_classifier(folder / f"{name}.onnx", hidden=(width,))
    with sm.connect(folder / "zoo.sommelier") as db:
        db.import_models("folder", str(folder / "*.onnx"))
    return folder / "zoo.sommelier"


@pytest.fixture
def connection(path: Path) -> Iterator[dbapi.Connection]:
    with dbapi.connect(path, read_only=True) as connection:
        yield connection


@pytest.fixture
def cursor(connection: dbapi.Connection) -> dbapi.Cursor:
    return connection.cursor()


def test_the_module_says_what_it_is() -> None:
    assert (dbapi.apilevel, dbapi.threadsafety, dbapi.paramstyle) == ("2.0", 2, "qmark")


def test_the_errors_are_the_standards_tree_and_attributes_of_connections() -> None:
    tree = {
        "Warning": Exception, "Error": Exception, "InterfaceError": dbapi.Error,
        "DatabaseError": dbapi.Error, "DataError": dbapi.DatabaseError,
        "OperationalError": dbapi.DatabaseError, "IntegrityError": dbapi.DatabaseError,
        "InternalError": dbapi.DatabaseError, "ProgrammingError": dbapi.DatabaseError,
        "NotSupportedError": dbapi.DatabaseError,
    }  # fmt: skip
    for name, base in tree.items():
        error = getattr(dbapi, name)
        assert error.__base__ is base
        assert getattr(dbapi.Connection, name) is error


def test_constructors_make_dates_and_bytes() -> None:
    assert dbapi.Date(2026, 11, 22) == datetime.date(2026, 11, 22)
    assert dbapi.Time(1, 2, 3) == datetime.time(1, 2, 3)
    moment = dbapi.Timestamp(2026, 11, 22, 1, 2, 3)
    assert moment == datetime.datetime(2026, 11, 22, 1, 2, 3)
    ticks = moment.timestamp()
    assert dbapi.TimestampFromTicks(ticks) == moment
    assert dbapi.DateFromTicks(ticks) == moment.date()
    assert dbapi.TimeFromTicks(ticks) == moment.time()
    assert dbapi.Binary(b"\x00") == b"\x00"


def test_types_of_columns_are_the_standards(cursor: dbapi.Cursor) -> None:
    cursor.execute("SELECT name, added_at, memory > 1 AS big, tags, 'a'::BLOB AS raw FROM models")
    assert cursor.description is not None
    codes = [column[1] for column in cursor.description]
    kinds = [dbapi.STRING, dbapi.DATETIME, dbapi.STRING, dbapi.STRING, dbapi.BINARY]
    assert [code == kind for code, kind in zip(codes, kinds, strict=True)] == [True] * 5
    assert all(code != dbapi.ROWID for code in codes)
    assert all(column[2:] == (None, None, None, None, True) for column in cursor.description)


def test_what_was_asked_is_forgotten_with_the_next_statement(cursor: dbapi.Cursor) -> None:
    assert (cursor.arraysize, cursor.rowcount, cursor.rownumber, cursor.units) == (
        1,
        -1,
        None,
        None,
    )
    cursor.setinputsizes([8])
    cursor.setoutputsize(8, 0)
    with pytest.raises(dbapi.InterfaceError, match="no rows"):
        cursor.fetchall()
    cursor.execute("SELECT MODELS name, memory, latency, flops")
    assert cursor.units == (None, "B", "ms", "FLOPs")
    assert cursor.fetchmany(0) == []
    assert cursor.execute("SHOW POOLS").fetchall() == []
    assert (cursor.rowcount, cursor.rownumber) == (0, 0)


def test_rows_come_one_by_one_some_or_all(cursor: dbapi.Cursor) -> None:
    cursor.execute("SELECT MODELS name ORDER BY name")
    assert cursor.rowcount == 3
    assert (cursor.rownumber, cursor.fetchone()) == (0, ("large",))
    assert cursor.fetchmany() == [("middle",)]  # arraysize is 1
    assert cursor.fetchall() == [("small",)]
    assert (cursor.fetchone(), cursor.fetchmany(5), cursor.fetchall()) == (None, [], [])
    cursor.arraysize = 2
    assert cursor.execute("SELECT MODELS name ORDER BY name").fetchmany() == [
        ("large",),
        ("middle",),
    ]
    assert list(cursor) == [("small",)]


def test_columns_are_described_with_their_types(cursor: dbapi.Cursor) -> None:
    assert cursor.description is None
    cursor.execute("SELECT MODELS name, memory, accuracy")
    assert cursor.description is not None
    assert [column[0] for column in cursor.description] == ["name", "memory", "accuracy"]
    assert all(len(column) == 7 for column in cursor.description)
    name, memory, accuracy = (column[1] for column in cursor.description)
    assert name == dbapi.STRING
    assert name != dbapi.NUMBER
    assert memory == dbapi.NUMBER
    assert accuracy == dbapi.NUMBER
    assert cursor.fetchone()[2] is None  # type: ignore[index]  # unknown is not zero


@pytest.mark.parametrize(
    ("statement", "values"),
    [
        ("SELECT MODELS name WHERE name = ?", ["middle"]),
        ("SELECT MODELS name WHERE name = $wanted", {"wanted": "middle"}),
        ("SELECT name FROM models WHERE name = ?", ["middle"]),
        ("SELECT name FROM models WHERE name = $wanted", {"wanted": "middle"}),
        ("SHOW MODELS LIKE ?", ["middle"]),
        ("SHOW MODELS LIKE $wanted", {"wanted": "middle"}),
    ],
)
def test_values_are_bound_never_pasted(cursor: dbapi.Cursor, statement: str, values: Any) -> None:
    assert [row[0] for row in cursor.execute(statement, values)] == ["middle"]
    hostile = "x' OR '1'='1"
    bound = [hostile] if isinstance(values, list) else {"wanted": hostile}
    assert cursor.execute(statement, bound).fetchall() == []


@pytest.mark.parametrize("measure", ["memory", "flops", "size", "params"])
def test_a_number_that_was_read_can_be_given_back(cursor: dbapi.Cursor, measure: str) -> None:
    cursor.execute(f"SELECT MODELS {measure} WHERE name = 'middle'")
    (read,) = cursor.fetchone() or ()
    for condition, values in (
        (f"ON {measure} <= ?", [read]),
        (f"WHERE {measure} BETWEEN ? AND ?", [read, np.float64(read)]),
        (f"WHERE {measure} IN ($some)", {"some": [read]}),
        (f"WHERE $v >= {measure}", {"v": read}),
    ):
        found = cursor.execute(f"SELECT MODELS name {condition}", values).fetchall()
        assert ("middle",) in found
        assert ("large",) not in found
    found = cursor.execute(f"SELECT name FROM models WHERE {measure} <= ?", [read]).fetchall()
    assert sorted(found) == [("middle",), ("small",)]


@pytest.mark.parametrize(
    ("condition", "values", "said"),
    [
        ("memory <= 4000", [], "4000 what"),  # written, its unit would be a guess
        ("memory <= ?", ["4000"], "4000 what"),  # a text is read as if it were written
        ("memory <= ?", [0.8], r"0\.8 B\?.*\n.*\n.*\n.*'80%'"),  # nobody means a part of a byte
    ],
)
def test_a_unit_is_never_guessed(
    cursor: dbapi.Cursor, condition: str, values: list[Any], said: str
) -> None:
    with pytest.raises(dbapi.ProgrammingError, match=said):
        cursor.execute(f"SELECT MODELS WHERE {condition}", values)


def test_statements_of_every_kind_answer_rows(cursor: dbapi.Cursor) -> None:
    assert cursor.execute("SHOW MODELS").rowcount == 3
    lines = cursor.execute("EXPLAIN SELECT MODELS").fetchall()
    assert cursor.description is not None
    assert cursor.description[0][0] == "line"
    assert any("all models" in line for (line,) in lines)


def test_notes_are_messages(cursor: dbapi.Cursor) -> None:
    cursor.execute("SELECT MODELS name WHERE accuracy > 90%")
    assert any("accuracy" in text for kind, text in cursor.messages if kind is dbapi.Warning)
    cursor.execute("SHOW MODELS")
    assert cursor.messages == []


@pytest.mark.parametrize(
    ("statement", "values", "error"),
    [
        ("SELECT MODLS", [], dbapi.ProgrammingError),
        ("SELECT MODELS WHERE nmae = 'x'", [], dbapi.ProgrammingError),
        ("SELECT MODELS WHERE name = ?", [], dbapi.DataError),
        ("SELECT MODELS", [1], dbapi.DataError),
        ("SELECT nothing FROM models", [], dbapi.ProgrammingError),
        ("DROP MODEL small", [], dbapi.OperationalError),  # it is open read-only
    ],
)
def test_errors_are_the_standards_with_our_words(
    cursor: dbapi.Cursor, statement: str, values: list[Any], error: type[Exception]
) -> None:
    with pytest.raises(error) as raised:
        cursor.execute(statement, values)
    assert isinstance(raised.value.__cause__, sm.SommelierError)
    assert str(raised.value) == str(raised.value.__cause__)
    with pytest.raises(dbapi.InterfaceError):  # nothing of the statement before is left
        cursor.fetchone()


def test_a_mistake_is_underlined(cursor: dbapi.Cursor) -> None:
    with pytest.raises(dbapi.ProgrammingError, match=r"MODLS\n *\^{5}") as raised:
        cursor.execute("SELECT MODLS")
    assert isinstance(raised.value.__cause__, ParserError)


def test_a_database_that_cannot_be_opened_is_operational(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.sommelier"
    foreign.write_bytes(b"no database at all" * 100)
    with pytest.raises(dbapi.OperationalError, match="foreign"):
        dbapi.connect(foreign)
    assert foreign.read_bytes() == b"no database at all" * 100


def test_what_is_written_is_kept_without_commit_and_rollback_undoes_nothing(tmp_path: Path) -> None:
    model = mlp_classifier(tmp_path / "one.onnx")
    with dbapi.connect(tmp_path / "zoo.sommelier") as connection:
        assert connection.autocommit is True
        cursor = connection.execute(f"IMPORT MODELS FROM folder '{model}'")
        assert cursor.fetchone()[:2] == ("imported", "folder")  # type: ignore[index]
        connection.rollback()
        cursor.executemany("ALTER MODEL one SET license = ?", [["mit"], ["apache-2.0"]])
        connection.commit()
        assert cursor.description is None
        assert cursor.rowcount == 2
    with sm.connect(tmp_path / "zoo.sommelier", read_only=True) as db:
        assert db.sql("SELECT name FROM models").rows == [("one",)]


def test_executemany_takes_no_question(cursor: dbapi.Cursor) -> None:
    with pytest.raises(dbapi.ProgrammingError, match="executemany"):
        cursor.executemany("SELECT MODELS WHERE name = ?", [["small"], ["large"]])


def test_what_is_closed_answers_no_more(path: Path) -> None:
    connection = dbapi.connect(path, read_only=True)
    cursor, other = connection.execute("SHOW MODELS"), connection.execute("SHOW MODELS")
    cursor.close()
    cursor.close()
    for use in (cursor.fetchone, lambda: cursor.execute("SHOW MODELS"), lambda: cursor.connection):
        with pytest.raises(dbapi.InterfaceError, match="closed"):
            use()
    connection.close()
    connection.close()
    for use in (connection.cursor, connection.commit, connection.rollback, other.fetchone):
        with pytest.raises(dbapi.InterfaceError, match="closed"):
            use()


def test_an_open_database_is_taken_and_stays_open(path: Path) -> None:
    with sm.connect(path, read_only=True) as db:
        with dbapi.connect(db) as connection:
            assert connection.database is db
            assert connection.execute("SHOW MODELS").rowcount == 3
        assert len(db.query("SELECT MODELS")) == 3


def test_threads_share_a_connection(connection: dbapi.Connection) -> None:
    found: list[list[tuple[Any, ...]]] = []

    def ask(name: str) -> None:
        for _ in range(20):
            cursor = connection.execute("SELECT MODELS name WHERE name = ?", [name])
            found.append([*cursor.fetchall(), (name,)])

    threads = [threading.Thread(target=ask, args=(name,)) for name in NAMES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 60
    assert all(answer == wanted for answer, wanted in found)


def test_frames_have_all_rows(cursor: dbapi.Cursor) -> None:
    cursor.execute("SELECT MODELS name, memory ORDER BY name").fetchone()
    assert cursor.df()["name"].tolist() == NAMES
    assert cursor.arrow().column("name").to_pylist() == NAMES
    assert cursor.execute("SHOW MODELS").arrow().num_rows == 3
    with pytest.raises(dbapi.InterfaceError):
        cursor.execute("EXPLAIN SELECT MODELS").df()
