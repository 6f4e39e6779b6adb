"""A deployed plan answers as the plan does: what is executed, and what links predict."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import sommelier as sm
from sommelier.errors import InputError
from sommelier.runtime.deployment import RunningDeployment
from sommelier.runtime.session_cache import SessionCache
from tests.link_models import write_models, write_samples
from tests.runtime.deploying import deployment, pool_of

NAMES = ("digit_net", "speaker_net", "accent_net")
BUDGET = {"params": "7800"}  # of which one model has no room


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    path = tmp_path_factory.mktemp("data") / "fsdd.npz"
    return path, write_samples(path)


@pytest.fixture(scope="module")
def db(
    samples: tuple[Path, np.ndarray], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[sm.Connection]:
    folder = tmp_path_factory.mktemp("models")
    write_models(folder)
    with sm.connect(tmp_path_factory.mktemp("db") / "models.sommelier") as db:
        db.execute(f"IMPORT MODELS FROM folder '{folder}'")
        db.register_dataset("fsdd", samples[0], held_out=True)
        db.execute("ANALYZE ALL FOR RESOURCES")
        db.execute("CREATE POOL audio AS SELECT MODELS WHERE name <> 'pitch_net'")
        db.execute("ANALYZE POOL audio FOR LINKS USING dataset = 'fsdd', samples = 500")
        yield db


@pytest.mark.slow
def test_a_deployed_plan_answers_as_the_plan_itself(
    db: sm.Connection, samples: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    x = samples[1][:40]
    with db.plan(NAMES, budget=BUDGET) as plan:
        wanted = plan.run(x)
    record = deployment((), kind="plan", plan="edge")
    with (
        pool_of(SessionCache(tmp_path)) as pool,
        RunningDeployment(record, {}, pool, plan=db.plan(NAMES, budget=BUDGET)) as running,
    ):
        assert running.ready
        together = running.infer(x)
        with ThreadPoolExecutor(4) as threads:  # a plan is for one thread: they take turns
            parts = list(threads.map(lambda k: running.infer(x[k : k + 10]), range(0, 40, 10)))
        assert set(together.predicted) == {n for n, a in wanted.items() if not a.executed}
        assert together.predicted
        assert [n for n, _ in together.runs] == [40] * sum(a.executed for a in wanted.values())
        assert sum(ms for _, ms in together.runs) == pytest.approx(together.infer_ms)
        for name, answer in wanted.items():
            np.testing.assert_allclose(together.outputs[name], answer.values, rtol=1e-5)
            joined = np.concatenate([part.outputs[name] for part in parts])
            np.testing.assert_allclose(joined, answer.values, rtol=1e-4, atol=1e-6)
        one = running.infer(x[:1], outputs=["accent_net"])
        assert tuple(one.outputs) == ("accent_net",)
        assert one.predicted == ("accent_net",)
        with pytest.raises(InputError, match="'accent'"):
            running.infer(x, outputs=["accent"])
        with pytest.raises(InputError, match="no inputs for"):
            running.infer({"digit_net": x})
        with pytest.raises(InputError, match="the inputs are NoneType, not an array"):
            running.infer(None)  # type: ignore[arg-type]  # which is the mistake
        assert running.state().answered == 6


def test_a_server_follows_its_database_beside_a_plan(
    db: sm.Connection, samples: tuple[Path, np.ndarray]
) -> None:
    """A plan needs the database in the process; it is dropped as others are, not switched."""
    from sommelier.shell.following import Follower
    from sommelier.shell.served import ServedDatabase
    from sommelier.shell.serving_plan import Wanted, serving_plan

    db.execute("CREATE PLAN edge AS SELECT PLAN FOR POOL audio ON params < 7800")
    db.execute("DEPLOY PLAN edge AS all_three")
    db.execute("DEPLOY MODEL digit_net AS digits")
    wanted = Wanted(db.path, None, (), None)
    plan = serving_plan(wanted)
    assert plan.with_database == ("all_three",)
    served = ServedDatabase(wanted)
    service = served.start(plan)
    follower = Follower(wanted, served, plan, write=False)
    try:
        found = {running.name: running for running in service.deployments}
        assert found["all_three"].infer(samples[1][:4]).predicted
        assert found["digits"].infer(samples[1][:4]).model == "digit_net"
        db.execute("DEPLOY OR REPLACE MODEL accent_net AS digits")
        db.execute("UNDEPLOY all_three")
        assert follower.look()
        assert service.names == ("digits",)
        assert found["digits"].infer(samples[1][:4]).model == "accent_net"
        assert found["all_three"].state().status == "closed"
    finally:
        follower.close()
        served.close()
