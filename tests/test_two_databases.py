"""The same journey over a file and over a server leads to the same answers."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import sommelier as sm
from sommelier.engine.result import Result, Table
from tests.factories import mlp_classifier
from tests.over_postgres import Databases

FEATURES, CLASSES, SAMPLES = 6, 3, 300
QUESTIONS = (
    "SELECT MODELS name, params, size, flops",
    "SELECT MODELS name, equivalence, agreement, accuracy CORR wide >= 30%",
    "SELECT MODELS name CORR wide >= 10% ON params < 80% PICK MOST SIMILAR",
    "SELECT MODELS name WHERE name LIKE '%i%' ORDER BY params DESC",
    "SELECT MODELS name WHERE name REGEXP '^(tiny|other)$'",
    "SELECT MODELS name WHERE name ILIKE 'WID_'",
    "SELECT MODELS name WHERE tags HAS 'Été' OR task = 'toy'",
    "SELECT MODELS name WHERE family IS NULL AND name >= 'n' ORDER BY name",
    "SHOW MODELS",
    "SHOW DATASETS",
    "SHOW DEVICES",
    "SHOW POOLS",
    "SELECT name, params, tags FROM models ORDER BY name",
    "SELECT metric, count(*) AS n FROM profiles WHERE metric = 'params' GROUP BY metric",
    "SELECT reference, candidate, round(lower, 6) AS lower FROM equivalences ORDER BY 1, 2",
    "SELECT state, total, done, progress FROM jobs ORDER BY id",
    "DESCRIBE wide",
)
_ONLY_HERE = ("latency", "added", "created", "p99", "wall", "time", "path")  # differ by run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("toys")
    for name, seed, hidden in (("wide", 1, 64), ("other", 2, 32), ("tiny", 3, 4)):
        mlp_classifier(
            folder / f"{name}.onnx", seed=seed, features=FEATURES, hidden=(hidden,), classes=CLASSES
        )
    generator = np.random.default_rng(0)
    inputs = generator.normal(size=(SAMPLES, FEATURES)).astype(np.float32)
    np.savez(folder / "points.npz", x=inputs, y=np.arange(SAMPLES) % CLASSES)
    return folder


def fill(db: sm.Connection, folder: Path) -> None:
    db.execute(f"IMPORT MODELS FROM folder '{folder}/*.onnx'")
    db.register_dataset("points", folder / "points.npz", held_out=True)
    db.execute("ANALYZE ALL FOR RESOURCES, EQUIVALENCE, ACCURACY USING dataset = 'points'")
    db.execute("ALTER MODEL tiny SET task = 'toy'")
    db.execute("ALTER MODEL tiny ADD TAG 'Été'")
    db.execute("CREATE POOL small AS SELECT MODELS ON params < 400")


def answers(db: sm.Connection) -> dict[str, list[list[Any]]]:
    found = {}
    for question in QUESTIONS:
        outcome = db.execute(question)
        assert isinstance(outcome, Result | Table), question
        names = [column.name for column in outcome.columns]
        rows = outcome.rows if isinstance(outcome, Table) else outcome.fetchall()
        kept = [i for i, name in enumerate(names) if not any(w in name for w in _ONLY_HERE)]
        shown = [[row[i] for i in kept] for row in rows]
        found[question] = [row for row in shown if not any(w in str(row[0]) for w in _ONLY_HERE)]
    return found


def test_a_file_and_a_server_answer_alike_also_after_connecting_again(
    databases: Databases, folder: Path, tmp_path: Path
) -> None:
    url, files = databases.fresh(tmp_path / "server"), tmp_path / "files"
    with sm.connect(":memory:") as file, sm.connect(url, artifacts=files) as server:
        fill(file, folder)
        fill(server, folder)
        expected = answers(file)
        assert expected[QUESTIONS[0]], "there is something to compare"
        assert answers(server) == expected
    with sm.connect(url, artifacts=files, read_only=True) as server:
        assert answers(server) == expected
        model = server.artifacts.path(str(server.catalog.resolve("tiny").artifact))
        assert model.is_relative_to(files)


def test_questions_are_answered_while_others_ingest(
    databases: Databases, folder: Path, tmp_path: Path
) -> None:
    """Two clients add models with a number each, two ask: no answer has a model without it."""
    url, files = databases.fresh(tmp_path / "server"), tmp_path / "files"
    sm.connect(url, artifacts=files).close()
    failures: list[object] = []
    done = threading.Event()

    def ingest(client: int) -> None:
        from tests.storage.catalog_factories import number, plain_model

        with sm.connect(url, artifacts=files) as db:
            for i in range(40):
                with db.catalog.transaction():
                    added = db.catalog.add_model(plain_model(f"m{client}_{i}", version="1"))
                    db.catalog.add_measurements([number(added.record.id, "params", 1.0 + i)])

    def ask() -> None:
        with sm.connect(url, artifacts=files) as db:
            seen = 0
            while not done.is_set():
                rows = db.query("SELECT MODELS name, params").fetchall()
                if len(rows) < seen or any(params is None for _, params in rows):
                    failures.append(rows)
                seen = len(rows)

    def guarded(work: Any, *arguments: object) -> None:
        try:
            work(*arguments)
        except Exception as error:
            failures.append(error)

    ingesting = [threading.Thread(target=guarded, args=(ingest, i)) for i in range(2)]
    asking = [threading.Thread(target=guarded, args=(ask,)) for _ in range(2)]
    for thread in (*ingesting, *asking):
        thread.start()
    for thread in ingesting:
        thread.join(120)
    done.set()
    for thread in asking:
        thread.join(120)
    assert failures == []
    with sm.connect(url, artifacts=files) as db:
        assert len(db.query("SELECT MODELS").fetchall()) == 80
