"""A student that CREATE CASCADE trains: calibrated on other samples, kept, described, deployed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import sqrt
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

import sommelier as sm
from sommelier.connection.scale_out import served
from sommelier.errors import (
    AnalysisError,
    BinderError,
    CancelledError,
    QueryError,
    UnknownNameError,
)
from sommelier.runtime.server.protocol import InferRequest
from tests.asking import rows
from tests.cascade_models import CLASSES, TRUTH, draw, write_models
from tests.factories import class_id_model

pytest.importorskip("torch")

POPULAR = (3, 1)
NAMES = ["ant", "bee", "cat", "dog"]
USING = "USING dataset = 'toys', student = 'specialised', epochs = 8"
MAKE = "CREATE OR REPLACE CASCADE"


def mixed(count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """(items, labels), of which three in four are of the popular classes."""
    items, labels = draw(3 * count, seed)
    often = np.isin(labels, POPULAR)
    chosen = np.concatenate([
        np.flatnonzero(often)[: 3 * count // 4], np.flatnonzero(~often)[: count // 4]
    ])  # fmt: skip
    chosen = np.random.default_rng(seed).permutation(chosen)
    return items[chosen], labels[chosen]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "toys.npz"
    items, labels = mixed(4000, seed=11)
    np.savez(path, x=items, y=labels)
    np.savez(path.with_name("bare.npz"), x=items)
    np.savez(path.with_name("few.npz"), x=items[:150], y=labels[:150])
    return path


def opened(folder: Path, paths: dict[str, Path], data: Path) -> sm.Connection:
    db = sm.connect(folder / "models.sommelier")
    for name in ("small", "big"):
        db.execute(f"REGISTER MODEL {name} FROM '{paths[name]}' TASK 'toy-classification'")
    names = folder / "names.txt"
    names.write_text("\n".join(NAMES), encoding="utf-8")
    db.execute(f"ALTER MODEL big SET labels = '{names}'")
    for name in ("toys", "bare", "few"):
        y = None if name == "bare" else "y"
        db.register_dataset(name, data.with_name(f"{name}.npz"), x="x", y=y, held_out=True)
    return db


@pytest.fixture(scope="module")
def db(
    paths: dict[str, Path], data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[sm.Connection]:
    with opened(tmp_path_factory.mktemp("db"), paths, data) as db:
        db.execute(f"CREATE CASCADE quick FROM small TO big WITHIN 2% {USING}, classes = 'dog, 1'")
        yield db


@pytest.fixture
def other(paths: dict[str, Path], data: Path, tmp_path: Path) -> Iterator[sm.Connection]:
    """A database of its own, where nothing was trained."""
    with opened(tmp_path, paths, data) as db:
        yield db


def answers(path: Path, items: NDArray[np.float32]) -> NDArray[np.float64]:
    session = onnxruntime.InferenceSession(str(path))
    return np.asarray(session.run(None, {"x": items})[0], dtype=np.float64)


def student_file(db: sm.Connection, name: str = "quick_student") -> Path:
    return db.artifacts.path(str(db.catalog.resolve(name).artifact))


def underlined(error: QueryError) -> str:
    assert error.text is not None
    assert error.span is not None
    return error.text[error.span.start : error.span.end]


# ---- what is trained


def test_the_student_is_a_model_of_the_database_like_any_other(db: sm.Connection) -> None:
    (found,) = rows(db, "SELECT MODELS name, flops, params CORR big > 10% WHERE name <> 'small'")
    assert found["name"] == "quick_student"
    assert found["flops"] is not None
    record, big = db.catalog.resolve("quick_student"), db.catalog.resolve("big")
    assert (record.source, record.label_space_id) == ("specialised", big.label_space_id)
    assert record.outputs[0].name == big.outputs[0].name
    accuracy = [m for m in db.catalog.measurements(record.id) if m.metric == "accuracy"]
    assert len(accuracy) == 1
    lineage = db.sql("SELECT parent, relation, provenance FROM lineage ORDER BY 2").rows
    assert lineage == [
        ("big", "distilled from", "built"), ("small", "specialised from", "built"),
    ]  # fmt: skip
    told = dict(db.execute("DESCRIBE quick_student").rows)
    assert (told["specialised from"], told["distilled from"]) == ("small", "big")


def test_the_promise_holds_on_inputs_that_neither_training_nor_calibration_saw(
    db: sm.Connection, paths: dict[str, Path]
) -> None:
    items, labels = mixed(20_000, seed=12)
    with db.cascade("quick") as cascade:
        found = cascade.run(items)
    alone = answers(paths["big"], items).argmax(axis=1)
    drop = (alone == labels).mean() - (found.values.argmax(axis=1) == labels).mean()
    assert drop < 0.02
    kept = db.catalog.cascade("quick")
    share = kept.members[0].answered
    assert share is not None
    assert 0.4 < share < 0.8  # three in four are of the classes it knows
    samples = kept.plan.promise.samples if kept.plan.promise else 0
    noise = 4 * sqrt(share * (1 - share) / samples)
    assert (found.stage == 0).mean() == pytest.approx(share, abs=noise)


def test_what_the_student_takes_for_another_class_is_sent_on(
    db: sm.Connection, paths: dict[str, Path]
) -> None:
    items, _ = mixed(4000, seed=13)
    own = answers(student_file(db), items).argmax(axis=1)
    other = ~np.isin(own, POPULAR)
    with db.cascade("quick") as cascade:
        found = cascade.run(items)
    assert 0.1 < other.mean() < 0.4
    assert (found.stage[other] == 1).all()
    assert np.isin(found.values.argmax(axis=1)[found.stage == 0], POPULAR).all()


def test_training_and_calibration_share_no_sample(db: sm.Connection) -> None:
    kept = db.catalog.cascade("quick")
    probes = next(p for p in db.catalog.probe_sets() if p.id == kept.probe_set_id)
    detail = db.sql("SELECT detail FROM lineage LIMIT 1").rows[0][0]
    learned = json.loads(str(detail))
    assert probes.samples == 2000  # half: 2 048 would be more
    assert learned["samples"] + probes.samples == 4000
    assert (learned["labelled"], learned["classes"]) == (learned["samples"], [3, 1])


def test_explain_tells_how_the_student_came_about(db: sm.Connection) -> None:
    text = str(db.execute("EXPLAIN CASCADE quick"))
    assert "cascade   quick: quick_student -> big" in text
    assert (
        "made of small and trained on 2000 samples of 'toys' that calibration did not see" in text
    )
    assert "by what big answers and 2000 labels" in text
    assert "it knows classes dog, bee: 7" in text
    assert "(an estimate); at most 2% with confidence 95% (proved)" in text
    statement = db.catalog.cascade("quick").statement
    assert statement.startswith("CREATE OR REPLACE CASCADE quick FROM small TO big")
    assert "student = 'specialised'" in statement


@pytest.mark.slow
def test_without_labels_the_teacher_is_enough(other: sm.Connection) -> None:
    made = other.execute(
        "CREATE CASCADE bare FROM small TO big WITHIN 3% USING dataset = 'bare',"
        " student = 'specialised', epochs = 8, popular = 70%"
    )
    assert any("by what big answers, without labels" in note for note in made.notes)
    frequent = [note for note in made.notes if "bee" in note and "dog" in note]
    assert len(frequent) == 1
    assert "ant" not in frequent[0].split(":")[0]
    assert any("falls by no more" in note for note in made.notes)
    ignored = other.execute(f"CREATE CASCADE c FROM small TO big WITHIN 3% {USING}, labels = false")
    assert any("without labels" in note for note in ignored.notes)


@pytest.mark.slow
def test_the_seed_decides_the_student(other: sm.Connection) -> None:
    using = "USING dataset = 'toys', student = 'specialised', epochs = 2, classes = 'dog, bee'"
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        other.execute(f"CREATE CASCADE {name} FROM small TO big WITHIN 10% {using}, seed = {seed}")
    ids = [other.catalog.cascade(name).members[0].model_id for name in "abc"]
    assert ids[0] == ids[1] != ids[2]
    assert other.catalog.cascade("b").names[0] == "a_student"  # the same bytes are the same model


@pytest.mark.slow
def test_another_dataset_to_learn_from_leaves_all_samples_to_calibration(
    other: sm.Connection,
) -> None:
    made = other.execute(
        "CREATE CASCADE q FROM small TO big WITHIN 5% USING dataset = 'toys', samples = 4000,"
        " student = 'specialised', training = 'few', epochs = 8"
    )
    assert any("trained on 150 samples of 'few'" in note for note in made.notes)
    promise = other.catalog.cascade("q").plan.promise
    assert promise is not None
    assert promise.samples == 4000


# ---- put to work


def test_a_deployment_asks_the_student_first(db: sm.Connection, paths: dict[str, Path]) -> None:
    db.execute("DEPLOY CASCADE quick AS tiered USING batch = 64")
    items, _ = mixed(60, seed=14)
    with db.cascade("quick") as cascade:
        wanted = cascade.run(items).stage
    running = db.deploy("tiered")
    running.wait_ready(60.0)
    found = running.infer({"x": items})
    assert found.stages == tuple(wanted.tolist())
    assert {0, 1} == set(found.stages)
    teacher = answers(paths["big"], items)
    sent = wanted == 1
    np.testing.assert_allclose(found.outputs["logits"][sent], teacher[sent], rtol=1e-4)


def test_a_server_answers_with_the_student_and_its_teacher(db: sm.Connection) -> None:
    """What `sommelier serve` and each replica put behind HTTP and gRPC."""
    db.execute("DEPLOY CASCADE quick AS asked USING batch = 64")
    items, _ = mixed(40, seed=15)
    with db.cascade("quick") as cascade:
        wanted = cascade.run(items)
    with served(db.path, ("asked",)) as service:
        found = service.infer(InferRequest("asked", {"x": items}))
    assert found.outputs["logits"].shape == (40, CLASSES)
    assert (found.outputs["logits"].argmax(axis=1) == wanted.values.argmax(axis=1)).all()
    assert (found.parameters["sommelier_stage"], found.parameters["sommelier_model"]) == (1, "big")


# ---- what is refused, and what is left then


def test_a_promise_that_is_not_kept_leaves_nothing_and_does_not_train_twice(
    other: sm.Connection,
) -> None:
    heard: list[tuple[str, int]] = []

    def listen(phase: str, done: int, _total: int | None, _current: str | None) -> None:
        heard.append((phase, done))

    with pytest.raises(BinderError, match="too few") as raised:
        other.execute(f"CREATE CASCADE q FROM small TO big WITHIN 0.1% {USING}", progress=listen)
    assert "does not train again" in str(raised.value.hint)
    assert ("training", 8) in heard
    assert other.catalog.cascade_names() == []
    with pytest.raises(UnknownNameError):
        other.catalog.resolve("q_student")
    heard.clear()
    other.execute(f"CREATE CASCADE q FROM small TO big WITHIN 5% {USING}", progress=listen)
    assert {done for phase, done in heard if phase == "training"} == {0}
    assert other.catalog.cascade("q").names == ("q_student", "big")
    assert not list((other.catalog.directory / "students").iterdir())


def test_a_cancelled_training_leaves_nothing(other: sm.Connection) -> None:
    def stop(phase: str, done: int, _total: int | None, _current: str | None) -> None:
        if phase == "training" and done >= 2:
            other.cancel()

    long = USING.replace("epochs = 8", "epochs = 4000")
    with pytest.raises(CancelledError, match="CREATE CASCADE was cancelled"):
        other.execute(f"CREATE CASCADE q FROM small TO big WITHIN 5% {long}", progress=stop)
    assert other.catalog.cascade_names() == []
    assert {model.name for model in other.catalog.models()} == {"small", "big"}
    assert not list((other.catalog.directory / "students").iterdir())
    state = other.sql("SELECT state FROM jobs ORDER BY id DESC LIMIT 1").rows
    assert state == [("cancelled",)]


@pytest.mark.slow
def test_a_student_is_replaced_where_that_is_asked_and_no_other_model(db: sm.Connection) -> None:
    again = f"FROM small TO big WITHIN 3% {USING}, classes = 'dog', seed = 1"
    with pytest.raises(BinderError, match="cascade 'quick' exists"):
        db.execute(f"CREATE CASCADE quick {again}")
    (row,) = db.execute(f"CREATE CASCADE IF NOT EXISTS quick {again}").rows
    assert row[0] == "exists"
    db.execute(f"CREATE CASCADE twice {again}")
    before = db.catalog.resolve("twice_student").id
    (row,) = db.execute(f"{MAKE} twice {again.replace('seed = 1', 'seed = 2')}").rows
    assert row[0] == "replaced"
    assert db.catalog.resolve("twice_student").id != before
    db.execute("DROP CASCADE twice")
    with pytest.raises(BinderError, match="a model is called 'twice_student'") as raised:
        db.execute(f"CREATE CASCADE twice {again}")
    assert "OR REPLACE" in str(raised.value.hint)
    db.execute("DROP MODEL twice_student")


@pytest.mark.parametrize(
    ("statement", "message", "words"),
    [
        ("FROM small TO big USING classes = 'dog'", "of a student that is trained", "classes"),
        (f"FROM small TO big {USING}, classes = 'dgo'", "big has no class 'dgo'", "classes"),
        (f"FROM small TO big {USING}, classes = 'dog, 3'", "class dog is named twice", "classes"),
        (f"FROM small TO big {USING}, classes = '7'", "4 classes, numbered from 0", "classes"),
        (f"FROM small TO big {USING}, classes = 'ant,bee,cat,dog'", "here are all", "classes"),
        (f"FROM small TO big {USING}, popular = 0%", "above 0%", "popular"),
        (f"FROM small TO big {USING}, samples = 3950", "leaves 50 for the student", None),
        (f"FROM small TO big {USING}, training = 'toyz'", "toyz", None),
        ("FROM small TO big USING student = 'special'", "student", "'special'"),
    ],
)
def test_mistakes_are_told(
    db: sm.Connection, statement: str, message: str, words: str | None
) -> None:
    with pytest.raises(sm.SommelierError, match=message) as raised:
        db.execute(f"CREATE CASCADE wrong {statement}")
    if words is not None:
        assert isinstance(raised.value, QueryError)
        assert underlined(raised.value).startswith(words)
    assert "wrong" not in db.catalog.cascade_names()


def test_models_that_cannot_be_student_or_teacher_are_refused(
    other: sm.Connection, paths: dict[str, Path], tmp_path: Path
) -> None:
    other.execute(f"REGISTER MODEL tiny FROM '{paths['tiny']}' TASK 'toy-classification'")
    with pytest.raises(BinderError, match="has one teacher, and here are 3 models"):
        other.execute(f"CREATE CASCADE FROM tiny TO small TO big {USING}")
    path = class_id_model(tmp_path / "ids.onnx", features=TRUTH.shape[0], classes=CLASSES)
    other.execute(f"REGISTER MODEL ids FROM '{path}' TASK 'toy-classification'")
    with pytest.raises(AnalysisError, match="ids answers with class numbers alone"):
        other.execute(f"CREATE CASCADE q FROM small TO ids {USING}")
