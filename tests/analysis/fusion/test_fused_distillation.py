"""Mutated networks learn back what they lost, are written as ONNX, and are certified."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from sommelier.analysis.bounds import Verdict
from sommelier.analysis.computing import torch_threads
from sommelier.analysis.fusion import (
    FineTuning,
    FusedModule,
    Lessons,
    NodeId,
    Pair,
    answer,
    certify,
    divide,
    fine_tune,
    linearised_together,
    to_onnx,
)
from tests.analysis.fusion.nets import Vgg, export
from tests.analysis.fusion.permuting import answers
from tests.analysis.fusion.toys import logits

Array = NDArray[Any]


@pytest.fixture(scope="module")
def study() -> tuple[FusedModule, Lessons]:
    """Two trained networks on digits of 8 x 8 pixels side by side: which digit, and its parity."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = (data.images[:, None] / 8 - 1).astype(np.float32)
    labels = {"digit": data.target, "parity": data.target % 2}
    splits = divide(len(pixels), 0)
    models = {}
    for seed, (task, truth) in enumerate(labels.items()):
        net = Vgg((12, 16), (0, 1), int(truth.max()) + 1, channels=1, side=8)
        trained = _trained(net, pixels[splits.fine_tune], truth[splits.fine_tune], seed)
        models[task] = export(trained, (torch.zeros(2, 1, 8, 8),), exporter="torchscript")
    module = FusedModule.original(linearised_together(models))
    formats = (logits(10), logits(2))
    taught = answer(module, [pixels])
    return module, Lessons((pixels,), taught, formats, tuple(labels.values()), splits)


def _trained(net: nn.Module, x: Array, y: Array, seed: int) -> nn.Module:
    draw = torch.Generator().manual_seed(seed)
    inputs, truth = torch.from_numpy(x), torch.from_numpy(y)
    optimiser = torch.optim.Adam(net.parameters(), lr=5e-3)
    with torch_threads(1):
        for batch in (
            b for _ in range(15) for b in torch.randperm(len(x), generator=draw).split(64)
        ):
            optimiser.zero_grad()
            nn.functional.cross_entropy(net(inputs[batch]), truth[batch]).backward()
            optimiser.step()
    return net.eval()


def test_a_mutated_module_learns_back_what_it_lost(study: tuple[FusedModule, Lessons]) -> None:
    module, lessons = study
    graph = module.graph.mutate(Pair(NodeId(0, 1), NodeId(1, 1)))
    rows = lessons.splits.fine_tune[:256]
    samples = torch.from_numpy(lessons.inputs[0][rows])
    mutated = module.mutated(graph, samples, initialise="random")
    curve = fine_tune(mutated, lessons, FineTuning(epochs=6, learning_rate=3e-3, predictor=None))
    assert curve.epochs[0].drop > 0.2  # by chance a parity is right in half of all cases
    assert curve.best.drop < curve.epochs[0].drop / 3
    # the second task reads the first one's features, and taught them something
    assert len(list(mutated.parameters())) < len(list(module.parameters()))
    inputs = lessons.inputs_of(lessons.splits.certify)
    model = to_onnx(mutated, [given[:8] for given in inputs])
    ours, theirs = answer(mutated, inputs), answers(model, inputs)
    for made, written in zip(ours, theirs, strict=True):
        assert np.allclose(made, written, rtol=0, atol=1e-4 * np.abs(made).max())
    found = certify(lessons, theirs)
    assert found.meets(0.2) is Verdict.PASSES
    assert all(drop.interval.contains(drop.drop) for drop in found.drops)
    assert [drop.measure for drop in found.drops] == ["accuracy", "accuracy"]


def test_the_models_side_by_side_lose_nothing(study: tuple[FusedModule, Lessons]) -> None:
    module, lessons = study
    outputs = answer(module, lessons.inputs_of(lessons.splits.certify))
    assert [drop.drop for drop in certify(lessons, outputs).drops] == [0.0, 0.0]
    curve = fine_tune(module, lessons, FineTuning(tolerance=0.0))
    assert (curve.stopped, curve.trained) == ("reached", 0)
