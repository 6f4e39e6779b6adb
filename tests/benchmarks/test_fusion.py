"""The suites, savings and figures of benchmarks.fusion."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.fusion import (
    LEAST,
    Findings,
    budget_of,
    figures_of,
    in_worker,
    runs_table,
    verdicts,
)
from benchmarks.fusion_kept import kept
from benchmarks.fusion_networks import POOL, Resnet, Vgg, Vit
from benchmarks.fusion_resume import same_after_kills
from benchmarks.fusion_runs import (
    Effort,
    Loss,
    Point,
    Run,
    original_latencies,
    plain_annealing,
    run,
)
from benchmarks.fusion_saving import in_full, saving
from benchmarks.fusion_suites import ANIMALS, FULL, KINDS, QUICK, SMALL, Suite, made, pictures
from sommelier.analysis.fusion import FineTuning
from sommelier.analysis.fusion.search import Limits, SearchOptions
from sommelier.analysis.fusion.search.finishing import outputs

SIDE = 32


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Suite:
    """Barely trained, on synthetic recordings."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SOMMELIER_ZOO", raising=False)
        recipe = replace(QUICK[0], epochs=4, samples=800, lessons=200)
        return made(recipe, 0, cache=tmp_path_factory.mktemp("originals"))


def _run(method: str, *points: Point, speedup: float = 1.0, tolerance: float = 0.01) -> Run:
    last = points[-1] if points else Point(1.0, 60, 60.0)
    return Run(method, tolerance, points, last.epochs, last.seconds, 0, (), speedup > 1,
               speedup, losses=(Loss("digit", 0.005, 0.0, 0.01),))  # fmt: skip


# ---- suites


def test_the_four_parts_of_the_samples_are_disjoint(suite: Suite) -> None:
    splits = suite.lessons.splits
    parts = (splits.fine_tune, splits.select, splits.certify, suite.test)
    assert len(np.unique(np.concatenate(parts))) == sum(len(part) for part in parts)
    assert [len(part) for part in parts] == [200, 160, 160, 160]
    assert (suite.tested.splits.certify == suite.test).all()


def test_originals_know_more_than_chance_and_answer_as_their_models(suite: Suite) -> None:
    for task, (name, model) in enumerate(suite.models.items()):
        assert suite.accuracy(task) > 2 / {"digit": 10, "speaker": 6}[name]
        rows = suite.test[:20]
        (answers,) = outputs(model, (suite.lessons.inputs[0][rows],))
        np.testing.assert_allclose(answers, suite.lessons.answers[task][rows], atol=1e-4)


def test_a_cache_gives_the_same_models_and_knows_other_architectures(tmp_path: Path) -> None:
    recipe = replace(QUICK[0], epochs=1, samples=300, lessons=60)
    first, second = made(recipe, 0, cache=tmp_path), made(recipe, 0, cache=tmp_path)
    assert second.seconds == 0 < first.seconds
    assert first.models == second.models == made(recipe, 0).models
    other = replace(recipe, networks={"digit": recipe.networks["digit"], "speaker": SMALL[0]
                                      .networks["digit"]})  # fmt: skip
    assert made(other, 0, cache=tmp_path).models["speaker"] != first.models["speaker"]


def test_synthetic_pictures_have_the_groups_of_the_real_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SOMMELIER_ZOO", raising=False)
    _, x, labels = pictures(np.random.default_rng(0))
    assert x.shape == (len(labels["class"]), 3, SIDE, SIDE)
    for which in range(10):
        rows = labels["class"] == which
        assert set(labels["kind"][rows]) == {KINDS[which]}
        assert set(labels["animal"][rows]) == {which in ANIMALS}


def test_the_families_have_the_sizes_of_the_papers() -> None:
    def weights(network: torch.nn.Module) -> float:
        return sum(p.numel() for p in network.parameters()) / 1e6

    by_name = {recipe.name: recipe for recipe in FULL}
    resnet34 = by_name["ResNet-34 + ResNet-18"].networks["class"](channels=3, classes=1000)
    assert weights(resnet34) == pytest.approx(21.8, rel=0.01)  # He et al. 2016; torchvision
    resnet18 = by_name["ResNet-34 + ResNet-18"].networks["animal"](channels=3, classes=1000)
    assert weights(resnet18) == pytest.approx(11.7, rel=0.01)
    vit = by_name["2 ViT-Base"].networks["digit"](channels=3, classes=1000)
    assert weights(vit) == pytest.approx(86, rel=0.01)
    vgg = by_name["3 VGG-13"].networks["digit"](channels=3, classes=10)
    assert weights(vgg.trunk) == pytest.approx(9.4, rel=0.01)
    assert len(SMALL) >= 5
    pickle.loads(pickle.dumps((*SMALL, *FULL)))  # they travel to other processes


