"""Both passes over the samples: forward over all, Jacobians over some, in batches that fit."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from sommelier.analysis.bounds.spectral_layers import Chain, chain
from sommelier.analysis.bounds.spectral_measures import Measurements, forward, jacobians
from sommelier.analysis.computing import torch_threads
from sommelier.analysis.segments.normalising import normal_form
from sommelier.analysis.torch_graph import to_torch
from sommelier.analysis.torch_graph.module import TorchGraph

if TYPE_CHECKING:
    from onnx import ModelProto

    from sommelier.analysis.bounds.spectral import Progress, SpectralSettings

Array = NDArray[Any]

BATCH_BYTES = 256 * 2**20  # of activations that wait for a backward pass
BATCH = 32
JACOBIAN_BATCH = 8  # small, so that a time limit is kept


def measured(
    model: ModelProto | Path | str,
    inputs: Mapping[str, Array],
    settings: SpectralSettings,
    progress: Progress | None,
) -> tuple[Measurements, Array]:
    """The ingredients, and the logits of all samples (m, classes)."""
    started = time.monotonic()
    layers, net, size = _prepared(model, inputs, settings)
    batches = _Batches(inputs, size, settings)
    report = _Reporter(progress, batches.total)
    with torch_threads(settings.threads):
        found, logits = _forward_pass(net, layers, batches, report)
        _jacobian_pass(net, found, batches, report, started)
    return found, logits


def _prepared(
    model: ModelProto | Path | str, inputs: Mapping[str, Array], settings: SpectralSettings
) -> tuple[Chain, TorchGraph, int]:
    """The layers, the differentiable network, and how many samples fit in a batch."""
    form = normal_form(model)
    layers = chain(form)
    numbers = sum(
        form.graph.tensor(name).elements or 0 for node in form.graph.nodes for name in node.outputs
    )
    size = max(1, min(BATCH, BATCH_BYTES // max(1, 8 * numbers)))
    first = form.model.graph.input[0].type.tensor_type.shape.dim
    if first and first[0].dim_value == 1:
        size = 1
    net = to_torch(form.model, {name: array[: min(2, size)] for name, array in inputs.items()})
    net.to(settings.device)
    return layers, net, size


@dataclass(slots=True)
class _Batches:
    """The samples, `size` at a time; fewer where Jacobians are taken."""

    inputs: Mapping[str, Array]
    size: int
    settings: SpectralSettings

    @property
    def total(self) -> int:
        """Of both passes."""
        samples = len(next(iter(self.inputs.values())))
        return -(-samples // self.size) - (-self._few // min(self.size, JACOBIAN_BATCH))

    @property
    def _few(self) -> int:
        samples = len(next(iter(self.inputs.values())))
        return max(1, min(self.settings.jacobian_samples, samples))

    def all(self) -> Iterator[dict[str, torch.Tensor]]:
        return self._feeds(len(next(iter(self.inputs.values()))), self.size)

    def few(self) -> Iterator[dict[str, torch.Tensor]]:
        return self._feeds(self._few, min(self.size, JACOBIAN_BATCH))

    def _feeds(self, samples: int, size: int) -> Iterator[dict[str, torch.Tensor]]:
        for start in range(0, samples, size):
            end = min(start + size, samples)
            yield {
                name: torch.from_numpy(np.array(array[start:end])).to(self.settings.device)
                for name, array in self.inputs.items()
            }


@dataclass(slots=True)
class _Reporter:
    progress: Progress | None
    total: int
    done: int = 0

    def step(self) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)


def _forward_pass(
    net: TorchGraph, layers: Chain, batches: _Batches, report: _Reporter
) -> tuple[Measurements, Array]:
    """c and the cushions of plain layers over all samples; the logits (m, classes)."""
    found, logits = Measurements(layers), []
    for feed in batches.all():
        logits.append(forward(net, feed, found).cpu().numpy().astype(np.float64))
        report.step()
    return found, np.concatenate(logits)


def _jacobian_pass(
    net: TorchGraph, found: Measurements, batches: _Batches, report: _Reporter, started: float
) -> None:
    limit = batches.settings.time_limit_s
    random = torch.Generator().manual_seed(batches.settings.seed)
    for feed in batches.few():
        jacobians(net, feed, found, batches.settings, random)
        report.step()
        if limit is not None and time.monotonic() - started > limit:
            return
