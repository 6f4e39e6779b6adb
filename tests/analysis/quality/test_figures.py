"""Labelled figures equal scikit-learn's, or tables worked out by hand where it has none."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn import metrics as sk

from sommelier.analysis.quality import (
    BoxSets,
    Detections,
    Distributions,
    LabelSets,
    Pixels,
    RankBiased,
    RankedOverlap,
    Sequences,
    SingleBox,
    TopClass,
    TopClasses,
    Vectors,
    character_error_rate,
    cosine,
    decode_ids,
    decode_scores,
    edits,
    match_boxes,
    mean_average_precision,
    scale_of,
    word_error_rate,
)
from sommelier.analysis.quality.boxes import COCO_OVERLAPS
from sommelier.analysis.quality.multilabel import average_precision
from sommelier.analysis.quality.overlap import box_overlaps, suppressed
from sommelier.errors import AnalysisError

RNG = np.random.default_rng(11)


def values(figures):
    return {figure.name: figure.value for figure in figures}


def test_accuracy_and_top_k_accuracy_equal_scikit_learn():
    scores, truth = RNG.normal(size=(300, 8)), RNG.integers(0, 8, 300)
    best = np.argsort(-scores, axis=1)
    assert values(TopClass().quality(best[:, 0], truth)) == {
        "accuracy": sk.accuracy_score(truth, best[:, 0])
    }
    expected = sk.top_k_accuracy_score(truth, scores, k=3, labels=range(8))
    assert values(TopClasses().quality(best[:, :3], truth)) == {
        "top-3 accuracy": pytest.approx(expected)
    }


def test_unlabelled_samples_are_left_out():
    (figure,) = TopClass().quality(np.array([1, 2, 3]), np.array([1, -1, 0]))
    assert (figure.value, figure.samples) == (0.5, 2)


def test_multi_label_figures_equal_scikit_learn():
    scores, truth = RNG.random((200, 6)).round(1), RNG.random((200, 6)) < 0.3
    found = values(LabelSets().quality(scores, truth))
    given = scores >= 0.5
    assert found == {
        "Hamming accuracy": pytest.approx(1 - sk.hamming_loss(truth, given)),
        "micro F1": pytest.approx(sk.f1_score(truth, given, average="micro")),
        "macro F1": pytest.approx(sk.f1_score(truth, given, average="macro")),
        "mAP": pytest.approx(sk.average_precision_score(truth, scores, average="macro")),
    }


def test_average_precision_without_a_positive_is_unknown():
    assert np.isnan(average_precision(np.array([0.1, 0.2]), np.array([False, False])))


def test_r2_and_mae_equal_scikit_learn():
    truth = RNG.normal(size=(100, 3))
    given = truth + RNG.normal(size=(100, 3))
    found = values(Vectors(scale=1.0).quality(given, truth))
    assert found["R2"] == pytest.approx(sk.r2_score(truth, given))
    assert found["MAE"] == pytest.approx(sk.mean_absolute_error(truth, given))


def test_cosine_equals_scikit_learn_and_breaks_the_triangle_inequality():
    one, other = RNG.normal(size=(2, 50, 4))
    expected = np.diag(sk.pairwise.cosine_similarity(one, other))
    np.testing.assert_allclose(cosine(one, other), expected)
    x, y, z = np.array([[1.0, 0.0]]), np.array([[1.0, 1.0]]), np.array([[0.0, 1.0]])
    direct, first, second = (1 - cosine(a, b)[0] for a, b in ((x, z), (x, y), (y, z)))
    assert direct > first + second  # which is why no bound is made of it


def test_the_scale_is_the_far_end_of_the_distances_from_the_mean():
    line = np.linspace(-1, 1, 201)[:, None]
    assert scale_of(line) == pytest.approx(np.quantile(np.abs(line), 0.975))
    with pytest.raises(AnalysisError, match="no scale"):
        scale_of(np.full((3, 2), np.nan))


def test_mean_iou_equals_scikit_learn():
    given, truth = RNG.integers(0, 4, (2, 20, 5, 5))
    found = values(Pixels().quality(given, truth))
    flat = truth.ravel(), given.ravel()
    assert found["mIoU"] == pytest.approx(sk.jaccard_score(*flat, average="macro"))
    assert found["pixel accuracy"] == pytest.approx(sk.accuracy_score(*flat))
    masked = np.where(RNG.random(truth.shape) < 0.3, -1, truth)
    known = masked.ravel() >= 0
    expected = sk.jaccard_score(truth.ravel()[known], given.ravel()[known], average="macro")
    assert values(Pixels().quality(given, masked))["mIoU"] == pytest.approx(expected)


def test_ndcg_equals_scikit_learn():
    relevance, scores = RNG.integers(0, 4, (50, 20)), RNG.normal(size=(50, 20))
    order = np.argsort(-scores, axis=1)
    found = values(RankedOverlap(k=10).quality(order, relevance))
    assert found["nDCG@10"] == pytest.approx(sk.ndcg_score(relevance, scores, k=10))


def test_perplexity_and_accuracy_of_distributions_equal_scikit_learn():
    scores, truth = RNG.normal(size=(80, 5)), RNG.integers(0, 5, 80)
    odds = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    for answers in (scores, odds):
        found = values(Distributions().quality(answers, truth))
        assert found["perplexity"] == pytest.approx(np.exp(sk.log_loss(truth, odds)))
        assert found["top-1 accuracy"] == sk.accuracy_score(truth, odds.argmax(axis=1))


def test_jensen_shannon_distance_equals_scipy():
    from scipy.spatial.distance import jensenshannon

    one, other = RNG.dirichlet([0.5] * 4, (2, 60))
    np.testing.assert_allclose(
        Distributions().losses(one, other), jensenshannon(one, other, base=2, axis=1), atol=1e-12
    )
    assert Distributions().losses([[1.0, 0.0]], [[0.0, 1.0]]) == [1]


def plain_edits(one, other):
    """Wagner and Fischer's table."""
    table = np.arange(len(other) + 1)
    for i, a in enumerate(one):
        row = [i + 1]
        for j, b in enumerate(other):
            row.append(min(row[-1] + 1, table[j + 1] + 1, table[j] + (a != b)))
        table = np.array(row)
    return int(table[-1])


