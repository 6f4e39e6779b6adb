"""What DEPLOY CASCADE may promise: an SLA, an accuracy, and what is said of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from onnxruntime import InferenceSession

import sommelier as sm
from sommelier.errors import BinderError
from sommelier.records import Measurement, Provenance
from tests.cascade_models import draw, write_models

SAMPLES = 1500
MEDIANS_MS = {"tiny": 2.0, "big": 30.0, "small": 4.0}


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sm.Connection]:
    """tiny -> big is kept as quick; small has answered nothing."""
    folder: Path = tmp_path_factory.mktemp("promises")
    items, labels = draw(SAMPLES, seed=11)
    np.savez(folder / "toys.npz", x=items, y=labels)
    with sm.connect(folder / "models.sommelier") as db:
        for name, path in write_models(folder).items():
            db.execute(f"REGISTER MODEL {name} FROM '{path}' TASK 'toy-classification'")
            id_ = db.catalog.resolve(name).id
            db.catalog.add_measurements(
                Measurement(
                    id_, "latency", factor * MEDIANS_MS[name], Provenance.MEASURED, "onnxruntime",
                    device="cpu", batch=1, percentile=percentile, threads=1,
                )
                for percentile, factor in ((50, 1.0), (99, 1.1))
            )  # fmt: skip
        db.register_dataset("toys", folder / "toys.npz", x="x", y="y", held_out=True)
        db.execute("CREATE CASCADE quick FROM tiny TO big WITHIN 2% USING dataset = 'toys'")
        db.execute("ANALYZE tiny, big FOR ACCURACY USING dataset = 'toys'")
        yield db


@pytest.fixture
def db(filled: sm.Connection) -> Iterator[sm.Connection]:
    yield filled
    for name in filled.catalog.deployment_names():
        filled.execute(f"UNDEPLOY {name}")


# ---- latency


def test_what_becomes_of_who_would_be_late_is_told_as_it_is(db: sm.Connection) -> None:
    """Without a fallback no answer stands that is not sure: it would void what was proved."""
    late = "DEPLOY CASCADE quick AS q UNDER latency < 20 ms"
    (told,) = [note for note in db.execute(late).notes if "every model sees" in note]
    assert "it is refused or late; FALLBACK TO tiny" in told
    made = db.execute(f"{late.replace(' AS q', ' AS f')} FALLBACK TO tiny")
    (told,) = [note for note in made.notes if "every model sees" in note]
    assert "the answer of tiny stands, sure or not" in told
    made = db.execute(f"{late.replace(' AS q', ' AS l')} FALLBACK TO big")
    (told,) = [note for note in made.notes if "every model sees" in note]
    assert "it is refused or late" in told


# ---- accuracy


def test_an_accuracy_is_promised_where_the_last_model_less_what_may_be_lost_reaches_it(
    db: sm.Connection,
) -> None:
    (accuracy,) = [
        m.value
        for m in db.catalog.measurements(db.catalog.resolve("big").id)
        if m.metric == "accuracy"
    ]
    reached = accuracy - 0.02
    made = db.execute(f"DEPLOY CASCADE quick AS q UNDER accuracy >= {100 * reached - 0.01:.4f}%")
    assert any("at most 2% may be lost" in note for note in made.notes)
    with pytest.raises(BinderError, match="is not known to reach") as raised:
        db.execute(f"DEPLOY CASCADE quick AS v UNDER accuracy >= {100 * reached + 0.01:.4f}%")
    assert raised.value.span is not None
    assert "v" not in db.catalog.deployment_names()


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("quick ESCALATE AT MOST 90%", "nothing is proved"),
        ("tiny -> big ESCALATE WHEN softmax < 0.8", "nothing is proved"),
    ],
)
def test_no_accuracy_is_promised_where_nothing_is_proved_or_measured(
    db: sm.Connection, what: str, why: str
) -> None:
    with pytest.raises(BinderError, match=why):
        db.execute(f"DEPLOY CASCADE {what} AS v UNDER accuracy >= 10%")


# ---- what counts as accuracy


@pytest.mark.parametrize("labelled", [True, False])
def test_agreement_is_never_called_accuracy_and_stored_answers_tell_it_where_there_are_labels(
    tmp_path: Path, labelled: bool
) -> None:
    """tiny is named first: it would be the reference, and right in all cases."""
    items, labels = draw(SAMPLES, seed=11)
    columns = {"x": items, "y": labels} if labelled else {"x": items}
    np.savez(tmp_path / "toys.npz", **columns)
    paths = write_models(tmp_path)
    answers = {
        name: InferenceSession(str(paths[name])).run(None, {"x": items})[0].argmax(axis=1)
        for name in ("tiny", "big")
    }
    with sm.connect(tmp_path / "models.sommelier") as db:
        for name in answers:
            db.execute(f"REGISTER MODEL {name} FROM '{paths[name]}' TASK 'toy-classification'")
        db.register_dataset(
            "toys", tmp_path / "toys.npz", x="x", **({"y": "y"} if labelled else {})
        )
        db.execute("CREATE CASCADE quick FROM tiny TO big WITHIN 2% OF AGREEMENT")
        made = db.execute("DEPLOY MODELS tiny, big AS both")
        kept = {model.name: model for model in db.catalog.deployment("both").models}
        (row,) = db.execute("SHOW DEPLOYMENTS").dicts()
        report = str(db.execute("EXPLAIN DEPLOY MODELS tiny, big AS v"))
        running = db.deploy("both")
        states = {model.name: model.accuracy for model in running.state().models}
    right = {name: float((found == labels).mean()) for name, found in answers.items()}
    if labelled:
        assert {name: model.accuracy for name, model in kept.items()} == pytest.approx(right)
        assert row["accuracy"] == pytest.approx(right["big"])
        assert states == pytest.approx(right)
        assert "accuracy on 'toys'" in report
    else:
        same = float((answers["tiny"] == answers["big"]).mean())
        assert {n: m.accuracy for n, m in kept.items()} == pytest.approx({"tiny": 1, "big": same})
        assert row["accuracy"] is None
        assert states == {"tiny": None, "big": None}
        assert "agreement with tiny" in report
        assert any("which itself counts as 100%" in note for note in made.notes)
