"""What every measure promises, checked on random answers of every measure.

The triangle inequality is searched for violations where it is claimed; where it is not claimed a
stored counter-example shows that the claim would be false.
"""

from __future__ import annotations

import numpy as np
import pytest

from sommelier.analysis.quality import (
    MEASURES,
    BoxSets,
    Detections,
    Distributions,
    LabelSets,
    Outputs,
    Pixels,
    RankBiased,
    RankedOverlap,
    RelativeVectors,
    Sequences,
    SingleBox,
    TopClass,
    TopClasses,
    Vectors,
    measure_for,
)
from sommelier.records import NO_ANSWER, OutputKind

N = 3000  # random triples a measure: small alphabets, so that near and equal answers are common


def ranked(rng, items, k):
    return np.argsort(rng.random((N, items)), axis=1)[:, :k]


def some_boxes(rng):
    corners = rng.integers(0, 6, (N, 2))
    return np.concatenate([corners, corners + rng.integers(0, 5, (N, 2))], axis=1).astype(float)


def box_sets(rng):
    found = []
    for count in rng.integers(0, 3, N):
        left = rng.integers(0, 7, count)
        boxes = np.stack([left, 0 * left, left + 10, 0 * left + 1], axis=1)
        found.append(Detections.of(boxes, rng.random(count), rng.integers(0, 2, count)))
    return found


def classes(rng):
    return rng.choice(np.array([0, 1, 2], np.uint32), N)


MEASURED = {
    "top class": (TopClass(), classes),
    "top classes": (TopClasses(), lambda rng: ranked(rng, 7, 3).astype(np.uint32)),
    "label sets": (LabelSets(), lambda rng: rng.random((N, 5))),
    "vectors": (Vectors(scale=1.5), lambda rng: rng.normal(size=(N, 2))),
    "constant vectors": (Vectors(scale=0.0), lambda rng: rng.integers(0, 2, (N, 1)).astype(float)),
    "relative vectors": (RelativeVectors(), lambda rng: rng.normal(size=(N, 2))),
    "box sets": (BoxSets(), box_sets),
    "single box": (SingleBox(), some_boxes),
    "pixels": (Pixels(), lambda rng: rng.integers(0, 3, (N, 2, 3))),
    "sequences": (
        Sequences(),
        lambda rng: [tuple(rng.integers(0, 2, n)) for n in rng.integers(0, 5, N)],
    ),
    "texts": (
        Sequences("word"),
        lambda rng: [" ".join(rng.choice(["a", "b"], n)) for n in rng.integers(0, 4, N)],
    ),
    "overlap": (RankedOverlap(k=3), lambda rng: ranked(rng, 6, 3)),
    "rank biased": (RankBiased(k=3), lambda rng: ranked(rng, 6, 4)),
    "distributions": (Distributions(), lambda rng: rng.dirichlet([0.3, 0.3, 0.3], N)),
    "steps": (Distributions(), lambda rng: rng.normal(size=(N, 2, 3)) * 3),
    "outputs": (
        Outputs({"a": TopClass(), "b": Vectors(scale=2.0)}),
        lambda rng: {"a": classes(rng), "b": rng.normal(size=(N, 2))},
    ),
}


@pytest.fixture(params=MEASURED, scope="module")
def triple(request):
    measure, draw = MEASURED[request.param]
    rng = np.random.default_rng([7, len(request.param)])
    return measure, draw(rng), draw(rng), draw(rng)


def test_losses_lie_between_0_and_1_and_vary(triple):
    measure, one, other, _ = triple
    losses = measure.losses(one, other)
    assert losses.shape == (N,)
    assert losses.dtype == (np.bool_ if isinstance(measure, TopClass) else np.float64)
    losses = losses.astype(np.float64)
    assert losses.min() >= 0
    assert losses.max() <= 1
    assert losses.std() > 0.01


def test_an_answer_is_at_no_distance_from_itself_and_interchangeable(triple):
    measure, one, *_ = triple
    np.testing.assert_allclose(measure.losses(one, one), 0, atol=1e-7)  # sqrt of JS rounding
    assert measure.interchangeable(one, one).all()


def test_the_order_of_the_models_matters_only_where_it_is_said_to(triple):
    measure, one, other, _ = triple
    there, back = (measure.losses(*way).astype(float) for way in ((one, other), (other, one)))
    assert np.allclose(there, back, atol=1e-12) == measure.symmetric


def test_the_triangle_inequality_holds_where_it_is_claimed(triple):
    measure, one, other, third = triple
    legs = ((one, other), (other, third), (one, third))
    first, second, direct = (measure.losses(*leg).astype(float) for leg in legs)
    excess = (direct - first - second).max()
    if measure.pseudometric:
        assert excess <= 1e-9
    else:
        assert excess > 0.01  # the search finds what the stored counter-examples below show


def test_interchangeable_is_one_bool_a_sample_and_every_answer_can_be_described(triple):
    measure, one, other, _ = triple
    same = measure.interchangeable(one, other)
    assert same.shape == (N,)
    assert same.dtype == np.bool_
    first = {k: v[0] for k, v in one.items()} if isinstance(one, dict) else one[0]
    assert 0 < len(measure.describe(first)) < 120
    assert measure.name
    assert measure.predicate


def boxes(*corners):
    return [Detections.of([corner]) for corner in corners]


COUNTER_EXAMPLES = {
    "F1 at a threshold: overlapping twice in a row is not overlapping": (
        BoxSets(),
        *boxes([0, 0, 10, 1], [3, 0, 13, 1], [6, 0, 16, 1]),
    ),
    "normalised edits": (Sequences(), "ab", "aba", "ba"),
    "relative to a long reference, then to a short one": (
        RelativeVectors(),
        np.array([0.1]),
        np.array([0.15]),
        np.array([0.2]),
    ),
}


@pytest.mark.parametrize("why", COUNTER_EXAMPLES)
def test_a_measure_without_the_triangle_inequality_has_a_counter_example(why):
    measure, one, other, third = COUNTER_EXAMPLES[why]
    ways = [(one, third), (one, other), (other, third)]
    if isinstance(one, np.ndarray):
        direct, first, second = (float(measure.losses(a[None], b[None])[0]) for a, b in ways)
    else:
        direct, first, second = (float(measure.losses([a], [b])[0]) for a, b in ways)
    assert not measure.pseudometric
    assert direct > first + second + 0.1


def test_every_kind_of_output_has_a_measure():
    assert set(MEASURES) == set(OutputKind)
    answers = np.random.default_rng(0).random((20, 12))
    for kind in OutputKind:
        assert measure_for(kind, answers).name


def test_unanswered_samples_are_as_far_as_can_be_even_from_themselves():
    nan = np.array([[np.nan, 1.0]])
    assert TopClass().losses(np.array([NO_ANSWER]), np.array([NO_ANSWER])) == [1]
    for measure in (Vectors(scale=1.0), RelativeVectors(), LabelSets(), Distributions()):
        assert measure.losses(nan, nan) == [1]
        assert not measure.interchangeable(nan, nan).any()
