"""The cases, figures and gates of benchmarks.sla and benchmarks.switching."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks import sla, sla_cases, sla_claims, switching
from benchmarks.sla_cases import BASELINES, CANDIDATES, Case, Effort, Point, evaluate
from sommelier.runtime.policies import DEFAULT, POLICIES
from sommelier.runtime.policy import PooledModel, ranked
from sommelier.runtime.simulator import Settings, simulate
from sommelier.runtime.telemetry import LatencyEstimate
from sommelier.runtime.traces import Network

LITTLE = Effort(300, 1)
CASE = sla_cases.figure_6()[4]
EVEN = Point(90.0, 80.0, 70.0, 100.0, {})


def everywhere(**points: Point) -> dict[Case, dict[str, Point]]:
    """One case where every policy is alike but for those given."""
    return {CASE: {name: points.get(name, EVEN) for name in (*BASELINES, DEFAULT)}}


def test_table_2_is_that_of_the_paper() -> None:
    models = {model.name: model for model in sla_cases.table_2(fictional=True)}
    assert len(models) == 12
    assert models["NasNet Large"].service == models["NasNet Fictional"].service
    assert models["NasNet Fictional"].accuracy == 0.5
    assert models["MobileNetV1 0.25"].service.mean_ms == 3.21


def test_without_a_network_every_sla_above_the_slowest_model_is_met_by_the_best() -> None:
    case = replace(CASE, sla_ms=125.0, network=Network(0.0, 0.0))
    for policy in ("static_greedy", "dynamic_greedy", DEFAULT):
        point = evaluate(case, policy, LITTLE)
        assert point.attainment == 100.0
        assert point.effective == pytest.approx(82.6)
    assert point.latency == pytest.approx(112.61, abs=0.1)


def test_attainment_of_the_fastest_choice_is_the_distribution_of_the_network() -> None:
    """At 30 ms only MobileNetV1 0.25 has a chance: P(2 T + 3.21 <= 30) of the log-normal."""
    from scipy import stats

    variance = np.log1p((30.78 / 57.87) ** 2)
    network = stats.lognorm(s=np.sqrt(variance), scale=57.87 * np.exp(-variance / 2))
    case = replace(CASE, sla_ms=60.0)
    point = evaluate(case, "modipick", Effort(4_000, 1))
    expected = 100 * network.cdf((60.0 - 3.21) / 2)
    assert abs(point.attainment - expected) < 4 * np.sqrt(expected * (100 - expected) / 4_000)


def test_policies_meet_the_same_requests() -> None:
    fixed = [evaluate(CASE, "static_greedy", replace(LITTLE, seed=seed)) for seed in (0, 0, 1)]
    assert fixed[0] == fixed[1] != fixed[2]


def test_a_baseline_above_in_both_is_counted_and_one_above_in_one_is_not() -> None:
    better = replace(EVEN, attainment=91.0, effective=71.0)
    later = replace(EVEN, attainment=89.0, effective=72.0)
    assert sla.gaps(everywhere(), tie=0.3)["dominated"] == 0
    found = sla.gaps(everywhere(modipick=better, related_random=later), tie=0.3)
    assert found["dominated"] == 1
    assert found["effective_gap"] == -2.0
    assert found["attainment_gap"] == -1.0


def test_every_miss_is_named() -> None:
    good = {
        "latency_cut": 0.43, "dominated": 0, "effective_gap": 0.0, "default_behind": 0.1,
        "slowest_decision_us": 5.0,
    }  # fmt: skip
    bad = {
        "latency_cut": 0.2, "dominated": 1, "effective_gap": -3.0, "default_behind": 1.0,
        "slowest_decision_us": 50.0,
    }  # fmt: skip
    assert sla.misses(good) == []
    assert len(sla.misses(bad)) == len(bad)


def test_the_claims_are_computed_from_the_points_of_the_figures() -> None:
    cases = (*sla_cases.figure_6(), *sla_cases.figure_7(), *sla_cases.figure_9())
    shares = dict.fromkeys((m.name for m in sla_cases.table_2(fictional=True)), 0.0)
    static = replace(EVEN, attainment=10.0, latency=200.0, shares=shares)
    made = {
        case: {"static_greedy": static, "modipick": replace(EVEN, shares=shares)}
        | {"related_accurate": replace(EVEN, accuracy=89.0)}
        for case in cases
    }
    figures = sla_claims.report(made)
    assert figures["latency_cut"] == 0.5
    assert figures["attainment_gain"] == 80.0
    assert figures["fictional_loss"] == 9.0


def test_candidates_and_contenders_name_policies_that_exist() -> None:
    assert {policy for policy, _ in CANDIDATES.values()} <= set(POLICIES)
    assert DEFAULT in CANDIDATES
    ladder = switching.given_ladder()
    for contender in switching.CONTENDERS.values():
        assert contender.policy_for(ladder.sla).name == contender.policy


def test_the_ladder_keeps_the_costs_of_the_profile() -> None:
    ladder = switching.given_ladder()
    assert [m.service.mean_ms / ladder.reference_ms for m in ladder.models] == pytest.approx(
        [1.0, 0.247, 0.084, 0.014]
    )
    assert ladder.sla.latency_ms == 5 * ladder.reference_ms
    pool = [PooledModel(m.name, m.accuracy, LatencyEstimate(1.0)) for m in ladder.models]
    assert [m.name for m in ranked(pool)] == ["xl", "l", "m", "s"]


def test_the_gate_compares_with_the_fixed_model() -> None:
    ladder = switching.given_ladder()
    trace = switching.burst(ladder, 1, 0)
    found = {
        label: simulate(
            trace,
            switching.CONTENDERS[label].policy_for(ladder.sla),
            ladder.models,
            ladder.sla,
            Settings(),
        )
        for label in ("fixed", switching.OURS)
    }
    figures = switching.compared(found["fixed"], found[switching.OURS])
    p90 = [np.quantile(result.latency_ms, 0.9) for result in found.values()]
    assert figures["p90_factor"] == pytest.approx(p90[0] / p90[1])
    assert figures["accuracy_loss"] == pytest.approx(1 - found[switching.OURS].accuracy / 0.95)
    assert len(switching.misses(switching.compared(found["fixed"], found["fixed"]))) == 2


def test_the_benchmark_of_switching_passes_its_gate_and_ends_with_its_figures(
    tmp_path: Path,
) -> None:
    file = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.switching", "--quick", "--json", str(file)],
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(file.read_text())
    last = dict(pair.split("=") for pair in done.stdout.strip().splitlines()[-1].split())
    assert set(last) == {"p90_factor", "sla_met", "accuracy_loss"}
    assert float(last["p90_factor"]) == pytest.approx(figures["p90_factor"], rel=1e-3)
    assert figures["p90_factor"] >= 20
