"""Candidates trained side by side: the same for one worker as ever, repeatable for several, and no
process outlives its search."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from sommelier.analysis.fusion import FusedModule
from sommelier.analysis.fusion.search import Limits, SearchOptions, SearchResult, search
from sommelier.analysis.fusion.search.annealing import Annealing
from sommelier.analysis.fusion.search.attempts import attempt
from sommelier.analysis.fusion.search.costs import CostModel
from sommelier.analysis.fusion.search.gain_first import GainFirst
from sommelier.analysis.fusion.search.options import FINALISTS
from sommelier.analysis.fusion.search.shared_trunk import AllShared
from sommelier.analysis.fusion.search.state import STATE, Elite, State
from sommelier.analysis.fusion.search.study import Study
from sommelier.analysis.fusion.search.trainers import FILE, dealt, trainers_of
from sommelier.analysis.sandbox import Sandbox
from sommelier.errors import AnalysisError, WorkerCrashedError
from sommelier.fusion_records import FusionStep
from tests.analysis.fusion.digit_tasks import Digits, digits, keep, stored
from tests.analysis.fusion.test_search import SHORT, TRAINING, weight_files

PAIR = replace(
    SHORT, workers=2, epochs=40, steps=6, tolerance=0.1, training=replace(TRAINING, epochs=3)
)
GONE_S = 10.0  # a trainer looks every second whether its search is there; torch may be loading


@pytest.fixture(scope="module")
def study() -> Digits:
    return digits()


@pytest.fixture(scope="module")
def pair(study: Digits, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """PAIR without a break."""
    return _found(study, PAIR, tmp_path_factory.mktemp("pair"))


def _found(study: Digits, options: SearchOptions, folder: Path) -> dict[str, Any]:
    return _plain(search(study.models, study.few, options, folder=folder), folder)


def _plain(found: SearchResult, folder: Path) -> dict[str, Any]:
    """Everything but times, as JSON has it; weights and models to the last bit."""
    digest = hashlib.sha256()
    for path in sorted(folder.glob("step*.npz")):
        with np.load(path) as stored_weights:
            for name in sorted(stored_weights.files):
                digest.update(name.encode() + stored_weights[name].tobytes())
    models = (f.model.SerializeToString(deterministic=True) for f in found.finalists)
    whole = {
        "trace": [asdict(replace(step, elapsed_ms=None)) for step in found.trace],
        "weights": digest.hexdigest(),
        "finalists": [hashlib.sha256(model).hexdigest() for model in models],
    }
    return dict(json.loads(json.dumps(whole)))


def _study(study: Digits, options: SearchOptions) -> Study:
    module = FusedModule.original(study.models)
    return Study(study.models, study.few, options, CostModel.of(study.models), module)


def _trainers() -> list[psutil.Process]:
    """Those of this process."""
    return [p for p in psutil.Process().children(recursive=True) if _trains(p)]


def _trains(process: psutil.Process) -> bool:
    try:
        return "sommelier.analysis.sandbox_worker" in process.cmdline()
    except psutil.Error:
        return False


def _until(true: Callable[[], bool], seconds: float = 60.0) -> bool:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def _gone(processes: Iterable[psutil.Process]) -> bool:
    return not psutil.wait_procs(list(processes), timeout=GONE_S)[1]


# ---- what is proposed


@pytest.mark.parametrize("count", [1, 2, 3])
def test_gain_first_divides_the_bracket_into_equal_quotients(study: Digits, count: int) -> None:
    method = GainFirst(_study(study, PAIR))
    state = replace(State(), floor=0.3)
    shares = [0.3, *(goal.share for goal in method.goals(state, count)), 1.0]
    quotients = np.divide(shares[1:], shares[:-1])
    np.testing.assert_allclose(quotients, (1 / 0.3) ** (1 / (count + 1)), rtol=1e-12)
    limited = GainFirst(_study(study, replace(PAIR, limits=Limits(flops=0.4))))
    assert all(goal.share <= 0.4 for goal in limited.goals(state, count))


def test_what_is_to_stand_by_takes_one_place_of_a_round(study: Digits) -> None:
    method = GainFirst(_study(study, PAIR))
    original = method.study.module.graph
    elite = Elite(0, original, {}, 0.4, 0.0)  # alone, at two thirds of the steps
    late = replace(State(), step=4, elites=(elite,), best=elite, floor=0.3)
    first, second = method.goals(late, 2)
    assert first.share == method.lacking(late) == pytest.approx(0.4 * 1.3)
    assert first.most > 0.4 > second.most
    assert second.share == pytest.approx((0.3 * 0.4) ** 0.5)
    assert method.goals(late, 1) == [first]
    assert method.goals(replace(late, step=0), 1) == [second]


def test_a_search_without_faster_candidates_looks_for_what_stands_by_before_it_ends(
    study: Digits,
) -> None:
    method = GainFirst(_study(study, PAIR))
    elite = Elite(0, method.study.module.graph, {}, 0.4, 0.0)
    dry = FusionStep(1, "filtered")
    found = replace(State(), step=2, elites=(elite,), best=elite, trace=(dry,))
    assert method.lacking(replace(found, trace=())) is None  # early, and others are to be tried
    assert method.goals(found, 1)[0].share == method.lacking(found) == pytest.approx(0.4 * 1.3)
    assert not method.exhausted(found)
    assert method.exhausted(replace(found, step=3, trace=(dry, dry)))
    slower = replace(elite, step=3, share=0.55)
    assert method.exhausted(replace(found, elites=(elite, slower)))


def test_as_many_stand_by_as_there_are_other_finalists_where_the_tolerance_is_chance(
    study: Digits,
) -> None:
    method = GainFirst(_study(study, replace(PAIR, tolerance=0.0)))
    elite = Elite(0, method.study.module.graph, {}, 0.2, 0.0)
    slower = [replace(elite, step=n, share=0.2 * 1.3**n) for n in range(1, FINALISTS)]
    dry = replace(State(), step=9, best=elite, trace=(FusionStep(1, "filtered"),))
    assert method.lacking(replace(dry, elites=(elite, *slower[:-1]))) == pytest.approx(0.2 * 1.3**3)
    assert method.lacking(replace(dry, elites=(elite, *slower))) is None


def test_candidates_of_a_round_are_different_graphs(study: Digits) -> None:
    options = replace(PAIR, workers=4)
    for method in (
        GainFirst(_study(study, options)), Annealing(_study(study, options)),
        AllShared(_study(study, options)),
    ):  # fmt: skip
        proposals = method.proposals(State(), 4)
        assert len(proposals) == min(4, len(getattr(method, "graphs", range(4))))
        chosen = [{child.graph.signature for child in asked.children} for asked in proposals]
        assert sum(map(len, chosen)) == len(set.union(*chosen))
        assert len({asked.seed for asked in proposals}) == len(proposals)


def test_annealing_proposes_what_it_would_draw_next(study: Digits) -> None:
    method = Annealing(_study(study, PAIR))
    together = method.proposals(State(), 3)
    state = State()
    for proposal in together:
        assert method.proposals(state, 1) == [proposal]
        tried = state.tried | {proposal.children[0].key}
        state = replace(state, step=state.step + 1, tried=tried)


def test_what_is_left_is_divided_among_a_round(study: Digits) -> None:
    options = replace(
        SHORT, workers=4, epochs=100, steps=None, training=replace(TRAINING, epochs=9)
    )
    asked = _study(study, options)
    for spent in range(75):
        state = replace(State(), epochs=spent)
        count = asked.room(state)
        left = asked.left(asked.allowance(state, count))
        assert count * left <= 75 - spent  # a quarter is for finalists
        assert count == 1 or left >= 4
    few = _study(study, replace(options, epochs=None, steps=7))
    assert [few.room(replace(State(), step=step)) for step in (0, 4, 6)] == [4, 3, 1]


# ---- training side by side


def test_a_trainer_answers_as_this_process_does(study: Digits) -> None:
    asked = _study(study, PAIR)
    proposals = GainFirst(asked).proposals(State(), 2)
    allowance = asked.allowance(State(), 2)
    with trainers_of(asked, None) as trainers:
        assert trainers is not None
        theirs = trainers.attempts(proposals, allowance, bool, bool)
        assert len(trainers.pids) == 2
        running = _trainers()
    assert _gone(running)
    for proposal, their in zip(proposals, theirs, strict=True):
        ours = attempt(asked, proposal, allowance)
        assert their is not None
        assert replace(their, weights=None) == replace(ours, weights=None)
        assert (their.weights is None) == (ours.weights is None)
        for name, weight in (ours.weights or {}).items():
            np.testing.assert_array_equal(weight, (their.weights or {})[name])


@pytest.mark.slow
def test_two_workers_come_to_the_same_again(
    study: Digits, pair: dict[str, Any], tmp_path: Path
) -> None:
    found = search(study.models, study.few, PAIR, folder=tmp_path)
    assert _plain(found, tmp_path) == pair
    assert found.best is not None
    assert [step.step for step in found.trace] == list(range(len(found.trace)))
    assert len(found.trace) == 5  # steps after which three quarters are used, 4.5 of 6
    assert found.epochs + sum(f.epochs for f in found.finalists) <= PAIR.epochs
    assert {p.name for p in tmp_path.iterdir()} == {STATE, *weight_files(tmp_path, found)}
    assert not _trainers()


def test_the_number_of_workers_belongs_to_the_search(study: Digits, tmp_path: Path) -> None:
    search(study.models, study.few, replace(SHORT, steps=1), folder=tmp_path)
    with pytest.raises(AnalysisError, match="holds the search of other models"):
        search(study.models, study.few, replace(SHORT, steps=1, workers=2), folder=tmp_path)
    with pytest.raises(AnalysisError, match="0 workers"):
        replace(SHORT, workers=0)


def test_a_budget_of_seconds_ends_a_round(study: Digits) -> None:
    """The trainers have hardly begun when it is over, and are ended."""
    endless = replace(TRAINING, epochs=100_000, predictor=None)
    options = SearchOptions(tolerance=0.0, budget_s=8.0, seed=1, runs=5, workers=2,
                            training=endless)  # fmt: skip
    found = search(study.models, study.few, options)
    assert found.stopped == "budget"
    assert found.elapsed_ms < 8000
    assert not _trainers()


# ---- ends


@pytest.mark.slow
def test_a_cancelled_round_counts_for_nothing_and_is_done_again(
    study: Digits, pair: dict[str, Any], tmp_path: Path
) -> None:
    steps: list[int] = []
    running: list[psutil.Process] = []

    def cancelled() -> bool:
        running[:] = _trainers() or running
        return len(steps) == 2 and len(running) == 2

    stopped = search(
        study.models, study.few, PAIR, folder=tmp_path,
        on_step=lambda step: steps.append(step.step), cancelled=cancelled,
    )  # fmt: skip
    assert stopped.stopped == "cancelled"
    assert len(stopped.trace) == 2
    assert _gone(running)
    assert not (tmp_path / FILE).exists()
    assert _found(study, PAIR, tmp_path) == pair


def test_an_interrupt_ends_all_trainers_and_keeps_what_was_applied(
    study: Digits, pair: dict[str, Any]
) -> None:
    steps: list[int] = []
    running: list[psutil.Process] = []

    def interrupt() -> bool:
        running[:] = _trainers() or running
        if len(steps) == 2:
            raise KeyboardInterrupt
        return False

    found = search(
        study.models, study.few, PAIR, cancelled=interrupt,
        on_step=lambda step: steps.append(step.step),
    )  # fmt: skip
    assert found.stopped == "cancelled"
    done = [asdict(replace(step, elapsed_ms=None)) for step in found.trace]
    assert done == pair["trace"][:2]
    assert len(running) == 2
    assert _gone(running)


@pytest.mark.slow
def test_a_trainer_that_dies_is_told_and_the_search_goes_on_after(
    study: Digits, pair: dict[str, Any], tmp_path: Path
) -> None:
    killed: list[psutil.Process] = []

    def cancelled() -> bool:
        for process in [] if killed else _trainers()[:1]:
            process.kill()
            killed.append(process)
        return False

    with pytest.raises(WorkerCrashedError, match=r"a trainer of the search died.*SIGKILL"):
        search(study.models, study.few, PAIR, folder=tmp_path, cancelled=cancelled)
    assert killed
    assert _until(lambda: not _trainers(), GONE_S)
    assert _found(study, PAIR, tmp_path) == pair


def searched(folder: Path) -> None:
    """In a sandbox: PAIR, with a line a step in a file."""
    kept = stored(folder)

    def told(step: object) -> None:
        with (folder / "steps").open("a") as stream:
            stream.write(f"{step}\n")

    search(kept.models, kept.few, PAIR, folder=folder / "state", on_step=told)


@pytest.mark.slow
def test_trainers_end_with_a_search_that_is_killed_and_it_goes_on(
    study: Digits, pair: dict[str, Any], tmp_path: Path
) -> None:
    keep(study, tmp_path)
    with Sandbox(time_limit_s=300) as sandbox:
        said: list[BaseException] = []

        def ask() -> None:
            try:
                sandbox.call(searched, tmp_path)
            except WorkerCrashedError as error:
                said.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        assert _until((tmp_path / "steps").exists)
        assert sandbox.pid is not None
        running = psutil.Process(sandbox.pid).children(recursive=True)
        assert len(running) == 2
        os.kill(sandbox.pid, signal.SIGKILL)
        assert _gone(running)
        thread.join(60)
        assert said
    kept = json.loads((tmp_path / "state" / STATE).read_text())
    assert 2 <= kept["step"] < len(pair["trace"])
    assert _found(study, PAIR, tmp_path / "state") == pair


# ---- devices


def test_a_device_that_is_named_is_that_of_all_trainers() -> None:
    assert dealt("cpu", 3) == ["cpu"] * 3
    assert dealt("cuda:1", 2) == ["cuda:1"] * 2
