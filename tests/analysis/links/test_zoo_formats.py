"""Real models' answers reach links in natural form, and come back as the models gave them."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import onnxruntime
import pytest
from PIL import Image

from sommelier.analysis.answers import AnswerCollector, OutputCollector
from sommelier.analysis.links.collecting import best_boxes
from sommelier.analysis.links.formats import as_given, format_of, natural
from sommelier.analysis.links.scoring import score
from sommelier.analysis.links.screening import screen
from sommelier.analysis.model_inputs import tensor_spec
from sommelier.analysis.quality import known_decoder
from sommelier.errors import AnalysisError
from sommelier.records import OutputKind

pytestmark = pytest.mark.zoo

MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def small(zoo):
    """200 CIFAR-10 images of all classes, float (n, 32, 32, 3) in 0..255."""
    return np.load(zoo / "data" / "cifar10_test.npz")["x"][::50].astype(np.float32)


@pytest.fixture(scope="module")
def photos(zoo):
    """40 images of the ImageNet sample at any size asked for, float (n, h, w, 3) in 0..255."""
    with zipfile.ZipFile(zoo / "data" / "imagenet_sample_1000_256px.zip") as file:
        names = sorted(name for name in file.namelist() if name.endswith(".jpg"))[5::25]
        pictures = [Image.open(io.BytesIO(file.read(n))).convert("RGB") for n in names]
    return lambda height, width: np.stack(
        [np.asarray(p.resize((width, height)), dtype=np.float32) for p in pictures]
    )


def run(zoo, name, inputs, collector):
    """(what `collector` keeps of the model's outputs, its output specs, its input specs)."""
    session = onnxruntime.InferenceSession(zoo / "onnx" / f"{name}.onnx")
    outputs = tuple(tensor_spec(node) for node in session.get_outputs())
    given = tuple(tensor_spec(node) for node in session.get_inputs())
    collect = collector([spec.name for spec in outputs])
    for each in inputs:
        collect.add(session.run(None, {given[0].name: each[None]}), 1, single=True)
    return collect.result(), outputs, given


def link_answers(zoo, name, inputs, kind):
    """(natural answers, raw block) by what AnswerCollector stores and the record's specs."""
    found, outputs, _ = run(zoo, name, inputs, lambda names: AnswerCollector(kind, names))
    block = found.outputs["outputs"]
    return natural(block, format_of(kind, block, outputs=outputs)), block


def normalised(images):
    return ((images / 255 - MEAN) / DEVIATION).transpose(0, 3, 1, 2).astype(np.float32)


def test_the_cifar_ladder_gives_logits_and_the_mlperf_models_probabilities(zoo, small):
    ladder, logits = link_answers(
        zoo, "cifar10_resnet20", normalised(small), OutputKind.CLASSIFICATION
    )
    plain, odds = link_answers(zoo, "ic_resnet8", small, OutputKind.CLASSIFICATION)
    int8 = (small - 128).astype(np.int8)
    quantised, steps = link_answers(zoo, "ic_resnet8_int8", int8, OutputKind.CLASSIFICATION)
    assert [a.format.form for a in (ladder, plain, quantised)] == [
        "logits",
        "probabilities",
        "scaled",
    ]
    assert (quantised.format.dtype, quantised.format.scale) == ("int8", 256.0)
    for found in (ladder, plain, quantised):
        np.testing.assert_allclose(found.values.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(as_given(plain.values, plain.format), odds, atol=1e-6)
    np.testing.assert_array_equal(as_given(quantised.values, quantised.format), steps)
    back = as_given(ladder.values, ladder.format)
    np.testing.assert_array_equal(back.argmax(axis=1), logits.argmax(axis=1))
    # the int8 copy is nearly the same model, so its probabilities are nearly the same
    assert np.abs(quantised.values - plain.values).mean() < 0.02


def test_two_classifiers_of_the_same_images_are_linkable(zoo, small):
    ladder, _ = link_answers(zoo, "cifar10_resnet20", normalised(small), OutputKind.CLASSIFICATION)
    plain, _ = link_answers(zoo, "ic_resnet8", small, OutputKind.CLASSIFICATION)
    agreement = score(plain.format, ladder.values, plain.values)
    found = screen(ladder, plain, np.arange(len(small)))
    assert found.linkable
    # nothing is known of the target beyond where both are right; a link is about as good as that
    assert abs(found.predicted - agreement.performance) < 0.15


@pytest.mark.parametrize(
    ("name", "side"), [("mnv1_025_128q", 128), ("coral_mobilenet_v1_0.5_160_quant", 160)]
)
def test_quantised_mobilenets_give_probabilities_of_1001_classes(zoo, photos, name, side):
    images = photos(side, side).astype(np.uint8)
    found, block = link_answers(zoo, name, images, OutputKind.CLASSIFICATION)
    assert (found.format.width, found.format.form) == (1001, "scaled")
    assert (found.format.scale, found.format.dtype) == (256.0, "uint8")
    back = as_given(found.values, found.format)
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, block)


def test_magika_gives_probabilities_of_file_types(zoo):
    rng = np.random.default_rng(0)
    session = onnxruntime.InferenceSession(zoo / "onnx" / "magika_standard_v2_1.onnx")
    length = session.get_inputs()[0].shape[1]
    content = rng.integers(0, 257, (12, length)).astype(np.int32)
    content[::2] = np.frombuffer((b"def f(x):\n    return x\n" * length)[:length], np.uint8)
    found, _ = link_answers(zoo, "magika_standard_v2_1", content, OutputKind.CLASSIFICATION)
    assert found.format.form == "probabilities"
    assert 200 < found.format.width < 230  # label sets differ from version to version
    np.testing.assert_allclose(found.values.sum(axis=1), 1, atol=1e-5)


def test_a_head_pose_is_three_numbers(zoo, photos):
    faces = (photos(64, 64) / 128 - 1).transpose(0, 3, 1, 2)
    found, block = link_answers(zoo, "fsanet-var-iter-688590", faces, OutputKind.REGRESSION)
    assert (found.format.kind, found.format.width) == ("numbers", 3)
    np.testing.assert_array_equal(as_given(found.values, found.format), block)


@pytest.mark.parametrize(
    ("name", "size", "prepare"),
    [
        ("version-RFB-320", (240, 320), lambda x: (x - 127) / 128),
        ("yunet_n_320_320", (320, 320), lambda x: x[..., ::-1]),
        ("FastestDet", (352, 352), lambda x: x[..., ::-1] / 255),
    ],
)
def test_a_known_detector_gives_its_surest_box(zoo, photos, name, size, prepare):
    images = np.ascontiguousarray(prepare(photos(*size)).transpose(0, 3, 1, 2), dtype=np.float32)
    outputs, made, given = run(zoo, name, images, OutputCollector)
    decoder = known_decoder(made, given)
    boxes = best_boxes(decoder, outputs)
    assert boxes.shape == (len(images), 4)
    found = natural(boxes, format_of(OutputKind.DETECTION, boxes))
    assert found.format.kind == "box"
    assert boxes.any()
    for corners, image in zip(boxes, decoder.decode(outputs), strict=True):
        assert bool(len(image)) == bool(corners.any())
        if len(image):
            at = int(np.argmax(image.scores))
            np.testing.assert_allclose(corners, image.boxes[at], rtol=1e-6)
    assert score(found.format, boxes, boxes).performance == 1.0


def test_raw_outputs_of_a_detector_are_too_wide_and_the_hint_says_decode(zoo, photos):
    images = (photos(352, 352)[:2] / 255).transpose(0, 3, 1, 2)
    outputs, made, _ = run(zoo, "FastestDet", images, OutputCollector)
    raw = next(iter(outputs.values())).reshape(2, -1)
    with pytest.raises(AnalysisError, match="too wide") as refused:
        format_of(OutputKind.DETECTION, raw, outputs=made)
    assert "decode" in refused.value.hint
