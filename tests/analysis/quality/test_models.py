"""Two model files of every kind of output, compared without a database, equal running them."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest
from onnx import helper

from sommelier.analysis.equivalence import compare_models
from sommelier.analysis.labels import label_space
from sommelier.analysis.preprocessing import validated
from sommelier.analysis.quality import Detections, Fit, known_decoder
from sommelier.errors import AnalysisError
from sommelier.records import OutputKind, TensorSpec
from tests.factories import (
    conv_classifier,
    detection_model,
    recurrent_state_model,
    regression_model,
    sequence_model,
    tiny_classifier,
)
from tests.onnx_writer import FLOAT, save_model

RNG = np.random.default_rng(21)
X = RNG.normal(size=(300, 4)).astype(np.float32)


def run(path, x):
    return onnxruntime.InferenceSession(str(path)).run(None, {"x": x})


def linear(path, seed, shape=None, name="y", close_to=None):
    """x[N,4] -> y[N, *shape]; close_to : a seed whose weights these are but for 5 % noise."""
    shape = shape or [6]
    width = int(np.prod(shape))
    rng = np.random.default_rng(seed)
    w = rng.normal(size=(4, width))
    if close_to is not None:
        w = np.random.default_rng(close_to).normal(size=(4, width)) + 0.05 * w
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["flat"]),
        helper.make_node("Reshape", ["flat", "s"], [name]),
    ]
    weights = {"w": w.astype(np.float32), "s": np.array([-1, *shape])}
    return save_model(
        path, nodes, {"x": (FLOAT, ["N", 4])}, {name: (FLOAT, ["N", *shape])}, weights
    )


@pytest.fixture
def pair(tmp_path):
    def make(shape):
        one = linear(tmp_path / "one.onnx", 1, shape)
        return one, linear(tmp_path / "two.onnx", 2, shape, close_to=1)

    return make


def test_regressions_report_distances_and_quality_against_the_truth(tmp_path):
    one = regression_model(tmp_path / "a.onnx", seed=1)
    two = regression_model(tmp_path / "b.onnx", seed=2)
    truth = run(one, X)[0] + 0.1
    found = compare_models(one, two, X, labels=truth)
    a, b = run(one, X)[0], run(two, X)[0]
    far = np.quantile(np.abs(a - a.mean()), 0.975)
    np.testing.assert_allclose(found.losses, np.minimum(np.abs(a - b)[:, 0] / far, 1), rtol=1e-4)
    by_name = {q.name: q for q in found.qualities}
    assert by_name["MAE"].reference.value == pytest.approx(0.1, rel=1e-4)
    assert not by_name["MAE"].difference.certified
    assert by_name["share within tolerance"].difference.certified
    assert found.interface.fit is Fit.COMPATIBLE


@pytest.mark.parametrize(
    ("kind", "shape", "decided"),
    [
        (OutputKind.MULTILABEL, [6], lambda y: y >= 0),
        (OutputKind.SEGMENTATION, [3, 2, 2], lambda y: y.argmax(axis=1)),
        (OutputKind.RANKING, [6], lambda y: np.argsort(-y, axis=1)),
        (OutputKind.SEQUENCE, [5, 3], lambda y: y.argmax(axis=2)),
        (OutputKind.DISTRIBUTION, [6], lambda y: y.argmax(axis=1)),
    ],
)
def test_every_kind_agrees_where_direct_execution_decides_alike(pair, kind, shape, decided):
    one, two = pair(shape)
    found = compare_models(one, two, X, output_kind=kind)
    a, b = (decided(run(path, X)[0]).reshape(300, -1) for path in (one, two))
    equal = (a == b).all(axis=1)
    assert 0 < equal.sum() < 300
    # equal decisions are interchangeable; a few tolerated differences may be as well
    assert found.agreements >= equal.sum()
    if kind is OutputKind.DISTRIBUTION:
        assert found.agreements == equal.sum()
    elif kind is not OutputKind.RANKING:  # whose order may differ where the set does not
        assert ((found.losses == 0) == equal).all()
    same = compare_models(one, one, X, output_kind=kind)
    assert (same.agreements, same.examples) == (300, ())


def test_token_sequences_are_inferred_and_compared_by_their_best_tokens(tmp_path):
    ids = RNG.integers(0, 20, (50, 7))
    one, two = (sequence_model(tmp_path / f"{s}.onnx", seed=s) for s in (1, 2))
    found = compare_models(one, two, ids)
    best = [
        onnxruntime.InferenceSession(str(p)).run(None, {"ids": ids})[0].argmax(axis=2)
        for p in (one, two)
    ]
    exact = (best[0] == best[1]).all(axis=1)
    assert ((found.losses == 0) == exact).all()
    assert "integer inputs are taken to be made in the same way" in str(found)


def two_outputs(path, seed):
    rng = np.random.default_rng(seed)
    nodes = [helper.make_node("MatMul", ["x", f"w{i}"], [f"part{i}"]) for i in range(2)]
    weights = {f"w{i}": rng.normal(size=(4, 3 + i)).astype(np.float32) for i in range(2)}
    if seed:
        weights["w0"] = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    outputs = {f"part{i}": (FLOAT, ["N", 3 + i]) for i in range(2)}
    return save_model(path, nodes, {"x": (FLOAT, ["N", 4])}, outputs, weights)


def test_several_outputs_are_compared_one_by_one_and_together(tmp_path):
    one, two = two_outputs(tmp_path / "a.onnx", 0), two_outputs(tmp_path / "b.onnx", 1)
    found = compare_models(one, two, X, output_kind=OutputKind.UNKNOWN)
    assert list(found.parts) == ["part0", "part1"]
    assert found.parts["part0"].agreements == 300  # equal weights
    assert found.agreements == found.parts["part1"].agreements < 300
    assert found.loss.value == pytest.approx(found.parts["part1"].loss.value)
    assert "part1" in str(found)


def test_a_recurrent_state_is_no_answer(tmp_path):
    model = recurrent_state_model(tmp_path / "r.onnx")
    rate = validated([("fill", {"name": "sr", "value": 1})])
    items = RNG.normal(size=(20, 6)).astype(np.float32)
    found = compare_models(model, model, items, preprocessing=(rate, rate))
    assert (found.agreements, dict(found.parts)) == (20, {})


def test_detectors_of_a_known_family_are_compared_by_their_boxes(tmp_path):
    model = detection_model(tmp_path / "d.onnx")
    images = RNG.random((6, 3, 8, 8)).astype(np.float32)
    found = compare_models(model, model, images)
    assert found.agreements == 6
    assert [a.step for a in found.interface.adapters] == ["decode"]
    assert set(found.parts) == {"scores", "boxes"}
    truth = [Detections.of([[0, 0, 1, 1]])] * 6
    labelled = compare_models(model, model, images, labels=truth)
    assert [q.name for q in labelled.qualities] == ["F1@0.5 per image", "mAP@0.5", "mAP@[.5:.95]"]


def raw_detector(path, seed):
    w = np.random.default_rng(seed).normal(size=(4, 12)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["flat"]),
        helper.make_node("Reshape", ["flat", "s"], ["detections"]),
    ]
    weights = {"w": w, "s": np.array([-1, 2, 6])}
    return save_model(
        path, nodes, {"x": (FLOAT, ["N", 4])}, {"detections": (FLOAT, ["N", 2, 6])}, weights
    )


def test_detectors_nobody_knows_are_compared_as_numbers_and_it_is_said(tmp_path):
    one, two = raw_detector(tmp_path / "a.onnx", 0), raw_detector(tmp_path / "b.onnx", 1)
    found = compare_models(one, two, X, output_kind=OutputKind.DETECTION)
    assert found.measure == "L2 distance / scale"
    assert "raw outputs are compared as numbers, not boxes" in str(found)


def test_channels_are_moved_for_a_model_that_wants_them_last(tmp_path):
    first = conv_classifier(tmp_path / "f.onnx")
    last = conv_classifier(tmp_path / "l.onnx", layout="NHWC")
    images = RNG.normal(size=(40, 3, 8, 8)).astype(np.float32)
    found = compare_models(first, last, images)
    assert found.agreements == 40
    assert found.interface.fit is Fit.ADAPTABLE


def test_a_candidate_with_renumbered_classes_is_reported(tmp_path):
    rng = np.random.default_rng(5)
    matrix, bias = rng.normal(size=(4, 5)), np.zeros(5)
    order = np.array([2, 0, 4, 1, 3])
    one = tiny_classifier(tmp_path / "a.onnx", weights=(matrix, bias))
    two = tiny_classifier(tmp_path / "b.onnx", weights=(matrix[:, order], bias))
    found = compare_models(one, two, X)
    assert found.agreements == 0
    assert (order[found.label_order.permutation] == np.arange(5)).all()
    assert "label order mismatch suspected" in str(found)
    named = [label_space(n, [f"c{i}" for i in o]) for n, o in (("a", range(5)), ("b", order))]
    truth = run(one, X)[0].argmax(axis=1)  # as the reference numbers its classes
    told = compare_models(one, two, X, label_spaces=tuple(named), labels=truth)
    assert (told.agreements, told.label_order) == (300, None)
    assert told.reference_accuracy.value == told.candidate_accuracy.value == 1


def test_the_table_shows_what_was_found(tmp_path):
    names = ["cat", "dog", "bird"]
    one, two = (
        tiny_classifier(tmp_path / f"{n}.onnx", seed=s, labels=names)
        for n, s in (("ours", 0), ("theirs", 1))
    )
    labels = RNG.integers(0, 3, 300)
    found = compare_models(one, two, X, labels=labels, by=np.where(X[:, 0] > 0, "right", "left"))
    text = str(found)
    assert text == repr(found)
    assert "ours <- theirs: 300 samples, intervals at confidence 95%" in text
    for shown in ("types: compatible", "accuracy of ours", "difference", "left", "right", "pp"):
        assert shown in text
    assert {g.group for g in found.groups} == {"left", "right"}
    assert {c.reference for c in found.confusions} <= set(names)
    assert max(map(len, text.splitlines())) < 130
    by_class = compare_models(one, two, X, labels=labels)
    assert {g.group for g in by_class.groups} == set(names)
    weighted = sum(g.mean * g.samples for g in by_class.groups) / 300
    assert weighted == pytest.approx(by_class.loss.value)


def test_examples_are_samples_that_differ(tmp_path):
    one, two = (tiny_classifier(tmp_path / f"{s}.onnx", seed=s) for s in (0, 1))
    found = compare_models(one, two, X)
    a, b = (run(path, X)[0].argmax(axis=1) for path in (one, two))
    assert len(found.examples) == 5
    for example in found.examples:
        said = str(a[example.sample]), str(b[example.sample])
        assert (example.reference, example.candidate) == said
        assert said[0] != said[1]


def test_models_that_do_not_fit_are_refused_before_anything_runs(tmp_path):
    one = linear(tmp_path / "a.onnx", 1, [6])
    two = linear(tmp_path / "b.onnx", 1, [7])
    with pytest.raises(AnalysisError, match=r"y:float32\[N,6\] and y:float32\[N,7\]"):
        compare_models(one, two, X, output_kind=OutputKind.EMBEDDING)


YUNET_OUTPUTS = [
    TensorSpec(f"{kind}_{stride}", "float32", (1, (64 // stride) ** 2, width))
    for kind, width in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10))
    for stride in (8, 16, 32)
]


def test_yunet_cells_decode_to_the_boxes_they_describe():
    decoder = known_decoder(YUNET_OUTPUTS, [TensorSpec("input", "float32", (1, 3, 64, 64))])
    outputs = {s.name: np.zeros((1, *s.shape[1:]), np.float32) for s in YUNET_OUTPUTS}
    cell = 3 * 8 + 5  # row 3, column 5 at stride 8
    outputs["cls_8"][0, cell], outputs["obj_8"][0, cell] = 0.81, 1.0
    outputs["bbox_8"][0, cell] = [0.5, 0.25, np.log(2), np.log(1)]  # 16 x 8 pixels
    (found,) = decoder.decode(outputs)
    centre = np.array([(5 + 0.5) * 8, (3 + 0.25) * 8])
    half = np.array([8, 4])
    expected = np.concatenate([centre - half, centre + half]) / 64
    np.testing.assert_allclose(found.boxes, [expected], rtol=1e-6)
    assert found.scores == pytest.approx([0.9])


def test_fastest_det_cells_decode_to_the_boxes_they_describe():
    spec = [TensorSpec("out", "float32", (1, 85, 4, 4))]
    decoder = known_decoder(spec, [TensorSpec("input", "float32", (1, 3, 64, 64))])
    output = np.zeros((1, 85, 4, 4), np.float32)
    output[0, 0, 1, 2], output[0, 5 + 16, 1, 2] = 0.9, 0.8
    output[0, 3:5, 1, 2] = [0.0, np.log(0.25 / 0.75)]  # half of the width, a quarter of the height
    (found,) = decoder.decode({"out": output})
    np.testing.assert_allclose(found.boxes, [[0.25, 0.125, 0.75, 0.375]], atol=1e-6)
    assert found.classes.tolist() == [16]
    assert found.scores == pytest.approx([0.9**0.6 * 0.8**0.4], rel=1e-6)


def test_other_heads_are_not_taken_for_a_known_family():
    picture = [TensorSpec("input", "float32", (1, 3, 64, 64))]
    assert known_decoder([TensorSpec("out", "float32", (1, 85, 8, 8))], picture) is None
    assert known_decoder([TensorSpec("out", "float32", (1, 100, 85))], picture) is None
    assert known_decoder(YUNET_OUTPUTS, [TensorSpec("x", "float32", ("n", 4))]) is None
