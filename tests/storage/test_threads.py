"""Threads that share one catalog see whole changes, and never what was true before."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sommelier.errors import StorageError
from sommelier.records import ModelRecord, TextPredicate
from sommelier.storage.catalog import Catalog
from tests.storage.catalog_factories import number, plain_model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.sommelier"


class Dawdling(Catalog):
    """A catalog that takes a rest between reading a model and remembering it."""

    def _look_up(self, name: str, version: str | None) -> ModelRecord:
        found = super()._look_up(name, version)
        RESTING.set()
        time.sleep(0.3)
        return found


RESTING = threading.Event()


def test_a_change_beside_a_look_up_is_not_hidden_by_what_was_read_before(path: Path) -> None:
    with Dawdling.open(path) as catalog:
        record = catalog.add_model(plain_model("a", task="old")).record
        RESTING.clear()
        reader = threading.Thread(target=catalog.resolve, args=("a",))
        reader.start()
        assert RESTING.wait(timeout=10)
        catalog.update_model(replace(record, task="new"))
        reader.join()
        assert catalog.resolve("a").task == "new"


def test_names_are_resolved_while_they_change(path: Path) -> None:
    """Looking a name up twice in one call once failed when a commit came in between."""
    with Catalog.open(path) as catalog:
        record = catalog.add_model(plain_model("a", task="0")).record
        done, problems = threading.Event(), list[BaseException]()

        def read() -> None:
            try:
                while not done.is_set():
                    assert catalog.resolve("a").id == record.id
                    assert catalog.text_columns(["task", "tags"], catalog.model_ids())["tags"]
            except BaseException as problem:
                problems.append(problem)

        readers = [threading.Thread(target=read) for _ in range(3)]
        for thread in readers:
            thread.start()
        for task in map(str, range(1, 60)):
            catalog.update_model(replace(record, task=task))
            assert catalog.resolve("a").task == task
        done.set()
        for thread in readers:
            thread.join()
        assert problems == []


def test_threads_share_a_catalog_and_see_whole_transactions(path: Path) -> None:
    with Catalog.open(path) as catalog:
        done = threading.Event()
        problems: list[object] = []

        def write(thread: int) -> None:
            for i in range(15):
                with catalog.transaction():
                    model = catalog.add_model(plain_model(f"t{thread}-{i}", task="t")).record
                    catalog.add_measurements([number(model.id, "params", i)])

        def read() -> None:
            while not done.is_set():
                columns = catalog.measurement_columns()
                if len(columns["value"]) > len(catalog.model_ids()):
                    problems.append("a number without its model")
                if catalog.sql("SELECT count(*) FROM models WHERE params IS NULL").rows != [(0,)]:
                    problems.append("a model without its number")
                catalog.text_mask(TextPredicate("task", "=", ("t",)))

        writers = [threading.Thread(target=write, args=(i,)) for i in range(4)]
        readers = [threading.Thread(target=read) for _ in range(2)]
        for thread in (*writers, *readers):
            thread.start()
        for thread in writers:
            thread.join()
        done.set()
        for thread in readers:
            thread.join()
        assert problems == []
        assert len(catalog.model_ids()) == 60


def test_snapshots_are_made_beside_threads_that_read(path: Path) -> None:
    with Catalog.open(path) as catalog:
        done = threading.Event()

        def read() -> None:
            while not done.is_set():
                catalog.sql("SELECT count(*) FROM models, generate_series(1, 1000)")

        reader = threading.Thread(target=read)
        reader.start()
        for i in range(20):
            catalog.add_model(plain_model(f"m{i}"))
            catalog.publish()
        done.set()
        reader.join()
    with Catalog.open(path, read_only=True) as snapshot:
        assert len(snapshot.model_names()) == 20


def test_a_closed_catalog_closes_again_and_answers_no_more(path: Path) -> None:
    catalog = Catalog.open(path)
    catalog.close()
    catalog.close()
    with pytest.raises(StorageError):
        catalog.model_names()
