"""How long a model takes and how much memory it gains, measured by running it.

Runs ONNX Runtime on made-up inputs; call it inside a Sandbox, for a model may hang or crash:
`sandbox.call(latency.measure, path, runs=50)`.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import math
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis import signature
from sommelier.analysis.synthetic_inputs import synthetic_inputs
from sommelier.errors import AnalysisError, MissingDependencyError
from sommelier.records import Measurement, Provenance, TensorSpec

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

PERCENTILES = (50, 90, 99)
FEWEST_RUNS = 10
Z95 = 1.96  # two-sided 95 % of the normal distribution

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "gpu": "CUDAExecutionProvider",
}
_NUMPY_NAMES = {"float": "float32", "double": "float64", "string": "str"}


@dataclass(frozen=True, slots=True)
class RunSettings:
    """How a model is run. Past `budget_s` seconds no further run starts (ten are done anyway)."""

    batch: int = 1
    threads: int = 1
    device: str = "cpu"
    runs: int = 50
    warmup: int = 5
    seed: int = 0
    budget_s: float = 5.0


@dataclass(frozen=True, slots=True)
class Timing:
    """What runs of one model took. times_ms : one entry a run, warm-up left out."""

    times_ms: NDArray[np.float64]
    batch: int
    memory_bytes: int
    timer_noise_ms: float
    assumed: Mapping[str, int]


def measure(
    path: Path | str,
    *,
    batch: int = 1,
    threads: int = 1,
    device: str = "cpu",
    runs: int = 50,
    warmup: int = 5,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
    model_id: str = "",
) -> list[Measurement]:
    """Latency at p50, p90, p99 with 95 % bounds, throughput, and resident memory gained.

    Raises AnalysisError with the reason if the model cannot be loaded, fed or run.
    """
    settings = RunSettings(batch, threads, device, runs, warmup, seed)
    timing = time_model(Path(path), settings, dims=dims)
    times = np.sort(timing.times_ms)
    source = f"timer noise {timing.timer_noise_ms * 1e6:.0f} ns"
    if timing.assumed:
        source += "".join(f", {name} = {length}" for name, length in timing.assumed.items())

    def number(metric: str, value: float, **context: Any) -> Measurement:
        return Measurement(
            model_id, metric, float(value), Provenance.MEASURED, "onnxruntime",
            device=settings.device, batch=timing.batch, threads=settings.threads,
            count=len(times), source=source, recorded_at=datetime.now(UTC), **context,
        )  # fmt: skip

    found = []
    for percentile in PERCENTILES:
        low, high = quantile_bounds(times, percentile / 100)
        value = float(np.percentile(times, percentile))
        found.append(number("latency", value, percentile=percentile, low=low, high=high))
    found.append(number("throughput", 1e3 * timing.batch / float(np.median(times))))
    found.append(number("measured_memory", timing.memory_bytes))
    return found


def time_model(
    path: Path, settings: RunSettings, *, dims: Mapping[str, int] | None = None
) -> Timing:
    """Load, warm up and run a model; see `measure`."""
    noise = timer_noise_ms()
    start_library(settings.device)
    give_back_memory()
    before = _resident_bytes()
    session = open_session(path, settings)
    specs = session_inputs(session)
    binding = signature.bind(specs, batch=settings.batch, dims=dims)
    batch = _actual_batch(specs, settings.batch)
    feed = synthetic_inputs(specs, binding, seed=settings.seed)
    gained = _resident_bytes() - before
    times = run_times_ms(session, feed, settings)
    gained = max(gained, _resident_bytes() - before)
    return Timing(times, batch, max(gained, 0), noise, binding.assumed)


def run_times_ms(
    session: InferenceSession, feed: Mapping[str, NDArray[Any]], settings: RunSettings
) -> NDArray[np.float64]:
    """Milliseconds of each run after the warm-up. Raises AnalysisError if a run fails."""
    start = time.perf_counter()
    try:
        for _ in range(max(1, settings.warmup)):
            session.run(None, dict(feed))
            if time.perf_counter() - start > settings.budget_s:
                break
        times: list[float] = []
        start = time.perf_counter()
        while len(times) < settings.runs:
            before = time.perf_counter_ns()
            session.run(None, dict(feed))
            times.append((time.perf_counter_ns() - before) / 1e6)
            late = time.perf_counter() - start > settings.budget_s
            if late and len(times) >= min(FEWEST_RUNS, settings.runs):
                break
    except Exception as error:
        raise _unless_memory(error, "it fails when it runs") from error
    return np.array(times)


def open_session(
    path: Path | bytes, settings: RunSettings, options: Any = None
) -> InferenceSession:
    """A session on the asked device. Raises AnalysisError if the runtime refuses the model."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(
            "measuring models needs ONNX Runtime", hint="pip install 'sommelier-db[cpu]'"
        ) from error
    kind, _, number = settings.device.partition(":")
    provider = _PROVIDERS.get(kind)
    if provider is None:
        raise AnalysisError(
            f"models cannot be run on '{settings.device}' here", suggestions=("cpu", "cuda")
        )
    refusal = f"ONNX Runtime cannot use '{settings.device}' on this machine"
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise AnalysisError(refusal, hint=f"it was built with {', '.join(available)}")
    place = {"device_id": number} if number and kind != "cpu" else {}
    options = options or onnxruntime.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    model = str(path) if isinstance(path, Path) else path
    try:
        session = onnxruntime.InferenceSession(model, options, providers=[(provider, place)])
    except Exception as error:
        raise _unless_memory(error, "ONNX Runtime cannot load it") from error
    if session.get_providers()[0] != provider:  # it falls back to the CPU without a word
        raise AnalysisError(refusal, hint="see its log for why the device did not start")
    return session


