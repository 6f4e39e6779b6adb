"""ANALYZE ... FOR BOUNDS: the generalization bound of a classifier, with what it is made of.

The theorem wants the training set. What is at hand are the probes of a labelled dataset, which is
said with every number. It is a diagnostic and never a filter: analysis/bounds/spectral.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from sommelier.analysis import datasets
from sommelier.analysis.aspects import Finding, Subject, Truth
from sommelier.analysis.execution import RunRequest, open_model
from sommelier.analysis.jobs import AnalysisPlan, open_datasets, task_of
from sommelier.analysis.labels import NO_LABEL, map_labels
from sommelier.analysis.output_kinds import class_count
from sommelier.analysis.probes import dataset_probes
from sommelier.errors import AnalysisError
from sommelier.records import Measurement, ModelRecord, OutputKind, Provenance

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sommelier.analysis.bounds.spectral import SpectralBound
    from sommelier.analysis.sandbox import Sandbox
    from sommelier.storage.catalog import Catalog

BOUNDS = "bounds"
SAMPLES = 256  # of a dataset, unless USING says else: their activations are kept
SHARE_OF_TIME = 0.5  # of the task's limit for Jacobians


def plan_bounds(
    catalog: Catalog, models: Sequence[ModelRecord], plan: AnalysisPlan, *, named: bool
) -> None:
    """A task for every classifier and the first labelled dataset that fits it."""
    strict = not (named and plan.options.datasets)
    with ExitStack() as stack:
        opened = [
            one for one in open_datasets(catalog, plan, stack) if one.probes.labels is not None
        ]
        for model in models:
            if model.output_kind is not OutputKind.CLASSIFICATION:
                plan.skip(model, "only classifiers have margins", aspect=BOUNDS)
                continue
            told = [(one, one.misfit(model, catalog, strict=strict)) for one in opened]
            fitting = [one for one, reason in told if reason is None]
            if not fitting:
                reasons = "; ".join(f"{one.name}: {reason}" for one, reason in told)
                plan.skip(model, reasons or "there is no labelled dataset", aspect=BOUNDS)
                continue
            chosen = fitting[0]
            probes = chosen.probes
            if plan.options.samples is None and probes.record.samples > SAMPLES:
                probes = dataset_probes(
                    chosen.items,
                    samples=SAMPLES,
                    sampling=plan.options.sampling,
                    seed=plan.options.seed,
                )
            plan.probes[probes.record.id] = probes
            decides = {"probe_set_id": probes.record.id, "device": plan.options.device,
                       "seed": plan.options.seed}  # fmt: skip
            plan.tasks.append(task_of(BOUNDS, model, decides))


def bounds_task(
    subject: Subject, truth: Truth, parameters: Mapping[str, Any], sandbox: Sandbox
) -> Finding:
    """The bound as measurements of the model, computed in the sandbox."""
    record, probes = subject.record, truth.probes
    request = BoundRequest(
        RunRequest(subject.path, record.output_kind, record.preprocessing, probes),
        _classes_of(subject, truth),
        str(parameters["device"]),
        int(parameters["seed"]),
        SHARE_OF_TIME * sandbox.time_limit_s,
    )
    found = sandbox.call(bound_of, request)
    dataset = probes.record.name
    measured = tuple(
        Measurement(record.id, metric, value, Provenance.ESTIMATED, made, dataset=dataset)
        for metric, value, made in _quantities(found)
        if np.isfinite(value)
    )
    return Finding(measured, remark=f"spectral bound {found.value * 100:.4g}%: {found.says}")


@dataclass(frozen=True, slots=True)
class BoundRequest:
    """What a worker process needs; plain values. labels : (n,) in the model's classes, NO_LABEL."""

    run: RunRequest
    labels: NDArray[np.int32]
    device: str
    seed: int
    time_limit_s: float


def bound_of(request: BoundRequest) -> SpectralBound:
    """The spectral bound of the samples that have a label. Raises AnalysisError."""
    from sommelier.analysis.bounds.spectral import SpectralSettings, spectral_bound

    known = request.labels != NO_LABEL
    if not known.any():
        raise AnalysisError("its classes are others than the dataset's")
    inputs = {name: array[known] for name, array in _inputs(request.run).items()}
    settings = SpectralSettings(
        device=request.device, seed=request.seed, time_limit_s=request.time_limit_s
    )
    return spectral_bound(request.run.model_path, inputs, request.labels[known], settings)


def _inputs(run: RunRequest) -> dict[str, Any]:
    """Every prepared input of the model, (n, ...) by name."""
    assert run.probes.dataset is not None, "plan_bounds takes probes of a dataset"
    with datasets.reopen(run.probes.dataset, verify=False) as items:
        parts: dict[str, list[Any]] = {}
        for feed, count in open_model(run, items).feeds(run.probes):
            for name, array in feed.items():
                parts.setdefault(name, []).append(np.asarray(array)[:count])
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def _classes_of(subject: Subject, truth: Truth) -> NDArray[np.int32]:
    """The true labels as classes of the model, NO_LABEL where it has none."""
    labels = truth.probes.labels
    assert labels is not None, "plan_bounds takes labelled probes"
    own = map_labels(
        subject.label_space,
        truth.label_space,
        classes=class_count(subject.record.outputs, subject.record.output_kind),
        target_classes=truth.probes.classes,
        explicit=truth.explicit,
    )
    wanted = np.full(max(int(labels.max()), int(own.targets.max())) + 2, NO_LABEL, dtype=np.int32)
    for mine, theirs in reversed(list(enumerate(own.targets.tolist()))):
        if theirs != NO_LABEL:
            wanted[theirs] = mine
    return np.where(labels >= 0, wanted[labels], NO_LABEL).astype(np.int32)


def _quantities(found: SpectralBound) -> list[tuple[str, float, str]]:
    """(metric, value, how it was made)."""
    hypothesis = found.hypothesis
    status = "holds" if hypothesis.holds else "fails"
    made = (
        f"arora: m {found.samples}, d {len(found.layers)}, gamma {found.gamma:.3g}, "
        f"c {found.contraction:.3g}, beta {found.spread:.3g}, max|f| {found.largest_output:.3g}, "
        f"rho {hypothesis.smoothness:.3g} of {hypothesis.needed:g} ({status}), "
        f"Jacobians at {found.jacobian_samples}, constants {found.constants}"
    )
    return [
        ("spectral_bound", found.value, made),
        ("spectral_printed", found.printed_value, made),
        ("margin_loss", found.margin_loss, made),
    ]
