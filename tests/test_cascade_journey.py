"""Cascades through statements: calibrated, kept, searched, explained and put to work."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from math import ceil, log
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

import sommelier as sm
from sommelier.errors import BinderError, CancelledError, QueryError, UnknownNameError
from tests.asking import rows
from tests.cascade_models import CLASSES, FEATURES, draw, write_models
from tests.factories import regression_model, tiny_classifier

SAMPLES = 3000
MAKE = "CREATE OR REPLACE CASCADE"
USING = f"USING dataset = 'toys', samples = {SAMPLES}"


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "toys.npz"
    items, labels = draw(SAMPLES, seed=11)
    np.savez(path, x=items, y=labels)
    np.savez(path.with_name("bare.npz"), x=items[:1000])
    return path


@pytest.fixture(scope="module")
def db(
    paths: dict[str, Path], data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[sm.Connection]:
    with sm.connect(tmp_path_factory.mktemp("db") / "models.sommelier") as db:
        for name, path in paths.items():
            db.execute(f"REGISTER MODEL {name} FROM '{path}' TASK 'toy-classification'")
        db.register_dataset("toys", data, x="x", y="y", held_out=True)
        db.execute(f"CREATE CASCADE quick FROM tiny TO big WITHIN 1% OF ACCURACY {USING}")
        yield db


@pytest.fixture
def other(paths: dict[str, Path], data: Path, tmp_path: Path) -> Iterator[sm.Connection]:
    """A database of its own, for what changes models."""
    with sm.connect(tmp_path / "models.sommelier") as db:
        for name in ("tiny", "big"):
            db.execute(f"REGISTER MODEL {name} FROM '{paths[name]}' TASK 'toy-classification'")
        db.register_dataset("toys", data, x="x", y="y", held_out=True)
        yield db


def logits(path: Path, items: NDArray[np.float32]) -> NDArray[np.float64]:
    session = onnxruntime.InferenceSession(str(path))
    return np.asarray(session.run(None, {"x": items})[0], dtype=np.float64)


def margin(values: NDArray[np.float64]) -> NDArray[np.float64]:
    shares = np.exp(values - values.max(axis=1, keepdims=True))
    two = np.sort(shares / shares.sum(axis=1, keepdims=True), axis=1)[:, -2:]
    return two[:, 1] - two[:, 0]


# ---- CREATE CASCADE


def test_the_promise_holds_on_inputs_that_no_calibration_saw(
    db: sm.Connection, paths: dict[str, Path]
) -> None:
    db.execute(f"{MAKE} m FROM tiny TO big WITHIN 1% OF ACCURACY {USING}, score = 'margin'")
    stage = db.catalog.cascade("m").plan.stages[0]
    items, labels = draw(40_000, seed=12)
    student, teacher = logits(paths["tiny"], items), logits(paths["big"], items)
    stays = margin(student) >= stage.threshold
    right = np.where(stays, student.argmax(axis=1), teacher.argmax(axis=1)) == labels
    drop = (teacher.argmax(axis=1) == labels).mean() - right.mean()
    assert stage.score == "margin"
    assert drop < 0.01
    assert stays.mean() > 0.4
    assert (teacher.argmax(axis=1) == student.argmax(axis=1)).mean() < 0.95  # it is worth a promise


def test_what_is_kept_is_what_the_samples_say(db: sm.Connection, paths: dict[str, Path]) -> None:
    db.execute(f"{MAKE} m FROM tiny TO big WITHIN 1% OF ACCURACY {USING}, score = 'margin'")
    kept = db.catalog.cascade("m")
    items, labels = draw(SAMPLES, seed=11)
    student, teacher = logits(paths["tiny"], items), logits(paths["big"], items)
    stays = margin(student) >= kept.plan.stages[0].threshold
    lost = (teacher.argmax(axis=1) == labels) * 1.0 - (student.argmax(axis=1) == labels)
    flops = [2 * FEATURES * 8 + 2 * 8 * CLASSES, 2 * 512 * (FEATURES + CLASSES)]
    assert kept.members[0].answered == pytest.approx(stays.mean())
    assert kept.loss == pytest.approx((lost * stays).mean())
    assert kept.members[1].accuracy == pytest.approx((teacher.argmax(axis=1) == labels).mean())
    assert [stage.flops for stage in kept.plan.stages] == flops
    assert kept.flops == pytest.approx(flops[0] + (1 - stays.mean()) * flops[1])
    assert kept.plan.promise is not None
    assert (kept.plan.promise.loss, kept.plan.promise.samples) == ("accuracy drop", SAMPLES)


def test_answers_that_are_kept_are_not_made_again(db: sm.Connection) -> None:
    db.execute(f"{MAKE} quick FROM tiny TO big WITHIN 1% OF ACCURACY {USING}")
    last = max(job.id for job in db.jobs())
    states = db.sql(f"SELECT DISTINCT state FROM job_tasks WHERE job_id = {last}").rows
    assert states == [("skipped",)]


def test_agreement_is_promised_where_it_is_asked_for_and_where_no_labels_are(
    db: sm.Connection, data: Path
) -> None:
    asked = db.execute(f"{MAKE} a FROM tiny TO big WITHIN 2% OF AGREEMENT {USING}")
    assert asked.notes[0] == (
        f"proved on {SAMPLES} samples: a disagreement of at most 2% with confidence 95%"
    )
    db.register_dataset("bare", data.with_name("bare.npz"), x="x", held_out=True)
    bare = db.execute(f"{MAKE} a FROM tiny TO big WITHIN 2% OF ACCURACY USING dataset = 'bare'")
    assert "proved on 1000 samples: a disagreement" in bare.notes[0]
    assert any("has no labels" in note and "falls by no more" in note for note in bare.notes)
    assert db.catalog.cascade("a").members[0].accuracy is None


def test_samples_that_are_too_few_are_refused_with_how_many_are_needed(
    db: sm.Connection,
) -> None:
    within = "CREATE CASCADE few FROM tiny TO big WITHIN 1% OF AGREEMENT"
    needed = ceil(log(0.05 / 5) / log(0.99))  # five scores share the risk
    with pytest.raises(BinderError, match=f"at least {needed} are needed") as raised:
        db.execute(f"{within} USING dataset = 'toys', samples = 200")
    assert f"USING samples = {needed} or more" in str(raised.value.hint)
    assert underlined(raised.value) == "1%"
    tighter = within.replace("1%", "0.01%")
    with pytest.raises(BinderError, match="samples are too few") as raised:
        db.execute(f"{tighter} {USING}")
    assert "'toys' has 3000 items; they could prove WITHIN 0.5% at best" in str(raised.value.hint)
    assert "few" not in db.catalog.cascade_names()


def underlined(error: QueryError) -> str:
    assert error.text is not None
    assert error.span is not None
    return error.text[error.span.start : error.span.end]


def test_a_promise_nothing_keeps_is_refused_with_what_each_model_loses(
    other: sm.Connection, tmp_path: Path
) -> None:
    blind = (np.zeros((FEATURES, CLASSES)), np.eye(CLASSES)[0])  # equally sure of all inputs
    wrong = tiny_classifier(tmp_path / "wrong.onnx", weights=blind)
    other.execute(f"REGISTER MODEL wrong FROM '{wrong}' TASK 'toy-classification'")
    with pytest.raises(BinderError, match="not even the surest answers") as raised:
        other.execute("CREATE CASCADE FROM wrong TO big WITHIN 1% OF AGREEMENT")
    assert "on these samples: wrong " in str(raised.value.hint)
    assert "larger WITHIN" in str(raised.value.hint)


def test_three_models_are_asked_in_turn(db: sm.Connection) -> None:
    made = db.execute(f"CREATE CASCADE FROM tiny TO small TO big WITHIN 2% {USING}")
    kept = db.catalog.cascade("tiny_to_small_to_big")
    assert kept.names == ("tiny", "small", "big")
    shares = [one.answered for one in kept.members]
    assert sum(share for share in shares if share is not None) == pytest.approx(1)
    assert "an accuracy drop of at most 2%" in made.notes[0]


def test_cascades_chosen_among_share_the_risk(db: sm.Connection) -> None:
    alone = f"{MAKE} c FROM tiny TO big WITHIN 1% OF AGREEMENT {USING}"
    db.execute(alone)
    first = db.catalog.cascade("c").members[0].answered
    db.execute(f"{alone}, candidates = 50")
    second = db.catalog.cascade("c")
    assert first is not None
    assert second.members[0].answered is not None
    assert second.members[0].answered < first
    assert second.plan.promise is not None
    assert second.plan.promise.confidence == 0.95
    assert any("divided among 50 cascades" in note for note in second.notes)


def test_a_name_that_is_taken_is_kept_replaced_or_refused(db: sm.Connection) -> None:
    again = f"FROM tiny TO big WITHIN 2% {USING}"
    with pytest.raises(BinderError, match="cascade 'quick' exists"):
        db.execute(f"CREATE CASCADE quick {again}")
    (row,) = db.execute(f"CREATE CASCADE IF NOT EXISTS quick {again}").rows
    assert row[:3] == ("exists", "quick", 0)
    (row,) = db.execute(f"{MAKE} quick {again}").rows
    assert row[:3] == ("replaced", "quick", 1)
    db.execute(f"{MAKE} quick FROM tiny TO big WITHIN 1% OF ACCURACY {USING}")


@pytest.mark.parametrize(
    ("statement", "message", "words"),
    [
        ("CREATE CASCADE FROM tiny TO tiny", "tiny is named twice", "tiny"),
        ("CREATE CASCADE FROM tinny TO big", "tinny", "tinny"),
        ("CREATE CASCADE FROM tiny TO big WITHIN 0%", "WITHIN takes a share", "0%"),
        ("CREATE CASCADE FROM tiny TO big CONFIDENCE 100%", "CONFIDENCE takes a share", "100%"),
        ("CREATE CASCADE FROM tiny TO big USING score = 'energy'", "score", "'energy'"),
        ("CREATE CASCADE FROM tiny TO big USING dataset = 'toyz'", "toyz", None),
        ("DROP CASCADE quickly", "quickly", "quickly"),
        ("EXPLAIN CASCADE quickly", "quickly", None),
        ("SELECT CASCADES WHERE speed > 3", "no column 'speed'", "speed"),
        ("SELECT CASCADES ON answered > 50%", "no cost", "answered"),
        ("SELECT CASCADES ON flops < 80% OF tiny", "share of its teacher", "80% OF tiny"),
        ("SELECT CASCADES CORR bigg", "bigg", "bigg"),
        ("SELECT CASCADES WHERE student = 'tinyy'", "tinyy", "'tinyy'"),
    ],
)
def test_mistakes_are_underlined(
    db: sm.Connection, statement: str, message: str, words: str | None
) -> None:
    with pytest.raises(sm.SommelierError, match=message) as raised:
        db.execute(statement)
    if words is not None:
        assert isinstance(raised.value, QueryError)
        assert underlined(raised.value) == words


def test_models_that_choose_no_class_are_refused(other: sm.Connection, tmp_path: Path) -> None:
    path = regression_model(tmp_path / "r.onnx", features=FEATURES)
    other.execute(f"REGISTER MODEL r FROM '{path}' TASK 'regression'")
    with pytest.raises(BinderError, match="choose a class") as raised:
        other.execute("CREATE CASCADE FROM r TO big")
    assert underlined(raised.value) == "r"
    path = tiny_classifier(tmp_path / "five.onnx", features=FEATURES, classes=5)
    other.execute(f"REGISTER MODEL five FROM '{path}' TASK 'toy-classification'")
    with pytest.raises(sm.SommelierError, match="classes"):
        other.execute("CREATE CASCADE FROM five TO big USING dataset = 'toys'")


def test_the_only_dataset_is_taken_whatever_its_labels_and_of_several_one_is_proposed(
    paths: dict[str, Path], tmp_path: Path
) -> None:
    items, labels = draw(SAMPLES, seed=11)
    np.savez(tmp_path / "two.npz", x=items, y=labels % 2)
    statement = "CREATE OR REPLACE CASCADE q FROM tiny TO big WITHIN 1% OF AGREEMENT"
    with sm.connect(tmp_path / "models.sommelier") as db:
        for name in ("tiny", "big"):
            db.execute(f"REGISTER MODEL {name} FROM '{paths[name]}' TASK 'toy-classification'")
        db.register_dataset("two", tmp_path / "two.npz", x="x", y="y", held_out=True)
        db.execute(statement)
        plain = db.catalog.cascade("q")
        db.execute(f"{statement} USING dataset = 'two'")
        assert plain.plan == db.catalog.cascade("q").plan
        db.register_dataset("again", tmp_path / "two.npz", x="x", y="y", held_out=True)
        with pytest.raises(sm.SommelierError, match="2 by position") as raised:
            db.execute(statement)
        assert "USING dataset = 'again'" in str(raised.value.hint)


def test_a_cancelled_statement_goes_on_where_it_was(other: sm.Connection) -> None:
    def stop(_phase: str, _done: int, _total: int | None, current: str | None) -> None:
        if current == "big":
            other.cancel()

    make = "CREATE CASCADE q FROM tiny TO big WITHIN 1%"
    with pytest.raises(CancelledError, match="CREATE CASCADE was cancelled") as raised:
        other.execute(make, progress=stop)
    assert "goes on from there" in str(raised.value.hint)
    assert other.catalog.cascade_names() == []
    other.execute(make)
    made = other.sql("SELECT model FROM job_tasks WHERE state = 'done' AND aspect = 'sketch'")
    assert sorted(made.rows) == [("big",), ("tiny",)]  # each once, in whichever job


# ---- in process


def test_a_cascade_runs_in_process_as_its_thresholds_say(
    db: sm.Connection, paths: dict[str, Path]
) -> None:
    db.execute(f"{MAKE} m FROM tiny TO big WITHIN 1% OF ACCURACY {USING}, score = 'margin'")
    items, _ = draw(100, seed=13)
    student, teacher = logits(paths["tiny"], items), logits(paths["big"], items)
    with db.cascade("m") as cascade:
        found = cascade.run(items)
        threshold = cascade.cascade.thresholds[0]
        cascade.cascade.thresholds = (2.0,)  # no margin is as wide
        assert (cascade.run(items).stage == 1).all()
    stays = margin(student) >= threshold
    np.testing.assert_array_equal(found.stage, np.where(stays, 0, 1))
    np.testing.assert_allclose(found.values, np.where(stays[:, None], student, teacher), rtol=1e-4)


# ---- SHOW, DESCRIBE, EXPLAIN, DROP


def test_a_cascade_tells_who_answers_what_and_what_was_proved(db: sm.Connection) -> None:
    (row,) = rows(db, "SHOW CASCADES LIKE 'quick'")
    assert (row["models"], row["promise"], row["at_most"]) == ("tiny -> big", "accuracy drop", 0.01)
    told = dict(db.execute("DESCRIBE CASCADE quick").rows)
    assert str(told["tiny"]).startswith("answers where ")
    assert told["run"] == "db.cascade('quick').run(items)"
    report = db.execute("EXPLAIN CASCADE quick")
    text = str(report)
    assert "accuracy alone" in text
    assert "of 5 scores it keeps most inputs within the promise" in text
    assert "(an estimate); at most 1% with confidence 95% (proved)" in text
    data = json.loads("\n".join(db.execute("EXPLAIN (FORMAT json) CASCADE quick").lines))
    assert data["plan"]["stages"][1]["threshold"] == "inf"
    assert db.sql("SELECT count(*) FROM cascade_stages WHERE cascade = 'quick'").rows == [(2,)]


def test_a_cascade_is_stale_once_a_model_answers_otherwise(other: sm.Connection) -> None:
    other.execute("CREATE CASCADE FROM tiny TO big WITHIN 1%")
    record = other.catalog.resolve("tiny")
    other.catalog.update_model(replace(record, task="other", note="told"))
    assert other.catalog.cascade("tiny_to_big").stale is None
    steps = sm.records.Preprocessing((("scale", {"by": 2.0}),))
    other.catalog.update_model(replace(record, preprocessing=steps))
    (row,) = rows(other, "SHOW CASCADES")
    assert row["state"] == "stale"
    with pytest.raises(BinderError, match="the model 'tiny' has changed since") as raised:
        other.cascade("tiny_to_big")
    assert str(raised.value.hint).startswith("CREATE OR REPLACE CASCADE tiny_to_big FROM tiny")
    other.catalog.update_model(record)
    with other.cascade("tiny_to_big") as cascade:
        assert cascade.run(draw(3, seed=1)[0]).values.shape == (3, CLASSES)


def test_a_dropped_cascade_is_gone(other: sm.Connection) -> None:
    other.execute("CREATE CASCADE q FROM tiny TO big WITHIN 1%")
    assert other.names("cascade") == ["q"]
    other.execute("DROP CASCADE q")
    (row,) = other.execute("DROP CASCADE IF EXISTS q").rows
    assert row[0] == "absent"
    with pytest.raises(UnknownNameError, match="q"):
        other.cascade("q")


# ---- SELECT CASCADES


def test_every_pair_of_stored_answers_is_looked_at(db: sm.Connection) -> None:
    db.execute(f"{MAKE} t FROM tiny TO small TO big WITHIN 2% {USING}")
    table = db.execute("SELECT CASCADES student, teacher WITHIN 2% USING dataset = 'toys'")
    assert set(table.rows) == {("tiny", "small"), ("tiny", "big"), ("small", "big")}
    assert any("for 3 pairs and all scores" in note for note in table.notes)
    table = db.execute("SELECT CASCADES teacher CORR big WITHIN 2% USING dataset = 'toys'")
    assert {row[0] for row in table.rows} == {"big"}


def test_a_pair_promises_what_its_own_calibration_at_that_confidence_does(
    db: sm.Connection,
) -> None:
    """Of one pair and five scores as CREATE CASCADE divides the risk, so thresholds are equal."""
    db.execute(f"{MAKE} t FROM tiny TO small TO big WITHIN 2% {USING}")
    found = rows(
        db,
        "SELECT CASCADES student, score, threshold, answered, accuracy_drop CORR big WITHIN 1%"
        " USING dataset = 'toys'",
    )
    by_student = {row["student"]: row for row in found}
    db.execute(f"{MAKE} same FROM tiny TO big WITHIN 1% {USING}, candidates = 2")
    kept = db.catalog.cascade("same")
    row = by_student["tiny"]
    assert kept.plan.stages[0].score == row["score"]
    assert kept.plan.stages[0].threshold == pytest.approx(float(str(row["threshold"])))
    assert kept.members[0].answered == pytest.approx(float(str(row["answered"])))
    assert kept.loss == pytest.approx(float(str(row["accuracy_drop"])))


def test_a_percent_in_on_is_a_share_of_the_rows_own_teacher(db: sm.Connection) -> None:
    every = rows(db, "SELECT CASCADES * WITHIN 2% USING dataset = 'toys'")
    for limit in (0.3, 0.6, 1.0):
        found = rows(
            db, f"SELECT CASCADES * WITHIN 2% ON flops < {limit:.0%} USING dataset = 'toys'"
        )
        wanted = [row for row in every if float(str(row["flops_share"])) < limit]
        assert found == wanted
    for row in every:
        share = float(str(row["flops"])) / float(str(row["teacher_flops"]))
        assert share == pytest.approx(float(str(row["flops_share"])))
    shares = [float(str(row["flops_share"])) for row in every]
    assert shares == sorted(shares)


def test_pairs_without_a_profile_never_match_and_are_counted(other: sm.Connection) -> None:
    other.execute("CREATE CASCADE FROM tiny TO big WITHIN 1%")
    sketch = other.sketches.get(other.catalog.resolve("tiny").id, other.catalog.probe_sets()[0].id)
    ghost = replace(other.catalog.resolve("tiny"), id="sha256:ghost", name="ghost", aliases=())
    other.catalog.add_model(ghost)
    other.sketches.add(replace(sketch, model_id=ghost.id))
    table = other.execute("SELECT CASCADES student, teacher CORR big WITHIN 2%")
    assert table.rows == [("tiny", "big")]
    assert "1 pair skipped: no profile of ghost; ANALYZE ghost FOR RESOURCES" in table.notes


def test_too_few_samples_for_so_many_pairs_are_told(db: sm.Connection) -> None:
    table = db.execute("SELECT CASCADES WITHIN 0.01% OF AGREEMENT USING dataset = 'toys'")
    needed = ceil(log(0.05 / 15) / log(0.9999))  # three pairs and five scores
    assert table.rows == []
    assert any(f"at least {needed} are needed" in note for note in table.notes)


def test_explain_tells_what_is_looked_at_before_it_is_chosen(db: sm.Connection) -> None:
    report = str(
        db.execute(
            "EXPLAIN ANALYZE SELECT CASCADES CORR big WITHIN 1% OF AGREEMENT ON flops < 70%"
            " WHERE answered > 10% USING dataset = 'toys'"
        )
    )
    assert "disagreement of at most 1% with confidence 95%" in report
    assert "flops_share < 70%" in report
    assert "rows" in report


def test_nobody_has_answered_yet(other: sm.Connection) -> None:
    with pytest.raises(BinderError, match="no model has answered samples") as raised:
        other.execute("SELECT CASCADES")
    assert "ANALYZE ALL FOR EQUIVALENCE" in str(raised.value.hint)


# ---- real models


@pytest.mark.zoo
@pytest.mark.slow
def test_a_small_residual_network_answers_before_a_larger_one(zoo: Path, tmp_path: Path) -> None:
    """CIFAR-10, on the data of the zoo; thresholds from 2 048 samples hold on 2 000 others."""
    card = Path(__file__).parent / "zoo_card.json"
    with sm.connect(tmp_path / "models.sommelier") as db:
        db.execute(
            f"IMPORT MODELS FROM folder '{zoo}/onnx/cifar10_resnet*.onnx' LIKE '%resnet_0'"
            f" USING card = '{card}'"
        )
        db.execute(
            f"IMPORT MODELS FROM folder '{zoo}/onnx/cifar10_resnet56.onnx' USING card = '{card}'"
        )
        db.register_dataset("cifar10", zoo / "data" / "cifar10_test.npz", held_out=True)
        made = db.execute(
            "CREATE CASCADE ladder FROM cifar10_resnet20 TO cifar10_resnet56 WITHIN 3% OF ACCURACY"
        )
        assert "an accuracy drop of at most 3%" in made.notes[0]
        stored = np.load(zoo / "data" / "cifar10_test.npz")
        kept = db.catalog.cascade("ladder")
        probes = db.catalog.probe_sets()[0]
        seen = np.random.default_rng(probes.seed).permutation(len(stored["x"]))
        fresh = np.sort(seen[-1000:])
        with db.cascade("ladder") as cascade:
            found = cascade.run(stored["x"][fresh])
            cascade.cascade.thresholds = (np.inf,)
            teacher = cascade.run(stored["x"][fresh])
    labels = stored["y"][fresh]
    right = [(answer.values.argmax(axis=1) == labels).mean() for answer in (found, teacher)]
    assert right[1] > 0.75
    assert right[1] - right[0] < 0.03 + 0.02  # two points of 1 000 samples' own noise
    assert (found.stage == 0).mean() == pytest.approx(kept.members[0].answered, abs=0.06)
