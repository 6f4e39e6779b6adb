"""Fusion of the zoo's networks: two of one family, and two with images channels last."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from sommelier.analysis.fusion import (
    FusedModule,
    NodeId,
    Pair,
    linearised,
    linearised_together,
    to_onnx,
)
from sommelier.analysis.fusion.generator import compared
from sommelier.errors import AnalysisError
from tests.analysis.fusion.nets import Array, run

pytestmark = pytest.mark.zoo
MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


def _images(zoo: Path, count: int, *, last: bool) -> tuple[Array, Array]:
    with np.load(zoo / "data/cifar10_test.npz") as stored:
        x, y = stored["x"][:count], stored["y"][:count]
    if last:
        return x.astype(np.float32), y
    scaled = (x / 255 - MEAN) / STD
    return scaled.transpose(0, 3, 1, 2).astype(np.float32), y


def _module(zoo: Path, *names: str) -> FusedModule:
    paths = {name: zoo / "onnx" / f"{name}.onnx" for name in names}
    return FusedModule.original(linearised_together(paths))


@pytest.mark.parametrize(
    ("names", "last", "blocks", "pairs"),
    [
        (("cifar10_resnet20", "cifar10_resnet32"), False, (11, 17), 165),
        (("ic_resnet8", "resnet_large_f"), True, (5, 5), 14),
    ],
)
def test_two_networks_answer_as_they_did(
    zoo: Path, names: tuple[str, str], last: bool, blocks: tuple[int, int], pairs: int
) -> None:
    module = _module(zoo, *names)
    x, _ = _images(zoo, 64, last=last)
    counts = [len(found.blocks) for found in module.models.values()]
    assert tuple(counts) == blocks
    assert len(module.graph.input_shareable_pairs()) == pairs
    with torch.no_grad():
        answers = [out.numpy() for out in module(torch.from_numpy(x))]
    for name, answer in zip(names, answers, strict=True):
        model = onnx.load(zoo / "onnx" / f"{name}.onnx")
        truth = run(model, {model.graph.input[0].name: x})[0]
        assert np.abs(answer - truth).max() <= 1e-5 * np.abs(truth).max()
    assert max(compared(module, to_onnx(module, [x[:4]]), [x[4:8]]).values()) < 1e-4


def test_least_squares_keep_more_accuracy_than_random_maps(zoo: Path) -> None:
    module = _module(zoo, "cifar10_resnet20", "cifar10_resnet32")
    x, y = _images(zoo, 756, last=False)
    given = torch.from_numpy(x[:256])
    pair = Pair(NodeId(0, 2), NodeId(1, 3))  # both read 16 x 32 x 32
    graph = module.graph.mutate(pair)
    hits = {}
    for how in ("least_squares", "random"):
        made = module.mutated(graph, given, initialise=how)
        with torch.no_grad():
            answers = made(torch.from_numpy(x[256:]))
        hits[how] = [float((out.argmax(1).numpy() == y[256:]).mean()) for out in answers]
    assert hits["least_squares"][0] == hits["random"][0]  # the host is not touched
    assert hits["least_squares"][1] > hits["random"][1] + 0.2


@pytest.mark.parametrize("name", ["ic_resnet8_int8", "mnv1_025_128q"])
def test_quantised_networks_are_refused_by_the_operator(zoo: Path, name: str) -> None:
    with pytest.raises(AnalysisError, match="activations are quantised") as caught:
        linearised(zoo / "onnx" / f"{name}.onnx")
    assert "float model" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("name", "blocks"),
    [("magika_standard_v3_0", 3), ("FastestDet", 10), ("yunet_n_320_320", 16),
     ("fsanet-var-iter-688590", 2), ("version-RFB-320", 15)],
)  # fmt: skip
def test_models_of_other_kinds_are_cut_and_answer_as_they_did(
    zoo: Path, name: str, blocks: int
) -> None:
    found = linearised(zoo / "onnx" / f"{name}.onnx")
    assert len(found.blocks) == blocks
    FusedModule.original({"only": found})
