"""Real models behind a deployment: real images, two switches under load."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks.zoo_pairs import prepared
from sommelier.deployment_records import DeployedModel
from sommelier.runtime.deployment import RunningDeployment
from sommelier.runtime.session_cache import ServedModel, SessionCache
from tests.runtime.deploying import deployment, pool_of

pytestmark = pytest.mark.zoo
NAMES = ("cifar10_resnet56", "cifar10_resnet20")
IMAGES = 8


def test_real_models_answer_by_deadline_and_are_switched_under_load(
    zoo: Path, tmp_path: Path
) -> None:
    """Each answer is bit for bit that of the model it names, asked alone."""
    images = np.load(zoo / "data" / "cifar10_test.npz")["x"][:IMAGES]
    inputs = prepared(NAMES[0], images)
    files = {name: ServedModel.of_file(zoo / "onnx" / f"{name}.onnx") for name in NAMES}
    wanted = {}
    with pool_of(SessionCache(tmp_path)) as pool:
        for name, model in files.items():
            pool.add(model)
            with pool.lease(name) as predictor:
                given = predictor.inputs[0].name
                runs = [predictor.run(predictor.check({given: one[None]})) for one in inputs]
                wanted[name] = [next(iter(found.values())) for found in runs]
        deployed = [DeployedModel(NAMES[0], "id", 0.94), DeployedModel(NAMES[1], "id", 0.92)]
        both, one = deployment(deployed, sla_ms=1e4), deployment(deployed[1:], sla_ms=1e4)
        answers, stop = [], threading.Event()
        with RunningDeployment(both, files, pool) as running:
            assert running.wait_ready(60)
            known = running.inputs[0].name

            def send() -> None:
                k = 0
                while not stop.is_set():
                    k = (k + 1) % IMAGES
                    answers.append((k, running.submit({known: inputs[k][None]}).result(30)))

            threads = [threading.Thread(target=send) for _ in range(2)]
            for thread in threads:
                thread.start()
            for record in (one, both):
                time.sleep(1.0)
                assert running.replan(record, files).failed == {}
            time.sleep(1.0)
            stop.set()
            for thread in threads:
                thread.join(30)
            state = running.state()
    assert {answer.model for _, answer in answers} == set(NAMES)
    for k, answer in answers:
        assert np.array_equal(next(iter(answer.outputs.values())), wanted[answer.model][k])
    assert (state.answered, state.failed, state.rejected) == (len(answers), 0, {})
