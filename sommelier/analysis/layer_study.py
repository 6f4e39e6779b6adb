"""What COMPARE learns by running two models: where they part, and whether one is made of the other.

Runs in the sandbox, on probes drawn at random.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass

from sommelier.analysis import datasets
from sommelier.analysis.differences import LayerReport, LineageEvidence, compare_layers
from sommelier.analysis.differences.lineage import weight_lineage
from sommelier.analysis.execution import RunRequest
from sommelier.analysis.segment_study import drawn_feeds
from sommelier.errors import AnalysisError


@dataclass(frozen=True, slots=True)
class LayerStudy:
    """layers, weights : None where they could not be compared; the reason is in `notes`."""

    layers: LayerReport | None
    weights: LineageEvidence | None
    notes: tuple[str, ...] = ()


def study_layers(
    reference: RunRequest, candidate: RunRequest, samples: int, tolerance: float | None
) -> LayerStudy:
    """The layers and the weights of two models. samples : probes that are run."""
    dataset = reference.probes.dataset
    opened = nullcontext() if dataset is None else datasets.reopen(dataset, verify=False)
    try:
        with opened as items:
            sides = (
                drawn_feeds(reference, items, samples),
                drawn_feeds(candidate, items, samples),
            )
        layers = compare_layers(
            reference.model_path, candidate.model_path, sides, tolerance=tolerance, samples=samples
        )
    except AnalysisError as error:
        return _weights_alone(reference, candidate, f"layers are not compared: {error.message}")
    return LayerStudy(layers, layers.lineage)


def _weights_alone(reference: RunRequest, candidate: RunRequest, note: str) -> LayerStudy:
    try:
        weights = weight_lineage(reference.model_path, candidate.model_path)
    except AnalysisError as error:
        return LayerStudy(None, None, (note, f"weights are not compared: {error.message}"))
    return LayerStudy(None, weights, (note,))
