"""CORR and COMPARE where models share different probe sets with the reference, or none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import beta

from sommelier.engine.comparison import Comparison
from sommelier.engine.plan import CorrBound
from sommelier.records import Dataset, ProbeSet
from sommelier.storage.agreement_bounds import Leg, transitive_bounds
from sommelier.storage.candidates import Candidates, Ranked
from tests.engine.conftest import SAMPLES, Bench

FEW = 100


def lower(agreements: int, samples: int, alpha: float) -> float:
    if agreements == 0:
        return 0.0
    return float(beta.ppf(alpha, agreements, samples - agreements + 1))


@pytest.fixture
def mixed(bench: Bench) -> Bench:
    """A reference with answers to 400 photos, shared by a1 to a3, and to 100 digits, by d1, d2."""
    photos = bench.probes("photos", dataset_id="photos")
    digits = bench.probes("digits", dataset_id="digits", samples=FEW)
    bench.model("reference", 0, photos, digits)
    for name, wrong, probes in (
        ("a1", 4, photos), ("a2", 40, photos), ("a3", 80, photos), ("d1", 2, digits),
        ("d2", 15, digits),
    ):  # fmt: skip
        bench.model(name, wrong, probes)
    return bench


OBSERVED = {"a1": (396, SAMPLES), "a2": (360, SAMPLES), "a3": (320, SAMPLES), "d1": (98, FEW),
            "d2": (85, FEW)}  # fmt: skip


def test_every_model_is_compared_on_the_probes_it_shares_and_counts_once_in_alpha(
    mixed: Bench,
) -> None:
    result = mixed.ask("SELECT MODELS name, equivalence, agreement, probes, provenance, labels"
                       " CORR reference")  # fmt: skip
    bounds = {name: lower(*counts, 0.05 / 5) for name, counts in OBSERVED.items()}
    assert [m.name for m in result] == sorted(bounds, key=lambda name: -bounds[name])
    for match in result:
        agreements, samples = OBSERVED[match.name]
        assert match.equivalence == pytest.approx(bounds[match.name], abs=1e-9)
        assert (match.agreement, match.probes) == (agreements / samples, samples)
        assert match.provenance == "measured"
    assert (
        "equivalence holds with 95% confidence for all K = 5 comparisons together, on 400 probes "
        "of 'photos'; 2 models on 100 probes of 'digits'"
    ) in result.notes
    assert not any("skipped" in note for note in result.notes)


@pytest.mark.parametrize("threshold", [70, 80, 85, 90, 95, 99])
@pytest.mark.parametrize("operator", [">=", ">", "<", "<="])
def test_rows_of_all_probe_sets_pass_by_their_own_bound(
    mixed: Bench, threshold: int, operator: str
) -> None:
    compare = {">=": np.greater_equal, ">": np.greater, "<": np.less, "<=": np.less_equal}
    found = {m.name for m in mixed.ask(f"SELECT MODELS CORR reference {operator} {threshold}%")}
    assert found == {
        name
        for name, counts in OBSERVED.items()
        if compare[operator](lower(*counts, 0.05 / 5), threshold / 100)
    }


@pytest.mark.parametrize("limit", [1, 2, 3, 4])
def test_the_first_few_are_those_of_the_whole(mixed: Bench, limit: int) -> None:
    whole = mixed.ask("SELECT MODELS CORR reference")
    first = mixed.ask(f"SELECT MODELS CORR reference LIMIT {limit}")
    picked = mixed.ask(f"SELECT MODELS CORR reference PICK MOST SIMILAR TOP {limit}")
    assert list(first.ids) == list(picked.ids) == list(whole.ids[:limit])
    assert first.matched == whole.matched == 5


def test_a_named_dataset_keeps_to_its_probes(mixed: Bench) -> None:
    result = mixed.ask("SELECT MODELS name, probes CORR reference USING dataset = 'digits'")
    assert result.fetchall() == [("d1", FEW), ("d2", FEW)]
    assert any("3 models skipped" in note and "other probe sets" in note for note in result.notes)


def test_only_the_probes_of_rows_that_reached_corr_are_told(mixed: Bench) -> None:
    result = mixed.ask("SELECT MODELS CORR reference WHERE name LIKE 'd%'")
    assert any(note.endswith("K = 2 comparisons together, on 100 probes of 'digits'")
               for note in result.notes)  # fmt: skip


def test_what_a_probe_set_is_too_small_for_is_said_of_that_one(mixed: Bench) -> None:
    notes = mixed.ask("SELECT MODELS CORR reference 98%").notes
    needed = int(np.ceil(np.log(0.01) / np.log(0.98)))
    assert (
        f"n=100 probes of 'digits' cannot certify 98% for 5 comparisons: at least {needed} are "
        "needed"
    ) in notes
    assert not any(note.startswith("n=400") for note in notes)


def test_undecided_rows_of_all_probe_sets_are_counted(mixed: Bench) -> None:
    certain = mixed.ask("SELECT MODELS CORR reference 90%")
    both = mixed.ask("SELECT MODELS name, certainty CORR reference 90% USING certainty='possible'")
    assert {m.name for m in certain} == {"a1", "d1"}
    assert {m.name for m in both if m.certainty == "possible"} == {"a2", "d2"}
    assert any(note.startswith("2 models more may pass") for note in certain.notes)


def test_why_is_answered_on_the_probes_of_the_model_asked_about(mixed: Bench) -> None:
    report = str(mixed.ask("EXPLAIN WHY d2 NOT IN (SELECT MODELS CORR reference 90%)"))
    assert "85" in report  # observed on digits
    inside = str(mixed.ask("EXPLAIN WHY d1 IN (SELECT MODELS CORR reference 90%)"))
    assert "98" in inside


def test_caveats_name_the_probes_they_are_about(bench: Bench) -> None:
    for name, size in (("photos", SAMPLES), ("digits", 5000)):
        bench.catalog.add_dataset(
            Dataset(name, name, "array", Path(f"{name}.npz"), size, None, None, True, None,
                    held_out=False if name == "digits" else None)
        )  # fmt: skip
    photos = bench.probes("photos", dataset_id="photos")
    digits = bench.probes("digits", dataset_id="digits", seed=-1)
    made_up = bench.probes("synthetic:f32", dataset_id=None, synthetic=True)
    bench.model("reference", 0, photos, digits, made_up)
    for name, probes in (("p", photos), ("q", photos), ("d", digits), ("s", made_up)):
        bench.model(name, 4, probes)
    result = bench.ask("SELECT MODELS name, provenance CORR reference")
    assert dict(result.fetchall()) == {
        "p": "measured", "q": "measured", "d": "measured", "s": "synthetic",
    }  # fmt: skip
    told = "\n".join(result.notes)
    assert "the probes of 'synthetic:f32' are synthetic: the bounds hold for such" in told
    assert "the probes of 'digits' are the first 400 items of 'digits' (of 5000)" in told
    assert "'digits' is not held out" in told
    assert "'photos' is not held out" not in told
    lines = bench.ask("EXPLAIN SELECT MODELS CORR reference").lines
    assert "note: dataset 'photos' is not declared held out of training" in lines
    # a question that reaches none of the doubtful probes is not told of them
    plain = bench.ask("SELECT MODELS CORR reference WHERE name IN ('p', 'q')").notes
    assert not any("synthetic" in note or "held out" in note for note in plain)


def test_several_references_meet_models_on_their_own_probes(mixed: Bench) -> None:
    shown = "SELECT MODELS name, agreement, probes CORR {} (reference, d2)"
    nearer = {m.name: (m.agreement, m.probes) for m in mixed.ask(shown.format("ANY"))}
    farther = {m.name: (m.agreement, m.probes) for m in mixed.ask(shown.format("ALL"))}
    assert nearer["a1"] == (0.99, SAMPLES)
    assert farther == {"d1": (0.87, FEW)}  # the only one that shares probes with both


# ---- no common probes


def bridged(bench: Bench, **fields: object) -> tuple[ProbeSet, ProbeSet]:
    """'far' and 'reference' share nothing; near (4 wrong) and wide (80 wrong) share with both."""
    first, second = (bench.probes(name, dataset_id="photos", **fields) for name in ("one", "two"))
    bench.model("reference", 0, first)
    bench.model("near", 4, first, second)
    bench.model("wide", 80, first, second)
    bench.model("far", 10, second)
    return first, second


def test_compare_bounds_a_pair_without_common_probes_by_transitivity(bench: Bench) -> None:
    bridged(bench)
    table = bench.ask("COMPARE reference WITH far")
    measure, _, observed, text = table.rows[0]
    assert (measure, observed) == ("agreement (transitive)", "")
    leg = 0.05 / (2 * 2)  # two bridges, two legs each, then two-sided
    low = sum(beta.ppf(leg / 2, k, SAMPLES - k + 1) for k in (396, 394)) - 1
    assert f"[{low * 100:.4g}%" in text.replace(".00%", "%")
    assert "through near" in text
    (note,) = [note for note in table.notes if "transitivity" in note]
    assert "share no probe set" in note
    assert "near" in note
    assert not any("unknown" in note for note in table.notes)


def test_compare_bounds_nothing_over_different_populations(bench: Bench) -> None:
    photos, digits = bench.probes("p", dataset_id="p"), bench.probes("d", dataset_id="d")
    bench.model("reference", 0, photos)
    bench.model("near", 4, photos, digits)
    bench.model("far", 10, digits)
    table = bench.ask("COMPARE reference WITH far")
    assert not any("agreement" in str(row[0]) for row in table.rows)
    assert any(note.startswith("agreement is unknown: no common probe set") for note in table.notes)


def test_the_footer_counts_what_follows_by_transitivity(bench: Bench) -> None:
    bridged(bench)
    result = bench.ask("SELECT MODELS name, provenance, probes, labels CORR reference")
    by_name = {m.name: m for m in result}
    assert by_name["far"].provenance == "transitive"
    assert (by_name["far"].probes, by_name["far"].labels) == (None, None)
    assert by_name["near"].probes == SAMPLES
    assert any(note.endswith("on 400 probes of 'one'; 1 model by transitivity")
               for note in result.notes)  # fmt: skip
    assert not any("skipped" in note for note in result.notes)


# ---- the parts of a comparison against theory


def candidates(probe_set_id: str, rows: list[int], counts: list[int], samples: int) -> Candidates:
    order = np.argsort(-np.array(counts), kind="stable")
    return Candidates(
        reference_id="r",
        probe_set_id=probe_set_id,
        ranking=Ranked(
            np.array(rows, dtype=np.int64)[order], np.array(counts, dtype=np.int64)[order]
        ),
        samples=samples,
        method="sketch",
        labels="named",
    )


@pytest.mark.parametrize("operator", [">=", ">", "<", "<="])
@pytest.mark.parametrize("possible", [False, True])
def test_parts_together_answer_as_each_row_alone(operator: str, possible: bool) -> None:
    rng = np.random.default_rng(4)
    size, where = 90, rng.permutation(90)
    parts, truth = [], {}
    for name, rows, samples in (("a", where[:40], 500), ("b", where[40:60], 60),
                                ("c", where[60:80], 200)):  # fmt: skip
        counts = rng.integers(samples // 2, samples + 1, len(rows))
        parts.append(candidates(name, rows.tolist(), counts.tolist(), samples))
        truth |= {row: (k, samples) for row, k in zip(rows.tolist(), counts.tolist(), strict=True)}
    leg = Leg(0, 190, 200, where[80:85], np.array([150, 160, 170, 180, 190]), 200)
    bounds = transitive_bounds([leg], 1)
    parts[2] = replace(parts[2], transitive=bounds)
    reached = rng.random(size) < 0.7
    comparison = Comparison(replace(parts[0], others=tuple(parts[1:])), reached)
    compared = [row for row in [*truth, *where[80:85].tolist()] if reached[row]]
    assert sorted(comparison.rows.tolist()) == sorted(compared)
    assert comparison.count == len(compared)
    tests = comparison.count
    interval = comparison.interval(np.arange(size), 0.05 / tests, size)
    low, high = np.full(size, np.nan), np.full(size, np.nan)
    for row, (k, samples) in truth.items():
        low[row] = lower(k, samples, 0.05 / tests)
        high[row] = 1 - lower(samples - k, samples, 0.05 / tests)
    low[bounds.rows], high[bounds.rows] = bounds.interval(1 - 0.05 / tests)
    for row in compared:
        assert interval.lower[row] == pytest.approx(low[row], abs=1e-9)
        assert interval.upper[row] == pytest.approx(high[row], abs=1e-9)
        assert (
            (interval.samples[row] == truth[row][1])
            if row in truth
            else np.isnan(interval.samples[row])
        )
    compare = {">=": np.greater_equal, ">": np.greater, "<": np.less, "<=": np.less_equal}
    for threshold in (0.6, 0.75, 0.9):
        bound = CorrBound("equivalence", operator, threshold, 0.95)
        found = comparison.passing((bound,), tests, possible=possible)
        side = high if possible and operator in (">", ">=") else low
        expected = [row for row in compared if compare[operator](side[row], threshold)]
        assert sorted(found.tolist()) == sorted(expected)
