"""A stage of a cascade that cannot answer: what was proved is kept, or said not to be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sommelier.analysis.links.formats import AnswerFormat
from sommelier.cascade_records import CascadePlan, CascadePromise, CascadeStage
from sommelier.deployment_records import DeployedModel, Deployment, DeploymentOptions
from sommelier.engine import show_deployments
from sommelier.errors import RejectedError
from sommelier.runtime.answers import Answer
from sommelier.runtime.cascade import Cascade
from sommelier.runtime.deployment import RunningDeployment
from sommelier.runtime.interface import Inputs
from sommelier.runtime.jobs import Job
from sommelier.runtime.policy import Decision, PooledModel, PoolState, Request
from sommelier.runtime.session_cache import ServedModel, SessionCache
from sommelier.runtime.staging import CascadePolicy, Progress
from sommelier.runtime.telemetry import Telemetry
from tests.runtime.deploying import X, deployed, deployment, ladder, pool_of
from tests.runtime.test_dispatcher import fragile

NAMES = ("small", "middle", "large")
NEVER, ALWAYS = 2.0, -1.0  # as a threshold of the margin: it is never reached, or always
PROMISE = CascadePromise("disagreement", 0.02, 0.95, 1000)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ServedModel]:
    return ladder(tmp_path_factory.mktemp("models"))


def cascade(
    small: float, middle: float, *, promise: CascadePromise | None = PROMISE, **changes: Any
) -> Deployment:
    """small -> middle -> large, with thresholds of the margin."""
    form = AnswerFormat("classes", 3, "logits").to_json()
    stages = tuple(
        CascadeStage(name, score, threshold, format=form)
        for name, score, threshold in zip(
            NAMES, ("margin", "margin", None), (small, middle, np.inf), strict=True
        )
    )
    given = {"models": deployed(*NAMES), **changes}
    return deployment(kind="cascade", cascade=CascadePlan(stages, promise), **given)


def without(name: str, files: dict[str, ServedModel], folder: Path) -> dict[str, ServedModel]:
    return {**files, name: ServedModel(name, folder / "gone.onnx", "id")}


def answered(running: RunningDeployment, **wishes: Any) -> Answer:
    assert running.wait_ready(60)
    return running.infer({"x": X}, **wishes)


def test_the_last_model_answers_in_place_of_a_stage_that_cannot_be_loaded(
    tmp_path: Path, cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    """What middle keeps was tested only of inputs that small had sent on."""
    record, models = cascade(NEVER, ALWAYS), without("small", files, tmp_path)
    with pool_of(cache) as pool, RunningDeployment(record, models, pool) as running:
        found = answered(running)
        assert (found.model, found.stage) == ("large", 2)
        assert "small is not loaded" in found.reason
        assert "what was proved holds" in found.reason


def test_where_nothing_was_proved_the_next_stage_is_asked(
    tmp_path: Path, cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    record, models = cascade(NEVER, ALWAYS, promise=None), without("small", files, tmp_path)
    with pool_of(cache) as pool, RunningDeployment(record, models, pool) as running:
        found = answered(running)
        assert (found.model, found.stage) == ("middle", 1)
        assert "small is not loaded" in found.reason
        assert "proved" not in found.reason


def test_a_model_that_fails_on_a_request_is_replaced_by_the_last(
    tmp_path: Path, cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    models = {**files, "small": replace(fragile(tmp_path), name="small")}
    with (
        pool_of(cache) as pool,
        RunningDeployment(cascade(NEVER, ALWAYS), models, pool) as running,
    ):
        assert answered(running).model == "middle"
        found = running.infer({"x": 100 * X})
        assert found.model == "large"
        assert "small failed" in found.reason


def test_a_stage_that_is_not_accurate_enough_is_left_out_with_those_behind_it_but_the_last(
    cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    with (
        pool_of(cache) as pool,
        RunningDeployment(cascade(NEVER, ALWAYS), files, pool) as running,
    ):
        found = answered(running, min_accuracy=0.92)
        assert found.model == "large"
        assert "the accuracy of small is 90%, less than the 92% asked for" in found.reason


def test_who_is_refused_for_the_accuracy_is_told_so(
    cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    known = deployed(*NAMES)
    models = (*known[:2], DeployedModel("large", "id", None))
    record = cascade(NEVER, ALWAYS, models=models)
    with pool_of(cache) as pool, RunningDeployment(record, files, pool) as running:
        with pytest.raises(RejectedError) as raised:
            answered(running, min_accuracy=0.92)
        assert raised.value.status == 503
        assert "the accuracy of small is 90%, less than the 92% asked for" in raised.value.message
        assert "the accuracy of large is unknown" in raised.value.message
        assert "loaded" not in raised.value.message


COLD = DeploymentOptions(warm=0)


def test_while_a_stage_is_loaded_the_last_one_answers_and_no_other(
    cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    record = cascade(NEVER, ALWAYS, options=COLD)
    with pool_of(cache) as pool, RunningDeployment(record, files, pool) as running:
        for name in ("middle", "large"):
            pool.load(name)
        assert running.infer({"x": X}).model == "large"


def test_a_request_waits_for_the_stage_where_the_last_one_is_not_loaded_either(
    cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    record = cascade(NEVER, ALWAYS, options=COLD)
    with pool_of(cache) as pool, RunningDeployment(record, files, pool) as running:
        pool.load("middle")
        found = running.infer({"x": X})
        assert found.model == "middle"
        assert "the score before it was" in found.reason  # small was asked


# ---- the fallback


def test_a_fallback_that_answers_out_of_turn_says_that_nothing_is_promised_of_it(
    cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    record = cascade(NEVER, ALWAYS, options=COLD, fallback="middle")
    with pool_of(cache) as pool, RunningDeployment(record, files, pool) as running:
        pool.load("middle")
        found = running.infer({"x": X})
        assert found.model == "middle"
        assert "what was proved does not hold for this answer" in found.reason
        assert any("what was proved does not hold" in line for line in running.state().warnings)


@pytest.mark.parametrize("promise", [PROMISE, None])
def test_the_answer_of_a_fallback_stands_where_the_last_model_cannot_be_loaded(
    promise: CascadePromise | None,
    tmp_path: Path,
    cache: SessionCache,
    files: dict[str, ServedModel],
) -> None:
    record = cascade(NEVER, NEVER, promise=promise, fallback="small")
    models = without("large", files, tmp_path)
    with pool_of(cache) as pool, RunningDeployment(record, models, pool) as running:
        running.wait_ready(60)
        found = running.infer({"x": X}, deadline_ms=20_000)
        assert found.model == "small"
        told = "what was proved does not hold for this answer"
        assert (told in found.reason) == (promise is not None)


def test_an_answer_that_stands_for_want_of_time_is_told_and_counted(
    cache: SessionCache, files: dict[str, ServedModel]
) -> None:
    models = deployed(*NAMES, small=0.1, middle=1e6, large=1e6)
    record = cascade(NEVER, NEVER, models=models, fallback="small")
    with pool_of(cache) as pool, RunningDeployment(record, files, pool) as running:
        found = answered(running, deadline_ms=20_000)
        assert found.model == "small"
        assert "the time left is too short" in found.reason
        assert "what was proved does not hold for this answer" in found.reason
        (warning,) = running.state().warnings
        assert warning.startswith("1 answer of small stood though it was not sure")


# ---- switching


def test_a_request_between_two_stages_begins_again_with_the_cascade_that_is_switched_to() -> None:
    plan = cascade(NEVER, NEVER).cascade
    assert plan is not None
    old, new = Cascade(plan), Cascade(plan)
    job = Job(Inputs({"x": X}, 1, {}, frozenset()), None, Job.cancel)
    job.progress = Progress(old, np.arange(1), np.zeros(1), np.zeros(1), stage=1, last_score=0.1)
    telemetry = Telemetry()
    pool = PoolState(tuple(PooledModel(n, 0.9, telemetry.estimate(n)) for n in NAMES))
    for owner, model in ((old, "middle"), (new, "small")):
        found = CascadePolicy(owner, {}).choose(Request(0.0, payload=job), pool, 0.0)
        assert isinstance(found, Decision)
        assert found.model == model


def test_what_is_said_to_be_proved_leaves_out_the_fallback() -> None:
    told = show_deployments.proved(cascade(NEVER, NEVER, fallback="small"))
    assert told == (
        "disagreement of at most 2% with confidence 95%, but for what small answers as the fallback"
    )
    plain = "disagreement of at most 2% with confidence 95%"
    assert show_deployments.proved(cascade(NEVER, NEVER, fallback="large")) == plain
    assert show_deployments.proved(cascade(NEVER, NEVER)) == plain
