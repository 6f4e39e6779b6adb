"""The streams, methods and figures of benchmarks.collaborative."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.stream_calls import (
    BANDS,
    LENGTH,
    MOMENTS,
    STRIDE,
    WINDOW,
    Ear,
    in_noise,
)
from benchmarks.stream_filters import FEATURES, Filter
from benchmarks.stream_links import LinkedStream
from benchmarks.stream_methods import Budget, Methods
from benchmarks.streams import PERIODS, SHOWN, Stream, drawn
from sommelier.analysis.links import AnswerFormat, LinkAnswers, Split

CLASSES = 4


@pytest.mark.parametrize("again", [1, 3])
def test_nothing_of_the_first_period_comes_again(again: int) -> None:
    rng = np.random.default_rng(0)
    who, what = rng.integers(0, 5, 1_800), rng.integers(0, 3, 1_800)
    order = drawn(who, what, (2, 6), rng, again=again)
    first = order.row[order.period == 0]
    times = np.bincount(order.row)
    assert (times[first] == 1).all()
    assert times.max() == again
    assert len(first) == int(SHOWN * (1_800 * again // (PERIODS - 1 + again)))
    assert np.bincount(order.period).tolist() == [len(first)] * PERIODS


def test_a_visit_shows_one_visitor() -> None:
    rng = np.random.default_rng(0)
    who = rng.integers(0, 5, 2_000)
    order = drawn(who, np.zeros_like(who), (2, 6), rng)
    for visit in range(order.visit.max() + 1):
        here = order.visit == visit
        assert len(np.unique(who[order.row[here]])) == 1
        assert here.sum() < 6


def test_periods_differ_more_than_the_first_from_an_even_mix() -> None:
    rng = np.random.default_rng(1)
    who = rng.integers(0, 5, 5_000)
    order = drawn(who, np.zeros_like(who), (1, 4), rng)
    most = [
        np.bincount(who[order.row[order.period == now]]).max() / (SHOWN * 500)
        for now in range(PERIODS)
    ]
    assert most[0] < 0.3
    assert np.mean(most[1:]) > 0.4


def test_an_ear_hears_the_standardised_logarithms_of_a_fourier_transform() -> None:
    waves = 1_000 * np.random.default_rng(2).standard_normal((3, LENGTH)).astype(np.float32)
    frames = np.lib.stride_tricks.sliding_window_view(waves, WINDOW, axis=1)[:, ::STRIDE]
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    lines = np.abs(np.fft.rfft(frames * window))[:, :, 1:]
    bands = np.log1p(lines.reshape(3, MOMENTS, BANDS, -1).mean(axis=3)).transpose(0, 2, 1)
    bands -= bands.mean(axis=(1, 2), keepdims=True)
    bands /= bands.std(axis=(1, 2), keepdims=True)
    heard = Ear()(torch.from_numpy(waves[:, None])).numpy()[:, 0]
    np.testing.assert_allclose(heard, bands, atol=1e-3)  # float32 sums of 256 products of 1e3


def test_noise_is_as_much_lower_than_speech_as_was_asked() -> None:
    rng = np.random.default_rng(3)
    waves = np.zeros((2, LENGTH), dtype=np.float32)
    waves[:, :2_000] = 500 * rng.standard_normal((2, 2_000))
    loudness = np.array([20.0, 6.0])
    noise = in_noise(waves, np.array([0, 800]), loudness, rng)
    noise[0, :2_000] -= waves[0, :2_000]
    noise[1, 800:2_800] -= waves[1, :2_000]
    assert 20 * np.log10(500 / noise.std(axis=1)) == pytest.approx(loudness, abs=0.3)


@pytest.mark.parametrize("share", [1 / 3, 2 / 3])
@pytest.mark.parametrize("since", ["previous", "processed"])
@pytest.mark.parametrize("name", FEATURES)
def test_a_filter_keeps_to_its_share_while_content_changes(
    name: str, since: str, share: float
) -> None:
    rng = np.random.default_rng(4)
    speed = np.repeat([0.2, 0.8, 0.4], 700)
    pictures = np.cumsum(speed[:, None, None] * rng.standard_normal((2_100, 16, 16)), axis=0)
    pictures = np.sin(pictures) * 2  # within the levels of the histogram
    feature, distance = FEATURES[name]
    features = np.stack([feature(picture) for picture in pictures])
    found, _ = Filter(name, feature, distance, since).processed(features, share, 0.05)
    assert found.mean() == pytest.approx(share, abs=0.06)


def test_a_filter_processes_what_is_new_and_not_what_it_has_seen() -> None:
    rng = np.random.default_rng(5)
    pictures = np.repeat(rng.standard_normal((200, 6, 6)), 3, axis=0)
    feature, distance = FEATURES["pixel"]
    one = Filter("pixel", feature, distance, "previous")
    found, _ = one.processed(pictures, 1 / 3, 0.5)
    assert np.flatnonzero(found).tolist() == [*range(0, 600, 3)]


def test_the_plan_is_chosen_again_when_a_model_stops_agreeing() -> None:
    """b answers as a until frame 3 000, and from there on d does: then d is predicted, not b."""
    linked = _drifting()
    outcome = Methods(linked).watched(Budget("latency", 2 / 3))
    (before, _), (after, late), _ = outcome.plans
    assert outcome.choices == 1
    assert (set(before.executed), set(after.executed)) == ({"a", "d"}, {"a", "b"})
    assert late > 2_000  # of 3 000: the alarm, and the frames looked at before the new choice
    assert outcome.accuracy > 0.93
    assert Methods(linked).static("", Budget("latency", 2 / 3), "exact").accuracy < 0.9


@pytest.mark.slow
def test_knowing_each_period_is_not_worse_than_any_choice_made_without() -> None:
    methods, budget = Methods(_drifting()), Budget("latency", 2 / 3)
    outcomes = list(methods.of(budget))
    best = outcomes[-1]
    assert best.method.startswith("optimum")
    assert best.accuracy == pytest.approx(1.0)
    within = [one for one in outcomes if "MLink" not in one.method]  # that may exceed the budget
    assert all(one.accuracy <= best.accuracy + 1e-9 for one in within)
    assert all(one.executions <= 2 / 3 + 0.04 for one in outcomes)  # and frames looked at


@pytest.mark.slow
def test_the_quick_benchmark_runs_without_the_zoo(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if k != "SOMMELIER_ZOO"}
    file = tmp_path / "figures.json"
    program = [sys.executable, "-m", "benchmarks.collaborative", "--quick", "--json", str(file)]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=True)
    figures = json.loads(file.read_text())
    last = done.stdout.splitlines()[-1]
    assert all(f"{name}=" in last for name in figures if name != "environment")
    assert figures["standalone_at_third"] == pytest.approx(2 / 7)
    assert figures["executions_at_third"] <= 1 / 3 + 0.01
    assert figures["standalone_at_third"] < figures["accuracy_at_third"]
    assert figures["accuracy_at_third"] < figures["accuracy_at_two_thirds"]


def _drifting() -> LinkedStream:
    """Three models that cost the same; a answers at random."""
    n = 6_000
    draw = np.random.default_rng(6)
    ids = draw.integers(0, CLASSES, (3, n))
    ids[1, : n // 2], ids[2, n // 2 :] = ids[0, : n // 2], ids[0, n // 2 :]
    format = AnswerFormat("classes", CLASSES, "probabilities")
    answers = {
        name: LinkAnswers(format, np.eye(CLASSES, dtype=np.float32)[row])
        for name, row in zip("abd", ids, strict=True)
    }
    pairs = [("a", "b"), ("a", "d")]
    predicted = {"a": {}, **{target: {source: answers[source].values} for source, target in pairs}}
    period = np.repeat(np.arange(PERIODS), n // PERIODS)
    first = np.flatnonzero(period == 0)
    return LinkedStream(
        Stream("drifting", np.zeros((n, 1)), period, (), lambda frames: frames),
        answers, dict.fromkeys(pairs, b""), predicted,
        Split(first[:300], first[300:400], first[400:]),
        {name: {"latency": 1.0, "memory": 1.0} for name in answers},
        {pair: {"latency": 0.0, "memory": 0.0} for pair in pairs},
    )  # fmt: skip
