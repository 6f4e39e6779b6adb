"""The groups, predictors and verdicts of benchmarks.links."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.link_curves import COPY, ENSEMBLE, STUDENT, curve
from benchmarks.link_matrix import copies, pairs_of, studied
from benchmarks.link_repairs import training_seconds, units_table
from benchmarks.link_students import distilled
from benchmarks.link_tasks import RATE, SIZE, Group, spectrograms, synthetic
from benchmarks.links import IDS, Findings, ids_of, linked_unrelated, screen_table, verdicts
from sommelier.analysis.links import AnswerFormat, LinkAnswers, split

SAMPLES = 600
ACCENT_OF = np.array([0, 1, 2, 2, 3, 0])
GOOD = {
    "train_100d_s": 0.5, "linked_unrelated": 0, "ensemble_below_best": 0, "links_below_copy": 0,
    "screen_rank_correlation": 0.95, "links_over_student_1pct": 0.1, "units_gain": 0.01,
}  # fmt: skip
BAD = {
    "train_100d_s": 2.5, "linked_unrelated": 1, "ensemble_below_best": 1, "links_below_copy": 2,
    "screen_rank_correlation": 0.5, "links_over_student_1pct": -0.1, "units_gain": -0.1,
}  # fmt: skip


@pytest.fixture(scope="module")
def toy() -> Group:
    """Answers of one who hears the speaker, the digit and the accent nearly without fault."""
    rng = np.random.default_rng(0)
    speaker, digit = rng.integers(0, 6, SAMPLES), rng.integers(0, 10, SAMPLES)
    answers = {
        "digit": _classes(digit, 10, rng),
        "speaker": _classes(speaker, 6, rng),
        "accent": _classes(ACCENT_OF[speaker], 4, rng),
        "accent_too": _classes(ACCENT_OF[speaker], 4, rng, wrong=0.2),
    }
    pictures = rng.normal(size=(6, 1, 8, 8))[speaker] + rng.normal(size=(SAMPLES, 1, 8, 8))
    return Group("toy", answers, pictures.astype(np.float32))


@pytest.fixture(scope="module")
def findings(toy: Group) -> Findings:
    ids = ids_of(toy)
    found = Findings({"toy": toy, IDS: ids}, {g.name: studied(g, 0) for g in (toy, ids)})
    found.curves.append(curve(toy, "accent", (0,), (0.05, 0.2)))
    return found


def test_a_tone_is_heard_in_its_band() -> None:
    time = np.arange(6_000) / RATE
    tone = 1_000 * np.sin(2 * np.pi * 1_062.5 * time).astype(np.float32)  # the middle of band 8
    heard = spectrograms(tone[None])
    assert heard.shape == (1, 1, SIZE, SIZE)
    assert (heard[0, 0].argmax(axis=0) == 8).all()


@pytest.mark.slow
def test_recordings_without_the_zoo_have_the_dependences_of_the_real_ones() -> None:
    heard = synthetic(np.random.default_rng(0))
    pairs = np.unique(np.stack([heard.labels["speaker"], heard.labels["accent"]]), axis=1)
    assert pairs.shape == (2, 6)  # one accent a speaker
    counts = np.zeros((6, 10))
    np.add.at(counts, (heard.labels["speaker"], heard.labels["digit"]), 1)
    assert (counts == 50).all()


def test_a_student_learns_what_the_target_answers() -> None:
    rng = np.random.default_rng(1)
    side = rng.integers(0, 2, 160)
    pictures = rng.normal(size=(160, 1, 8, 8)).astype(np.float32)
    pictures[side == 1, :, :, 4:] += 1.5
    target = _classes(side, 2, rng)
    rows = split(160, 0)
    answers = distilled(pictures, target, rows, seed=0)
    assert (answers.argmax(axis=1) == side[rows.held_out]).mean() > 0.95


def test_a_student_sees_nothing_of_held_out_answers() -> None:
    rng = np.random.default_rng(2)
    pictures = rng.normal(size=(60, 1, 8, 8)).astype(np.float32)
    target, rows = _classes(rng.integers(0, 2, 60), 2, rng), split(60, 0)
    changed = target.values.copy()
    changed[rows.held_out] = changed[rows.held_out][:, ::-1]
    other = LinkAnswers(target.format, changed)
    found = [distilled(pictures, each, rows, seed=0) for each in (target, other)]
    np.testing.assert_array_equal(*found)


def test_the_matrix_finds_what_follows_and_what_does_not(findings: Findings) -> None:
    states = {(p.source, p.target): p.state for p in findings.pairs if p.group == "toy"}
    assert states["speaker", "accent"] == states["accent", "speaker"] == "linked"
    for ends in (("digit", "speaker"), ("speaker", "digit"), ("accent", "digit")):
        assert states[ends] != "linked"
    assert findings.pair("toy", "speaker", "accent").performance > 0.95
    # accents of 2, 1, 2 and 1 speakers: 4 of 6, and as much more as 180 samples may differ
    assert findings.pair("toy", "accent", "speaker").performance < 4 / 6 + 0.1


def test_the_rank_correlation_and_counts_are_of_all_pairs(findings: Findings) -> None:
    text, rank = screen_table(findings.pairs)
    assert len(findings.pairs) == 2 * 12
    assert text.splitlines()[1].startswith("24 pairs")
    told, came = ([p.screen.predicted for p in findings.pairs],
                  [p.performance for p in findings.pairs])  # fmt: skip
    known = np.isfinite(told)
    ranks = [np.argsort(np.argsort(np.array(values)[known])) for values in (told, came)]
    # without ties; those that there are move it little
    assert rank == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=0.1)


def test_copies_are_of_the_same_classes_and_judged_on_held_out_samples(
    toy: Group, findings: Findings
) -> None:
    found = {(p.source, p.target): good for p, good, _ in copies(toy, findings.rows["toy"], 0)}
    assert set(found) == {("accent", "accent_too"), ("accent_too", "accent")}
    held = split(SAMPLES, 0).held_out
    a, b = (toy.answers[n].values[held].argmax(axis=1) for n in ("accent", "accent_too"))
    assert found["accent", "accent_too"] == pytest.approx((a == b).mean())


def test_curves_have_every_predictor_at_every_fraction(findings: Findings) -> None:
    (one,) = findings.curves
    assert one.samples == (21, 84)
    assert {ENSEMBLE, STUDENT, "accent_too" + COPY} <= set(one.found)
    assert all(values.shape == (2, 1) for values in one.found.values())
    assert one.mean("speaker, auto", 1) > 0.95


def test_links_between_answers_to_different_inputs_are_not_said_to_work(toy: Group) -> None:
    assert linked_unrelated(toy, 4, 0) == 0


def test_every_expectation_can_fail(findings: Findings) -> None:
    assert all(verdict.met for verdict in verdicts(findings, GOOD, "toy"))
    for name, value in BAD.items():
        told = verdicts(findings, {**GOOD, name: value}, "toy")
        assert sum(not verdict.met for verdict in told) == 1, name


def test_an_expectation_of_what_follows_fails_where_it_does_not(toy: Group) -> None:
    rng = np.random.default_rng(3)
    deaf = {name: _classes(rng.integers(0, 3, SAMPLES), 3, rng) for name in toy.answers}
    same = Group("toy", {**deaf, "digit": deaf["speaker"]})
    found = Findings({}, {name: studied(Group(name, same.answers), 0) for name in ("toy", IDS)})
    found.curves.append(curve(same, "accent", (0,), (0.1,)))
    missed = [verdict.expected for verdict in verdicts(found, GOOD, "toy") if not verdict.met]
    assert [words.split(",")[0].split(" is ")[0] for words in missed] == [
        "speaker -> accent", "accent -> speaker", "digit <-> speaker",
    ]  # fmt: skip


def test_sources_without_a_link_are_named_in_no_ensemble(findings: Findings) -> None:
    for row in findings.rows["toy"]:
        linkable = {pair.source for pair in row.pairs if pair.screen.linkable}
        assert set(row.predicted) == linkable
        assert row.subsets == 2 ** len(linkable) - 1
        assert row.below == 0
    assert len(pairs_of(findings.rows["toy"])) == 12


def test_time_and_units_are_measured(toy: Group) -> None:
    assert training_seconds(1, seed=0, repeats=1) > 0
    numbers = LinkAnswers(
        AnswerFormat("numbers", 1, "values"), toy.answers["speaker"].values[:, :1] ** 2
    )
    group = Group("toy", {"length": numbers, "speaker": toy.answers["speaker"]})
    text, gain = units_table(group, (0,))
    assert "speaker -> length" in text
    assert abs(gain) < 0.5


@pytest.mark.slow
def test_the_quick_benchmark_meets_its_expectations_without_the_zoo(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "SOMMELIER_ZOO"}
    file = tmp_path / "figures.json"
    program = [sys.executable, "-m", "benchmarks.links", "--quick", "--json", str(file)]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=True)
    figures = json.loads(file.read_text())
    last = done.stdout.splitlines()[-1]
    assert all(f"{name}=" in last for name in figures if name != "environment")
    assert "NOT MET" not in done.stdout
    assert figures["speaker_to_accent"] > figures["accent_to_speaker"]
    assert 0.5 < figures["accent_to_speaker_ids"] < 0.8  # 4 of 6


def _classes(
    ids: np.ndarray, width: int, rng: np.random.Generator, wrong: float = 0.01
) -> LinkAnswers:
    """Probabilities of a model that is right but for the share `wrong`, and equally sure always."""
    heard = np.where(rng.random(len(ids)) < wrong, rng.integers(0, width, len(ids)), ids)
    values = np.full((len(ids), width), 0.1 / width, dtype=np.float32)
    values[np.arange(len(ids)), heard] += 0.9
    return LinkAnswers(AnswerFormat("classes", width, "probabilities"), values)
