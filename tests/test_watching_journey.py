"""Deployments of a connection whose models take other times than they were planned by."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import sommelier as sm
from sommelier.records import Measurement, Provenance
from tests.asking import rows
from tests.factories import tiny_classifier

X = {"x": np.ones((1, 4), np.float32)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Models a and b, both said to take 500 ms."""
    for seed, name in enumerate("ab"):
        tiny_classifier(tmp_path / f"{name}.onnx", seed=seed)
    path = tmp_path / "zoo.sommelier"
    with sm.connect(path) as db:
        db.execute(f"IMPORT MODELS FROM folder '{tmp_path}/*.onnx'")
        db.catalog.add_measurements(
            Measurement(
                db.catalog.resolve(name).id, "latency", 500.0, Provenance.MEASURED, "onnxruntime",
                device="cpu", batch=1, percentile=percentile, threads=1,
            )
            for name in "ab"
            for percentile in (50, 99)
        )  # fmt: skip
    return path


@pytest.fixture
def db(path: Path) -> Iterator[sm.Connection]:
    with sm.connect(path) as db:
        yield db


def test_other_times_are_written_planned_by_once_and_shown(
    db: sm.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="sommelier")
    running = db.deploy("DEPLOY MODEL a AS vision")
    for _ in range(120):
        running.infer(X)
    db.serving.check()
    (kept,) = db.catalog.served("vision")
    assert kept.requests == 120
    (shown,) = rows(db, "SHOW DEPLOYMENTS")
    assert "not the 500 ms planned by" in str(shown["warnings"])
    told = [
        str(row["value"])
        for row in rows(db, "DESCRIBE DEPLOYMENT vision")
        if row["property"] == "warning"
    ]
    assert any("not the 500 ms planned by" in text for text in told)
    generation = db.catalog.generation
    for _ in range(120):
        running.infer(X)
    db.serving.check()
    assert db.catalog.generation == generation, "nothing is written or planned for the same again"
    assert caplog.text.count("not the 500 ms planned by") == 1


def test_a_statement_that_asks_for_what_was_measured_follows_it(db: sm.Connection) -> None:
    running = db.deploy(
        "DEPLOY (SELECT MODELS WHERE served_requests IS NULL OR served_latency > 400 ms"
        " ORDER BY name LIMIT 1) AS unknown"
    )
    assert running.models == ("a",)
    tickets = [running.submit(X) for _ in range(120)]
    for ticket in tickets:
        ticket.result(60)
    db.serving.check()
    assert running.models == ("b",)
    assert running.infer(X).model == "b"
    figures = {figure.model_id: figure.requests for figure in db.catalog.served("unknown")}
    assert figures == {db.catalog.resolve("a").id: 120}
    db.serving.write()
    assert sum(figure.requests for figure in db.catalog.served("unknown")) == 121


def test_a_reader_warns_and_plans_nothing_again(path: Path) -> None:
    with sm.connect(path) as db:
        db.execute("DEPLOY MODEL a AS vision")
    with sm.connect(path, read_only=True) as db:
        running = db.deploy("vision")
        planned = running.deployment
        for _ in range(120):
            running.infer(X)
        db.serving.check()
        assert any("planned by" in told for told in running.state().warnings)
        assert running.deployment is planned