@pytest.mark.parametrize(
    "network",
    [
        Vgg((4, POOL, 8, POOL), hidden=8, side=SIDE, channels=3, classes=5),
        Resnet((4, 8), (1, 2), channels=3, classes=5),
        Vit(8, 2, 2, patch=8, side=SIDE, channels=3, classes=5),
    ],
)
def test_networks_answer_every_picture_on_its_own(network: torch.nn.Module) -> None:
    pictures = torch.randn(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    network.eval()
    whole, alone = network(pictures), network(pictures[1:2])
    assert whole.shape == (3, 5)
    torch.testing.assert_close(whole[1:2], alone, atol=1e-5, rtol=1e-4)


# ---- runs


def test_a_run_counts_its_epochs_and_judges_on_test_samples(suite: Suite) -> None:
    latencies = original_latencies(suite, 10)
    assert list(latencies) == list(suite.models)
    asked = SearchOptions(tolerance=0.5, steps=2, training=FineTuning(epochs=1), runs=10)
    found = run(suite, latencies, asked)
    assert found.found
    assert found.low <= found.speedup <= found.high
    assert found.points[-1].epochs <= found.epochs <= 2
    shares = [point.share for point in found.points]
    assert shares == sorted(shares, reverse=True)
    assert all(0 < share < 1 for share in shares)
    assert [loss.task for loss in found.losses] == list(suite.models)
    assert found.worst.low <= found.worst.drop <= found.worst.high


def test_where_no_fusion_counts_the_originals_stay(suite: Suite) -> None:
    asked = SearchOptions(
        tolerance=0.5, steps=1, training=FineTuning(epochs=1), runs=10,
        limits=Limits(latency=0.001),
    )  # fmt: skip
    found = run(suite, original_latencies(suite, 10), asked)
    assert (found.found, found.speedup, found.losses) == (False, 1.0, ())
    assert "of the originals' time" in found.refused[0]
    assert found.best.share < 1  # what was found before it was judged


def test_plain_annealing_trains_as_many_candidates_as_it_has_iterations(suite: Suite) -> None:
    effort = Effort(epochs=1, iterations=3, plain=FineTuning(epochs=1), runs=10)
    found = plain_annealing(suite, original_latencies(suite, 10), effort, 0.01, seed=0)
    assert found.method == "plain annealing"
    assert found.epochs <= 3
    assert found.seconds > 0


@pytest.mark.slow
def test_a_search_that_is_killed_twice_ends_as_an_undisturbed_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SOMMELIER_ZOO", raising=False)
    assert same_after_kills(tmp_path, 0)
    state = json.loads((tmp_path / "killed" / "state" / "search.json").read_text())
    assert state["step"] > 3  # it went on after both kills


# ---- figures


def test_a_saving_compares_whole_searches_and_the_times_to_fusions_as_good() -> None:
    theirs = _run("plain annealing", Point(0.8, 100, 90.0), Point(0.5, 300, 200.0))
    ours = _run("gain first", Point(0.6, 4, 5.0), Point(0.45, 20, 25.0), Point(0.3, 50, 50.0))
    ratio = theirs.seconds / ours.seconds
    assert saving(ours, theirs) == (0, ratio, 200 / 25, 300 / 20)  # none of ours counts
    assert saving(replace(ours, found=True, speedup=2.0), theirs).whole == ratio


def test_a_search_that_is_interrupted_is_not_kept_as_one_that_ended() -> None:
    with ProcessPoolExecutor(1, get_context("spawn"), in_worker) as pool:
        worker = pool.submit(os.getpid).result()
        asleep = pool.submit(time.sleep, 60)
        while not asleep.running():
            time.sleep(0.01)
        os.kill(worker, signal.SIGINT)
        with pytest.raises(BrokenProcessPool):  # and not KeyboardInterrupt, which a search takes
            asleep.result(timeout=30)


def test_annealing_that_was_cut_took_all_it_was_allowed() -> None:
    """Without the candidate it was cut in, 5.1 times the time would be told as less."""
    theirs = replace(_run("plain annealing"), seconds=480.0, cut=True)
    assert in_full(theirs, 510.0).seconds == 510.0
    assert in_full(theirs, 470.0).seconds == 480.0
    assert in_full(theirs, None) is theirs
    assert in_full(replace(theirs, cut=False), 510.0).seconds == 480.0


def test_a_saving_is_0_where_the_search_finds_less() -> None:
    theirs = _run("plain annealing", Point(0.5, 300, 200.0))
    assert saving(_run("gain first", Point(0.6, 4, 5.0)), theirs) == (0, 0, 0, 0)
    assert saving(_run("gain first"), _run("plain annealing")) == (0, 0, 0, 0)
    ours = _run("gain first", Point(0.6, 4, 5.0), speedup=1.5)
    assert saving(ours, replace(theirs, speedup=1.6)).whole == 0
    assert saving(ours, theirs).whole > 0  # annealing's best was not certified


def test_all_of_annealing_counts_where_it_finds_nothing() -> None:
    theirs = replace(_run("plain annealing"), epochs=1_600, seconds=900.0)
    ours = _run("gain first", Point(0.6, 0, 5.0))
    assert saving(ours, theirs) == (0, 900 / ours.seconds, 900 / 5, 1_600)


def test_what_was_finished_is_not_done_again_by_the_same_code(tmp_path: Path) -> None:
    done: list[int] = []

    def make() -> int:
        done.append(1)
        return len(done)

    assert [kept(None, "a", make), kept(None, "a", make)] == [1, 2]
    assert [kept(tmp_path, "a", make), kept(tmp_path, "a", make)] == [3, 3]
    assert kept(tmp_path, "b", make) == 4


def test_figures_are_medians_of_the_suites() -> None:
    found = _findings((3.0, 1.0, 2.0))
    figures = figures_of(found)
    assert figures["median_speedup_drop1"] == 2.0
    assert figures["all_shared_speedup_drop1"] == 1.0
    assert figures["search_saving"] == 4.0
    assert figures["over_threshold"] == 0
    assert figures["a_and_b_drop1"] == 3.0
    lossy = replace(found[0].runs[0], losses=(Loss("digit", 0.05, 0.02, 0.08),))
    worse = replace(found[0], runs=(lossy, *found[0].runs[1:]))
    assert figures_of([worse])["over_threshold"] == 1


def test_the_originals_stand_in_the_table_where_nothing_counts() -> None:
    (_, second, _) = _findings((3.0, 1.0, 2.0))
    line = next(line for line in runs_table(second).splitlines() if "gain first" in line)
    assert line.split()[:6] == ["1", "%", "gain", "first", "-", "1"]


def test_every_expectation_can_fail() -> None:
    good = {name: value + 0.1 for name, value in LEAST.items()} | {"resumed_same": 1.0}
    assert all(verdict.met for verdict in verdicts(good, LEAST))
    for name in good:
        told = verdicts({**good, name: 0.0}, LEAST)
        assert sum(not verdict.met for verdict in told) == 1, name


@pytest.mark.slow
def test_the_full_suite_says_what_it_needs() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    program = [sys.executable, "-m", "benchmarks.fusion", "--suite", "full"]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "needs a GPU" in done.stderr


@pytest.mark.slow
def test_the_quick_benchmark_meets_its_expectations_without_the_zoo(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "SOMMELIER_ZOO"}
    file = tmp_path / "figures.json"
    program = [sys.executable, "-m", "benchmarks.fusion", "--quick", "--json", str(file)]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=True)
    figures = json.loads(file.read_text())
    last = done.stdout.splitlines()[-1]
    assert all(f"{name}=" in last for name in figures if name != "environment")
    assert "NOT MET" not in done.stdout
    assert figures["median_speedup_drop2"] > 1


def _findings(speedups: tuple[float, ...]) -> list[Findings]:
    """Suites where gain first is so fast, and 4 times cheaper than annealing."""
    found = []
    for name, speedup in zip(("A + B", "C", "D"), speedups, strict=True):
        runs = (
            _run("gain first", Point(0.5, 10, 10.0), speedup=speedup),
            _run("all shared"),
            _run("random", speedup=1.5),
        )
        annealing = _run("plain annealing", Point(0.5, 100, 40.0), speedup=2.0)
        found.append(Findings(name, 800, runs, annealing))
    return found


def test_searches_see_as_many_samples_whatever_the_lessons() -> None:
    assert [budget_of(60, lessons) for lessons in (2_400, 1_200, 4_000)] == [60, 120, 36]
    assert budget_of(1, 100_000) == 1
