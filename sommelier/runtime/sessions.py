"""ONNX Runtime sessions as serving wants them, and what a saved session depends on."""

from __future__ import annotations

import functools
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sommelier.analysis import latency
from sommelier.analysis.latency import RunSettings
from sommelier.errors import SommelierError

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

INLINE_BYTES = 1024  # weights smaller than this stay in the graph's own file (runtime.md 4)
_CPU_FLAGS = Path("/proc/cpuinfo")


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """How a model is run.

    device : 'cpu', 'cuda' or 'cuda:1'. threads : of one run; a model too quick for several gets
    one. spin : threads wait for work without sleeping, which takes a whole core even from an idle
    server and halves throughput when anything else runs (runtime.md 3). batch : samples in the
    largest request; the memory that takes is measured beforehand.
    """

    device: str = "cpu"
    threads: int = 1
    spin: bool = False
    batch: int = 8

    def __post_init__(self) -> None:
        for name in ("threads", "batch"):
            if getattr(self, name) < 1:
                raise SommelierError(f"{name} = {getattr(self, name)}; at least 1 is needed")

    @property
    def on_cpu(self) -> bool:
        return self.device.partition(":")[0] == "cpu"


@dataclass(frozen=True, slots=True)
class SavedAs:
    """Where a session writes its optimised graph, and its weights beside it.

    prepacked : the weights as the kernels want them; only where the source has external weights.
    """

    path: Path
    prepacked: bool

    @property
    def weights(self) -> Path:
        return self.path.with_suffix(".bin")


def open_session(
    path: Path, settings: SessionSettings, *, optimised: bool = False, save: SavedAs | None = None
) -> InferenceSession:
    """A session of a model file. optimised : the file is one that a session saved; run it as it is.

    Raises AnalysisError for a file that does not load and for a device that is not there.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(settings.spin)))
    if optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if save is not None:
        _save(options, save)
    run = RunSettings(threads=settings.threads, device=settings.device)
    return latency.open_session(path, run, options)


def devices() -> tuple[str, ...]:
    """On which models can be run here."""
    return tuple(device for device in ("cpu", "cuda") if refused_device(device) is None)


def refused_device(device: str) -> str | None:
    """Why no model can be run on a device here; None if one can: a model of one operator is tried
    on what is no CPU."""
    if device in ("cpu", "cpu:0"):
        return None
    kind, _, number = device.partition(":")
    if kind == "cpu" or (number and not (number.isascii() and number.isdigit())):
        return f"there is no device '{device}'"
    try:
        latency.start_library(device)
    except SommelierError as error:
        return error.message
    return None


def environment() -> dict[str, str]:
    """What a saved session works with beside its model: another value of any makes it void."""
    import onnxruntime

    return {"onnxruntime": onnxruntime.__version__, "cpu": cpu_features()}


@functools.cache
def cpu_features() -> str:
    """The instructions this CPU has, where the system tells (Linux); else its name."""
    if _CPU_FLAGS.exists():
        for line in _CPU_FLAGS.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() in ("flags", "Features"):  # x86 and ARM
                return f"{platform.machine()} {' '.join(sorted(value.split()))}"
    return f"{platform.machine()} {platform.processor()}"


def _save(options: Any, save: SavedAs) -> None:
    options.optimized_model_filepath = str(save.path)
    entry = options.add_session_config_entry
    entry("session.optimized_model_external_initializers_file_name", save.weights.name)
    entry("session.optimized_model_external_initializers_min_size_in_bytes", str(INLINE_BYTES))
    if save.prepacked:
        entry("session.save_external_prepacked_constant_initializers", "1")
