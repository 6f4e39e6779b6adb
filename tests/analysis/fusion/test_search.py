"""Searches on three small networks: what they reach, that they repeat, survive kills, and stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from sommelier.analysis.bounds import Verdict
from sommelier.analysis.fusion import AbsGraph, FineTuning, Lessons, answer
from sommelier.analysis.fusion.search import Limits, SearchOptions, SearchResult, search
from sommelier.analysis.fusion.search.finishing import outputs
from sommelier.analysis.fusion.search.state import STATE, StateFolder
from sommelier.errors import AnalysisError
from sommelier.fusion_records import FusionStep
from tests.analysis.fusion.digit_tasks import Digits, digits, keep

TRAINING = FineTuning(learning_rate=2e-3)
SHORT = SearchOptions(
    epochs=12,
    steps=4,
    tolerance=0.7,
    seed=3,
    training=replace(TRAINING, epochs=2),
    samples=64,
    runs=20,
)  # a few steps that succeed


@pytest.fixture(scope="module")
def study() -> Digits:
    return digits()


@pytest.fixture(scope="module")
def whole(study: Digits) -> SearchResult:
    """SHORT without a break."""
    return _run(study, SHORT)


def _run(study: Digits, options: SearchOptions, folder: Path | None = None) -> SearchResult:
    return search(study.models, study.few, options, folder=folder)


def _same(a: SearchResult, b: SearchResult) -> bool:
    """Equal but for times."""
    timeless = [tuple(replace(s, elapsed_ms=None) for s in r.trace) for r in (a, b)]
    ends = [
        [(f.step, f.graph, f.drop, f.certificate, f.model) for f in r.finalists] for r in (a, b)
    ]
    return (timeless[0], a.elites, a.epochs, ends[0]) == (timeless[1], b.elites, b.epochs, ends[1])


def _uncertified(found: SearchResult) -> SearchResult:
    return replace(found, finalists=tuple(replace(f, certificate=None) for f in found.finalists))


# ---- what is found


@pytest.mark.slow
def test_gain_first_is_half_as_fast_again_within_one_point(study: Digits) -> None:
    options = SearchOptions(tolerance=0.01, epochs=24, seed=1, samples=256)
    found = search(study.models, study.labelled, options)
    best = found.best
    assert best is not None
    assert 1 / best.flops_share >= 1.5
    assert best.latency.speedup > 1.2
    assert best.flops_share == best.graph.flops / AbsGraph.original(study.models).flops
    assert best.certificate is not None
    assert best.certificate.meets(0.01, upper_end=False) is Verdict.PASSES
    rows = study.labelled.splits.certify
    answers = outputs(best.model, study.labelled.inputs_of(rows))
    for task, given in zip(
        best.certificate.drops, study.labelled.judge(answers, rows), strict=True
    ):
        assert task.drop == pytest.approx(given.drop, abs=1e-12)
    assert found.epochs + sum(f.epochs for f in found.finalists) <= options.epochs
    _check_exported(best.model, best.module, study.labelled)


def _check_exported(model: object, module: object, lessons: Lessons) -> None:
    rows = lessons.splits.certify[:100]
    theirs, ours = outputs(model, lessons.inputs_of(rows)), answer(module, lessons.inputs_of(rows))
    for a, b in zip(theirs, ours, strict=True):
        assert np.abs(a - b).max() <= 1e-4 * np.abs(b).max()


@pytest.mark.parametrize("method", ["gain first", "annealing", "random", "all shared"])
def test_every_method_finds_something_in_easy_cases_and_repeats_it(
    study: Digits, method: str
) -> None:
    options = replace(SHORT, method=method, steps=3)
    first, second = _run(study, options), _run(study, options)
    assert first.best is not None
    assert first.best.flops_share < 1
    assert all(step.pair for step in first.trace if step.flops is not None)
    assert first.best.certificate is not None
    assert {d.measure for d in first.best.certificate.drops} == {"agreement"}  # without labels
    assert _same(first, second)


def test_without_filters_whatever_is_drawn_is_trained(study: Digits) -> None:
    free = replace(SHORT, method="annealing", epochs=None, steps=6, filtered=False)
    found = _run(study, replace(free, training=replace(TRAINING, epochs=1)))
    assert found.evaluations == 6
    flops = [step.flops for step in found.trace]
    fastest = [min(flops[:i], default=float("inf")) for i in range(6)]
    assert any(f >= best for f, best in zip(flops, fastest, strict=True))  # a filter refuses those


def test_other_seeds_go_other_ways(study: Digits) -> None:
    pairs = [
        [s.pair for s in _run(study, replace(SHORT, seed=seed, method="random", steps=1)).trace]
        for seed in (0, 1)
    ]
    assert pairs[0] != pairs[1]


def test_the_incumbent_only_becomes_cheaper(whole: SearchResult) -> None:
    flops = [s.flops for s in whole.trace if s.accepted]
    assert flops == sorted(flops, reverse=True)
    assert len(flops) >= 2
    assert all(s.drop_measured <= SHORT.tolerance / 2 for s in whole.trace if s.accepted)
    assert sum(s.epochs for s in whole.trace) == whole.epochs


# ---- limits


def test_limits_are_respected(study: Digits) -> None:
    found = _run(study, replace(SHORT, limits=Limits(flops=0.7, latency=0.95)))
    assert found.best is not None
    assert found.best.flops_share <= 0.7
    assert found.best.latency.share <= 0.95
    nothing = _run(study, replace(SHORT, steps=1, limits=Limits(flops=0.001)))
    assert nothing.best is None
    assert not nothing.finalists
    slow = _run(study, replace(SHORT, steps=1, limits=Limits(latency=0.001)))
    assert slow.best is None
    assert slow.finalists
    assert all("of the originals' time" in f.refusal for f in slow.finalists)


def test_a_limit_decides_what_is_tried(study: Digits) -> None:
    for limit in (0.2, 0.3):
        first = _run(study, replace(SHORT, steps=1, limits=Limits(flops=limit))).trace[0]
        assert first.flops <= 1.1 * limit * AbsGraph.original(study.models).flops
    free = _run(study, replace(SHORT, steps=1)).trace[0]
    assert free.flops > 0.3 * AbsGraph.original(study.models).flops


def test_a_budget_of_seconds_holds_for_finalists_too(study: Digits) -> None:
    options = SearchOptions(tolerance=0.3, budget_s=4.0, seed=1, runs=5)
    start = time.perf_counter()
    found = search(study.models, study.labelled, options)
    assert found.elapsed_ms <= 6000  # without an end it would be minutes; a busy machine is late
    assert time.perf_counter() - start < 30  # files, latencies and certificates come on top
    if found.finalists:
        assert found.finalists[0].drop <= found.finalists[0].certificate.worst.drop + 0.1


def test_a_candidate_that_is_given_up_at_the_budget_took_time_too(study: Digits) -> None:
    endless = replace(TRAINING, epochs=100_000, predictor=None)
    options = SearchOptions(tolerance=0.0, budget_s=2.0, seed=1, runs=5, training=endless)
    found = search(study.models, study.few, options)
    assert (found.stopped, found.evaluations) == ("budget", 0)
    assert found.elapsed_ms >= 1000  # so that finalists have the half that is theirs at 0 %


def test_a_threshold_held_against_the_upper_end_needs_more_samples(study: Digits) -> None:
    """Training ends at the tolerance, so that a finalist may differ: each is held to its own."""
    found = _run(study, replace(SHORT, steps=1))
    certificate = found.finalists[0].certificate
    high = max(drop.interval.high for drop in certificate.drops)
    between = (certificate.worst.drop + high) / 2
    for upper_end in (False, True):
        asked = replace(SHORT, steps=1, tolerance=between, upper_end=upper_end)
        (one,) = _run(study, asked).finalists
        ends = [drop.interval.high for drop in one.certificate.drops]
        held = max(ends) if upper_end else one.certificate.worst.drop
        assert (one.refusal is None) is (held <= between)
        assert one.certificate.worst.drop < max(ends)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": None, "epochs": None}, "needs a budget"),
        ({"epochs": 0}, "needs a budget"),
        ({"method": "hill"}, "no search 'hill'"),
        ({"formula": "x"}, "no formula 'x'"),
        ({"tolerance": 1.5}, "tolerance of 1.5"),
        ({"limits": Limits(latency=0.0)}, "above 0"),
    ],
)
def test_options_that_make_no_search_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(AnalysisError, match=message):
        replace(SHORT, **change)


# ---- stopping and going on


def _after(steps: int, act: Callable[[], None]) -> Callable[[FusionStep], None]:
    def on_step(step: FusionStep) -> None:
        if step.step + 1 == steps:
            act()

    return on_step


def test_a_cancelled_search_keeps_the_best_so_far_and_goes_on(
    study: Digits, whole: SearchResult, tmp_path: Path
) -> None:
    asked: list[int] = []
    stopped = search(
        study.models, study.few, SHORT, folder=tmp_path,
        on_step=_after(2, lambda: asked.append(1)), cancelled=lambda: bool(asked),
    )  # fmt: skip
    assert stopped.stopped == "cancelled"
    assert len(stopped.trace) == 2
    assert stopped.best is not None
    assert stopped.best.epochs == 0  # no time is spent on it any more
    again = _run(study, SHORT, tmp_path)
    assert _same(_uncertified(again), _uncertified(whole))
    widths = [
        [d.interval.high - d.interval.low for d in r.finalists[0].certificate.drops]
        for r in (again, whole)
    ]
    assert all(a > b for a, b in zip(*widths, strict=True))  # what was looked at before counts


def test_an_interrupt_while_training_costs_one_step(study: Digits, whole: SearchResult) -> None:
    calls: list[int] = []

    def interrupt() -> bool:
        calls.append(1)
        if len(calls) == 16:
            raise KeyboardInterrupt
        return False

    found = search(study.models, study.few, SHORT, cancelled=interrupt)
    assert found.stopped == "cancelled"
    done = [replace(s, elapsed_ms=None) for s in found.trace]
    assert 0 < len(done) < len(whole.trace)
    assert done == [replace(s, elapsed_ms=None) for s in whole.trace[: len(done)]]


SCRIPT = """
import sys
from pathlib import Path
from sommelier.analysis.fusion.search import search
from tests.analysis.fusion.digit_tasks import stored
from tests.analysis.fusion.test_search import SHORT

