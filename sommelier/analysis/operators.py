"""Latency of a model that was never run, from a table of operator times (Sommelier 5.3).

Operators of measured models fill the table, keyed by type and bucketed FLOPs and bytes. A model's
estimate is the sum over its operators (runtimes on a CPU execute them one after the other) and
the longest path through its graph (what unlimited parallelism would need). Graph optimisation
makes whole models faster than their operators, mostly by fusing those that move and scale into
those that multiply; one factor for each kind is learned from the measured models, and leaving
each of them out in turn gives the error band.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.flops import has_macs
from sommelier.analysis.graph import Graph
from sommelier.analysis.operator_timing import ModelTimes
from sommelier.analysis.profiling import NodeCost, node_costs
from sommelier.analysis.tracing import trace
from sommelier.errors import AnalysisError, NotFittedError
from sommelier.records import Measurement, Provenance
from sommelier.storage.catalog_measurements import OperatorCost

if TYPE_CHECKING:
    from onnx import ModelProto

BUCKETS_PER_OCTAVE = 2
NEIGHBOURS = 8  # table entries of the same operator that an interpolation looks at
PRIOR_SLOPE = 0.5  # of log time on log FLOPs and log bytes each, where entries do not tell
PRIOR_WEIGHT = 0.1
FEWEST_MODELS = 3  # below this, leaving one out says nothing
PRIOR_FACTORS = np.array([1.0, 0.5])  # multiplying operators run whole, others half fused away
PRIOR_MODELS = 0.5  # what the prior weighs against measured models
FACTORS, LOW, HIGH = ("@multiplying", "@other"), "@low", "@high"  # rows that are no operator


@dataclass(frozen=True, slots=True)
class LatencyEstimate:
    """Milliseconds of one run. low..high : where left-out models fell; None with too few models.

    uncertain : operators whose size is unknown, taken at their type's median.
    """

    sum_ms: float
    path_ms: float
    low_ms: float | None
    high_ms: float | None
    device: str
    batch: int
    uncertain: int = 0
    models: int = 0

    def measurement(self, model_id: str) -> Measurement:
        """The estimate as the catalog keeps it: the sum, its band, and the longest path beside."""
        return Measurement(
            model_id, "latency", self.sum_ms, Provenance.ESTIMATED, "operator-table",
            device=self.device, batch=self.batch, percentile=50, low=self.low_ms,
            high=self.high_ms, count=self.models or None,
            source=f"longest path {self.path_ms:.4g} ms", recorded_at=datetime.now(UTC),
        )  # fmt: skip


class OperatorTable:
    """Operator times of one device. Learned by `fit`, or restored by `from_rows`."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.factors_: tuple[float, float] = (1.0, 1.0)
        self.band_: tuple[float, float] | None = None
        self.models_ = 0
        self._entries: dict[str, NDArray[np.float64]] = {}  # (n, 4): log2 flops, bytes, ms; count
        self._answered: dict[tuple[str, float, float], float] = {}

    @classmethod
    def fit(cls, models: Sequence[ModelTimes], *, device: str = "cpu") -> OperatorTable:
        """The table of these models' operators, its factor and its cross-validated band."""
        table = cls._learn(models, device)
        table.band_ = _left_out_band(models, device)
        return table

    @classmethod
    def from_rows(
        cls, rows: Iterable[tuple[str, str, float, int]], *, device: str = "cpu"
    ) -> OperatorTable:
        """The table as `rows` gave it."""
        table = cls(device)
        entries: dict[str, list[list[float]]] = defaultdict(list)
        ratios: dict[str, float] = {}
        for _, key, milliseconds, count in rows:
            if key.startswith("@"):
                ratios[key] = milliseconds
                table.models_ = count
                continue
            operator, flops, nbytes = key.rsplit("|", 2)
            entries[operator].append([float(flops), float(nbytes), math.log2(milliseconds), count])
        table._entries = {name: np.array(values) for name, values in entries.items()}
        if all(name in ratios for name in FACTORS):
            table.factors_ = (ratios[FACTORS[0]], ratios[FACTORS[1]])
        if LOW in ratios and HIGH in ratios:
            table.band_ = (ratios[LOW], ratios[HIGH])
        return table

    def rows(self) -> list[OperatorCost]:
        """The table as catalog rows; keys are 'Conv|log2 FLOPs|log2 bytes' and '@low' etc."""
        self._check_fitted()
        found = [
            OperatorCost(self.device, f"{name}|{flops:g}|{nbytes:g}", 2.0**log_ms, int(count))
            for name, values in sorted(self._entries.items())
            for flops, nbytes, log_ms, count in values.tolist()
        ]
        ratios = dict(zip(FACTORS, self.factors_, strict=True))
        if self.band_ is not None:
            ratios |= {LOW: self.band_[0], HIGH: self.band_[1]}
        return found + [OperatorCost(self.device, k, v, self.models_) for k, v in ratios.items()]

    def milliseconds(self, operator: str, flops: float, nbytes: float) -> float:
        """Time of one operator on its own: log-linear through its nearest entries, or a roofline.

        In a whole model it takes `factor` times as much.
        """
        self._check_fitted()
        key = (operator, flops, nbytes)
        if key not in self._answered:
            entries = self._entries.get(operator)
            self._answered[key] = (
                self._roofline(flops, nbytes)
                if entries is None
                else _interpolate(entries, _log2(flops), _log2(nbytes))
            )
        return self._answered[key]

    def factor(self, operator: str) -> float:
        """What remains of an operator's time in an optimised model."""
        return self.factors_[0 if has_macs(operator.split(":")[-1]) else 1]

    def typical_ms(self, operator: str) -> float | None:
        """Median time of the operator's entries; None if it never was measured."""
        entries = self._entries.get(operator)
        return None if entries is None else float(2.0 ** np.median(entries[:, 2]))

    def _roofline(self, flops: float, nbytes: float) -> float:
        """The fastest rates seen bound an operator that was never measured (from below)."""
        every = np.concatenate(list(self._entries.values()))
        times = 2.0 ** every[:, 2]
        peak = float(np.max((2.0 ** every[:, 0] - 1) / times))
        bandwidth = float(np.quantile((2.0 ** every[:, 1] - 1) / times, 0.9))
        return max(
            flops / peak if peak > 0 else 0.0,
            nbytes / bandwidth if bandwidth > 0 else 0.0,
            float(times.min()),
        )

    def _check_fitted(self) -> None:
        if not self._entries:
            raise NotFittedError(
                f"no operator times are known for device '{self.device}'",
                hint="measure some models first: ANALYZE ALL FOR LATENCY",
            )

    @classmethod
    def _learn(cls, models: Sequence[ModelTimes], device: str) -> OperatorTable:
        table = cls(device)
        buckets: dict[tuple[str, float, float], list[float]] = defaultdict(list)
        for model in models:
            for item in model.operators:
                key = (item.operator, _bucket(item.flops), _bucket(item.nbytes))
                buckets[key].append(max(item.milliseconds, 1e-4))  # the profiler counts whole us
        entries: dict[str, list[list[float]]] = defaultdict(list)
        for (operator, flops, nbytes), times in buckets.items():
            entries[operator].append(
                [flops, nbytes, math.log2(float(np.median(times))), len(times)]
            )
        table._entries = {name: np.array(values) for name, values in entries.items()}
        table.models_ = len(models)
        table.factors_ = _learned_factors(table, models)
        return table


