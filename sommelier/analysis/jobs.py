"""What ANALYZE will do: the tasks of each model on each probe set, and whom it has to leave out.

A task's key is the hash of everything that decides its findings, so a killed ANALYZE resumes and
a repeated one does nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sommelier.analysis import datasets
from sommelier.analysis.datasets import LoadedDataset
from sommelier.analysis.labels import map_labels
from sommelier.analysis.model_inputs import plan_feeds
from sommelier.analysis.preprocessing import Item
from sommelier.analysis.probes import Probes, dataset_probes, synthetic_probes
from sommelier.errors import AnalysisError, DatasetError, SommelierError
from sommelier.records import AnalysisTask, Dataset, ModelRecord, OutputKind

if TYPE_CHECKING:
    from sommelier.storage.catalog import Catalog

ASPECTS = ("resources", "latency", "equivalence", "accuracy")
_LABELLED = (OutputKind.CLASSIFICATION, OutputKind.CLASS_IDS)


@dataclass(frozen=True, slots=True)
class AnalysisOptions:
    """USING of ANALYZE. datasets empty: those that fit, else synthetic probes.

    samples None: 2 048 of a dataset or all, 512 synthetic. time_limit_s and memory_limit_bytes
    hold for one model. device : where latency is measured.
    """

    datasets: tuple[str, ...] = ()
    samples: int | None = None
    sampling: str = "random"
    seed: int = 0
    batch: int = 1
    threads: int = 1
    runs: int = 50
    device: str = "cpu"
    workers: int | None = None
    time_limit_s: float = 600.0
    memory_limit_bytes: float = 8e9


@dataclass(slots=True)
class AnalysisPlan:
    """The tasks in the order they run and the probe sets they name.

    A model that is left out has a task in state 'skipped' with the reason. without_file : models
    that are metadata only.
    """

    options: AnalysisOptions
    tasks: list[AnalysisTask] = field(default_factory=list)
    probes: dict[str, Probes] = field(default_factory=dict)
    without_file: int = 0

    def skip(self, model: ModelRecord, reason: str) -> None:
        self.tasks.append(replace(_task("sketch", model, {}), state="skipped", reason=reason))


def plan_analysis(
    catalog: Catalog,
    models: Sequence[ModelRecord],
    aspects: Iterable[str],
    options: AnalysisOptions,
) -> AnalysisPlan:
    """The plan for these models; nothing is run. Latency comes first: it wants a quiet machine.

    Raises DatasetError when a named dataset is unknown, has changed or is too small.
    """
    wanted = tuple(aspects) or ASPECTS
    plan = AnalysisPlan(options)
    runnable = [model for model in models if model.artifact is not None]
    plan.without_file = len(models) - len(runnable)
    for aspect, keys in (("latency", _LATENCY_KEYS), ("resources", _RESOURCE_KEYS)):
        if aspect in wanted:
            plan.tasks += [_task(aspect, model, _chosen(options, keys)) for model in runnable]
    if {"equivalence", "accuracy"} & set(wanted):
        labelled_only = "equivalence" not in wanted
        _plan_sketches(catalog, runnable, plan, labelled_only=labelled_only)
    return plan


_LATENCY_KEYS = ("batch", "threads", "runs", "device", "seed")
_RESOURCE_KEYS = ("batch",)


def _plan_sketches(
    catalog: Catalog, models: Sequence[ModelRecord], plan: AnalysisPlan, *, labelled_only: bool
) -> None:
    """One task a model and probe set: every dataset asked for, else every one that fits it."""
    opened = [_Opened.of(record, plan.options) for record in _datasets(catalog, plan.options)]
    try:
        for model in models:
            reasons = []
            fitting = 0
            for dataset in opened:
                reason = dataset.misfit(model, catalog, strict=not plan.options.datasets)
                if labelled_only and reason is None and dataset.probes.labels is None:
                    reason = f"dataset '{dataset.name}' has no labels"
                if reason is None:
                    fitting += 1
                    _add_sketch(plan, model, dataset.probes)
                else:
                    reasons.append(f"{dataset.name}: {reason}")
            if not fitting:
                _without_data(plan, model, reasons, labelled_only=labelled_only)
    finally:
        for dataset in opened:
            dataset.items.close()


def _datasets(catalog: Catalog, options: AnalysisOptions) -> list[Dataset]:
    if options.datasets:
        return [catalog.dataset(name) for name in options.datasets]
    return catalog.datasets()


def _without_data(
    plan: AnalysisPlan, model: ModelRecord, reasons: list[str], *, labelled_only: bool
) -> None:
    """Synthetic probes, unless data were asked for by name or are needed for their labels."""
    if plan.options.datasets or labelled_only:
        plan.skip(model, "; ".join(reasons) or "no labelled dataset fits it")
        return
    try:
        probes = synthetic_probes(
            model.inputs, samples=plan.options.samples, seed=plan.options.seed
        )
        plan_feeds(model.inputs, model.preprocessing, None, 1)
    except SommelierError as error:
        plan.skip(model, error.message)
        return
    _add_sketch(plan, model, probes)


def _add_sketch(plan: AnalysisPlan, model: ModelRecord, probes: Probes) -> None:
    plan.probes[probes.record.id] = probes
    steps = model.preprocessing.steps if model.preprocessing else ()
    decides = {
        "probe_set_id": probes.record.id,
        "preprocessing": [[name, dict(arguments)] for name, arguments in steps],
        "label_space_id": model.label_space_id,
        "output_kind": model.output_kind.value,
    }
    plan.tasks.append(_task("sketch", model, decides))


def _task(aspect: str, model: ModelRecord, decides: Mapping[str, Any]) -> AnalysisTask:
    text = json.dumps([aspect, model.id, decides], sort_keys=True, default=str)
    key = f"{aspect}:{hashlib.sha256(text.encode()).hexdigest()[:32]}"
    return AnalysisTask(key, 0, aspect, model.id, dict(decides))


def _chosen(options: AnalysisOptions, keys: Sequence[str]) -> dict[str, Any]:
    return {key: getattr(options, key) for key in keys}


@dataclass(frozen=True, slots=True)
class _Opened:
    """A dataset that is open while models are tried against it."""

    name: str
    items: LoadedDataset
    probes: Probes
    first: Item

    @classmethod
    def of(cls, record: Dataset, options: AnalysisOptions) -> _Opened:
        items = datasets.reopen(record)
        samples = options.samples
        if samples is not None and not options.datasets:
            samples = min(samples, len(items))
        probes = dataset_probes(
            items, samples=samples, sampling=options.sampling, seed=options.seed
        )
        if probes.indices is None:
            raise DatasetError(f"dataset '{record.name}' is empty")
        return cls(record.name, items, probes, items.item(int(probes.indices[0])))

    def misfit(self, model: ModelRecord, catalog: Catalog, *, strict: bool) -> str | None:
        """Why the model cannot answer these items; None if it can.

        strict : nobody asked for this dataset, so it must also speak of the model's classes.
        """
        try:
            plan_feeds(model.inputs, model.preprocessing, self.first, 1)
        except AnalysisError as error:
            return error.message
        return self._foreign_labels(model, catalog) if strict else None

    def _foreign_labels(self, model: ModelRecord, catalog: Catalog) -> str | None:
        space = self.items.label_space
        if space is None or model.output_kind not in _LABELLED:
            return None
        own = catalog.label_space(model.label_space_id) if model.label_space_id else None
        width = model.outputs[0].shape[-1] if model.outputs and model.outputs[0].shape else None
        try:
            found = map_labels(
                own,
                space,
                classes=width if isinstance(width, int) else None,
                target_classes=self.probes.classes,
            )
        except AnalysisError as error:
            return error.message
        return None if found.coverage > 0 else "its classes are others than the dataset's"
