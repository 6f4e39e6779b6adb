"""What DEPLOY and its kin say of mistakes: every name there is, and what else is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import sommelier as sm
from sommelier.errors import BinderError, UnknownNameError
from tests.factories import tiny_classifier

NAMES = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta")
LISTED = "alpha, beta, delta, epsilon, eta and 2 more"


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sm.Connection]:
    """One model, deployed under seven names."""
    folder: Path = tmp_path_factory.mktemp("deployed")
    tiny_classifier(folder / "big.onnx")
    with sm.connect(":memory:") as db:
        db.execute(f"IMPORT MODELS FROM folder '{folder}'")
        for name in NAMES:
            db.execute(f"DEPLOY MODEL big AS {name}")
        yield db


@pytest.mark.parametrize(
    "statement", ["UNDEPLOY nope", "SIMULATE nope ON TRACE 'burst-v1'", "DESCRIBE DEPLOYMENT nope"]
)
def test_a_deployment_there_is_not_comes_with_those_there_are(
    db: sm.Connection, statement: str
) -> None:
    with pytest.raises(UnknownNameError) as caught:
        db.execute(statement)
    listed = sorted(NAMES)
    assert caught.value.suggestions == ()
    assert str(caught.value.hint) in (f"there is {LISTED}", f"deployments: {', '.join(listed)}")


def test_a_name_that_is_started_or_served_comes_with_those_there_are(db: sm.Connection) -> None:
    for ask in (db.deploy, db.serving.prepared):
        with pytest.raises(UnknownNameError) as caught:
            ask("nope")
        assert caught.value.hint == f"there is {LISTED}"


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DEPLOY MODELS big, nope AS alpha", "there is no model 'nope'"),
        ("DEPLOY MODEL big AS alpha UNDER accuracy >= 90%", "no model is known to reach 90%"),
        ("DEPLOY MODEL big AS alpha USING device = 'tpu'", "'tpu'"),
        ("DEPLOY MODEL big AS alpha ROUTE BY fixed USING model = 'other'", "'other' is none of"),
        ("DEPLOY MODEL big AS alpha", "deployment 'alpha' exists"),
    ],
)
def test_a_name_that_is_taken_hides_nothing_that_is_wrong_beside(
    db: sm.Connection, statement: str, said: str
) -> None:
    before = db.catalog.deployments()
    with pytest.raises(BinderError) as caught:
        db.execute(statement)
    assert said in caught.value.message
    assert db.catalog.deployments() == before


def test_a_name_that_is_taken_lets_no_model_answer_samples(
    db: sm.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sommelier.connection import deploying

    answered: list[object] = []

    def let_answer(*asked: object) -> bool:
        answered.append(asked)
        return False

    monkeypatch.setattr(deploying, "_unmeasured", lambda _: True)
    monkeypatch.setattr(deploying, "_let_answer", let_answer)
    with pytest.raises(BinderError, match="deployment 'alpha' exists"):
        db.execute("DEPLOY MODEL big AS alpha")
    assert answered == []
    db.execute("DEPLOY OR REPLACE MODEL big AS alpha")
    assert len(answered) == 1