def estimate(
    model: ModelProto,
    table: OperatorTable,
    *,
    batch: int = 1,
    dims: Mapping[str, int] | None = None,
) -> LatencyEstimate:
    """The latency of a model that was not run.

    Raises AnalysisError when an operator that carries the cost has an unknown size, NotFittedError
    for an empty table.
    """
    graph, _ = trace(model, batch=batch, dims=dims)
    times: dict[int, float] = {}
    uncertain = 0
    for cost in node_costs(graph):
        times[id(cost.node)], sure = cost_ms(cost, table)
        uncertain += not sure
    low, high = table.band_ or (None, None)
    sum_ms = sum(times.values())
    return LatencyEstimate(
        sum_ms=sum_ms,
        path_ms=_longest_path(graph, times),
        low_ms=None if low is None else sum_ms * low,
        high_ms=None if high is None else sum_ms * high,
        device=table.device,
        batch=batch,
        uncertain=uncertain,
        models=table.models_,
    )


def cost_ms(cost: NodeCost, table: OperatorTable) -> tuple[float, bool]:
    """Milliseconds of an operator's executions, and whether its size was known."""
    title = cost.node.title
    if cost.flops is None or cost.repeats is None:
        raise AnalysisError(f"its latency cannot be estimated: the size of {title} is unknown")
    if cost.nbytes is None:
        alone, sure = table.typical_ms(title) or 0.0, False
    else:
        alone, sure = table.milliseconds(title, cost.flops, cost.nbytes), True
    return alone * table.factor(title) * cost.repeats, sure