folder = Path(sys.argv[1])
study = stored(folder)
search(study.models, study.few, SHORT, folder=folder / "state",
       on_step=lambda step: print(step.step, flush=True))
"""


def test_a_search_that_was_killed_goes_on_to_the_same_result(
    study: Digits, whole: SearchResult, tmp_path: Path
) -> None:
    keep(study, tmp_path)
    root = Path(__file__).parents[3]
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], stdout=subprocess.PIPE,
        text=True, cwd=root,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "0":
            os.kill(process.pid, signal.SIGKILL)
            break
    process.stdout.close()
    assert process.wait(30) == -signal.SIGKILL
    folder = tmp_path / "state"
    steps: list[int] = []
    found = search(
        study.models, study.few, SHORT, folder=folder,
        on_step=lambda step: steps.append(step.step),
    )  # fmt: skip
    assert steps[0] >= 1  # the first was not done again
    assert _same(found, whole)


def test_a_kill_while_writing_leaves_the_state_before(study: Digits, tmp_path: Path) -> None:
    once = replace(SHORT, steps=1)
    _run(study, once, tmp_path)
    left = (tmp_path / STATE).read_text()
    (tmp_path / "search.part").write_text(left[: len(left) // 2])
    (tmp_path / "step7.part").write_bytes(b"half an array")
    again = _run(study, once, tmp_path)
    assert len(again.trace) == 1
    (tmp_path / STATE).write_text(left[: len(left) // 2])
    with pytest.raises(AnalysisError, match="cannot be read"):
        _run(study, once, tmp_path)


def test_the_folder_of_another_search_is_refused(study: Digits, tmp_path: Path) -> None:
    _run(study, replace(SHORT, steps=1), tmp_path)
    with pytest.raises(AnalysisError, match="holds the search of other models"):
        _run(study, replace(SHORT, steps=1, seed=4), tmp_path)


def weight_files(folder: Path, found: SearchResult) -> set[str]:
    """Of elites and of what came near, which the folder's state names."""
    near = [candidate["step"] for candidate in json.loads((folder / STATE).read_text())["near"]]
    return {f"step{step}.npz" for step in (*near, *(step for step, _ in found.elites))}


def test_weights_that_no_elite_needs_are_deleted(study: Digits, tmp_path: Path) -> None:
    found = _run(study, SHORT, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {STATE, *weight_files(tmp_path, found)}
    fresh = StateFolder(tmp_path / "empty", "key")
    assert fresh.load(AbsGraph.original(study.models)) is None
