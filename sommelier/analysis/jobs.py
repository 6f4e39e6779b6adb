"""What ANALYZE will do: the tasks of each model on each probe set, and whom it has to leave out.

A task's key is the hash of everything that decides its findings, so a killed ANALYZE resumes and
a repeated one does nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sommelier.analysis import datasets
from sommelier.analysis.datasets import LoadedDataset
from sommelier.analysis.labels import map_labels
from sommelier.analysis.model_inputs import plan_feeds
from sommelier.analysis.output_kinds import class_count
from sommelier.analysis.preprocessing import Item
from sommelier.analysis.probes import Probes, dataset_probes, synthetic_probes
from sommelier.analysis.sandbox import MODEL_BYTES, MODEL_SECONDS
from sommelier.errors import AnalysisError, DatasetError, SommelierError
from sommelier.records import AnalysisTask, Dataset, ModelRecord, OutputKind, Preprocessing

if TYPE_CHECKING:
    from sommelier.analysis.links.fitting import LinkOptions
    from sommelier.storage.catalog import Catalog

ASPECTS = ("resources", "latency", "equivalence", "accuracy")
_LABELLED = (OutputKind.CLASSIFICATION, OutputKind.CLASS_IDS)


@dataclass(frozen=True, slots=True)
class AnalysisOptions:
    """USING of ANALYZE. datasets empty: those that fit, else synthetic probes.

    samples None: 2 048 of a dataset or all, 512 synthetic. time_limit_s and memory_limit_bytes
    hold for one model. device : where latency is measured. threshold : share of answers that
    segments exchanged together may change; with bound 'anytime' the agreement to decide about.
    links : how FOR LINKS fits them; None: as LinkOptions says, with this seed.
    """

    datasets: tuple[str, ...] = ()
    samples: int | None = None
    sampling: str = "random"
    seed: int = 0
    batch: int = 1
    threads: int = 1
    runs: int = 50
    device: str = "cpu"
    threshold: float = 0.05
    bound: str = "auto"
    links: LinkOptions | None = None
    workers: int | None = None
    time_limit_s: float = MODEL_SECONDS
    memory_limit_bytes: float = MODEL_BYTES


@dataclass(slots=True)
class AnalysisPlan:
    """The tasks in the order they run and the probe sets they name.

    A model that is left out has a task in state 'skipped' with the reason. without_file : models
    that are metadata only. remarks : datasets that could not be read, proposals without a file.
    """

    options: AnalysisOptions
    tasks: list[AnalysisTask] = field(default_factory=list)
    probes: dict[str, Probes] = field(default_factory=dict)
    without_file: int = 0
    remarks: list[str] = field(default_factory=list)

    def skip(self, model: ModelRecord, reason: str, *, aspect: str = "sketch") -> None:
        self.tasks.append(replace(task_of(aspect, model, {}), state="skipped", reason=reason))


def plan_analysis(
    catalog: Catalog,
    models: Sequence[ModelRecord],
    aspects: Iterable[str],
    options: AnalysisOptions,
    *,
    named: bool = True,
    against: Sequence[ModelRecord] = (),
) -> AnalysisPlan:
    """The plan for these models; nothing is run. Latency comes first: it wants a quiet machine.

    against : of FOR SEGMENTS, the other side of each pair.
    named : the user chose these models one by one. If not, or if no dataset was chosen, a dataset
    must also speak of a model's classes, and its items must fit without a guessed resize.
    Raises DatasetError when a named dataset is unknown, has changed or is too small.
    """
    wanted = tuple(aspects) or ASPECTS
    plan = AnalysisPlan(options)
    runnable = _runnable(models, plan)
    plan_costs(catalog, runnable, plan, wanted)
    others = [model for model in against if model.artifact is not None]
    if options.bound == "anytime":
        from sommelier.analysis.early_stopping import plan_streams

        plan_streams(catalog, runnable, others, plan)
    elif {"equivalence", "accuracy"} & set(wanted):
        labelled_only = "equivalence" not in wanted
        strict = not (named and options.datasets)
        _plan_sketches(catalog, runnable, plan, labelled_only=labelled_only, strict=strict)
    if "segments" in wanted:
        from sommelier.analysis.segment_jobs import plan_segments

        plan_segments(catalog, runnable, others, plan, named=named)
    _plan_rest(catalog, runnable, plan, wanted, named=named)
    return plan


def _plan_rest(
    catalog: Catalog,
    runnable: Sequence[ModelRecord],
    plan: AnalysisPlan,
    wanted: Sequence[str],
    *,
    named: bool,
) -> None:
    """Links and bounds, which only those pay for who ask for them."""
    if "links" in wanted:
        from sommelier.analysis.link_jobs import plan_links

        plan_links(catalog, runnable, plan)
    if "bounds" in wanted:
        from sommelier.analysis.bound_jobs import plan_bounds

        plan_bounds(catalog, runnable, plan, named=named)


def _runnable(models: Sequence[ModelRecord], plan: AnalysisPlan) -> list[ModelRecord]:
    """The models that have a file; the plan says of the others why they are left out."""
    for model in models:
        if model.artifact is not None:
            continue
        if model.proposal is None:
            plan.without_file += 1
        else:
            plan.remarks.append(
                f"{model.name} is a proposal without a file: CREATE MODEL ... AS GRAFT builds it"
            )
    return [model for model in models if model.artifact is not None]


def plan_costs(
    catalog: Catalog, runnable: Sequence[ModelRecord], plan: AnalysisPlan, wanted: Sequence[str]
) -> None:
    """Latency and static profiles."""
    options = plan.options
    if "latency" in wanted:
        decides = {key: getattr(options, key) for key in _LATENCY_KEYS}
        plan.tasks += [task_of("latency", model, decides) for model in runnable]
    if "resources" in wanted:
        table = "latency" in wanted or bool(catalog.operator_costs(options.device))
        decides = {"batch": options.batch, "device": options.device, "operator_table": table}
        plan.tasks += [task_of("resources", model, decides) for model in runnable]


_LATENCY_KEYS = ("batch", "threads", "runs", "device", "seed")


def _plan_sketches(
    catalog: Catalog,
    models: Sequence[ModelRecord],
    plan: AnalysisPlan,
    *,
    labelled_only: bool,
    strict: bool,
) -> None:
    """One task a model and probe set: every dataset asked for, else every one that fits it."""
    with ExitStack() as stack:
        opened = open_datasets(catalog, plan, stack)
        for model in models:
            reasons = []
            fitting = 0
            for dataset in opened:
                reason = dataset.misfit(model, catalog, strict=strict)
                if labelled_only and reason is None and dataset.probes.labels is None:
                    reason = f"dataset '{dataset.name}' has no labels"
                if reason is None:
                    fitting += 1
                    add_sketch(plan, model, dataset.probes, dataset.label_map(model, catalog))
                else:
                    reasons.append(f"{dataset.name}: {reason}")
            if not fitting:
                _without_data(plan, model, reasons, labelled_only=labelled_only)


def open_datasets(catalog: Catalog, plan: AnalysisPlan, stack: ExitStack) -> list[_Opened]:
    """The datasets, closed with the stack. One that nobody asked for may fail, with a remark."""
    options, opened = plan.options, []
    for record in _datasets(catalog, options):
        try:
            items = stack.enter_context(datasets.reopen(record))
            opened.append(_Opened.of(record, items, options))
        except DatasetError as error:
            if options.datasets:
                raise
            plan.remarks.append(f"dataset '{record.name}' is left out: {error.message}")
    return opened


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
    add_sketch(plan, model, probes)


def add_sketch(
    plan: AnalysisPlan,
    model: ModelRecord,
    probes: Probes,
    label_map: Mapping[str, str] | None = None,
) -> None:
    """The task of what a model answers to these probes, and how often it is right."""
    plan.probes[probes.record.id] = probes
    steps = model.preprocessing.steps if model.preprocessing else ()
    decides: dict[str, Any] = {
        "probe_set_id": probes.record.id,
        "preprocessing": [[name, dict(arguments)] for name, arguments in steps],
        "label_space_id": model.label_space_id,
        "output_kind": model.output_kind.value,
    }
    if label_map:  # a map that is given later measures the accuracy anew
        decides["label_map"] = dict(label_map)
    plan.tasks.append(task_of("sketch", model, decides))


def task_of(aspect: str, model: ModelRecord, decides: Mapping[str, Any]) -> AnalysisTask:
    """A task whose key is the hash of everything that decides its findings."""
    text = json.dumps([aspect, model.id, decides], sort_keys=True, default=str)
    key = f"{aspect}:{hashlib.sha256(text.encode()).hexdigest()[:32]}"
    return AnalysisTask(key, 0, aspect, model.id, dict(decides))


@dataclass(frozen=True, slots=True)
class _Opened:
    """A dataset that is open while models are tried against it."""

    name: str
    items: LoadedDataset
    probes: Probes
    first: Item

    @classmethod
    def of(cls, record: Dataset, items: LoadedDataset, options: AnalysisOptions) -> _Opened:
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
        """Why the model cannot answer these items, or (strict) is not meant to; None if it can."""
        try:
            feeds = plan_feeds(model.inputs, model.preprocessing, self.first, 1)
            if not strict:
                return None
            if feeds.preprocessing is not None and _guesses_size(feeds.preprocessing):
                return f"items would have to be resized by guess (ANALYZE {model.name} does it)"
            return self._foreign_classes(model, catalog)
        except AnalysisError as error:
            return error.message

    def _foreign_classes(self, model: ModelRecord, catalog: Catalog) -> str | None:
        space, classes = self.items.label_space, self.probes.classes
        if model.output_kind not in _LABELLED or (space is None and classes is None):
            return None
        own = catalog.label_space(model.label_space_id) if model.label_space_id else None
        width = class_count(model.outputs, model.output_kind)
        if own is None and width is None:
            return None  # it does not say what its classes are
        explicit = self.label_map(model, catalog)
        found = map_labels(own, space, classes=width, target_classes=classes, explicit=explicit)
        return None if found.coverage > 0 else "its classes are others than the dataset's"

    def label_map(self, model: ModelRecord, catalog: Catalog) -> Mapping[str, str] | None:
        """The user's map from the model's labels to the dataset's, if one was given."""
        space = self.items.label_space
        if space is None or model.label_space_id is None:
            return None
        return catalog.label_map(model.label_space_id, space.id)


def _guesses_size(chosen: Preprocessing) -> bool:
    return chosen.assumed and any(name.startswith("resize") for name, _ in chosen.steps)
