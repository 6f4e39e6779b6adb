"""Deployments through statements: planned, kept, started, planned again, measured, simulated."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import sommelier as sm
from sommelier.errors import (
    BinderError,
    MemoryBudgetError,
    ParserError,
    QueryError,
    ReadOnlyError,
    RejectedError,
    UnknownNameError,
)
from sommelier.records import Measurement, Provenance
from sommelier.runtime.deployment import RunningDeployment
from sommelier.runtime.pool_entries import READY
from tests.asking import rows
from tests.factories import embedding_model, regression_model, tiny_classifier

FEATURES, CLASSES, SAMPLES = 8, 4, 400
NOISE = {"big": 0.0, "mid": 0.4, "small": 1.2}
MEDIANS_MS = {"big": 10.0, "mid": 4.0, "small": 1.0}
P99 = 1.2  # of the median

Floats = NDArray[np.float32]


def fill(db: sm.Connection, folder: Path) -> Floats:
    """Three classifiers, the slower the more accurate, with labelled samples; the samples.

    Latencies are written down, not measured: what is promised is compared with them.
    """
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(FEATURES, CLASSES))
    models = folder / "models"
    models.mkdir()
    for name, noise in NOISE.items():
        own = weights + noise * rng.normal(size=weights.shape)
        tiny_classifier(models / f"{name}.onnx", weights=(own, np.zeros(CLASSES)))
    samples = rng.normal(size=(SAMPLES, FEATURES)).astype(np.float32)
    np.savez(folder / "toy.npz", x=samples, y=(samples @ weights).argmax(axis=1))
    db.execute(f"IMPORT MODELS FROM folder '{models}'")
    db.register_dataset("toy", folder / "toy.npz", held_out=True)
    db.execute("ANALYZE ALL FOR EQUIVALENCE, ACCURACY USING dataset = 'toy'")
    for name, median in MEDIANS_MS.items():
        time_model(db, name, median)
    return samples


def time_model(db: sm.Connection, name: str, median_ms: float) -> None:
    """What ANALYZE ... FOR LATENCY would have written."""
    id_ = db.catalog.resolve(name).id
    db.catalog.add_measurements(
        Measurement(
            id_, "latency", value, Provenance.MEASURED, "onnxruntime",
            device="cpu", batch=1, percentile=percentile, threads=1,
        )
        for percentile, value in ((50, median_ms), (99, P99 * median_ms))
    )  # fmt: skip


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[sm.Connection, Floats]]:
    folder = tmp_path_factory.mktemp("deployments")
    with sm.connect(folder / "models.sommelier") as db:
        yield db, fill(db, folder)


@pytest.fixture
def db(filled: tuple[sm.Connection, Floats]) -> Iterator[sm.Connection]:
    db, _ = filled
    yield db
    for name in db.catalog.deployment_names():
        db.execute(f"UNDEPLOY {name}")


@pytest.fixture
def samples(filled: tuple[sm.Connection, Floats]) -> Floats:
    return filled[1]


# ---- planned


def test_the_models_of_a_question_are_deployed_with_what_is_known_of_them(
    db: sm.Connection,
) -> None:
    db.execute("DEPLOY MODELS small, big, mid AS vision UNDER latency < 100 ms AT p99")
    kept = db.catalog.deployment("vision")
    assert [model.name for model in kept.models] == ["big", "mid", "small"]
    assert (kept.sla_ms, kept.quantile, kept.dataset) == (100.0, 0.99, "toy")
    for model in kept.models:
        (own,) = rows(db, f"SELECT MODELS accuracy ON 'toy' AS a WHERE name = '{model.name}'")
        assert model.accuracy == own["a"]
        sigma = np.log(P99) / 2.3263478740408408  # the 99th percentile of a standard normal
        median = MEDIANS_MS[model.name]
        assert model.mean_ms == pytest.approx(median * np.exp(sigma**2 / 2))
        mean = median * np.exp(sigma**2 / 2)
        assert model.std_ms == pytest.approx((P99 * median - mean) / 2.3263478740408408)


def test_without_labels_accuracy_is_agreement_with_the_reference(db: sm.Connection) -> None:
    text = "(SELECT MODELS CORR big AGREEMENT >= 10% USING include_reference = true)"
    db.execute(f"DEPLOY {text} AS vision USING dataset = 'toy'")
    labelled = {m.name: m.accuracy for m in db.catalog.deployment("vision").models}
    assert labelled["big"] == 1.0
    found = {m.name: m.accuracy for m in db.catalog.deployment("vision").models}
    # big is right on every sample, so that agreeing with it and being right are the same share
    (mid,) = rows(db, "SELECT MODELS agreement CORR big AGREEMENT >= 0% WHERE name = 'mid'")
    assert found["mid"] == pytest.approx(mid["agreement"])


@pytest.mark.parametrize(
    ("question", "models", "told"),
    [
        ("CORR big AGREEMENT >= 10%", {"big", "mid", "small"}, "big, the reference, answers too"),
        ("CORR big AGREEMENT >= 100%", {"big"}, "big, the reference, answers too"),
        ("CORR big AGREEMENT >= 10% ON latency < 100%", {"mid", "small"}, "the question excludes"),
        ("CORR big AGREEMENT >= 10% ON latency <= 100%", {"big", "mid", "small"}, "answers too"),
        ("CORR big AGREEMENT >= 10% WHERE name != 'big'", {"mid", "small"}, "FALLBACK TO adds it"),
        ("CORR big AGREEMENT >= 10% LIMIT 1", {"mid"}, "PICK and LIMIT choose among the others"),
        ("CORR big AGREEMENT >= 10% PICK MOST SIMILAR", {"mid"}, "PICK and LIMIT choose"),
        ("CORR big AGREEMENT >= 10% USING include_reference = false", {"mid", "small"}, None),
    ],
)
def test_the_reference_answers_too_unless_the_question_excludes_it(
    db: sm.Connection, question: str, models: set[str], told: str | None
) -> None:
    made = db.execute(f"DEPLOY (SELECT MODELS {question}) AS vision")
    assert {model.name for model in db.catalog.deployment("vision").models} == models
    said = [note for note in made.notes if "big" in note and ("answer" in note)]
    assert told is None or any(told in note for note in said)


def test_models_that_cannot_keep_a_promise_are_left_out_and_named(db: sm.Connection) -> None:
    found = db.execute("DEPLOY MODELS big, mid, small AS vision UNDER latency < 5 ms AT p99")
    assert [m.name for m in db.catalog.deployment("vision").models] == ["mid", "small"]
    assert any("left out" in note and "big 12 ms" in note for note in found.notes)


def test_the_fallback_stays_whatever_it_can_keep(db: sm.Connection) -> None:
    db.execute("DEPLOY MODELS big, mid AS vision UNDER accuracy >= 99% FALLBACK TO small")
    kept = db.catalog.deployment("vision")
    assert kept.fallback == "small"
    assert [m.name for m in kept.models] == ["big", "small"]


@pytest.mark.parametrize(
    ("statement", "error", "said", "underlined"),
    [
        ("DEPLOY MODELS big, bg AS v", UnknownNameError, "'bg'", "bg"),
        ("DEPLOY MODELS big, big AS v", BinderError, "named twice", "big"),
        ("DEPLOY POOL nothing AS v", UnknownNameError, "pool", "POOL nothing"),
        ("DEPLOY PLAN nothing AS v", UnknownNameError, "plan", "PLAN nothing"),
        ("DEPLOY CASCADE nothing AS v", UnknownNameError, "cascade", "nothing"),
        ("DEPLOY MODEL big AS v ROUTE BY balnced", UnknownNameError, "policy", "balnced"),
        ("DEPLOY MODEL big AS v USING hedroom = 1", BinderError, "hedroom", "hedroom = 1"),
        ("DEPLOY MODEL big AS v ROUTE BY balanced USING headroom = 7", BinderError, "headroom",
         "headroom = 7"),
        ("DEPLOY MODEL big AS v UNDER latnecy < 4 ms", BinderError, "latnecy", "latnecy"),
        ("DEPLOY MODEL big AS v UNDER latency < 4", BinderError, "4 what", "4"),
        ("DEPLOY MODEL big AS v UNDER latency < 50%", BinderError, "own unit", "50%"),
        ("DEPLOY MODEL big AS v UNDER accuracy >= 90% AT p99", BinderError, "AT belongs", "AT p99"),
        ("DEPLOY MODEL big AS v UNDER latency < 50 ms AT p0", BinderError, "promises nothing",
         "AT p0"),
        ("DEPLOY MODEL big AS v UNDER latency < 5 ms AT p99", BinderError,
         "the nearest is big with 12 ms", "latency < 5 ms AT p99"),
        ("DEPLOY MODEL mid AS v UNDER accuracy >= 99%", BinderError, "the nearest is mid",
         "accuracy >= 99%"),
        ("DEPLOY MODEL big AS v UNDER memory < 9 B", BinderError, "fits into",
         "memory < 9 B"),
        ("DEPLOY CASCADE big -> mid AS v", BinderError, "nothing says when big sends an input on",
         "CASCADE big -> mid"),
        ("DEPLOY MODEL $m AS v", BinderError, "planned again", "$m"),
        ("SIMULATE nothing ON TRACE 'burst-v1'", UnknownNameError, "nothing", "SIMULATE"),
        ("DEPLOY MODEL big AS v USING device = 'tpu'", BinderError, "'tpu'", "device = 'tpu'"),
        ("DEPLOY MODEL big AS v USING device = 'cuda:77'", BinderError, "'cuda:77'", "device"),
        ("DEPLOY MODEL big AS v USING device = 'cuda:x'", BinderError, "'cuda:x'", "device"),
        ("EXPLAIN DEPLOY MODEL big AS v USING device = 'tpu'", BinderError, "'tpu'", "device"),
        ("DEPLOY MODEL big AS v USING servers = 100000", BinderError, "at most 256", "servers"),
        ("DEPLOY MODEL big AS v USING threads = 1000", BinderError, "at most 256", "threads"),
        ("DEPLOY MODEL big AS v USING keep_alive = 0 s", BinderError, "at least 1 s", "keep_alive"),
    ],
)  # fmt: skip
def test_a_mistake_is_underlined_where_it_is(
    db: sm.Connection, statement: str, error: type[QueryError], said: str, underlined: str
) -> None:
    with pytest.raises(error) as caught:
        db.execute(statement)
    assert said in caught.value.message
    span = caught.value.span
    assert span is not None
    assert statement[span.start : span.end].startswith(underlined)


def test_a_device_that_is_refused_says_which_there_are(db: sm.Connection) -> None:
    with pytest.raises(BinderError) as caught:
        db.execute("DEPLOY MODEL big AS v USING device = 'tpu'")
    assert "there is cpu" in str(caught.value.hint)
    db.execute("DEPLOY MODEL big AS v USING device = 'cpu'")
    assert db.deploy("v").deployment.options.device == "cpu"


def test_models_of_other_inputs_or_answers_are_refused(tmp_path: Path) -> None:
    with sm.connect(":memory:") as db:
        tiny_classifier(tmp_path / "four.onnx", features=4)
        tiny_classifier(tmp_path / "five.onnx", features=5)
        tiny_classifier(tmp_path / "classes.onnx", features=4, classes=7)
        regression_model(tmp_path / "number.onnx", features=4)
        embedding_model(tmp_path / "vector.onnx")
        db.execute(f"IMPORT MODELS FROM folder '{tmp_path}'")
        for other, why in {
            "five": "a request cannot be for both",
            "classes": "7 classes",
            "number": "answers",
            "vector": "a",
        }.items():
            with pytest.raises(BinderError, match=why):
                db.execute(f"DEPLOY MODELS four, {other} AS v")


# ---- kept


def test_a_deployment_is_kept_with_its_statement(db: sm.Connection) -> None:
    text = "DEPLOY MODELS big, mid AS vision UNDER SLA latency < 50 ms AT p99 ROUTE BY balanced"
    db.execute(f"{text} USING headroom = 0.4, queue = 7, keep_alive = 2 min")
    kept = db.catalog.deployment("vision")
    assert kept.statement == (
        "DEPLOY OR REPLACE MODELS big, mid AS vision UNDER SLA latency < 50 ms AT p99 "
        "ROUTE BY balanced USING headroom = 0.4, queue = 7, keep_alive = 2 min"
    )
    assert (kept.policy, kept.knobs) == ("balanced", {"headroom": 0.4})
    assert (kept.options.queue, kept.options.keep_alive_s) == (7, 120.0)
    with pytest.raises(BinderError, match="exists"):
        db.execute(text)
    (shown,) = rows(db, "SHOW DEPLOYMENTS")
    assert shown["promise"] == "latency < 50 ms at p99"
    assert shown["state"] == "not running here"
    described = {str(row["property"]): row["value"] for row in rows(db, "DESCRIBE vision")}
    assert described["statement"] == kept.statement
    (view,) = rows(db, "SELECT name, models, sla_ms FROM deployments")
    assert view == {"name": "vision", "models": "big, mid", "sla_ms": 50.0}


def test_explain_says_what_would_be_deployed_and_deploys_nothing(db: sm.Connection) -> None:
    report = db.execute("EXPLAIN DEPLOY MODELS big, mid AS vision UNDER latency < 50 ms AT p99")
    assert "latency < 50 ms at p99" in str(report)
    assert [model["name"] for model in report.data["models"]] == ["big", "mid"]
    assert db.catalog.deployment_names() == []


# ---- started


def wait_loaded(running: RunningDeployment) -> None:
    """Until every model is loaded: before, whoever is answers for the others."""
    end = time.monotonic() + 60
    while any(model.state != READY for model in running.state().models):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_deployment_answers_what_its_model_answers_and_says_why(
    db: sm.Connection, samples: Floats
) -> None:
    running = db.deploy("DEPLOY MODELS big, mid AS vision ROUTE BY fixed USING model = 'mid'")
    assert db.deploy("vision") is running
    assert db.deployments() == (running,)
    wait_loaded(running)
    answer = running.infer({"x": samples[:3]}, deadline_ms=60_000)
    alone = db.model("mid").load().run(None, {"x": samples[:3]})[0]
    np.testing.assert_array_equal(answer.outputs["scores"], alone)
    assert answer.model == "mid"
    assert answer.reason


def test_a_fixed_model_is_named_and_nobody_stands_in_for_it(
    db: sm.Connection, samples: Floats
) -> None:
    db.execute("DEPLOY MODELS small, big, mid AS vision ROUTE BY fixed USING warm = 1")
    kept = db.catalog.deployment("vision")
    assert kept.knobs == {"model": "big"}  # the most accurate
    assert {model.stand_ins for model in kept.models} == {()}
    running = db.deploy("DEPLOY OR REPLACE MODELS small, big AS vision ROUTE BY fixed USING"
                        " model = 'small', warm = 1")  # fmt: skip
    answers = [running.submit({"x": samples[:1]}) for _ in range(20)]
    assert {answer.result(60).model for answer in answers} == {"small"}


def test_a_change_of_the_catalog_plans_again_and_loses_no_request(
    db: sm.Connection, samples: Floats
) -> None:
    db.execute("ALTER MODEL big ADD TAG 'served'")
    running = db.deploy("DEPLOY (SELECT MODELS WHERE tags HAS 'served') AS vision")
    assert [model.name for model in running.deployment.models] == ["big"]
    tickets = [running.submit({"x": samples[:1]}) for _ in range(50)]
    db.execute("ALTER MODEL mid ADD TAG 'served'")
    db.serving.check()
    assert [model.name for model in running.deployment.models] == ["big", "mid"]
    tickets += [running.submit({"x": samples[:1]}) for _ in range(50)]
    answers = [ticket.result(timeout=60) for ticket in tickets]
    assert {answer.model for answer in answers} <= {"big", "mid"}


def test_a_latency_that_hardly_changed_switches_nothing(db: sm.Connection) -> None:
    running = db.deploy("DEPLOY MODELS big, mid AS vision")
    before = running.deployment
    time_model(db, "mid", 1.1 * MEDIANS_MS["mid"])
    db.serving.check()
    assert running.deployment is before
    time_model(db, "mid", 3 * MEDIANS_MS["mid"])
    db.serving.check()
    known = {model.name: model.mean_ms for model in running.deployment.models}
    assert known["mid"] == pytest.approx(3 * MEDIANS_MS["mid"], rel=0.01)
    time_model(db, "mid", MEDIANS_MS["mid"])


def test_a_deployment_that_can_no_longer_be_planned_goes_on_and_says_so(
    db: sm.Connection, samples: Floats
) -> None:
    db.execute("CREATE OR REPLACE POOL two AS SELECT MODELS WHERE name IN ('big', 'mid')")
    running = db.deploy("DEPLOY POOL two AS vision")
    db.execute("DROP POOL two")
    db.serving.check()
    assert any("two" in warning for warning in running.state().warnings)
    assert running.infer({"x": samples[:1]}, deadline_ms=60_000).model in ("big", "mid")


def test_undeploy_ends_what_runs_here(db: sm.Connection, samples: Floats) -> None:
    running = db.deploy("DEPLOY MODELS big, mid AS vision")
    db.execute("UNDEPLOY vision")
    assert db.deployments() == ()
    with pytest.raises(RejectedError):
        running.infer({"x": samples[:1]})
    with pytest.raises(UnknownNameError):
        db.execute("UNDEPLOY vision")
    assert db.execute("UNDEPLOY IF EXISTS vision").rows[0][0] == "absent"


def test_options_of_the_pool_wait_until_nothing_runs_and_that_is_told(
    db: sm.Connection, samples: Floats
) -> None:
    running = db.deploy("DEPLOY MODEL big AS vision")
    told = db.execute("DEPLOY MODEL small AS other USING batch = 16, servers = 2").notes
    assert any(note.startswith("batch, servers take effect once none") for note in told)
    running.close()
    other = db.deploy("other")
    assert other.pool.settings.batch == 16
    assert other.pool.rules.servers == 2
    ((_, answers),) = other.infer({"x": np.repeat(samples[:1], 16, axis=0)}).outputs.items()
    assert len(answers) == 16
    again = db.execute("DEPLOY OR REPLACE MODEL small AS other USING batch = 16, servers = 2").notes
    assert not any("take effect" in note for note in again)


def test_a_deployment_kept_from_a_machine_with_another_device_fails_alone(
    db: sm.Connection, samples: Floats
) -> None:
    db.execute("DEPLOY MODEL big AS vision")
    kept = db.catalog.deployment("vision")
    away = replace(
        kept, name="away", options=replace(kept.options, device="cuda:77"),
        statement="DEPLOY OR REPLACE MODELS big AS away USING device = 'cuda:77'",
    )  # fmt: skip
    db.catalog.save_deployment(away)
    running = db.deploy("vision")
    assert running.infer({"x": samples[:1]}).model == "big"
    failed = db.deploy("away")
    assert failed.state().status == "failed"
    assert "cuda:77" in str(failed.state().models[0].reason)
    shown = {row["name"]: row["state"] for row in rows(db, "SHOW DEPLOYMENTS")}
    assert shown == {"away": "failed", "vision": "ready"}
    db.serving.check()  # the catalog has changed: both are planned again
    assert running.infer({"x": samples[:1]}).model == "big"
    assert db.execute("DEPLOY MODEL small AS third").notes
    assert db.deploy("third").infer({"x": samples[:1]}).model == "small"


def test_what_a_deployment_promises_of_memory_holds_beside_those_that_promise_nothing(
    db: sm.Connection, samples: Floats
) -> None:
    free = db.deploy("DEPLOY MODEL big AS free")
    sizes = {s.name: s.host_bytes for s in free.pool.states()}
    most = round(1.5 * sizes["big"])
    bound = db.deploy(f"DEPLOY MODELS big, mid, small AS bound UNDER memory < {most} B")
    for name in ("small", "mid", "big", "mid"):
        with suppress(MemoryBudgetError):  # the others were loaded just now
            bound.pool.load(name, timeout_s=60)
        assert bound.pool.host_bytes() <= most
    assert bound.infer({"x": samples[:1]}, deadline_ms=60_000).model in ("big", "mid", "small")


def test_or_replace_goes_on_as_the_new_statement_says(db: sm.Connection, samples: Floats) -> None:
    running = db.deploy("DEPLOY MODEL big AS vision")
    db.execute("DEPLOY OR REPLACE MODEL small AS vision")
    assert db.deployments() == (running,)
    assert running.infer({"x": samples[:1]}, deadline_ms=60_000).model == "small"


# ---- measured


def test_what_serving_measured_is_a_column_and_adds_up_over_runs(
    db: sm.Connection, samples: Floats
) -> None:
    asked = "SELECT MODELS name, served_latency, served_p99, served_requests WHERE name = 'small'"

    def serve(requests: int) -> None:
        running = db.deploy("DEPLOY OR REPLACE MODELS small AS counted")
        for _ in range(requests):
            running.infer({"x": samples[:1]}, deadline_ms=60_000)
        db.serving.stop("counted")

    serve(1)  # other deployments had requests too, of one sample or of several
    before = rows(db, asked)[0]["served_requests"]
    serve(10)
    serve(10)
    (found,) = rows(db, asked)
    assert float(str(found["served_requests"])) == float(str(before)) + 20
    assert 0 < float(str(found["served_latency"])) <= 10 * float(str(found["served_p99"]))
    (kept,) = db.catalog.served("counted")
    assert kept.requests == 21
    never = rows(db, "SELECT MODELS name WHERE served_latency IS NULL ORDER BY name")
    assert "small" not in [row["name"] for row in never]


def test_a_read_only_connection_serves_and_writes_nothing(tmp_path: Path) -> None:
    with sm.connect(tmp_path / "models.sommelier") as db:
        inputs = fill(db, tmp_path)
        db.execute("DEPLOY MODELS big, mid AS vision")
    with sm.connect(tmp_path / "models.sommelier", read_only=True) as reader:
        answer = reader.deploy("vision").infer({"x": inputs[:1]}, deadline_ms=60_000)
        assert answer.model in ("big", "mid")
        with pytest.raises(ReadOnlyError):
            reader.execute("UNDEPLOY vision")
    with sm.connect(tmp_path / "models.sommelier") as db:
        assert db.catalog.served() == []


# ---- simulated


@pytest.mark.parametrize(
    ("policy", "knob"),
    [("balanced", "headroom"), ("chance_constrained", "sla_prob"),
     ("drift_plus_penalty", "reject_below")],
)  # fmt: skip
def test_a_share_of_a_policy_may_be_written_in_percent(
    db: sm.Connection, policy: str, knob: str
) -> None:
    for value in ("50%", "0.5"):
        text = (
            f"DEPLOY OR REPLACE MODELS big, mid AS vision ROUTE BY {policy} USING {knob} = {value}"
        )
        db.execute(text)
        assert db.catalog.deployment("vision").knobs == {knob: 0.5}


def test_a_simulation_is_decided_by_its_seed(db: sm.Connection) -> None:
    db.execute("DEPLOY MODELS big, mid, small AS vision UNDER latency < 50 ms AT p99")
    text = "SIMULATE vision ON TRACE 'burst-v1' USING periods = 4, seed = 3"
    assert db.execute(text).rows == db.execute(text).rows
    assert db.execute(text).rows != db.execute(text.replace("3", "4")).rows


def test_a_simulation_compares_all_policies_the_best_first(db: sm.Connection) -> None:
    db.execute("DEPLOY MODELS big, mid, small AS vision UNDER latency < 50 ms AT p99")
    found = rows(db, "SIMULATE vision ON TRACE 'burst-v1' USING periods = 4, policy = 'all'")
    by_policy = {row["policy"]: row for row in found}
    right = [float(str(row["right_in_time"])) for row in found]
    assert right == sorted(right, reverse=True)
    fixed, balanced = by_policy["fixed"], by_policy["balanced"]
    assert float(str(balanced["p90"])) < float(str(fixed["p90"]))
    assert float(str(balanced["sla_met"])) > 0.99


def test_a_trace_may_be_a_file_of_instants(db: sm.Connection, tmp_path: Path) -> None:
    db.execute("DEPLOY MODELS big, small AS vision UNDER latency < 50 ms")
    arrivals = np.arange(20) * 100.0  # nobody ever waits: ten times what big takes
    (tmp_path / "a.csv").write_text("who,arrived_ms\n" + "".join(f"x,{a}\n" for a in arrivals))
    np.savez(tmp_path / "a.npz", arrived_ms=arrivals)
    csv = db.execute(f"SIMULATE vision ON TRACE '{tmp_path / 'a.csv'}'")
    npz = db.execute("SIMULATE vision ON TRACE $file", {"file": str(tmp_path / "a.npz")})
    assert csv.rows == npz.rows
    (row,) = csv.dicts()
    assert (row["requests"], row["refused"], row["models"]) == (20, 0, "big 100%")
    (tmp_path / "b.csv").write_text("soon\n")
    for bad in ("b.csv", "none.csv"):
        with pytest.raises(BinderError):
            db.execute(f"SIMULATE vision ON TRACE '{tmp_path / bad}'")


def test_a_misspelled_clause_says_what_was_meant(db: sm.Connection) -> None:
    with pytest.raises(ParserError):
        db.execute("DEPLOY POOL edge")


@pytest.mark.zoo
def test_real_classifiers_are_deployed_and_answer_raw_images(tmp_path: Path, zoo: Path) -> None:
    with sm.connect(tmp_path / "models.sommelier") as db:
        db.execute(f"IMPORT MODELS FROM folder '{zoo / 'onnx'}' LIKE 'cifar10_resnet%' LIMIT 2")
        db.execute(
            f"REGISTER DATASET cifar10 FROM '{zoo / 'data' / 'cifar10_test.npz'}'"
            " USING x = 'x', y = 'y'"
        )
        db.execute("ANALYZE ALL FOR LATENCY, ACCURACY USING dataset = 'cifar10', samples = 100")
        running = db.deploy("DEPLOY MODELS cifar10_resnet20, cifar10_resnet32 AS vision")
        with np.load(zoo / "data" / "cifar10_test.npz") as data:
            images = data["x"][:8]
        answer = running.infer(images, deadline_ms=120_000)
        (scores,) = answer.outputs.values()
        assert scores.shape == (8, 10)
        assert np.isfinite(scores).all()
        assert all(model.accuracy is not None for model in running.deployment.models)
        assert all(model.mean_ms is not None for model in running.deployment.models)
