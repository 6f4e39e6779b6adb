"""Torch modules become models in blocks, are fused, learn back what they lost, and are written."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sommelier.analysis.fusion import (
    FineTuning,
    FusedModule,
    Lessons,
    answer,
    divide,
    exported,
    fine_tune,
    linearised_together,
    to_onnx,
)
from sommelier.analysis.fusion.generator import compared
from sommelier.errors import AnalysisError
from tests.analysis.fusion.models import samples
from tests.analysis.fusion.nets import Bert, Vit, mobilenet, run
from tests.analysis.fusion.toys import numbers

PAIRS: dict[str, Callable[[], Sequence[nn.Module]]] = {
    "cnn": lambda: (mobilenet([8, 12], 4), mobilenet([6, 12], 3)),
    "vit": lambda: (Vit(16, 2, 4), Vit(24, 2, 3)),
    "bert": lambda: (Bert(16, 2, 4), Bert(24, 2, 3)),
}


@pytest.mark.parametrize("family", list(PAIRS))
def test_pairs_of_modules_are_fused_learn_and_are_written(family: str) -> None:
    torch.manual_seed(0)
    nets = dict(zip("ab", PAIRS[family](), strict=True))
    inputs = samples(family, 300)
    examples = [torch.from_numpy(given[:4]) for given in inputs]
    models = {task: exported(net, examples) for task, net in nets.items()}
    original = FusedModule.original(linearised_together(models))
    for net, answers in zip(nets.values(), answer(original, inputs), strict=True):
        with torch.no_grad():
            truth = net.eval()(*map(torch.from_numpy, inputs)).numpy()
        assert np.abs(answers - truth).max() <= 1e-4 * np.abs(truth).max()

    # the second model's head and last block read what the first one's read
    graph = original.graph
    hosts = sorted(p for p in graph.input_shareable_pairs() if p.guest.task_id != p.host.task_id)
    graph = graph.mutate(next(p for p in reversed(hosts) if p.guest.task_id == 1))
    module = original.mutated(graph, [torch.from_numpy(given[:128]) for given in inputs])
    taught = answer(original, inputs)
    lessons = Lessons(tuple(inputs), taught, (numbers(4), numbers(3)), (None, None), divide(300, 0))
    before = _distance(module, lessons)
    fine_tune(module, lessons, FineTuning(epochs=6, predictor=None, learning_rate=1e-3))
    assert _distance(module, lessons) < before
    assert graph.params < original.graph.params
    few = [given[:8] for given in inputs]
    assert max(compared(module, to_onnx(module, few), few).values()) < 1e-4


def _distance(module: FusedModule, lessons: Lessons) -> float:
    """Of answers to samples that are not learned from to what is taught, in deviations."""
    rows = lessons.splits.select
    given = answer(module, lessons.inputs_of(rows))
    pairs = zip(given, lessons.answers, strict=True)
    return max(float(np.abs(ours - truth[rows]).mean() / truth.std()) for ours, truth in pairs)


def test_a_module_is_left_as_it_was_and_its_batch_is_open() -> None:
    net = mobilenet([6], 3).train()
    model = exported(net, [torch.zeros(2, 3, 16, 16)], names=["pixels"])
    assert net.training
    assert [value.name for value in model.graph.input] == ["pixels"]
    assert run(model, {"pixels": samples("cnn", 5)[0]})[0].shape == (5, 3)


class _Counting(nn.Module):
    """Answers otherwise every time."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.calls = nn.Linear(4, 2), 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        found: Tensor = self.layer(x) * self.calls
        return found


class _Named(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"y": x}


def test_modules_that_cannot_be_fused_are_refused_with_the_reason() -> None:
    x = torch.ones(3, 4)
    with pytest.raises(AnalysisError, match="answers 3 samples otherwise in output 0"):
        exported(_Counting(), [x])
    with pytest.raises(AnalysisError, match="gives a tensor, or a tuple"):
        exported(_Named(), [x])
    with pytest.raises(AnalysisError, match="at least two samples"):
        exported(nn.Linear(4, 2), [x[:1]])
