"""A small model as a network that learns a few classes, and its file, which answers like it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from sommelier.analysis.cascades.specialised import Spread, Training, specialise
from sommelier.analysis.probabilities import softmax
from sommelier.errors import AnalysisError
from tests.factories import conv_classifier, loop_model, mlp_classifier

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from sommelier.analysis.cascades.student_network import student_network, written  # noqa: E402

CLASSES = (2, 0)
RNG = np.random.default_rng(0)


def answers(model: onnx.ModelProto, inputs: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString())
    (spec,) = session.get_inputs()
    return np.asarray(session.run(None, {spec.name: inputs})[0], np.float64)


@pytest.mark.parametrize("kind", ["mlp", "conv"])
def test_the_file_answers_in_the_teachers_classes_what_the_trained_network_says(
    kind: str, tmp_path: Path
) -> None:
    if kind == "mlp":
        path = mlp_classifier(tmp_path / "m.onnx", hidden=(8,))
        inputs = RNG.normal(size=(300, 4)).astype(np.float32)
    else:
        path = conv_classifier(tmp_path / "m.onnx")
        (spec,) = onnxruntime.InferenceSession(str(path)).get_inputs()
        inputs = RNG.normal(size=(300, *spec.shape[1:])).astype(np.float32)
    network = student_network(path, inputs[:4], 3, dims={})
    before = [weight.detach().clone() for weight in network.graph.weights.values()]
    teacher = inputs.reshape(300, -1)[:, :1] * np.arange(6) + RNG.normal(size=(300, 6))
    student = specialise(network, inputs, teacher, CLASSES, training=Training(4, 1e-2))
    spread = Spread.of(CLASSES, 6)
    model = written(network, spread, inputs, "logits")
    assert [value.name for value in model.graph.output] == ["logits"]
    np.testing.assert_allclose(answers(model, inputs), spread(student.logits(inputs)), atol=1e-3)
    after = list(network.graph.weights.values())
    assert all(not torch.equal(one, other) for one, other in zip(before, after, strict=True))


def test_a_student_begins_with_what_the_small_model_knows(tmp_path: Path) -> None:
    path = mlp_classifier(tmp_path / "m.onnx", hidden=(8,), classes=5)
    inputs = RNG.normal(size=(200, 4)).astype(np.float32)
    own = answers(onnx.load(path), inputs)
    network = student_network(path, inputs[:4], 3, dims={})
    network.begin_with(CLASSES)
    with torch.no_grad():
        found = network(torch.from_numpy(inputs)).numpy()
    np.testing.assert_allclose(found[:, :2], own[:, list(CLASSES)], rtol=1e-4, atol=1e-5)
    rest = own[:, [1, 3, 4]]
    assert (found[:, 2] <= np.log(np.exp(rest).sum(axis=1)) + 1e-5).all()  # Jensen's inequality


def test_with_relative_rates_the_scale_of_inputs_does_not_matter(tmp_path: Path) -> None:
    """Inputs a hundred times as large and first weights a hundredth are the same function, and
    Adam's steps do not depend on the scale of gradients: they learn alike."""
    path = mlp_classifier(tmp_path / "m.onnx", hidden=(8,), classes=5)
    scaled = onnx.load(path)
    for stored in scaled.graph.initializer:
        if stored.name == "w0":
            weights = onnx.numpy_helper.to_array(stored) / 100
            stored.CopyFrom(onnx.numpy_helper.from_array(weights, "w0"))
    onnx.save(scaled, tmp_path / "scaled.onnx")
    inputs = RNG.normal(size=(600, 4)).astype(np.float32)
    teacher = 4 * answers(onnx.load(path), inputs) + RNG.normal(size=(600, 5))

    def learned(file: Path, given: np.ndarray, *, relative: bool) -> np.ndarray:
        network = student_network(file, given[:4], 3, dims={})
        network.begin_with(CLASSES)
        training = Training(2, 1e-2, relative=relative)
        return specialise(network, given, teacher, CLASSES, training=training).logits(given)

    for relative in (True, False):
        one = learned(path, inputs, relative=relative)
        other = learned(tmp_path / "scaled.onnx", 100 * inputs, relative=relative)
        assert (np.abs(one - other).max() < 0.01) == relative


def test_of_a_model_that_answers_probabilities_the_logarithms_are_learned_from(
    tmp_path: Path,
) -> None:
    path = mlp_classifier(tmp_path / "m.onnx", hidden=(8,), classes=5)
    model = onnx.load(path)
    last = model.graph.output[0]
    model.graph.node.append(onnx.helper.make_node("Softmax", [last.name], ["shares"], axis=1))
    last.name = "shares"
    onnx.save(model, tmp_path / "p.onnx")
    inputs = RNG.normal(size=(60, 4)).astype(np.float32)
    network = student_network(tmp_path / "p.onnx", inputs[:4], 3, dims={}, of_probabilities=True)
    network.begin_with(CLASSES)
    with torch.no_grad():
        found = network(torch.from_numpy(inputs)).numpy()
    shares = softmax(answers(onnx.load(path), inputs))
    np.testing.assert_allclose(found[:, :2], np.log(shares[:, list(CLASSES)]), atol=1e-3)
    spread = Spread.of(CLASSES, 5)
    np.testing.assert_allclose(
        answers(written(network, spread, inputs, "x"), inputs), spread(found), atol=1e-3
    )


def test_a_model_that_cannot_be_trained_is_refused_by_what_it_is_made_of(tmp_path: Path) -> None:
    path = loop_model(tmp_path / "loop.onnx")
    with pytest.raises(AnalysisError, match="Loop") as raised:
        student_network(path, RNG.normal(size=(4, 4)).astype(np.float32), 3, dims={})
    assert "fused" not in raised.value.message