@functools.cache
def start_library(device: str) -> None:
    """Run a model of one operator on made-up inputs, so that what the libraries take once (some 36
    MB) is not the first model's. Raises as `open_session` does for a device that cannot be used."""
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "one", ends[:1], ends[1:])
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])
    session = open_session(model.SerializeToString(), RunSettings(device=device))
    specs = session_inputs(session)
    session.run(None, dict(synthetic_inputs(specs, signature.bind(specs, batch=1), seed=0)))


def session_inputs(session: InferenceSession) -> tuple[TensorSpec, ...]:
    """The inputs as specs; types in numpy's names."""
    specs = []
    for item in session.get_inputs():
        kind = str(item.type)
        inner = kind[len("tensor(") : -1] if kind.startswith("tensor(") else kind
        shape = tuple(item.shape) if kind.startswith("tensor(") else None
        specs.append(TensorSpec(item.name, _NUMPY_NAMES.get(inner, inner), shape))
    return tuple(specs)


def quantile_bounds(
    ordered: NDArray[np.float64], quantile: float
) -> tuple[float | None, float | None]:
    """95 % bounds of a quantile from order statistics; None where too few runs bound it."""
    count = len(ordered)
    spread = Z95 * math.sqrt(count * quantile * (1 - quantile))
    low, high = math.floor(count * quantile - spread), math.ceil(count * quantile + spread)
    return (
        float(ordered[low - 1]) if low >= 1 else None,
        float(ordered[high]) if high < count else None,
    )


def timer_noise_ms(samples: int = 1000) -> float:
    """The median time between two readings of the clock: what a run of nothing takes."""
    readings = [time.perf_counter_ns() for _ in range(samples + 1)]
    return float(np.median(np.diff(readings))) / 1e6


def _actual_batch(specs: tuple[TensorSpec, ...], wanted: int) -> int:
    """The batch that is run: the file's own where it fixes one."""
    first = next((item.shape for item in specs if item.shape), None)
    if first is None or not isinstance(first[0], int):
        return wanted
    if wanted not in (1, first[0]):
        raise AnalysisError(f"its batch is fixed at {first[0]}, so it cannot run at {wanted}")
    return first[0]


def _unless_memory(error: Exception, what: str) -> Exception:
    """An AnalysisError in one sentence; memory exhaustion stays what it is."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if "bad_alloc" in text or "allocate memory" in text.lower():
        return MemoryError(text)
    return AnalysisError(f"{what}: {text.split(' : ')[-1][:300]}")


def _resident_bytes() -> int:
    import psutil

    return int(psutil.Process().memory_info().rss)


def give_back_memory() -> None:
    """Return freed memory to the system; without it two thirds of a closed session's stay ours."""
    gc.collect()
    trim_memory()


def trim_memory() -> None:
    """The same for what is freed already, without the pause of looking for more."""
    if sys.platform.startswith("linux"):
        try:
            ctypes.CDLL(None).malloc_trim(0)
        except (OSError, AttributeError):
            return  # another C library than glibc: its memory comes back when it sees fit
