"""USING bound and generalization: methods against the library, rows against their bounds."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from sommelier.analysis.bounds import bound as library_bound
from sommelier.engine.bound_methods import METHODS, limits_by_count, samples_needed
from sommelier.errors import BinderError
from tests.engine.conftest import SAMPLES, Bench

PROVED = ("cp", "anytime", "hoeffding", "bernstein")
BOUNDED = (*PROVED, "betting", "wilson")


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_limits_are_those_of_the_library(name: str, alpha: float) -> None:
    counts = np.array([0, 1, 40, 199, 200, 40])
    low, high = limits_by_count(METHODS[name], counts, 200, alpha)
    for k, lower, upper in zip(counts.tolist(), low, high, strict=True):
        one = library_bound("proportion", k, 200, confidence=1 - alpha, method=name, side="lower")
        other = library_bound("proportion", k, 200, confidence=1 - alpha, method=name, side="upper")
        assert lower == pytest.approx(one.low, abs=1e-9)
        assert upper == pytest.approx(other.high, abs=1e-9)
        assert METHODS[name].proved == one.proved


@pytest.mark.parametrize("name", [n for n in BOUNDED if METHODS[n].nested])
def test_a_nested_bound_never_rises_when_the_risk_falls(name: str) -> None:
    counts = np.arange(0, 201, 7)
    lows = [METHODS[name].limits(counts, 200, a)[0] for a in (0.2, 0.05, 0.01, 1e-4)]
    assert all((later <= sooner + 1e-12).all() for sooner, later in pairwise(lows))


@pytest.mark.parametrize("name", BOUNDED)
def test_the_samples_needed_are_the_fewest_that_show_a_threshold(name: str) -> None:
    needed = samples_needed(0.9, 0.05, METHODS[name])
    assert needed is not None

    def low(n: int) -> float:
        return float(METHODS[name].limits(np.array([n]), n, 0.05)[0][0])

    assert low(needed) >= 0.9 > low(needed - 1)


@pytest.mark.parametrize("name", [*BOUNDED, "observed"])
@pytest.mark.parametrize("threshold", [80, 90, 95, 97, 99.9])
@pytest.mark.parametrize("operator", [">=", ">", "<"])
def test_a_row_passes_exactly_when_the_bound_it_shows_does(
    shared_ladder: Bench, name: str, threshold: float, operator: str
) -> None:
    how = "generalization = off" if name == "observed" else f"bound = {name}"
    every = shared_ladder.ask(f"SELECT MODELS name, equivalence CORR m0 USING {how}").fetchall()
    assert len(every) == 9
    compare = {">=": np.greater_equal, ">": np.greater, "<": np.less}[operator]
    expected = {row[0] for row in every if compare(row[1], threshold / 100)}
    found = shared_ladder.ask(f"SELECT MODELS CORR m0 {operator} {threshold}% USING {how}")
    assert {m.name for m in found} == expected


def test_wilson_is_an_estimate_in_every_row_and_in_the_footer(ladder: Bench) -> None:
    result = ladder.ask("SELECT MODELS provenance, method CORR m0 BOUND wilson")
    assert set(result.fetchall()) == {("estimated", "wilson")}
    assert any("an estimate by wilson, not a proof" in note for note in result.notes)


@pytest.mark.parametrize("name", PROVED[1:])
def test_a_proved_method_is_named_in_the_footer(ladder: Bench, name: str) -> None:
    result = ladder.ask(f"SELECT MODELS provenance, method CORR m0 USING bound = {name}")
    assert set(result.fetchall()) == {("measured", name)}
    assert any(n.startswith("equivalence holds") and f"bound = {name}" in n for n in result.notes)


def test_the_clause_wins_over_using_and_using_over_the_setting(ladder: Bench) -> None:
    result = ladder.ask("SELECT MODELS method CORR m0 BOUND betting USING bound = hoeffding")
    assert set(result.fetchall()) == {("betting",)}


def test_off_observes_whatever_number_of_models_is_compared(ladder: Bench) -> None:
    result = ladder.ask(
        "SELECT MODELS name, equivalence, agreement, bound, confidence CORR m0 97% "
        "USING generalization = off"
    )
    # m3 has 12 of 400 wrong: 97 % observed, which no bound reaches
    rows = result.fetchall()
    assert [row[0] for row in rows] == ["m1", "m2", "m3"]
    for _, equivalence, agreement, bound, confidence in rows:
        assert (equivalence, confidence) == (agreement, None)
        assert bound == pytest.approx(1 - agreement)
    assert any(note.startswith("no bound: equivalence is the agreement") for note in result.notes)
    assert not any("confidence" in note for note in result.notes)
    report = ladder.ask("EXPLAIN SELECT MODELS CORR m0 97% USING generalization = off")
    assert any("the agreement observed, without a bound" in line for line in report.lines)
    assert any("observed agreement >= 97%" in line for line in report.lines)


def test_spectral_decides_nothing(ladder: Bench) -> None:
    assert len(ladder.ask("SELECT MODELS CORR m0 1% BOUND spectral")) == 0
    assert len(ladder.ask("SELECT MODELS CORR m0 < 99% BOUND spectral")) == 0
    result = ladder.ask("SELECT MODELS name, equivalence, agreement CORR m0 BOUND spectral")
    rows = result.fetchall()
    assert [row[0] for row in rows] == [f"m{i}" for i in range(1, 10)]  # by agreement
    assert {row[1] for row in rows} == {None}
    assert any("decides no row" in note for note in result.notes)
    assert any("ANALYZE m0 FOR BOUNDS" in note for note in result.notes)


@pytest.mark.parametrize(
    ("clauses", "told"),
    [
        ("BOUND magic", "no bound is called 'magic'"),
        ("USING generalization = off, bound = cp", "observes and makes no bound"),
        ("BOUND minimum", "a statement about a new dataset"),
        ("USING generalization = custom", "needs the datasets"),
        ("USING generalization = on, datasets = ['photos']", "takes no datasets"),
        ("USING datasets = ['photos'], dataset = 'photos'", "name the datasets once"),
        ("90% USING bound = betting, correction = fdr", "what betting stakes depends on it"),
        ("90% AND <= 99% USING correction = fwer", "decides one threshold"),
        ("<= 99% USING correction = fdr", "decides one threshold"),
        ("AGREEMENT >= 90% USING correction = fdr", "nothing to decide"),
        ("90% USING mode = 'random5', bound = wilson", "knows bounds by cp only"),
    ],
)
def test_choices_that_contradict_each_other_are_refused(
    ladder: Bench, clauses: str, told: str
) -> None:
    with pytest.raises(BinderError, match=told):
        ladder.ask(f"SELECT MODELS CORR m0 {clauses}")


def test_too_few_probes_for_a_method_are_told_with_how_many_would_do(ladder: Bench) -> None:
    def notes(method: str) -> list[str]:
        result = ladder.ask(f"SELECT MODELS CORR m0 98% USING bound = {method}")
        return [note for note in result.notes if "cannot certify" in note]

    assert notes("cp") == []
    needed = samples_needed(0.98, 0.05 / 9, METHODS["hoeffding"])
    assert notes("hoeffding") == [
        f"n={SAMPLES} probes cannot certify 98% for 9 comparisons: at least {needed} are needed"
    ]


def test_what_too_few_probes_cannot_decide_is_undecidable_everywhere(ladder: Bench) -> None:
    query = "SELECT MODELS name, certainty CORR m0 99% USING certainty = possible"
    result = ladder.ask(query)
    words = dict(result.fetchall())
    assert words["m1"] == "undecidable"
    assert set(words.values()) == {"undecidable"}  # no 400 answers show 99 %
    assert any("cannot certify 99%" in note for note in result.notes)
    why = ladder.ask("EXPLAIN WHY m1 NOT IN (SELECT MODELS CORR m0 99%)")
    (verdict,) = why.data["conditions"]
    assert verdict["verdict"] == "undecidable"
    assert "at least" in verdict["relaxation"]
    # 36 of 400 others refute 99 %, however many probes there were
    refuted = ladder.ask("EXPLAIN WHY m9 NOT IN (SELECT MODELS CORR m0 99%)")
    assert refuted.data["conditions"][0]["verdict"] == "false"
    assert "m9" not in words
