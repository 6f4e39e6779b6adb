"""Times of single operators, by ONNX Runtime's profiler: what the operator table is made of."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from sommelier.analysis import graph, latency, profiling, signature, tracing
from sommelier.analysis.synthetic_inputs import synthetic_inputs
from sommelier.errors import AnalysisError

if TYPE_CHECKING:
    from onnx import GraphProto

MOST_BYTES = 1_500_000_000  # a model is passed to the runtime as one message, at most 2 GB


@dataclass(frozen=True, slots=True)
class OperatorTime:
    """One operator of one model: its size and the median milliseconds of one execution."""

    operator: str
    flops: float
    nbytes: float
    milliseconds: float


@dataclass(frozen=True, slots=True)
class ModelTimes:
    """A model's operators, and the median latency of the whole, optimised model."""

    model_id: str
    latency_ms: float
    operators: tuple[OperatorTime, ...]
    repeats: tuple[int, ...]  # executions of each operator in one run


def time_operators(
    path: Path | str,
    settings: latency.RunSettings | None = None,
    *,
    dims: Mapping[str, int] | None = None,
    model_id: str = "",
) -> ModelTimes:
    """Times of every operator, without graph optimisation so that they are the file's operators.

    Run it in a Sandbox. Raises AnalysisError if the model cannot be loaded, fed or run.
    """
    settings = settings or latency.RunSettings()
    path = Path(path)
    if path.stat().st_size > MOST_BYTES:
        raise AnalysisError("it is too large for the profiler")
    whole = latency.time_model(path, settings, dims=dims)
    model = graph.without_functions(graph.read_model(path))
    _number_nodes(model.graph)
    medians = _profile(model.SerializeToString(), path.parent, settings, dims)
    traced, _ = tracing.trace(model, batch=settings.batch, dims=dims)
    operators, repeats = [], []
    for cost in profiling.node_costs(traced):
        known = cost.flops is not None and cost.nbytes is not None
        if not known or cost.node.name not in medians:
            continue
        operators.append(
            OperatorTime(
                cost.node.title, cost.flops or 0.0, cost.nbytes or 0.0, medians[cost.node.name]
            )
        )
        repeats.append(cost.repeats or 1)
    return ModelTimes(model_id, float(np.median(whole.times_ms)), tuple(operators), tuple(repeats))


def _number_nodes(proto: GraphProto, prefix: str = "n") -> None:
    """Give every operator a name of its own, by which the profiler's events are found."""
    for i, node in enumerate(proto.node):
        node.name = f"{prefix}{i}"
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _number_nodes(attribute.g, f"{node.name}_{attribute.name}_")


def _profile(
    data: bytes, folder: Path, settings: latency.RunSettings, dims: Mapping[str, int] | None
) -> dict[str, float]:
    """Median milliseconds by operator name."""
    import onnxruntime

    with tempfile.TemporaryDirectory() as scratch:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(scratch) / "times")
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(folder)
        )
        session = latency.open_session(data, settings, options)
        specs = latency.session_inputs(session)
        binding = signature.bind(specs, batch=settings.batch, dims=dims)
        feed = synthetic_inputs(specs, binding, seed=settings.seed)
        latency.run_times_ms(session, feed, settings)
        events = json.loads(Path(session.end_profiling()).read_text())
    durations: dict[str, list[float]] = defaultdict(list)
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            durations[name.removesuffix("_kernel_time")].append(event["dur"] / 1e3)
    return {name: float(np.median(values)) for name, values in durations.items()}
