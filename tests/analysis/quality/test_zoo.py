"""Real pairs of the zoo compare as their authors' families, sizes and precisions suggest."""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from sommelier.analysis.equivalence import compare_models
from sommelier.analysis.labels import label_space
from sommelier.analysis.preprocessing import validated
from sommelier.analysis.quality import Fit

pytestmark = pytest.mark.zoo

IMAGES = 120
CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
FLOAT = [("layout", {"order": "NCHW"}), ("cast", {"dtype": "float32"})]
TORCH = validated(
    [
        ("to_float", {"scale": 1 / 255}),
        ("normalize", {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}),
        *FLOAT,
    ]
)
ULTRA = validated(
    [("resize", {"size": [240, 320]}), ("affine", {"scale": 1 / 128, "offset": -127 / 128}), *FLOAT]
)
YUNET = validated([("bgr", {}), ("resize", {"size": [320, 320]}), *FLOAT])
HEADS = validated(
    [("resize", {"size": [64, 64]}), ("affine", {"scale": 1 / 128, "offset": -1.0}), *FLOAT]
)
FAST = validated(
    [("bgr", {}), ("resize", {"size": [352, 352]}), ("to_float", {"scale": 1 / 255}), *FLOAT]
)


@pytest.fixture(scope="module")
def photos(zoo):
    """Every eighth image of the ImageNet sample, (n, 256, 256, 3)."""
    with zipfile.ZipFile(zoo / "data" / "imagenet_sample_1000_256px.zip") as file:
        names = sorted(name for name in file.namelist() if name.endswith(".jpg"))[::8][:IMAGES]
        pictures = [Image.open(io.BytesIO(file.read(n))).convert("RGB") for n in names]
    return np.stack([np.asarray(picture.resize((256, 256))) for picture in pictures])


@pytest.fixture(scope="module")
def small(zoo):
    """500 CIFAR-10 images of all classes, and their labels."""
    data = np.load(zoo / "data" / "cifar10_test.npz")
    return data["x"][::20], data["y"][::20]


def test_the_depth_ladder_is_compared_by_class_with_names(zoo, small):
    images, labels = small
    names = label_space("cifar", CIFAR)
    found = compare_models(
        zoo / "onnx" / "cifar10_resnet56.onnx",
        zoo / "onnx" / "cifar10_resnet44.onnx",
        images,
        labels=labels,
        preprocessing=(TORCH, TORCH),
        label_spaces=(names, names),
    )
    assert found.interface.fit is Fit.COMPATIBLE
    assert {group.group for group in found.groups} == set(CIFAR)
    assert 0.75 < found.agreement.value < 0.95
    assert abs(found.difference.value) <= found.loss.value  # algorithms.md A.2
    assert found.difference.low < 0 < found.difference.high  # .832 and .827 of all 10 000
    assert "truck" in str(found)


def test_an_int8_copy_is_adaptable_and_nearly_the_same(zoo, small):
    images, labels = small
    found = compare_models(
        zoo / "onnx" / "resnet_large_f.onnx",
        zoo / "onnx" / "ic_resnet_large_int8.onnx",
        images,
        labels=labels,
    )
    assert [adapter.step for adapter in found.interface.adapters] == ["preprocessing"]
    assert found.agreement.value == pytest.approx(0.975, abs=0.02)
    assert found.label_order is None


def test_a_shuffled_copy_of_a_real_model_is_suspected(zoo, small, tmp_path):
    import onnx
    from onnx import numpy_helper

    source = zoo / "onnx" / "cifar10_resnet20.onnx"
    model = onnx.load(str(source))
    order = np.random.default_rng(0).permutation(10)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.shape and values.shape[0] == 10:
            tensor.CopyFrom(numpy_helper.from_array(values[order].copy(), tensor.name))
        elif values.ndim == 2 and values.shape[1] == 10:
            tensor.CopyFrom(numpy_helper.from_array(values[:, order].copy(), tensor.name))
    onnx.save(model, str(tmp_path / "shuffled.onnx"))
    images = small[0][::8][:64]  # the 64 probes of algorithms.md A.1 step 5
    found = compare_models(source, tmp_path / "shuffled.onnx", images, preprocessing=(TORCH, TORCH))
    assert found.label_order is not None
    seen = found.label_order.permutation
    assert (order[seen] == np.arange(10)).mean() >= 0.8


@pytest.mark.parametrize(
    ("one", "other", "steps", "outputs"),
    [
        ("version-RFB-320", "version-slim-320", (ULTRA, ULTRA), 2),
        ("yunet_n_320_320", "yunet_s_320_320", (YUNET, YUNET), 12),
        ("FastestDet", "FastestDet", (FAST, FAST), 1),
    ],
)
def test_detectors_are_compared_by_boxes_and_each_output_by_its_numbers(
    zoo, photos, one, other, steps, outputs
):
    paths = [zoo / "onnx" / f"{name}.onnx" for name in (one, other)]
    found = compare_models(*paths, photos, preprocessing=steps)
    assert found.samples == IMAGES
    assert len(found.parts) == outputs
    assert found.measure == "1 - F1 of boxes at IoU 0.5"
    assert found.loss.low <= found.loss.value <= found.loss.high
    if one == other:
        assert found.loss.value == 0
    else:
        assert 0.5 < found.agreement.value < 1


def test_two_families_of_face_detectors_mostly_see_the_same_faces(zoo, photos):
    found = compare_models(
        zoo / "onnx" / "version-RFB-320.onnx",
        zoo / "onnx" / "yunet_n_320_320.onnx",
        photos,
        preprocessing=(ULTRA, YUNET),
    )
    assert 0.5 < found.agreement.value < 1
    assert "Ultra-Light-Fast face detector and YuNet" in str(found.interface)
    assert dict(found.parts) == {}  # the raw outputs have nothing in common


def test_head_poses_are_compared_as_numbers(zoo, photos):
    paths = [zoo / "onnx" / f"fsanet-{kind}-iter-688590.onnx" for kind in ("1x1", "var")]
    found = compare_models(*paths, photos, preprocessing=(HEADS, HEADS))
    assert found.interface.fit is Fit.COMPATIBLE
    assert 0 < found.loss.value < 1
    assert found.distance > 0.05
    same = compare_models(paths[0], paths[0], photos[:20], preprocessing=(HEADS, HEADS))
    assert (same.agreements, same.distance) == (20, 0)


def test_unnamed_classes_of_two_versions_are_flagged_as_unverified(zoo):
    rng = np.random.default_rng(0)
    data = rng.integers(32, 127, (20, 2048)).astype(np.int32)
    path = zoo / "onnx" / "magika_standard_v3_{}.onnx"
    found = compare_models(str(path).format(0), str(path).format(3), data)
    assert found.samples == 20
    assert any("unverified" in note for note in found.interface.notes)