def test_edit_distance_equals_the_textbook_table():
    for _ in range(300):
        one, other = (tuple(RNG.integers(-2, 3, RNG.integers(0, 8)).tolist()) for _ in range(2))
        assert edits(one, other) == plain_edits(one, other)


def test_error_rates_by_hand():
    truth = ["the cat sat on the mat", "hello world"]
    given = ["the cat sat mat", "hello beautiful world"]
    assert word_error_rate(given, truth) == pytest.approx(3 / 8)  # two lost, one too many
    assert character_error_rate(["abcd"], ["abxdy"]) == pytest.approx(2 / 5)
    exact = Sequences("word").quality(["a b", "a c"], ["a b", "a b"])[0]
    assert (exact.name, exact.value) == ("exact match", 0.5)
    assert np.isnan(word_error_rate([""], [""]))


def test_decoding_of_scores_and_ids():
    scores = np.eye(4)[[[1, 1, 0, 1, 2, 2, 3]]]  # (1, 7, 4)
    assert decode_scores(scores) == [(1, 1, 0, 1, 2, 2, 3)]
    assert decode_scores(scores, blank=0) == [(1, 1, 2, 3)]  # the blank keeps two 1s apart
    assert decode_ids([[5, 6, 2, 7]], end=2) == [(5, 6)]
    assert decode_ids([[0, 5, 0, 6]], skip=[0]) == [(5, 6)]


def sampled_overlap(a, b):
    """IoU by counting grid cells."""
    x, y = np.meshgrid(np.arange(0.05, 10, 0.1), np.arange(0.05, 10, 0.1))
    inside = [(x > c[0]) & (x < c[2]) & (y > c[1]) & (y < c[3]) for c in (a, b)]
    union = (inside[0] | inside[1]).sum()
    return (inside[0] & inside[1]).sum() / union if union else 0.0


