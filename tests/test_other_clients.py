"""A tool that knows nothing of us reads a catalog; tests/storage/test_psql.py has PostgreSQL.

DuckDB's own shell and JDBC driver do what its Python module does here: open the file, read-only.
"""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

import sommelier as sm
from sommelier.storage.views import VIEWS
from tests.factories import mlp_classifier


def test_a_plain_duckdb_reads_every_view_of_a_file(tmp_path: Path) -> None:
    model = mlp_classifier(tmp_path / "one.onnx")
    path = tmp_path / "zoo.sommelier"
    with sm.connect(path) as db:
        db.import_models("folder", str(model))
        wanted = db.sql("SELECT name, memory FROM models").rows
    with duckdb.connect(str(path), read_only=True) as plain:
        listed = plain.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema = 'main'"
        ).fetchall()
        assert {name for (name,) in listed} == set(VIEWS)
        assert plain.execute("SELECT name, memory FROM models").fetchall() == wanted
        for view in VIEWS:  # none needs a function of ours
            plain.execute(f'SELECT * FROM "{view}"').fetchall()
        with pytest.raises(duckdb.Error, match="read-only"):
            plain.execute("DELETE FROM store.models")
    with sm.connect(path) as db:  # nothing of it is in the way
        assert len(db.query("SELECT MODELS")) == 1
