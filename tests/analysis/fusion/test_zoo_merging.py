"""Hidden units of real models move freely, are found again, and identical models are kept once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from sommelier.analysis.fusion.hidden_units import hidden_units, untied
from sommelier.analysis.fusion.merging import align, merge
from sommelier.analysis.fusion.same_answers import check_answers
from sommelier.analysis.fusion.sharing import share_identical
from sommelier.analysis.segments.normalising import load, normal_form
from sommelier.errors import AnalysisError
from tests.analysis.fusion.permuting import answers, shuffled

pytestmark = pytest.mark.zoo

UNITS = {
    "cifar10_resnet20": 336,
    "ic_resnet8": 224,
    "FastestDet": 984,
    "fsanet-1x1-iter-688590": 928,
    "magika_standard_v2_1": 64,
    "version-RFB-320": 1668,
    "yunet_n_320_320": 880,
    "mnv2_10_224q": 0,
}
"""Hidden units whose order means nothing; those of a quantised file are not looked for."""


@pytest.mark.parametrize("name", UNITS)
def test_real_models_answer_alike_with_their_units_in_any_order(name: str, zoo: Path) -> None:
    model = load(zoo / "onnx" / f"{name}.onnx")
    found = hidden_units(normal_form(untied(model)))
    assert sum(units.size for units in found) == UNITS[name]
    outputs = {output.name: output.name for output in model.graph.output}
    check_answers(shuffled(model, 0), model, outputs, "in another order", 1e-4)


@pytest.mark.parametrize("name", ["cifar10_resnet32", "ic_resnet8"])
def test_a_shuffled_real_model_is_brought_back_and_merged(name: str, zoo: Path) -> None:
    model = load(zoo / "onnx" / f"{name}.onnx")
    other = shuffled(model, 3)
    assert align(other, model).moved > 200
    images = np.load(zoo / "data" / "cifar10_test.npz")["x"][:64].astype(np.float32)
    if name.startswith("cifar10"):
        images = ((images / 255 - 0.45) / 0.22).transpose(0, 3, 1, 2)
    truth = answers(model, [images])[0]
    for made in answers(merge({"a": model, "b": other}).model, [images]):
        assert np.abs(made - truth).max() <= 1e-4 * np.abs(truth).max()


def test_real_models_of_other_depth_are_refused_with_the_reason(zoo: Path) -> None:
    paths = {n: zoo / "onnx" / f"cifar10_resnet{n}.onnx" for n in ("20", "32")}
    with pytest.raises(AnalysisError, match="'20' and '32' are not of one architecture: operator"):
        merge(paths)


def test_a_real_model_kept_twice_costs_its_bytes_once(zoo: Path) -> None:
    path = zoo / "onnx" / "cifar10_resnet20.onnx"
    found = share_identical({"a": path, "b": path})
    assert found.saved_bytes > 1_000_000
    assert len(found.model.graph.node) <= len(load(path).graph.node) + 1