def test_overlap_of_boxes_equals_counting_cells():
    corners = RNG.integers(0, 6, (2, 12, 2)).astype(float)
    one, other = np.concatenate([corners, corners + RNG.integers(1, 5, (2, 12, 2))], axis=2)
    found = box_overlaps(one, other)
    for i, j in itertools.product(range(12), range(12)):
        assert found[i, j] == pytest.approx(sampled_overlap(one[i], other[j]), abs=1e-9)
    figure = SingleBox().quality(one, other)[0]
    assert figure.value == pytest.approx(np.mean(np.diag(found)))


def test_boxes_without_area_overlap_only_their_equals():
    flat, there = [1.0, 1, 1, 3], [2.0, 2, 2, 2]
    assert box_overlaps([flat], [flat, there, [0, 0, 4, 4]]).tolist() == [[1, 0, 0]]


def brute_matches(one, other, overlap):
    """The largest one-to-one matching by trying all."""
    allowed = box_overlaps(one.boxes, other.boxes) >= overlap
    allowed &= one.classes[:, None] == other.classes[None, :]
    few, many = (allowed, range(len(other))) if len(one) <= len(other) else (
        allowed.T, range(len(one)))  # fmt: skip
    return max(
        sum(bool(few[i, j]) for i, j in enumerate(chosen))
        for chosen in itertools.permutations(many, len(few))
    )


def test_matching_is_the_largest_there_is():
    for _ in range(60):
        sides = []
        for count in RNG.integers(0, 5, 2):
            corners = RNG.integers(0, 3, (count, 2))
            spans = RNG.integers(2, 5, (count, 2))
            both = np.concatenate([corners, corners + spans], axis=1)
            sides.append(Detections.of(both, None, RNG.integers(0, 2, count)))
        found = match_boxes(*sides, overlap=0.4)
        assert len(found) == brute_matches(*sides, 0.4)
        assert (found.overlaps >= 0.4).all()
        assert len(set(found.first.tolist())) == len(found)


def test_class_aware_f1_by_hand():
    one = Detections.of([[0, 0, 10, 10], [20, 0, 30, 10]], None, [0, 1])
    other = Detections.of([[1, 0, 10, 10], [20, 0, 30, 10], [50, 50, 60, 60]], None, [0, 0, 1])
    loss = BoxSets().losses([one], [other])
    assert loss == pytest.approx(1 - 2 * 1 / (2 + 3))  # the second box is of another class
    empty = Detections.of([])
    assert BoxSets().losses([empty, empty], [empty, one]).tolist() == [0, 1]


def test_suppression_keeps_the_best_of_overlapping_boxes():
    stacked = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [20, 0, 30, 10]], float)
    assert suppressed(stacked, np.array([0.5, 0.9, 0.3]), 0.5).tolist() == [1, 2]


BOX = [0, 0, 10, 10]
FAR = [50, 50, 60, 60]


def test_mean_average_precision_by_hand():
    # ranked: right .9, wrong .8, right .7; three objects: precision 1 to recall 1/3, 2/3 to 2/3
    truth = [Detections.of([BOX]), Detections.of([BOX, FAR])]
    given = [Detections.of([BOX, FAR], [0.9, 0.8]), Detections.of([BOX], [0.7])]
    coco = (34 * 1 + 33 * 2 / 3) / 101  # recalls 0..0.33, then 0.34..0.66
    assert mean_average_precision(given, truth) == pytest.approx(coco)
    voc = (4 * 1 + 3 * 2 / 3) / 11  # recalls 0..0.3, then 0.4..0.6
    assert mean_average_precision(given, truth, points=11) == pytest.approx(voc)


