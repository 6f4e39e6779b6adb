"""The SQLAlchemy dialect: questions and catalog SQL through an engine, as pandas and tools do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import sqlalchemy as sa

import sommelier as sm
from sommelier.storage.view_notes import VIEW_KEYS, VIEW_NOTES
from sommelier.storage.views import VIEWS
from tests.factories import mlp_classifier


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dialect")
    for name, width in (("large", 64), ("small", 4)):
        mlp_classifier(folder / f"{name}.onnx", hidden=(width,))
    with sm.connect(folder / "zoo.sommelier") as db:
        db.import_models("folder", str(folder / "*.onnx"))
    return folder / "zoo.sommelier"


@pytest.fixture
def engine(path: Path) -> Iterator[sa.Engine]:
    engine = sa.create_engine(f"sommelier:///{path}?read_only=true")
    yield engine
    engine.dispose()


def test_pandas_reads_a_question(engine: sa.Engine) -> None:
    frame = pd.read_sql("SELECT MODELS name, memory, accuracy ORDER BY name", engine)
    assert frame["name"].tolist() == ["large", "small"]
    assert frame["memory"].iloc[0] > frame["memory"].iloc[1] > 0
    assert frame["accuracy"].isna().all()
    one = pd.read_sql("SELECT MODELS name WHERE name = ?", engine, params=("small",))
    assert one["name"].tolist() == ["small"]


def test_pandas_reads_a_view(engine: sa.Engine) -> None:
    assert sorted(pd.read_sql_table("models", engine)["name"]) == ["large", "small"]


def test_text_with_named_values_is_bound(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        text = sa.text("SELECT MODELS name WHERE name = :wanted")
        assert connection.execute(text, {"wanted": "small"}).scalars().all() == ["small"]


def test_views_are_reflected_and_selected_from(engine: sa.Engine) -> None:
    inspector = sa.inspect(engine)
    assert inspector.get_table_names() == inspector.get_view_names() == sorted(VIEWS)
    assert inspector.get_table_names(schema="main") == sorted(VIEWS)
    assert inspector.get_table_names(schema="store") == []  # the catalog's own
    assert inspector.has_table("models")
    assert not inspector.has_table("SELECT MODELS")
    types = {column["name"]: column["type"] for column in inspector.get_columns("models")}
    assert isinstance(types["name"], sa.String)
    with pytest.raises(sa.exc.NoSuchTableError):
        inspector.get_columns("nothing")
    models = sa.Table("models", sa.MetaData(), autoload_with=engine)
    asked = sa.select(models.c.name).where(models.c.name.like("s%")).limit(1)
    with engine.connect() as connection:
        assert connection.execute(asked).all() == [("small",)]


def test_every_view_has_a_comment_and_keys_that_are_columns(engine: sa.Engine) -> None:
    metadata = sa.MetaData()
    metadata.reflect(engine)
    assert set(metadata.tables) == set(VIEW_NOTES) == set(VIEWS)
    found = {
        name: tuple(table.primary_key.columns.keys()) for name, table in metadata.tables.items()
    }
    assert found == {name: VIEW_KEYS.get(name, ()) for name in VIEWS}
    assert metadata.tables["pools"].comment == "kept answers to a question"
    assert metadata.tables["served"].c.p99_ms.comment == "ms"


def test_a_mistake_is_a_programming_error_with_our_words(engine: sa.Engine) -> None:
    with engine.connect() as connection, pytest.raises(sa.exc.ProgrammingError, match="MODELS"):
        connection.exec_driver_sql("SELECT MODLS")


def test_threads_share_the_only_writer_there_may_be(tmp_path: Path) -> None:
    model = mlp_classifier(tmp_path / "one.onnx")
    engine = sa.create_engine(f"sommelier:///{tmp_path / 'zoo.sommelier'}")
    with engine.begin() as connection:
        connection.exec_driver_sql(f"IMPORT MODELS FROM folder '{model}'")
    found: list[int] = []

    def ask() -> None:
        with engine.connect() as connection:
            rows = connection.exec_driver_sql("SELECT MODELS").all()
            found.append(len(rows))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine.dispose()
    assert found == [1] * 4
    with sm.connect(tmp_path / "zoo.sommelier") as db:  # it was given back
        assert len(db.query("SELECT MODELS")) == 1


def test_without_a_path_a_database_is_in_memory() -> None:
    engine = sa.create_engine("sommelier://")
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT MODELS").all() == []
    engine.dispose()
