"""The metrics the catalog knows: what each measures, in which context, and which way is better."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sommelier.units import Dimension


@dataclass(frozen=True, slots=True)
class Metric:
    """A numeric column of the language.

    resource : it may stand in ON. context : which of device, dataset tell its values apart.
    lower_is_better : how PICK, PARETO and the smallest relaxation read it. unlimited : a share that
    may exceed 1, such as a bound that says nothing.
    """

    name: str
    dimension: Dimension
    description: str
    resource: bool = True
    lower_is_better: bool = True
    context: tuple[str, ...] = ()
    unlimited: bool = False

    def allows(self, value: float) -> bool:
        """Whether a value can be one of this metric: finite, not negative, a share at most 1."""
        limited = self.dimension is Dimension.FRACTION and not self.unlimited
        return 0 <= value < math.inf and (not limited or value <= 1)


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "params", Dimension.COUNT, "number of weights, Constant nodes and subgraphs included"
        ),
        Metric("size", Dimension.BYTES, "bytes of the weights"),
        Metric("flops", Dimension.FLOPS, "floating-point operations per input, 2 x MACs"),
        Metric("activation_memory", Dimension.BYTES, "peak of live intermediate tensors"),
        Metric("memory", Dimension.BYTES, "weights plus peak activation memory"),
        Metric(
            "measured_memory",
            Dimension.BYTES,
            "resident memory gained by loading and running, without the runtime's own",
            context=("device",),
        ),
        Metric(
            "latency",
            Dimension.TIME,
            "time of one run; AT p50 (default), p90, p99",
            context=("device",),
        ),
        Metric(
            "throughput",
            Dimension.RATE,
            "inputs per second",
            lower_is_better=False,
            context=("device",),
        ),
        Metric(
            "served_latency",
            Dimension.TIME,
            "mean time of one run while requests were answered",
            resource=False,
            context=("device",),
        ),
        Metric(
            "served_p99",
            Dimension.TIME,
            "what 99 % of those runs took at most; of several deployments, the longest",
            resource=False,
            context=("device",),
        ),
        Metric(
            "served_requests",
            Dimension.COUNT,
            "how many requests it answered in deployments",
            resource=False,
            lower_is_better=False,
            context=("device",),
        ),
        Metric("energy", Dimension.ENERGY, "energy of one input", context=("device",)),
        Metric("layers", Dimension.COUNT, "number of operators in the graph"),
        Metric(
            "accuracy",
            Dimension.FRACTION,
            "share of correct answers on a labelled dataset",
            resource=False,
            lower_is_better=False,
            context=("dataset",),
        ),
        Metric(
            "top5_accuracy",
            Dimension.FRACTION,
            "share with the label among the first five",
            resource=False,
            lower_is_better=False,
            context=("dataset",),
        ),
        Metric(
            "spectral_bound",
            Dimension.FRACTION,
            "generalization bound of the error, its hidden constants set to 1: no proof, vacuous "
            "above 100%",
            resource=False,
            context=("dataset",),
            unlimited=True,
        ),
        Metric(
            "spectral_printed",
            Dimension.FRACTION,
            "the same by the formula as Sommelier 4.1 prints it",
            resource=False,
            context=("dataset",),
            unlimited=True,
        ),
        Metric(
            "margin_loss",
            Dimension.FRACTION,
            "share of answers that are wrong or right by less than the margin of spectral_bound",
            resource=False,
            context=("dataset",),
        ),
    )
}
"""By name. `equivalence`, `agreement`, `bound`, `confidence` are answers to CORR, not metrics."""

ANSWER_METRICS = frozenset(name for name, metric in METRICS.items() if "dataset" in metric.context)
"""What is counted on a model's answers to a dataset, so that who chooses by it chooses by luck."""

ANSWER_COLUMNS: tuple[str, ...] = ("equivalence", "agreement", "bound", "confidence", "probes")
"""Columns that exist only beside a CORR clause. All are fractions, except the count `probes`."""

TEXT_COLUMNS: tuple[str, ...] = (
    "id",
    "name",
    "version",
    "source",
    "revision",
    "task",
    "family",
    "license",
    "tags",
    "format",
    "output_kind",
    "label_space",
    "opset",
    "producer",
    "created",
    "added_at",
    "graph_hash",
    "weight_hash",
    "input",
    "output",
    "note",
    "homepage",
)
"""Metadata columns of a model, compared as text (`tags` with HAS, `opset` as a number)."""
