"""The issue's own session on the 29 real models of SOMMELIER_ZOO, statement by statement."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import sommelier as sm
from sommelier.engine.result import Table

ZOO = os.environ.get("SOMMELIER_ZOO")
CARD = Path(__file__).parent / "zoo_card.json"
SAMPLES = 2000
TOP1 = {
    "cifar10_resnet20": 0.762,
    "cifar10_resnet32": 0.810,
    "cifar10_resnet44": 0.820,
    "cifar10_resnet56": 0.800,
    "ic_resnet8": 0.745,
    "ic_resnet8_int8": 0.749,
    "resnet_large_f": 0.829,
    "ic_resnet_large_int8": 0.832,
}
"""On the first 2 000 test images; the zoo's README."""

pytestmark = [
    pytest.mark.zoo,
    pytest.mark.skipif(not ZOO, reason="SOMMELIER_ZOO does not name the folder of real models"),
]


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sm.Connection]:
    zoo = Path(str(ZOO))
    with sm.connect(tmp_path_factory.mktemp("zoo") / "models.sommelier") as connection:
        imported = connection.execute(
            f"IMPORT MODELS FROM folder '{zoo}/onnx/*.onnx' USING card = '{CARD}', copy = false"
        )
        assert isinstance(imported, Table)
        rejected = connection.sql("SELECT count(*) FROM rejections").rows[0][0]
        assert imported.dicts()[0]["rows"] + rejected == 29
        connection.register_dataset(
            "cifar10", zoo / "data" / "cifar10_test.npz", kind="image", held_out=True
        )
        connection.execute(
            "ANALYZE ALL FOR RESOURCES, EQUIVALENCE, ACCURACY"
            f" USING dataset = 'cifar10', samples = {SAMPLES}, sampling = 'first'"
        )
        yield connection


def test_top1_of_the_ladder_is_the_readmes(db: sm.Connection) -> None:
    rows = db.query("SELECT MODELS name, accuracy WHERE accuracy IS NOT NULL").dicts()
    measured = {row["name"]: row["accuracy"] for row in rows}
    assert measured == pytest.approx(TOP1, abs=0.005)


@pytest.mark.parametrize(
    ("reference", "candidate", "agreement"),
    [("ic_resnet8", "ic_resnet8_int8", 0.947), ("resnet_large_f", "ic_resnet_large_int8", 0.975)],
)
def test_int8_twins_agree_as_the_readme_says(
    db: sm.Connection, reference: str, candidate: str, agreement: float
) -> None:
    rows = db.query(
        f"SELECT MODELS name, agreement CORR {reference} WITHIN 100%"
        f" WHERE name = '{candidate}' USING dataset = 'cifar10'"
    ).dicts()
    assert rows[0]["agreement"] == pytest.approx(agreement, abs=0.005)


def test_the_issues_first_question_is_answered(db: sm.Connection) -> None:
    answer = db.query(
        "SELECT MODEL CORR cifar10_resnet56 >= 75% ON memory < 80% AND flops <= 60%"
        " PICK MOST SIMILAR"
    )
    assert [row.name for row in answer] == ["cifar10_resnet32"]
    assert answer[0].equivalence >= 0.75


def test_why_not_says_what_would_have_been_needed(db: sm.Connection) -> None:
    report = db.execute(
        "EXPLAIN WHY cifar10_resnet20 NOT IN (SELECT MODEL CORR cifar10_resnet56 >= 85%"
        " ON memory < 80%)"
    )
    assert "equivalence" in str(report)
    assert "would match" in str(report)


def test_models_of_other_tasks_are_skipped_with_a_reason(db: sm.Connection) -> None:
    reasons = db.sql("SELECT DISTINCT reason FROM job_tasks WHERE state = 'skipped'").rows
    assert reasons
    assert all(reason for (reason,) in reasons)


def test_every_accepted_model_has_its_static_profile(db: sm.Connection) -> None:
    rows = db.query("SELECT MODELS name, params, memory, flops").dicts()
    assert not [row["name"] for row in rows if row["params"] in (None, 0)]
