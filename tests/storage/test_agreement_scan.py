"""The numpy cores of the semantic index against computations written another way."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sommelier.storage import agreement_scan
from sommelier.storage.agreement_bounds import Leg, transitive_bounds
from sommelier.storage.agreement_scan import (
    agreement_counts,
    interchangeable_counts,
    paired_counts,
)
from sommelier.storage.label_matching import normalise
from sommelier.storage.label_translation import (
    MAPPED,
    NAMED,
    NO_ANSWER,
    NO_PARTNER,
    POSITIONAL,
    classes,
    row_lookup,
    translation,
)
from sommelier.storage.random_peers import RandomPeers

ANSWERS = np.array([3, 0, 65533, 65534], dtype=np.uint32)


@pytest.mark.parametrize("rows", [None, [0, 1, 2, 3, 4], [4, 1, 3], []])
def test_counts_equal_a_loop_over_samples(monkeypatch, rows):
    monkeypatch.setattr(agreement_scan, "CHUNK_BYTES", 32)  # two rows a chunk
    rng = np.random.default_rng(0)
    matrix = rng.integers(0, 4, (5, 8), dtype=np.uint16)
    reference = rng.integers(0, 4, 8).astype(np.uint32)
    chosen = range(5) if rows is None else rows
    expected = [
        sum(int(a) == int(b) for a, b in zip(matrix[r], reference, strict=True)) for r in chosen
    ]
    found = agreement_counts(reference, matrix, None if rows is None else np.array(rows, dtype=int))
    assert found.tolist() == expected


def test_no_answer_agrees_with_nothing():
    matrix = np.array([[1, 65535, 2]], dtype=np.uint16)
    reference = translation(classes(None, None, 3), classes(None, None, 3)).apply(
        np.array([1, NO_ANSWER, NO_ANSWER], dtype=np.uint32)
    )
    assert agreement_counts(reference, matrix).tolist() == [1]


def test_class_ids_that_do_not_fit_uint16_agree_with_nothing():
    matrix = np.array([[1, 0, 4464]], dtype=np.uint16)  # 70000 - 65536 = 4464
    assert agreement_counts(np.array([1, 0, 70_000], dtype=np.uint32), matrix).tolist() == [2]


def test_vectors_agree_up_to_five_percent_of_the_reference():
    reference = np.array([[3.0, 4.0], [0.0, 0.0], [1.0, 0.0], [np.nan, 1.0]], dtype=np.float32)
    near = reference * np.float32(1.049)
    far = reference * np.float32(1.051)
    counts = interchangeable_counts(reference, np.stack([near, far, reference]))
    assert counts.tolist() == [3, 1, 3]  # equal zeros agree, a NaN never does


def test_paired_counts_are_those_of_a_contingency_table():
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 3, 50).astype(np.uint32)
    matrix = rng.integers(0, 3, (6, 50), dtype=np.uint16)
    correct = matrix[0] == truth
    only_reference, only_row = paired_counts(correct, truth, matrix)
    for row in range(6):
        right = matrix[row] == truth
        assert only_reference[row] == (correct & ~right).sum()
        assert only_row[row] == (right & ~correct).sum()


def test_rows_are_translated_by_a_table_longer_than_their_type():
    matrix = np.array([[0, 1, 2, 65534, 65535]], dtype=np.uint16)
    for width in (3, 70_000):
        table = row_lookup(np.full(width, 7, dtype=np.uint32))
        reference = np.array([7, 7, 7, 7, NO_PARTNER], dtype=np.uint32)
        expected = 3 if width == 3 else 4  # 65535 is no answer, whatever the table says
        assert agreement_counts(reference, matrix, None, table).tolist() == [expected]
        only = paired_counts(np.zeros(5, dtype=bool), reference, matrix, None, table)
        assert [counts.tolist() for counts in only] == [[0], [expected]]


# ---- label spaces


def test_names_compare_without_case_space_underscore_or_hyphen():
    assert normalise(" Tiger_Cat") == normalise("tiger-cat") == normalise("TIGER CAT")


def test_a_background_class_shifts_ids_and_has_no_partner():
    thousand = [f"class {i}" for i in range(1000)]
    how = translation(classes("b", ["background", *thousand], None), classes("a", thousand, None))
    assert how.labels == NAMED
    assert how.table[0] == NO_PARTNER
    assert (how.table[1:] == np.arange(1000)).all()
    back = translation(classes("a", thousand, None), classes("b", ["background", *thousand], None))
    assert (back.table == np.arange(1, 1001)).all()


def test_equal_names_match_in_order_of_occurrence():
    how = translation(
        classes("a", ["crane", "car", "Crane"], 3), classes("b", ["car", "crane", "crane"], 3)
    )
    assert how.table.tolist() == [1, 0, 2]


def test_a_label_map_overrides_names():
    how = translation(
        classes("a", ["cat", "lorry"], 2),
        classes("b", ["lorry", "truck", "cat"], 3),
        {"lorry": "truck"},
    )
    assert (how.labels, how.table.tolist()) == (MAPPED, [2, 1])


@pytest.mark.parametrize(
    ("reference", "candidate", "labels", "reason"),
    [
        ((None, None, 10), (None, None, 10), POSITIONAL, None),
        (("a", ["x", "y"], 2), (None, None, 2), POSITIONAL, None),
        (("a", None, 10), ("a", None, 10), NAMED, None),
        ((None, None, 10), (None, None, 11), None, "different numbers of classes, names unknown"),
        ((None, None, None), (None, None, 11), None, "number of classes unknown"),
        (("a", ["x"], 1), ("b", ["y"], 1), None, "label spaces share no names"),
    ],
)
def test_label_spaces_compare_by_name_then_by_position(reference, candidate, labels, reason):
    how = translation(classes(*reference), classes(*candidate))
    assert (how.labels, how.reason) == (labels, reason)


# ---- bounds


@given(st.integers(0, 2**32 - 1), st.integers(2, 12), st.floats(0.0, 1.0), st.integers(1, 4))
@settings(deadline=None)
def test_transitive_bounds_contain_the_truth_on_one_probe_set(seed, models, copying, top):
    rng = np.random.default_rng(seed)
    base = rng.integers(0, top + 1, 40)
    answers = np.where(
        rng.random((models, 40)) < copying, base, rng.integers(0, top + 1, (models, 40))
    )
    agree = (answers[:, None] == answers[None]).sum(2)
    legs = [Leg(y, int(agree[0, y]), 40, np.arange(models), agree[y], 40) for y in range(1, models)]
    bounds = transitive_bounds(legs, len(legs))
    truth = agree[0, bounds.rows] / 40
    assert (bounds.low <= truth + 1e-12).all()
    assert (truth <= bounds.high + 1e-12).all()
    assert (np.diff(bounds.low) <= 0).all()


def test_transitive_intervals_cover_at_their_confidence():
    rng = np.random.default_rng(7)
    inputs, probes, misses, runs = 4_000, 300, 0, 300
    for _ in range(runs):
        base = rng.integers(0, 50, inputs)
        population = np.stack(
            [
                np.where(rng.random(inputs) < d, rng.integers(0, 50, inputs), base)
                for d in (0.02, 0.05, 0.08, 0.1)
            ]
        )
        first, second = (rng.choice(inputs, probes, replace=False) for _ in range(2))
        near = (population[:, first] == population[0, first]).sum(1)
        far = (population[:, second] == population[3, second]).sum(1)
        legs = [Leg(y, int(near[y]), probes, np.array([3]), far[[y]], probes) for y in (1, 2)]
        low, high = transitive_bounds(legs, 2).interval(0.9)
        truth = (population[0] == population[3]).mean()
        misses += not low[0] <= truth <= high[0]
    # conservative by Bonferroni and by the triangle inequality: at most 10 % + 3 sd
    assert misses <= 0.1 * runs + 3 * np.sqrt(0.09 * runs)


def test_choosing_the_nearest_of_many_bridges_is_paid_for():
    """Start and end always differ, a bridge takes either's answer on every input by a coin: the
    triangle inequality is tight, and the luckiest of 2 000 bridges makes the two seem to agree."""
    rng = np.random.default_rng(11)
    bridges, probes, many, runs, confidence = 2_000, 100, 100_000, 200, 0.9
    misses = {16: 0, bridges: 0}
    for _ in range(runs):
        near = rng.binomial(probes, 0.5, bridges)  # each bridge's own coins
        far = rng.binomial(many, 0.5, (16, 1))
        nearest = np.sort(near)[::-1][:16].tolist()
        legs = [
            Leg(y, count, probes, np.array([0]), far[y], many) for y, count in enumerate(nearest)
        ]
        for considered in misses:
            low, high = transitive_bounds(legs, considered).interval(confidence)
            misses[considered] += not low[0] <= 0.0 <= high[0]
    allowed = (1 - confidence) * runs + 3 * np.sqrt(runs * confidence * (1 - confidence))
    assert misses[bridges] <= allowed
    assert misses[16] > allowed  # what it would be if only the chosen ones were counted


@given(st.integers(0, 2**32 - 1), st.integers(1, 25))
@settings(deadline=None)
def test_random_peers_bound_every_distance(seed, models):
    rng = np.random.default_rng(seed)
    answers = rng.integers(0, 3, (models, 30))
    distance = (answers[:, None] != answers[None]).sum(2)
    peers = RandomPeers(seed=seed)
    for new in range(models):
        peers.insert(lambda chosen, new=new: distance[new, chosen], 30)
    for model in range(models):
        low, high = peers.intervals(model)
        assert (low <= distance[model]).all()
        assert (distance[model] <= high).all()


def test_random_peers_compare_each_model_with_at_most_five():
    asked = []
    peers = RandomPeers()
    for _ in range(40):
        peers.insert(lambda chosen: asked.append(len(chosen)) or np.full(len(chosen), 3), 10)
    assert asked == [min(5, n) for n in range(1, 40)]
