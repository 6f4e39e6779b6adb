"""The adapter of Harlequin: what its own query runner, catalog and loader make of it."""

from __future__ import annotations

import configparser
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

import sommelier as sm
from tests.factories import mlp_classifier

ROOT = Path(__file__).parents[2]

pytest.importorskip("harlequin", reason="pip install 'sommelier-db[harlequin]'")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("harlequin")
    for name, width in (("large", 64), ("small-1.0", 4), ("2 small", 2)):
        mlp_classifier(folder / f"{name}.onnx", hidden=(width,))
    with sm.connect(folder / "zoo.sommelier") as db:
        db.import_models("folder", str(folder / "*.onnx"))
    return folder / "zoo.sommelier"


def adapter(*addresses: object, **options: Any) -> Any:
    """As Harlequin makes one: the class that setup.cfg registers, options of all sorts."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    told = setup["options.entry_points"]["harlequin.adapter"].strip()
    name, _, value = told.partition(" = ")
    assert name == "sommelier"
    found = EntryPoint(name, value, "harlequin.adapter").load()
    from harlequin.adapter import HarlequinAdapter

    assert issubclass(found, HarlequinAdapter)
    return found(tuple(map(str, addresses)), **options)


@pytest.fixture
def connection(path: Path) -> Iterator[Any]:
    opened = adapter(path, read_only=True, theme="harlequin").connect()
    yield opened
    opened.close()


def test_a_script_is_answered_to_the_limit_with_units(connection: Any) -> None:
    from harlequin.query import RowLimit, execute, fetch
    from harlequin.statements import split

    limit = RowLimit(max_rows=2, detect_overflow=True)
    script = (
        "SELECT MODELS name, memory, accuracy, tags WHERE name <> 'a;b' ORDER BY name;"
        "SELECT name FROM models WHERE name = 'nothing'; EXPLAIN SELECT MODELS"
    )
    done = list(execute(connection, split(script), limit))
    assert [one.error for one in done] == [None] * 3
    models, nothing, plan = (fetch(one, limit) for one in done)
    assert models.columns == [("name", "s"), ("memory", "B"), ("accuracy", "#.#"), ("tags", "[]")]
    assert models.truncated
    rows = models.backend.data.to_pylist()
    assert [row["name"] for row in rows[:2]] == ["2 small", "large"]
    assert rows[0]["accuracy"] is None
    assert (nothing.columns, nothing.fetched_row_count) == ([("name", "s")], 0)
    assert plan.columns == [("line", "s")]


def test_a_mistake_has_our_words(connection: Any) -> None:
    from harlequin.exception import HarlequinQueryError

    with pytest.raises(HarlequinQueryError) as raised:
        connection.execute("SELECT MODLS")
    assert "^^^^^\nDid you mean MODELS" in raised.value.msg
    with pytest.raises(HarlequinQueryError, match="read-only"):
        connection.execute("DROP MODEL large")


def test_the_tree_has_names_as_they_are_typed_and_views(connection: Any) -> None:
    models, sql = connection.get_catalog().items
    assert {item.label: item.query_name for item in models.children} == {
        "2 small": '"2 small"', "large": "large", "small-1.0": "small-1.0",
    }  # fmt: skip
    for item in models.children:
        assert len(connection.execute(f"DESCRIBE MODEL {item.query_name}").fetchall()) > 5
    views = {view.label: view for view in sql.children}
    columns = {column.label: column.type_label for column in views["models"].children}
    assert (columns["name"], columns["memory"], columns["tags"]) == ("s", "#.#", "[]")
    labels = {completion.label for completion in connection.get_completions()}
    assert {"CORR", "PICK", "activation_memory"} <= labels


def test_what_cannot_be_opened_is_told_in_its_classes(tmp_path: Path) -> None:
    from harlequin.exception import HarlequinConfigError, HarlequinConnectionError

    with pytest.raises(HarlequinConnectionError, match="there is no database"):
        adapter(tmp_path / "none.sommelier", read_only=True).connect()
    with pytest.raises(HarlequinConfigError, match="one database"):
        adapter("a", "b")
    secret = adapter("postgresql://me:secret@host:5432/zoo").connection_id
    assert secret == "host:5432/zoo"  # it names files of Harlequin's


def test_only_harlequin_loads_it_and_it_loads_no_database() -> None:
    code = (
        "import sommelier, sommelier.shell.cli, sys; assert 'harlequin' not in sys.modules;"
        "import sommelier.shell.harlequin; assert 'duckdb' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