def test_a_second_detection_of_one_object_is_wrong():
    truth = [Detections.of([BOX, FAR])]
    given = [Detections.of([BOX, BOX, FAR], [0.9, 0.8, 0.7])]
    # right, wrong, right: precision 1 up to recall 1/2 (51 points), then 2/3 (50 points)
    assert mean_average_precision(given, truth) == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_map_averages_classes_with_objects_and_overlaps():
    truth = [Detections.of([BOX, FAR], None, [0, 1])]
    given = [Detections.of([[0, 0, 10, 8], FAR], [0.9, 0.8], [0, 7])]  # IoU .8; class 7 is nowhere
    assert mean_average_precision(given, truth) == pytest.approx((1 + 0) / 2)
    # at overlaps .5 .. .8, 7 of COCO's 10, the first is right
    found = mean_average_precision(given, truth, overlaps=COCO_OVERLAPS)
    assert found == pytest.approx(7 / 10 / 2)
    assert np.isnan(mean_average_precision(given, [Detections.of([])]))


def plain_map(given, truth, points):
    """mAP at IoU .5 with detections and recalls walked one by one."""
    kinds = sorted({int(k) for t in truth for k in t.classes})
    found = []
    for kind in kinds:
        ranked = sorted(
            ((-s, i, tuple(b)) for i, g in enumerate(given)
             for s, b, k in zip(g.scores, g.boxes, g.classes, strict=True) if k == kind)
        )  # fmt: skip
        free = [
            [tuple(b) for b, k in zip(t.boxes, t.classes, strict=True) if k == kind] for t in truth
        ]
        total = sum(map(len, free))
        curve, right = [], 0
        for rank, (_, image, box) in enumerate(ranked, 1):
            best = max(free[image], key=lambda o: box_overlaps([box], [o])[0, 0], default=None)
            if best is not None and box_overlaps([box], [best])[0, 0] >= 0.5:
                free[image].remove(best)
                right += 1
            curve.append((right / total, right / rank))
        reached = [
            max((p for r, p in curve if r >= level - 1e-12), default=0.0)
            for level in np.linspace(0, 1, points)
        ]
        found.append(np.mean(reached))
    return float(np.mean(found))


@pytest.mark.parametrize("points", [11, 101])
def test_map_equals_a_plain_walk_and_resamples_as_the_resampled_dataset(points):
    truth, given = [], []
    for _ in range(25):
        count = RNG.integers(1, 4)
        corners = RNG.integers(0, 40, (count, 2))
        there = np.concatenate([corners, corners + RNG.integers(5, 15, (count, 2))], axis=1)
        kinds = RNG.integers(0, 3, count)
        moved = there + RNG.integers(-2, 3, there.shape)
        truth.append(Detections.of(there, None, kinds))
        seen = RNG.random(count) < 0.8
        given.append(Detections.of(moved[seen], RNG.random(seen.sum()), kinds[seen]))
    found = mean_average_precision(given, truth, points=points)
    assert found == pytest.approx(plain_map(given, truth, points))
    if points == 101:
        chosen = RNG.integers(0, 25, 25)
        figure = next(f for f in BoxSets().quality(given, truth) if f.name == "mAP@0.5")
        again = mean_average_precision([given[i] for i in chosen], [truth[i] for i in chosen])
        # repeated images give equal scores, whose order inside a tie is arbitrary
        assert figure.resampled(chosen) == pytest.approx(again, abs=0.02)


def plain_rbo(one, other, p):
    depth = len(one)
    shared = [len(set(one[:d]) & set(other[:d])) / d for d in range(1, depth + 1)]
    return shared[-1] * p**depth + (1 - p) / p * sum(a * p**d for d, a in enumerate(shared, 1))


def test_rank_biased_overlap_equals_equation_32():
    lists = np.argsort(RNG.random((2, 40, 12)), axis=2)[:, :, :6]
    found = 1 - RankBiased(persistence=0.8).losses(*lists)
    expected = [plain_rbo(a.tolist(), b.tolist(), 0.8) for a, b in zip(*lists, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    with pytest.raises(AnalysisError, match="twice"):
        RankedOverlap().losses(np.array([[1, 1]]), np.array([[1, 2]]))
