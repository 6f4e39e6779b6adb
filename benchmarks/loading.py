"""What loading a model takes: from its own file, and from the session that was saved of it.

    python -m benchmarks.loading --quick

Random weights in well-known shapes; every measurement is a process of its own, the files are in the
system's page cache. Loading means: until the first answer is there.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import arguments, finish, table
from sommelier.runtime.session_cache import PreparedModel, ServedModel, SessionCache
from sommelier.runtime.sessions import SessionSettings
from tests.factories import mlp_classifier
from tests.onnx_writer import FLOAT, Shape, save_model

CYCLES = 100

LOAD = """
import json, sys, time
from pathlib import Path
from sommelier.analysis.latency import give_back_memory
from sommelier.runtime import memory
from sommelier.runtime.preparation import warm_up_inputs
from sommelier.runtime.sessions import SessionSettings, open_session
warm, path, optimised = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "cached"
first = open_session(warm, SessionSettings())  # the library's own start is no model's
first.run(None, warm_up_inputs(first, 1))
del first
give_back_memory()
before = memory.private_bytes()
started = time.perf_counter()
session = open_session(path, SessionSettings(), optimised=optimised)
loaded = time.perf_counter()
inputs = warm_up_inputs(session, 1)
ready = time.perf_counter()
session.run(None, inputs)
answered = time.perf_counter()
peak = memory.private_bytes() - before
give_back_memory()
print(json.dumps({
    "load_ms": 1e3 * (loaded - started), "first_ms": 1e3 * (answered - ready),
    "private": memory.private_bytes() - before, "untrimmed": peak,
    "mapped": memory.mapped_bytes(path.with_suffix(".bin")) if optimised else 0,
}))
"""

CYCLE = """
import json, sys
from pathlib import Path
from sommelier.runtime import memory
from sommelier.runtime.pool import ModelPool
from sommelier.runtime.preparation import warm_up_inputs
from sommelier.runtime.session_cache import ServedModel, SessionCache
from sommelier.runtime.sessions import SessionSettings
pool = ModelPool(SessionCache(Path(sys.argv[1])), SessionSettings(batch=1))
pool.add(ServedModel("m", Path(sys.argv[2]), sys.argv[3]))
for cycle in range(int(sys.argv[4]) + 1):
    with pool.lease("m") as predictor:
        predictor.run(predictor.check({"x": [[1.0] * 4]} if len(predictor.inputs[0].shape) == 2
                      else warm_up_inputs(predictor._session, 1)))
    pool.unload("m")
    if cycle == 0:
        base = memory.private_bytes()
print(json.dumps({"grown": memory.private_bytes() - base}))
"""


@dataclass(frozen=True, slots=True)
class Loading:
    """Medians of several processes. Milliseconds and bytes."""

    load_ms: float
    first_ms: float
    private: float
    mapped: float

    @property
    def total_ms(self) -> float:
        return self.load_ms + self.first_ms


def main() -> None:
    options = arguments("Loading a model plainly and from its saved session").parse_args()
    runs = 3 if options.quick else 9
    rows: list[list[str | float]] = []
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cache = SessionCache(folder / "sessions")
        for path in _models(folder, seed=options.seed, quick=options.quick):
            model = ServedModel.of_file(path)
            prepared = cache.prepare(model, SessionSettings(batch=1))
            plain = _loading(path, path, "plain", runs)
            cached = _loading(path, prepared.path, "cached", runs)
            rows += [_row(path, "plain", plain), _row(path, prepared.how, cached)]
            figures |= _figures(path.stem, plain, cached)
            if path.stem == "dense":
                grown = _grown(cache, model, prepared)
                figures["grown_mib"] = grown / 2**20
    header = (
        "model",
        "file MB",
        "loaded as",
        "load ms",
        "first run ms",
        "private MiB",
        "mapped MiB",
    )
    print(table(f"Medians of {runs} processes", header, rows))
    print(f"{CYCLES} loads and unloads of 'dense': {figures['grown_mib']:.3g} MiB more")
    finish(figures, options.json)


def _models(folder: Path, *, seed: int, quick: bool) -> list[Path]:
    """A convolutional network, one of dense layers, and a small one of each."""
    deep, wide = (6, 1024) if quick else (12, 2048)
    return [
        _convolutions(folder / "small_conv.onnx", layers=4, width=32, seed=seed),
        _convolutions(folder / "conv.onnx", layers=deep, width=512, seed=seed),
        mlp_classifier(folder / "small_dense.onnx", hidden=(256, 256), seed=seed),
        mlp_classifier(folder / "dense.onnx", hidden=(wide, wide, wide), seed=seed),
    ]


def _convolutions(path: Path, *, layers: int, width: int, seed: int) -> Path:
    """image[N,3,16,16] -> logits: 3x3 convolutions of one width, each with Relu, then the mean."""
    import numpy as np
    from onnx import helper

    rng = np.random.default_rng(seed)
    nodes, weights, value, channels = [], {}, "x", 3
    for i in range(layers):
        shape = (width, channels, 3, 3)
        weights[f"k{i}"] = (rng.normal(size=shape) / (3 * channels**0.5)).astype(np.float32)
        nodes += [
            helper.make_node("Conv", [value, f"k{i}"], [f"c{i}"], pads=[1] * 4),
            helper.make_node("Relu", [f"c{i}"], [f"r{i}"]),
        ]
        value, channels = f"r{i}", width
    nodes.append(helper.make_node("GlobalAveragePool", [value], ["y"]))
    image: Shape = ["N", 3, 16, 16]
    mean: Shape = ["N", width, 1, 1]
    return save_model(path, nodes, {"x": (FLOAT, image)}, {"y": (FLOAT, mean)}, weights)


def _loading(warm: Path, path: Path, how: str, runs: int) -> Loading:
    found = [_told(LOAD, str(warm), str(path), how) for _ in range(runs)]
    keys = ("load_ms", "first_ms", "private", "mapped")
    return Loading(*(statistics.median(told[key] for told in found) for key in keys))


def _grown(cache: SessionCache, model: ServedModel, prepared: PreparedModel) -> float:
    assert prepared.weights is not None, "it was saved"
    return _told(CYCLE, str(cache.root), str(model.path), model.id, str(CYCLES))["grown"]


def _told(program: str, *arguments: str) -> dict[str, float]:
    command = [sys.executable, "-c", program, *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    told: dict[str, float] = json.loads(done.stdout)
    return told


def _row(path: Path, how: str, found: Loading) -> list[str | float]:
    size = path.stat().st_size / 1e6
    memory = (found.private / 2**20, found.mapped / 2**20)
    return [path.stem, size, how, found.load_ms, found.first_ms, *memory]


def _figures(name: str, plain: Loading, cached: Loading) -> dict[str, float]:
    """Ratios: how many times the plain load takes the time, or the memory, of the cached one."""
    return {
        f"{name}_load_ratio": plain.load_ms / cached.load_ms,
        f"{name}_ready_ratio": plain.total_ms / cached.total_ms,
        f"{name}_private_mib": cached.private / 2**20,
        f"{name}_plain_private_mib": plain.private / 2**20,
    }


if __name__ == "__main__":
    main()
