"""DEPLOY CASCADE of models named by hand: from stored answers, samples of now, or the traffic."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

import sommelier as sm
from sommelier.errors import BinderError
from sommelier.runtime.deployment import RunningDeployment
from tests.cascade_models import CLASSES, FEATURES, draw, write_models
from tests.factories import regression_model, tiny_classifier

Array = NDArray[np.float64]
SAMPLES = 1500
LADDER = "tiny -> small -> big"


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "toys.npz"
    items, labels = draw(SAMPLES, seed=11)
    np.savez(path, x=items, y=labels)
    np.savez(path.with_name("bare.npz"), x=items)
    return path


@pytest.fixture(scope="module")
def answered(
    paths: dict[str, Path], data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[sm.Connection]:
    """All models answered the labelled samples."""
    with sm.connect(tmp_path_factory.mktemp("db") / "models.sommelier") as db:
        register(db, paths)
        db.register_dataset("toys", data, x="x", y="y", held_out=True)
        db.execute("ANALYZE ALL FOR EQUIVALENCE, ACCURACY, RESOURCES USING dataset = 'toys'")
        yield db


@pytest.fixture
def db(answered: sm.Connection) -> Iterator[sm.Connection]:
    yield answered
    for name in answered.catalog.deployment_names():
        answered.execute(f"UNDEPLOY {name}")


@pytest.fixture
def bare(paths: dict[str, Path], tmp_path: Path) -> Iterator[sm.Connection]:
    """Nothing was answered, and there is no dataset."""
    with sm.connect(tmp_path / "models.sommelier") as db:
        register(db, paths)
        yield db


def register(db: sm.Connection, paths: dict[str, Path]) -> None:
    for name, path in paths.items():
        db.execute(f"REGISTER MODEL {name} FROM '{path}' TASK 'toy-classification'")


def logits(path: Path, items: NDArray[np.float32]) -> Array:
    session = onnxruntime.InferenceSession(str(path))
    return np.asarray(session.run(None, {"x": items})[0], dtype=np.float64)


def scored(values: Array, score: str) -> Array:
    """By their definitions (tests of analysis.cascades.scores compare those with scipy)."""
    shares = np.exp(values - values.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    two = np.sort(shares, axis=1)[:, -2:]
    return {
        "margin": two[:, 1] - two[:, 0],
        "softmax": two[:, 1],
        "doctor": (shares**2).sum(axis=1),
        "entropy": (shares * np.log(shares)).sum(axis=1),
        "free_energy": np.log(np.exp(values).sum(axis=1)),
    }[score]


# ---- from stored answers


def test_each_model_sends_on_at_most_the_share_of_the_stored_samples(
    db: sm.Connection, paths: dict[str, Path]
) -> None:
    db.execute(f"DEPLOY CASCADE {LADDER} ESCALATE AT MOST 10% AS tiered")
    kept = db.catalog.deployment("tiered")
    assert kept.cascade is not None
    assert kept.cascade.promise is None
    items, _ = draw(SAMPLES, seed=11)
    left = np.arange(SAMPLES)
    for stage in kept.cascade.stages[:-1]:
        scores = scored(logits(paths[stage.model], items[left]), str(stage.score))
        sent = left[scores < stage.threshold]
        assert 0.1 * len(left) - 2 <= len(sent) <= 0.1 * len(left)
        assert stage.samples == len(left)
        left = sent


def test_it_says_that_nothing_is_proved_and_what_the_samples_say(
    db: sm.Connection, paths: dict[str, Path]
) -> None:
    made = db.execute("DEPLOY CASCADE tiny -> big ESCALATE AT MOST 20% AS tiered")
    items, labels = draw(SAMPLES, seed=11)
    stage = db.catalog.deployment("tiered").cascade.stages[0]  # type: ignore[union-attr]  # it is one
    student, teacher = (logits(paths[name], items) for name in ("tiny", "big"))
    stays = scored(student, str(stage.score)) >= stage.threshold
    right = np.where(stays, student.argmax(axis=1), teacher.argmax(axis=1)) == labels
    costs = [2 * FEATURES * 8 + 2 * 8 * CLASSES, 2 * 512 * (FEATURES + CLASSES)]
    share = costs[0] / costs[1] + 1 - stays.mean()
    told = " ".join(made.notes)
    assert "nothing is proved of its accuracy" in told
    assert f"estimates on {SAMPLES} samples of 'toys'" in told
    assert f"{100 * share:.4g}% of the FLOPs of big" in told
    assert f"accuracy {100 * right.mean():.4g}%" in told
    report = str(db.execute("EXPLAIN DEPLOY CASCADE tiny -> big ESCALATE AT MOST 20% AS x"))
    assert "proved     nothing" in report
    assert "at most 20% of what each model is asked; at first tiny where" in report
    described = dict(db.execute("DESCRIBE DEPLOYMENT tiered").rows)
    assert described["proved"] == "nothing"


def test_a_written_threshold_needs_no_samples_and_is_told_with_what_they_say(
    db: sm.Connection, paths: dict[str, Path]
) -> None:
    made = db.execute("DEPLOY CASCADE tiny -> big ESCALATE WHEN softmax < 0.8 AS careful")
    stage = db.catalog.deployment("careful").cascade.stages[0]  # type: ignore[union-attr]  # it is one
    assert (stage.score, stage.threshold) == ("softmax", 0.8)
    items, _ = draw(SAMPLES, seed=11)
    stays = (scored(logits(paths["tiny"], items), "softmax") >= 0.8).mean()
    assert any(f"tiny answers {100 * stays:.4g}%" in note for note in made.notes)


def test_without_escalate_the_error_says_what_exists_and_what_would_do(db: sm.Connection) -> None:
    with pytest.raises(BinderError, match="no cascade is kept") as raised:
        db.execute("DEPLOY CASCADE tiny -> big AS tiered")
    assert "CREATE CASCADE FROM tiny TO big" in str(raised.value.hint)
    assert "ESCALATE AT MOST 10%" in str(raised.value.hint)
    db.execute("CREATE CASCADE quick FROM tiny TO big WITHIN 2% USING dataset = 'toys'")
    with pytest.raises(BinderError, match=r"kept are quick \(tiny -> big\)"):
        db.execute("DEPLOY CASCADE small -> big AS tiered")
    db.execute("DROP CASCADE quick")


@pytest.mark.parametrize(
    ("escalate", "message"),
    [
        ("ESCALATE WHEN softmax < 80", "softmax lies between 0 and 1"),
        ("ESCALATE WHEN softmax > 0.8", "less sure where softmax is low"),
        ("ESCALATE AT MOST 120%", "between 0% and 100%"),
    ],
)
def test_impossible_conditions_are_refused(db: sm.Connection, escalate: str, message: str) -> None:
    with pytest.raises(BinderError, match=message):
        db.execute(f"DEPLOY CASCADE tiny -> big {escalate} AS x")


def test_a_kept_cascade_keeps_its_thresholds_and_says_where_they_are_lowered(
    db: sm.Connection,
) -> None:
    db.execute("CREATE CASCADE quick FROM tiny TO big WITHIN 1% USING dataset = 'toys'")
    plan = db.catalog.cascade("quick").plan
    made = db.execute("DEPLOY CASCADE tiny -> big AS a")
    assert db.catalog.deployment("a").cascade == plan
    assert any(note.startswith("proved on") for note in made.notes)
    made = db.execute("DEPLOY CASCADE tiny -> big ESCALATE AT MOST 5% AS b")
    assert any("sending on more than 5% from tiny" in note for note in made.notes)
    assert not any(note.startswith("proved on") for note in made.notes)
    assert any(f"estimates on {SAMPLES} samples" in note for note in made.notes)
    report = str(db.execute("EXPLAIN DEPLOY CASCADE quick ESCALATE AT MOST 5% AS c"))
    assert "proved     nothing" in report
    report = str(db.execute("EXPLAIN DEPLOY CASCADE quick ESCALATE AT MOST 99% AS c"))
    assert "while no threshold is lower than was proved" in report
    db.execute("DROP CASCADE quick")


def test_a_threshold_set_by_hand_below_what_was_proved_is_told(db: sm.Connection) -> None:
    db.execute("CREATE CASCADE quick FROM tiny TO big WITHIN 1% USING dataset = 'toys'")
    running = db.deploy("DEPLOY CASCADE quick AS a")
    assert running.cascade is not None
    before = dict(db.execute("DESCRIBE DEPLOYMENT a").rows)
    assert "set by hand" not in f"{before}"
    running.cascade.thresholds = (-1.0,)
    after = dict(db.execute("DESCRIBE DEPLOYMENT a").rows)
    assert after["proved"].startswith(before["proved"])
    assert after["proved"].endswith("not as it runs here, where thresholds were set by hand")
    assert after["warning"].startswith("thresholds were set by hand to -1: what was proved with ")
    db.execute("UNDEPLOY a")
    db.execute("DROP CASCADE quick")


def test_models_that_cannot_be_one_cascade_are_refused(tmp_path: Path) -> None:
    with sm.connect(":memory:") as db:
        tiny_classifier(tmp_path / "four.onnx", features=FEATURES, classes=4)
        tiny_classifier(tmp_path / "five.onnx", features=FEATURES, classes=5)
        regression_model(tmp_path / "number.onnx", features=FEATURES)
        db.execute(f"IMPORT MODELS FROM folder '{tmp_path}'")
        for other, why in {"five": "5 classes and four 4", "number": "choose a class"}.items():
            with pytest.raises(BinderError, match=why):
                db.execute(f"DEPLOY CASCADE four -> {other} ESCALATE AT MOST 10% AS x")
        for name, labels in {"first": "abcd", "other": "bacd"}.items():
            path = tmp_path / f"{name}.onnx"
            tiny_classifier(path, features=FEATURES, classes=4, labels=tuple(labels))
            db.execute(f"REGISTER MODEL {name} FROM '{path}'")
        with pytest.raises(BinderError, match="in another order"):
            db.execute("DEPLOY CASCADE first -> other ESCALATE AT MOST 10% AS x")


# ---- where nothing is stored


def test_deploy_lets_models_answer_samples_as_create_cascade_does_and_explain_does_not(
    bare: sm.Connection, data: Path
) -> None:
    bare.register_dataset("bare", data.with_name("bare.npz"), x="x", held_out=True)
    text = "DEPLOY CASCADE tiny -> big ESCALATE AT MOST 10% AS tiered"
    told = str(bare.execute(f"EXPLAIN {text}"))
    assert "DEPLOY lets the models answer samples first" in told
    assert bare.sql("SELECT count(*) FROM jobs").rows == [(0,)]
    made = bare.execute(text)
    assert any(f"on {SAMPLES} samples of 'bare'" in note for note in made.notes)
    assert any("another answer than big gives to" in note for note in made.notes)
    stage = bare.catalog.deployment("tiered").cascade.stages[0]  # type: ignore[union-attr]  # it is one
    assert stage.samples == SAMPLES
    assert bare.sql("SELECT count(*) FROM jobs").rows == [(1,)]
    bare.execute(text.replace("DEPLOY", "DEPLOY OR REPLACE", 1))
    assert bare.sql("SELECT count(*) FROM jobs").rows == [(1,)]  # they are stored


def test_without_any_samples_thresholds_follow_the_traffic(
    bare: sm.Connection, paths: dict[str, Path]
) -> None:
    made = bare.execute("DEPLOY CASCADE tiny -> big ESCALATE AT MOST 10% AS tiered")
    assert any("follow the traffic" in note for note in made.notes)
    assert any("nothing is proved" in note for note in made.notes)
    running = bare.deploy("tiered")
    loaded(running)
    items, _ = draw(3000, seed=4)
    stages = [running.infer({"x": items[k : k + 1]}).stage for k in range(len(items))]
    assert np.mean(stages[1500:]) == pytest.approx(0.1, abs=0.02)
    assert np.mean(stages) <= 0.1 + 0.1 / 0.01 / len(items) + 0.01
    (threshold,) = running.state().thresholds
    margins = scored(logits(paths["tiny"], items), "margin")
    assert threshold == pytest.approx(np.quantile(margins, 0.1), abs=0.12)


def test_a_written_threshold_is_kept_of_models_that_answer_probabilities(
    bare: sm.Connection, tmp_path: Path
) -> None:
    """How they answer is not known before they do: nothing is stored."""
    for seed, name in enumerate(("one", "two")):
        path = tiny_classifier(tmp_path / f"{name}.onnx", features=6, seed=seed, softmax=True)
        bare.execute(f"REGISTER MODEL {name} FROM '{path}'")
    running = bare.deploy("DEPLOY CASCADE one -> two ESCALATE WHEN softmax < 0.6 AS careful")
    loaded(running)
    items = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
    shares = logits(tmp_path / "one.onnx", items).max(axis=1)
    assert ((shares < 0.6).any(), (shares >= 0.6).any()) == (True, True)
    stages = [running.infer({"x": items[k : k + 1]}).stage for k in range(len(items))]
    assert stages == (shares < 0.6).astype(int).tolist()


# ---- while it runs


def loaded(running: RunningDeployment) -> None:
    end = time.monotonic() + 60
    while any(model.state != "ready" for model in running.state().models):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_it_is_planned_again_only_when_its_answers_change(bare: sm.Connection, data: Path) -> None:
    running = bare.deploy(f"DEPLOY CASCADE {LADDER} ESCALATE AT MOST 10% AS tiered")
    before = running.deployment
    bare.execute("ALTER MODEL tiny ADD TAG 'first'")
    bare.serving.check()
    assert running.deployment is before
    bare.register_dataset("toys", data, x="x", y="y", held_out=True)
    bare.execute("ANALYZE tiny, small, big FOR EQUIVALENCE USING dataset = 'toys'")
    bare.serving.check()
    assert running.deployment.cascade != before.cascade
    assert running.cascade is not None
    assert running.cascade.plan.stages[0].samples == SAMPLES
    bare.execute("UNDEPLOY tiered")
    assert bare.deployments() == ()


def test_simulate_takes_the_share_that_is_allowed(db: sm.Connection) -> None:
    db.execute("ANALYZE tiny, small, big FOR LATENCY")
    db.execute(f"DEPLOY CASCADE {LADDER} ESCALATE AT MOST 10% AS tiered UNDER latency < 50 ms")
    (row,) = db.execute("SIMULATE tiered ON TRACE 'poisson' USING periods = 2").dicts()
    assert row["policy"] == "in turn"
    shares = dict(part.rsplit(" ", 1) for part in str(row["models"]).split(", "))
    assert float(shares["tiny"].rstrip("%")) == pytest.approx(90, abs=5)
    assert row["refused"] == 0
    for option, why in (("policy = 'nonsense'", "says itself"), ("periods = 10001", "at most 10")):
        with pytest.raises(BinderError, match=why) as raised:
            db.execute(f"SIMULATE tiered ON TRACE 'poisson' USING {option}")
        assert raised.value.span is not None
    db.execute("DEPLOY CASCADE tiny -> big ESCALATE WHEN softmax < 0.8 AS careful")
    assert db.execute("SIMULATE careful ON TRACE 'poisson' USING periods = 2").rows


def test_simulate_takes_all_inputs_to_go_on_where_nothing_was_answered(
    bare: sm.Connection,
) -> None:
    bare.execute("ANALYZE tiny, big FOR LATENCY")
    bare.execute("DEPLOY CASCADE tiny -> big ESCALATE WHEN softmax < 0.8 AS careful")
    made = bare.execute("SIMULATE careful ON TRACE 'poisson' USING periods = 2")
    assert any("tiny is taken to send everything on" in note for note in made.notes)


@pytest.mark.zoo
def test_real_classifiers_keep_the_share_on_images_that_were_no_samples(
    tmp_path: Path, zoo: Path
) -> None:
    names = [f"cifar10_resnet{depth}" for depth in (20, 32, 56)]
    chain = " -> ".join(names)
    with sm.connect(tmp_path / "models.sommelier") as db:
        for name in names:
            db.execute(f"REGISTER MODEL {name} FROM '{zoo / 'onnx' / name}.onnx'")
        db.execute(
            f"REGISTER DATASET cifar10 FROM '{zoo / 'data' / 'cifar10_test.npz'}'"
            " USING x = 'x', y = 'y'"
        )
        db.execute("ANALYZE ALL FOR EQUIVALENCE USING dataset = 'cifar10', samples = 400")
        made = db.execute(f"DEPLOY CASCADE {chain} ESCALATE AT MOST 25% AS tiered")
        assert any("400 samples of 'cifar10'" in note for note in made.notes)
        running = db.deploy("tiered")
        loaded(running)
        with np.load(zoo / "data" / "cifar10_test.npz") as file:
            images = file["x"][-300:]
        stages = np.array([running.infer(images[k : k + 1]).stage for k in range(len(images))])
        reached = (stages >= 1).sum()
        # the start of a threshold over its step, and one: share_limit
        assert reached <= 0.25 * len(images) + 100 * running.deployment.cascade.thresholds[0] + 1  # type: ignore[union-attr]  # it is one
        assert reached / len(images) == pytest.approx(0.25, abs=0.08)
        assert (stages == 2).any()


def test_a_server_answers_with_it(paths: dict[str, Path], tmp_path: Path) -> None:
    """The serving process has no database: thresholds travel with the plan."""
    database = tmp_path / "models.sommelier"
    with sm.connect(database) as db:
        register(db, paths)
        db.execute("DEPLOY CASCADE tiny -> big ESCALATE AT MOST 10% AS tiered")
    command = [sys.executable, "-m", "sommelier", "serve", str(database), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            found = next(
                found for line in process.stderr
                if (found := re.search(r"http://127\.0\.0\.1:(\d+)", line))
            )  # fmt: skip
            asked = {"name": "x", "datatype": "FP32", "shape": [1, 8], "data": [1.0] * FEATURES}
            url = f"http://127.0.0.1:{found.group(1)}/v2/models/tiered/infer"
            body = json.dumps({"inputs": [asked]}).encode()
            with urllib.request.urlopen(url, body, timeout=60) as answer:
                parameters = json.load(answer)["parameters"]
            assert parameters["sommelier_model"] in ("tiny", "big")
            assert parameters["sommelier_stage"] in (0, 1)
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
    assert process.returncode == 0
