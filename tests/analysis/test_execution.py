"""Answers equal what ONNX Runtime says when asked directly; what goes wrong has a reason."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import onnxruntime
import pytest
from onnx import helper

from sommelier.analysis.answers import NO_ANSWER, AnswerCollector, project, top_k
from sommelier.analysis.datasets import load, reopen
from sommelier.analysis.execution import RunRequest, answer_probes, open_model, sketch_of
from sommelier.analysis.preprocessing import validated
from sommelier.analysis.probes import dataset_probes, synthetic_probes
from sommelier.errors import AnalysisError
from sommelier.records import OutputKind, TensorSpec
from tests.factories import (
    class_id_model,
    conv_classifier,
    detection_model,
    embedding_model,
    nan_model,
    recurrent_state_model,
    save_model,
    sequence_model,
    string_model,
    tiny_classifier,
    unbatched_classifier,
)
from tests.onnx_writer import FLOAT, INT64

CLASSIFIER, VECTORS = OutputKind.CLASSIFICATION, OutputKind.EMBEDDING
X = np.random.default_rng(1).normal(size=(150, 4)).astype(np.float32)


@pytest.fixture
def probes(tmp_path):
    np.savez(tmp_path / "d.npz", x=X, y=np.zeros(150, int))
    with load(tmp_path / "d.npz") as data:
        return dataset_probes(data)


def ask(path, probes, kind=CLASSIFIER, steps=None, **options):
    spec = None if steps is None else validated(steps)
    return answer_probes(RunRequest(path, kind, spec, probes, **options))


def direct(path, feed):
    return onnxruntime.InferenceSession(str(path)).run(None, feed)[0]


@pytest.mark.parametrize("batch", ["N", 1, 7, None])
def test_answers_equal_direct_execution_whatever_the_batch_axis(tmp_path, probes, batch):
    model = tiny_classifier(tmp_path / "m.onnx", batch=batch, classes=8)
    found = ask(model, probes, batch=32)
    free = tiny_classifier(tmp_path / "free.onnx", classes=8)
    scores = direct(free, {"x": X})
    assert np.array_equal(found.answers, scores.argmax(axis=1))
    assert (found.kind, found.classes, found.failures) == ("labels", 8, 0)
    assert found.outputs["outputs"] == pytest.approx(scores, rel=1e-5)
    assert found.topk_scores == pytest.approx(-np.sort(-scores, axis=1)[:, :5], rel=1e-3)
    assert found.assumed_preprocessing


def test_a_file_that_claims_a_dynamic_batch_but_has_none_runs_one_by_one(tmp_path, probes):
    found = ask(unbatched_classifier(tmp_path / "m.onnx"), probes)
    assert np.array_equal(found.answers, X.argmax(axis=1))


@pytest.mark.parametrize("make", [tiny_classifier, unbatched_classifier])
def test_a_model_that_stays_open_answers_any_probes_as_one_opened_for_them(tmp_path, probes, make):
    request = RunRequest(make(tmp_path / "m.onnx"), CLASSIFIER, None, probes, batch=32)
    whole = answer_probes(request).answers
    with reopen(probes.dataset) as items:
        model = open_model(request, items)
        for chosen in (np.arange(40, 150), np.array([7]), np.array([149, 3, 3])):
            some = replace(probes, indices=chosen)
            found = model.run(some, partial(AnswerCollector, CLASSIFIER))
            assert np.array_equal(found.answers, whole[chosen])
            prepared = np.concatenate([feed["x"][:count] for feed, count in model.feeds(some)])
            assert np.array_equal(prepared, X[chosen])


def test_items_without_a_batch_axis_are_fed_one_at_a_time(tmp_path, probes):
    nodes = [helper.make_node("MatMul", ["x", "w"], ["scores"])]
    io = ({"x": (FLOAT, [4])}, {"scores": (FLOAT, [4])})
    model = save_model(tmp_path / "m.onnx", nodes, *io, {"w": np.eye(4, dtype=np.float32)})
    assert np.array_equal(ask(model, probes).answers, X.argmax(axis=1))


def test_models_that_answer_class_ids_are_compared_with_those_that_answer_scores(tmp_path, probes):
    ids = ask(class_id_model(tmp_path / "i.onnx"), probes, OutputKind.CLASS_IDS)
    scores = ask(tiny_classifier(tmp_path / "s.onnx"), probes)
    assert np.array_equal(ids.answers, scores.answers)
    assert ids.topk_ids is None
    assert ids.classes is None


def test_declared_preprocessing_is_applied(tmp_path):
    pictures = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "d.npz", x=pictures)
    probes = dataset_probes(load(tmp_path / "d.npz"))
    model = conv_classifier(tmp_path / "m.onnx")
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.3, 0.4]
    steps = [
        ("to_float", {"scale": 1 / 255}),
        ("normalize", {"mean": mean, "std": std}),
        ("layout", {"order": "NCHW"}),
    ]
    found = ask(model, probes, steps=steps)
    by_hand = ((pictures / 255 - mean) / std).transpose(0, 3, 1, 2).astype(np.float32)
    assert np.array_equal(found.answers, direct(model, {"image": by_hand}).argmax(axis=1))
    assert not found.assumed_preprocessing


def test_embeddings_are_kept_exactly_and_wide_outputs_are_projected(tmp_path, probes):
    model = embedding_model(tmp_path / "e.onnx")
    found = ask(model, probes, VECTORS)
    assert (found.kind, found.width, found.exact) == ("vectors", 8, True)
    assert found.answers == pytest.approx(direct(model, {"x": X}), abs=1e-6)
    wide = ask(embedding_model(tmp_path / "w.onnx", width=700), probes, VECTORS)
    assert (wide.width, wide.exact, wide.classes) == (256, False, 700)


def test_projected_distances_have_the_error_of_theory():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 300, 5000)).astype(np.float32)
    true = np.linalg.norm(a - b, axis=1)
    relative = np.linalg.norm(project(a) - project(b), axis=1) / true - 1
    assert relative.std() == pytest.approx(np.sqrt(1 / (2 * 256)), rel=0.2)  # 4.4 %, 300 draws
    assert abs(relative.mean()) < 0.01
    assert np.array_equal(project(a[:1]), project(a)[:1])


def test_detectors_flatten_all_their_outputs(tmp_path):
    model = detection_model(tmp_path / "d.onnx")
    probes = synthetic_probes([TensorSpec("image", "float32", (1, 3, 8, 8))], samples=9)
    found = ask(model, probes, OutputKind.DETECTION)
    assert found.answers.shape == (9, 12 * 2 + 12 * 4)
    again = ask(model, probes, OutputKind.DETECTION)
    assert np.array_equal(found.answers, again.answers)


def test_recurrent_states_get_zeros_and_scalars_their_declared_value(tmp_path):
    np.savez(tmp_path / "d.npz", x=np.full((5, 6), 8000, np.float32))
    probes = dataset_probes(load(tmp_path / "d.npz"))
    model = recurrent_state_model(tmp_path / "r.onnx")
    steps = [("fill", {"name": "sr", "value": 16000})]
    found = ask(model, probes, OutputKind.REGRESSION, steps)
    assert found.answers.shape == (5, 1)  # the state it hands back is no answer
    assert found.answers == pytest.approx(1 / (1 + np.exp(-6 * 8000 / 16000)), rel=1e-5)


def test_sequences_run_on_synthetic_token_ids(tmp_path):
    probes = synthetic_probes([TensorSpec("ids", "int64", ("N", "T"))], samples=6)
    found = ask(sequence_model(tmp_path / "s.onnx"), probes, OutputKind.SEQUENCE)
    assert found.answers.shape == (6, 16 * 5)


def test_nan_answers_are_counted_and_nothing_but_nan_is_a_failure(tmp_path, probes):
    with pytest.raises(AnalysisError, match="every output is NaN"):
        ask(nan_model(tmp_path / "n.onnx"), probes)
    nodes = [
        helper.make_node("Sqrt", ["x"], ["scores"]),  # NaN where any feature is negative
    ]
    io = ({"x": (FLOAT, ["N", 4])}, {"scores": (FLOAT, ["N", 4])})
    found = ask(save_model(tmp_path / "s.onnx", nodes, *io, {}), probes)
    negative = (X < 0).any(axis=1)
    assert found.failures == negative.sum() > 0
    assert np.array_equal(found.answers == NO_ANSWER, negative)


def test_top_scores_are_ordered_padded_and_ties_go_to_the_smaller_id():
    ids, scores = top_k(np.array([[1.0, 3.0, 3.0], [1e9, 0, -1]], dtype=np.float32))
    assert ids[0].tolist() == [1, 2, 0, NO_ANSWER, NO_ANSWER]
    assert scores[1, 0] == np.finfo(np.float16).max  # too large for float16: saturates
    assert scores[0, 3] == -np.inf


def test_shapes_that_do_not_fit_name_both_sides(tmp_path, probes):
    with pytest.raises(AnalysisError, match=r"items of shape \[4\] do not fit .*x:float32\[N,9\]"):
        ask(tiny_classifier(tmp_path / "m.onnx", features=9), probes)
    with pytest.raises(AnalysisError, match=r"makes items of shape \[2, 2\], but input x:float32"):
        ask(tiny_classifier(tmp_path / "n.onnx"), probes, steps=[("reshape", {"shape": [2, 2]})])
    nodes = [helper.make_node("Identity", ["ids"], ["same"])]
    io = ({"ids": (INT64, ["N", 4])}, {"same": (INT64, ["N", 4])})
    model = save_model(tmp_path / "i.onnx", nodes, *io, {})
    with pytest.raises(AnalysisError, match="makes float32, but input 'ids' is int64") as caught:
        ask(model, probes, steps=[("to_float", {})])
    assert "('cast', {'dtype': 'int64'})" in caught.value.hint


def test_classifiers_without_scores_and_models_without_samples_are_reported(tmp_path, probes):
    nodes = [helper.make_node("ReduceSum", ["x"], ["y"], keepdims=0)]
    io = ({"x": (FLOAT, ["N", 4])}, {"y": (FLOAT, [])})
    model = save_model(tmp_path / "m.onnx", nodes, *io, {})
    with pytest.raises(AnalysisError, match="no output of this classification model"):
        ask(model, probes)
    with pytest.raises(AnalysisError, match="no input that varies"):
        ask(string_model(tmp_path / "t.onnx"), synthetic_probes([]))
    (tmp_path / "bad.onnx").write_bytes(b"not a model")
    with pytest.raises(AnalysisError, match="ONNX Runtime cannot load the model"):
        ask(tmp_path / "bad.onnx", probes)


def test_outputs_that_change_size_from_input_to_input_cannot_be_compared(tmp_path, probes):
    nodes = [
        helper.make_node("Greater", ["x", "zero"], ["positive"]),
        helper.make_node("Compress", ["x", "flat"], ["kept"]),
    ]
    nodes.insert(1, helper.make_node("Reshape", ["positive", "all"], ["flat"]))
    weights = {"zero": np.zeros(1, np.float32), "all": np.array([-1])}
    io = ({"x": (FLOAT, [1, 4])}, {"kept": (FLOAT, ["k"])})
    with pytest.raises(AnalysisError, match="differ in size from input to input"):
        ask(save_model(tmp_path / "m.onnx", nodes, *io, weights), probes, VECTORS)


def test_the_sketch_record_holds_the_same_answers(tmp_path, probes):
    answers = ask(tiny_classifier(tmp_path / "m.onnx"), probes)
    sketch = sketch_of(answers, model_id="sha256:m", probes=probes, label_space_id="labels:x")
    assert np.array_equal(np.frombuffer(sketch.answers, np.uint32), answers.answers)
    assert np.frombuffer(sketch.topk_ids, np.uint32).shape == (150 * 5,)
    assert np.frombuffer(sketch.topk_scores, np.float16).shape == (150 * 5,)
    assert (sketch.probe_set_id, sketch.classes, sketch.width) == (probes.record.id, 3, 1)
    assert sketch.label_space_id == "labels:x"