def _longest_path(graph: Graph, times: Mapping[int, float]) -> float:
    """Milliseconds along the longest chain of operators; a subgraph's chain stands for its node."""
    ready: dict[str, float] = {}
    longest = 0.0
    for node in graph.nodes:
        inner = [_longest_path(subgraph, times) for subgraph in node.subgraphs.values()]
        took = max(inner) if inner else times.get(id(node), 0.0)
        done = max((ready.get(n, 0.0) for n in (*node.inputs, *node.outer)), default=0.0) + took
        ready.update((name, done) for name in node.outputs)
        longest = max(longest, done)
    return longest


def _left_out_band(models: Sequence[ModelTimes], device: str) -> tuple[float, float] | None:
    """Measured over predicted, for every model predicted by a table made without it.

    The 5 % and 95 % quantiles, which for fewer than twenty models are the extremes.
    """
    usable = [m for m in models if m.operators]
    if len(usable) < FEWEST_MODELS:
        return None
    ratios = []
    for i, model in enumerate(usable):
        table = OperatorTable._learn([m for j, m in enumerate(usable) if j != i], device)
        predicted = float(_parts(table, model) @ np.array(table.factors_))
        ratios.append(model.latency_ms / predicted)
    spread = 0.0 if len(usable) < 20 else 0.05
    return float(np.quantile(ratios, spread)), float(np.quantile(ratios, 1 - spread))


def _learned_factors(table: OperatorTable, models: Sequence[ModelTimes]) -> tuple[float, float]:
    """Least squares of the relative error, leaning to PRIOR_FACTORS; never negative."""
    rows = np.array([_parts(table, m) / m.latency_ms for m in models if m.operators])
    if not len(rows):
        return (1.0, 1.0)
    lean = PRIOR_MODELS * np.eye(2)
    factors = np.linalg.solve(rows.T @ rows + lean, rows.sum(axis=0) + lean @ PRIOR_FACTORS).clip(
        0.01
    )
    return float(factors[0]), float(factors[1])


def _parts(table: OperatorTable, model: ModelTimes) -> NDArray[np.float64]:
    """Milliseconds of the model's operators by the table: those that multiply, and the others."""
    parts = np.zeros(2)
    for item, times in zip(model.operators, model.repeats, strict=True):
        kind = 0 if has_macs(item.operator.split(":")[-1]) else 1
        parts[kind] += table.milliseconds(item.operator, item.flops, item.nbytes) * times
    return parts


def _interpolate(entries: NDArray[np.float64], flops: float, nbytes: float) -> float:
    """Ridge regression of log time on log FLOPs and log bytes over the nearest entries.

    Entries count by nearness; slopes lean to PRIOR_SLOPE and stay within 0..1, so that time
    never falls with size and never grows faster than it.
    """
    here = np.array([flops, nbytes])
    offsets = entries[:, :2] - here
    distance = np.abs(offsets).sum(axis=1)
    near = np.argsort(distance, kind="stable")[:NEIGHBOURS]
    weights = entries[near, 3] / (0.25 + distance[near] ** 2)
    weights = weights / weights.sum()
    x, y = offsets[near], entries[near, 2]
    x_mean, y_mean = weights @ x, float(weights @ y)
    centred = x - x_mean
    covariance = (centred * weights[:, None]).T @ centred + PRIOR_WEIGHT * np.eye(2)
    moment = (centred * weights[:, None]).T @ (y - y_mean) + PRIOR_WEIGHT * PRIOR_SLOPE
    slopes = np.clip(np.linalg.solve(covariance, moment), 0.0, 1.0)
    return float(2.0 ** (y_mean - slopes @ x_mean))


def _bucket(value: float) -> float:
    return round(_log2(value) * BUCKETS_PER_OCTAVE) / BUCKETS_PER_OCTAVE


def _log2(value: float) -> float:
    return math.log2(1.0 + value)
