"""Links between real models: the CIFAR-10 ladder and an MLPerf model of another family."""

from __future__ import annotations

import numpy as np
import onnxruntime
import pytest

from sommelier.analysis.links.fitting import LinkOptions, fit_links
from sommelier.analysis.links.formats import LinkAnswers, format_of, natural
from sommelier.analysis.links.scoring import performance
from sommelier.analysis.links.splits import split
from sommelier.records import OutputKind

pytestmark = pytest.mark.zoo

MEAN, DEVIATION = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
IMAGES = 600


@pytest.fixture(scope="module")
def answers(zoo):
    """Natural answers of three classifiers to CIFAR-10 images, which the file has by class."""
    images = np.load(zoo / "data" / "cifar10_test.npz")["x"][:: 10_000 // IMAGES]
    images = images[:IMAGES].astype(np.float32)
    normalised = ((images / 255 - MEAN) / DEVIATION).transpose(0, 3, 1, 2).astype(np.float32)
    inputs = {"cifar10_resnet20": normalised, "cifar10_resnet56": normalised, "ic_resnet8": images}
    return {name: _answers(zoo / "onnx" / f"{name}.onnx", given) for name, given in inputs.items()}


def _answers(path, inputs):
    session = onnxruntime.InferenceSession(path)
    name = session.get_inputs()[0].name
    parts = [session.run(None, {name: part})[0] for part in np.split(inputs, IMAGES // 50)]
    raw = np.concatenate(parts)
    return natural(raw, format_of(OutputKind.CLASSIFICATION, raw))


def test_every_model_of_a_task_tells_the_answers_of_the_others(answers):
    for name, target in answers.items():
        sources = {other: given for other, given in answers.items() if other != name}
        held = split(IMAGES, 0).held_out
        for source, found in fit_links(sources, target).items():
            own = performance(target.format, sources[source].values[held], target.values[held])
            assert found.state == "linked"
            assert found.skill > 0.55
            assert found.score.performance > own - 0.03  # of 180 images


def test_answers_to_other_images_tell_nothing(answers):
    target = answers["cifar10_resnet56"]
    given = answers["cifar10_resnet20"]
    turned = LinkAnswers(given.format, np.random.default_rng(0).permutation(given.values))
    assert fit_links({"turned": turned}, target)["turned"].state == "not linkable"
    blind = fit_links({"turned": turned}, target, LinkOptions(screen=False))["turned"]
    assert blind.state == "useless"
