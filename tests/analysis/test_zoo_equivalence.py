"""The real models answer as the zoo's README measured with ONNX Runtime directly (same images)."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from sommelier.analysis.datasets import load
from sommelier.analysis.equivalence import Answered, compare_answers
from sommelier.analysis.execution import RunRequest, answer_probes
from sommelier.analysis.labels import label_space, map_labels
from sommelier.analysis.metrics import correctness
from sommelier.analysis.preprocessing import validated
from sommelier.analysis.probes import dataset_probes
from sommelier.errors import AnalysisError
from sommelier.records import OutputKind

pytestmark = pytest.mark.zoo

POINT = 0.005  # half a percentage point
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
TORCH = validated(
    [
        ("to_float", {"scale": 1 / 255}),
        ("normalize", {"mean": MEAN, "std": STD}),
        ("layout", {"order": "NCHW"}),
        ("cast", {"dtype": "float32"}),
    ]
)
LADDER = {
    "cifar10_resnet20": 0.762,
    "cifar10_resnet32": 0.810,
    "cifar10_resnet44": 0.820,
    "cifar10_resnet56": 0.800,
}
TINY = {"ic_resnet8": 0.745, "ic_resnet8_int8": 0.749}
LARGE = {"resnet_large_f": 0.829, "ic_resnet_large_int8": 0.832}
MOBILE = {
    "mnv1_025_128q": (128, 0.469, 0.490),
    "coral_mobilenet_v1_0.5_160_quant": (160, 0.673, 0.712),
    "coral_mobilenet_v1_0.75_192_quant": (192, 0.792, 0.814),
    "mnv2_10_224q": (224, 0.877, 1.0),
    "coral_tf2_mobilenet_v2_1.0_224_ptq": (224, 0.866, 0.897),
}


@pytest.fixture(scope="module")
def cifar(zoo):
    with load(zoo / "data" / "cifar10_test.npz", name="cifar10") as data:
        yield dataset_probes(data, samples=2000, sampling="first")


@pytest.fixture(scope="module")
def answers(zoo, cifar):
    found = {}

    def ask(name):
        if name not in found:
            spec = TORCH if name.startswith("cifar10") else None  # the others fit by their shapes
            path = zoo / "onnx" / f"{name}.onnx"
            request = RunRequest(path, OutputKind.CLASSIFICATION, spec, cifar, threads=2)
            found[name] = answer_probes(request)
        return found[name]

    return ask


def direct(zoo, name, images):
    """Class ids by ONNX Runtime alone, with preprocessing written out by hand."""
    session = onnxruntime.InferenceSession(
        str(zoo / "onnx" / f"{name}.onnx"), providers=["CPUExecutionProvider"]
    )
    if name.startswith("cifar10"):
        scaled = (images / 255 - np.array(MEAN)) / np.array(STD)
        inputs = scaled.transpose(0, 3, 1, 2).astype(np.float32)
    elif name.endswith("int8"):
        inputs = (images.astype(np.int16) - 128).astype(np.int8)
    else:
        inputs = images.astype(np.float32)
    return session.run(None, {session.get_inputs()[0].name: inputs})[0].argmax(axis=1)


@pytest.mark.parametrize(("name", "top1"), [*LADDER.items(), *TINY.items(), *LARGE.items()])
def test_accuracy_equals_the_published_figure(answers, cifar, name, top1):
    assert np.mean(answers(name).answers == cifar.labels) == pytest.approx(top1, abs=POINT)


@pytest.mark.parametrize(
    ("reference", "candidate", "published"),
    [
        ("ic_resnet8", "ic_resnet8_int8", 0.947),
        ("resnet_large_f", "ic_resnet_large_int8", 0.975),
        ("cifar10_resnet32", "cifar10_resnet20", None),
        ("cifar10_resnet32", "ic_resnet8", None),
    ],
)
def test_pairwise_agreement_equals_direct_execution(
    zoo, answers, cifar, reference, candidate, published
):
    found = compare_answers(
        Answered.of_run(answers(reference)), Answered.of_run(answers(candidate)), probes=cifar
    )
    images = np.load(zoo / "data" / "cifar10_test.npz")["x"][:2000]
    one, two = (direct(zoo, name, images) for name in (reference, candidate))
    assert found.agreements == pytest.approx(np.sum(one == two), abs=2)  # ties by batch rounding
    if published is not None:
        assert found.agreement.value == pytest.approx(published, abs=POINT)
    assert found.agreement.low < found.agreement.value < found.agreement.high


@pytest.fixture(scope="module")
def imagenet(zoo):
    path = zoo / "data" / "imagenet_sample_1000_256px.zip"
    with load(path, {"label_from": "prefix"}) as data:
        yield dataset_probes(data, samples=1000), data.label_space


def mobile(zoo, name, probes):
    size = MOBILE[name][0]
    steps = [
        ("resize_short", {"size": int(size / 0.875), "filter": "bicubic"}),
        ("center_crop", {"size": [size, size]}),
    ]
    path = zoo / "onnx" / f"{name}.onnx"
    return answer_probes(
        RunRequest(path, OutputKind.CLASSIFICATION, validated(steps), probes, threads=2)
    )


@pytest.mark.slow  # a minute: every MobileNet of the zoo on every image
def test_mobilenets_with_a_background_class_are_compared_by_name(zoo, imagenet):
    probes, space = imagenet
    wider = label_space("imagenet-1001", ["background", *space.labels])
    to_labels = map_labels(wider, space)
    found = {name: mobile(zoo, name, probes) for name in MOBILE}
    reference = Answered.of_run(found["mnv2_10_224q"], wider)
    for name, answered in found.items():
        _, top1, agreement = MOBILE[name]
        right = correctness(answered.answers, probes.labels, to_labels, topk_ids=answered.topk_ids)
        assert right.accuracy == pytest.approx(top1, abs=POINT)
        assert right.accuracy <= right.among_five.mean()
        pair = compare_answers(reference, Answered.of_run(answered, wider))
        assert pair.agreement.value == pytest.approx(agreement, abs=POINT)
    with pytest.raises(AnalysisError, match="1001 classes cannot be matched with 1000"):
        map_labels(None, space, classes=found["mnv2_10_224q"].classes)
