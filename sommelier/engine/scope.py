"""What names mean while a query is bound: models, devices, datasets, and metrics in a context."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from sommelier.engine.contexts import NO_CONTEXT, completed
from sommelier.engine.facts import Facts
from sommelier.engine.names import nearest, unknown
from sommelier.engine.parameters import Parameters
from sommelier.engine.plan import MetricColumn, ModelReference, QueryOptions
from sommelier.errors import BinderError, Span, UnknownNameError
from sommelier.grammar import nodes
from sommelier.metrics import METRICS
from sommelier.records import Provenance
from sommelier.storage.resource_index import PER_BATCH, ColumnKey

if TYPE_CHECKING:
    from sommelier.records import Device


@dataclass(slots=True)
class Scope:
    """The facts and choices one query is bound with; `notes` collects what was chosen for it."""

    facts: Facts
    parameters: Parameters
    options: QueryOptions
    answer: Callable[[nodes.Select], list[str]]
    views: tuple[str, ...] = ()  # being expanded, to refuse a view that contains itself
    notes: list[str] = field(default_factory=list)
    spans: dict[str, Span | None] = field(default_factory=dict)  # where USING named each option
    reference: ModelReference | None = None  # the (first) model after CORR
    contexts: Mapping[str, nodes.Context] = field(default_factory=dict)
    """What the conditions on a metric agree about; its columns, ORDER BY and PICK follow."""

    def note(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)

    # ---- models

    def model(self, reference: Any) -> ModelReference:
        """The model that a reference or parameter names. Raises UnknownNameError."""
        node = self.parameters.literal(reference)
        if isinstance(node, nodes.Text):
            name, _, version = node.value.partition("@")
            node = nodes.ModelRef(name, version or None, span=node.span)
        elif isinstance(node, nodes.Column):
            node = nodes.ModelRef(node.name, span=node.span)
        if not isinstance(node, nodes.ModelRef):
            raise BinderError(
                "a model is named here",
                span=getattr(node, "span", None),
                hint="write a name, name@version, or a parameter that holds one",
            )
        try:
            record = self.facts.model(node.name, node.version)
        except UnknownNameError as error:
            raise located(error, node.span) from None
        return ModelReference(record.id, record.name)

    # ---- devices and datasets

    def device(self, name: str, span: Span | None) -> Device:
        """A registered device. Raises UnknownNameError."""
        for device in self.facts.devices():
            if device.name == name:
                return device
        raise unknown("device", name, [d.name for d in self.facts.devices()], span)

    def check_device(self, name: str, span: Span | None, metric: str = "latency") -> None:
        """Raises UnknownNameError if `name` is neither registered nor profiled."""
        known = {d.name for d in self.facts.devices()}
        known.update(self.facts.context_names(metric, "device"))
        if name not in known:
            raise unknown("device", name, known, span)

    def check_dataset(self, name: str, span: Span | None, metric: str = "accuracy") -> None:
        """Raises UnknownNameError if `name` is not registered, probed or a context of `metric`."""
        known = {d.name for d in self.facts.datasets()} | {p.name for p in self.facts.probe_sets()}
        known.update(self.facts.context_names(metric, "dataset"))
        if name not in known:
            raise unknown("dataset", name, known, span)

    # ---- metrics

    def metric(
        self, name: str, span: Span | None, context: nodes.Context | None = None
    ) -> MetricColumn:
        """The column of a metric, with its device, dataset and percentile settled.

        Raises BinderError for a context the metric has not, an unknown device or dataset, and for
        a device that would have to be guessed.
        """
        metric, context = METRICS[name], completed(context, self._shared(name))
        device = dataset = None
        if context.on is not None and not metric.context:
            raise BinderError(
                f"'{name}' does not depend on a device or a dataset: leave out ON '{context.on}'",
                span=context.span or span,
            )
        if "device" in metric.context:
            device = self._device_of(name, context, span)
        if "dataset" in metric.context:
            dataset = self._dataset_of(name, context, span)
        provenance = self.options.provenance
        key = ColumnKey(
            name,
            device=device,
            batch=self.options.batch if name in PER_BATCH else None,
            percentile=self._percentile_of(name, context, span),
            dataset=dataset,
            provenance=Provenance(provenance) if provenance else None,
        )
        if name == "latency" or span is not None:  # no span: a default column
            self._note_batch(key)
        return MetricColumn(key, metric.dimension)

    def _note_batch(self, key: ColumnKey) -> None:
        """Says at which batch the values are, if there are values at others."""
        if key.metric not in PER_BATCH or key.batch is not None:
            return
        rows = self.facts.batches(key)
        if len(rows) < 2:
            return
        chosen, *others = rows
        largest = all(len(rows[chosen]) >= len(rows[other]) for other in others)
        why = "the batch with most models" if largest else "which was measured"
        several = len(self.facts.context_names(key.metric, "device")) > 1
        on = f" on '{key.device}'" if several and key.device is not None else ""
        self.note(
            f"{key.metric}{on} is that at batch {chosen}, {why}; "
            f"also {listed(others)} (USING batch = n)"
        )

    def is_clear(self, metric: str) -> bool:
        """Whether the device of `metric` need not be guessed."""
        if self.options.device is not None or self._shared(metric).on is not None:
            return True
        return len(self.facts.context_names(metric, "device")) <= 1

    def _shared(self, metric: str) -> nodes.Context:
        """What the conditions on `metric` agree about, unless USING says otherwise."""
        shared = self.contexts.get(metric, NO_CONTEXT)
        if self.options.stated.intersection(METRICS[metric].context):
            return nodes.Context(percentile=shared.percentile)
        return shared

    def _device_of(self, metric: str, context: nodes.Context, span: Span | None) -> str | None:
        if context.on is not None:
            self.check_device(context.on, context.span or span, metric)
            return context.on
        if self.options.device is not None:
            return self.options.device
        profiled = self.facts.context_names(metric, "device")
        if len(profiled) > 1:
            listed = ", ".join(f"'{name}'" for name in profiled)
            raise BinderError(
                f"{metric} on which device? It is known on {listed}",
                span=span,
                hint=f"write {metric} ... ON '{profiled[0]}', USING device='{profiled[0]}', "
                f"or SET device = '{profiled[0]}'",
            )
        return profiled[0] if profiled else None

    def _dataset_of(self, metric: str, context: nodes.Context, span: Span | None) -> str | None:
        if context.on is not None:
            self.check_dataset(context.on, context.span or span, metric)
            return context.on
        known, chosen_by = self._datasets(metric)
        wanted = self.options.dataset
        if wanted is not None and (wanted in known or "dataset" in self.options.stated):
            return wanted
        said = any(note.startswith(f"{metric} is that on") for note in self.notes)
        if len(known) > 1 and span is not None and not said:  # no span: a default column
            others = ", ".join(f"'{name}'" for name in known[1:4]) + (
                ", ..." if len(known) > 4 else ""
            )
            self.note(
                f"{metric} is that on '{known[0]}', {chosen_by}; also known on "
                f"{others} (choose with ON or USING dataset)"
            )
        return known[0] if known else None

    def _datasets(self, metric: str) -> tuple[list[str], str]:
        """Datasets that have values of `metric`, the best choice first, and why it is.

        A dataset the reference was measured on goes before one with more models.
        """
        names = self.facts.context_names(metric, "dataset")
        if self.reference is not None and len(names) > 1:
            resources = self.facts.resources
            row = resources.row(self.reference.id)
            own = {n: resources.column(ColumnKey(metric, dataset=n)).values[row] for n in names}
            shared = [name for name in names if not np.isnan(own[name])]
            if shared:
                rest = [name for name in names if name not in shared]
                return [*shared, *rest], f"where that of {self.reference.name} is known"
        return names, "the dataset with most models"

    def _percentile_of(self, metric: str, context: nodes.Context, span: Span | None) -> int | None:
        asked = context.percentile
        if asked is None:
            return None
        place = context.span or span
        if metric != "latency":
            raise BinderError(f"'{metric}' has no percentiles: leave out AT", span=place)
        contexts = self.facts.contexts(metric)
        known = sorted({c.percentile for c in contexts if c.percentile is not None})
        if known and asked not in known:
            listed = ", ".join(f"p{p}" for p in known)
            raise BinderError(
                f"latency is not known at p{asked:g}", span=place, hint=f"known: {listed}"
            )
        return int(asked)


def listed(batches: Iterable[int]) -> str:
    """The first few batch sizes.

    >>> listed([768, 512, 256, 128])
    '768, 512, 256, ...'
    """
    words = [str(batch) for batch in batches]
    return ", ".join(words[:3]) + (", ..." if len(words) > 3 else "")


def located(error: UnknownNameError, span: Span | None) -> UnknownNameError:
    """The catalog's error with the place in the statement."""
    error.span = error.span or span
    return error


def unknown_column(name: str, span: Span | None, known: list[str]) -> BinderError:
    """The error for a word that is no column, with the nearest ones and how to see all."""
    return BinderError(
        f"unknown metric or column '{name}'",
        span=span,
        suggestions=nearest(name, known),
        hint="SHOW METRICS lists all metrics, SELECT MODELS * shows all columns",
    )
