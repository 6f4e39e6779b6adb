"""What checking two models against each other costs, beside the forward passes it cannot avoid.

    python -m benchmarks.equivalence_cost --quick
    python -m benchmarks.equivalence_cost --models bert_large --device cuda:0

Networks have the shapes of well-known ones and random weights. For each, in one run:

forward_s  ONNX Runtime opens both files and answers the inputs: the limit. One thread, as the check
check_s    `compare_models` on the same files and inputs, nothing kept from before
ratio      check_s / forward_s, which should stay below 1.2
norms_s    certified norms of all weights of one model by `analysis.norms`, on --device; norms_cpu_s
           is what they took of the processors, which other programs on the machine change less

segment_forward_s, segment_check_s, segment_ratio
           the same for exchanging the middle quarter of the layers: a certified bound needs the
           host's pass and one of the changed layers and what follows, sample by sample, which is
           timed as two passes on all cores; without the norms, which take segment_norms_s

A new measurement is a function in MEASUREMENTS; its figures become columns.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from benchmarks.report import Cell, arguments, finish, table
from benchmarks.shaped_models import NETWORKS, write
from sommelier.analysis.equivalence import compare_models
from sommelier.analysis.execution import open_session
from sommelier.analysis.graph import Graph, Node
from sommelier.analysis.norms import EFFORT, Request, Window, many
from sommelier.analysis.propagation import propagate
from sommelier.analysis.propagation.norm_requests import NormRequests
from sommelier.analysis.tracing import trace

QUICK = ("resnet50",)
SAMPLES, QUICK_SAMPLES = 8, 2
ROUNDS = 3  # of which the fastest counts: what else the machine does must not decide a ratio
SEGMENT_SECONDS, QUICK_SEGMENT_SECONDS = 40.0, 3.0
QUICK_EFFORT = 0.5  # seconds a convolution, by the cost model


@dataclass(frozen=True, slots=True)
class Pair:
    """Two files of one architecture, and what they are asked."""

    reference: Path
    candidate: Path
    inputs: NDArray[Any]
    device: str
    effort: float
    segment_seconds: float  # that the passes of the segment check take, about
    segment_rounds: int


def main() -> None:
    parser = arguments("Cost of checking two models against plain forward passes")
    parser.add_argument("--device", default="cpu", help="where norms are computed, as cuda:0")
    parser.add_argument("--models", nargs="+", choices=[n.name for n in NETWORKS])
    parser.add_argument("--samples", type=int, help="inputs that both models answer")
    options = parser.parse_args()
    names = options.models or (QUICK if options.quick else [n.name for n in NETWORKS])
    samples = options.samples or (QUICK_SAMPLES if options.quick else SAMPLES)
    effort = QUICK_EFFORT if options.quick else EFFORT
    seconds = QUICK_SEGMENT_SECONDS if options.quick else SEGMENT_SECONDS
    found: dict[str, dict[str, float]] = {}
    for network in (n for n in NETWORKS if n.name in names):
        with tempfile.TemporaryDirectory() as folder:
            files = write(network, Path(folder), seed=options.seed)
            inputs = network.inputs(np.random.default_rng(options.seed), samples)
            rounds = 1 if options.quick else 2
            pair = Pair(*files, inputs, options.device, effort, seconds, rounds)
            found[network.name] = {
                name: value for measure in MEASUREMENTS for name, value in measure(pair).items()
            }
    columns = list(next(iter(found.values())))
    rows: list[list[Cell]] = [
        [name, *(values[column] for column in columns)] for name, values in found.items()
    ]
    print(table(f"{samples} inputs, norms on {options.device}", ("model", *columns), rows))
    figures = {f"{name}_{c}": value for name, row in found.items() for c, value in row.items()}
    figures["worst_ratio"] = max(row["ratio"] for row in found.values())
    figures["worst_segment_ratio"] = max(row["segment_ratio"] for row in found.values())
    finish(figures, options.json)


def whole_model_check(pair: Pair) -> Mapping[str, float]:
    """Seconds of the forward passes of both models, and of their comparison, taking turns."""
    forward, check = [], []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for path in (pair.reference, pair.candidate):
            session = open_session(path, 1)
            session.run(None, {"x": pair.inputs})
            del session  # never two large models at once
        between = time.perf_counter()
        compare_models(pair.reference, pair.candidate, pair.inputs)
        forward.append(between - started)
        check.append(time.perf_counter() - between)
    return {"forward_s": min(forward), "check_s": min(check), "ratio": min(check) / min(forward)}


def weight_norms(pair: Pair) -> Mapping[str, float]:
    """Seconds of the norms of one model's weights, and how many parameters these have."""
    asked = norm_requests(pair.reference)
    started, worked = time.perf_counter(), time.process_time()
    norms = many(asked, pair.device, effort=pair.effort)
    seconds, processors = time.perf_counter() - started, time.process_time() - worked
    assert all(norm.certified for norm in norms)
    millions = sum(request.weight.size for request in asked) / 1e6
    return {
        "norms_s": seconds,
        "norms_cpu_s": processors,
        "weights": len(asked),
        "million": millions,
    }


def segment_check(pair: Pair) -> Mapping[str, float]:
    """Seconds of a certified bound for an exchanged segment, beside two passes of its host."""
    replaced = _middle_weights(pair.reference, pair.candidate)
    inputs = _repeated(pair)
    forward, check, norms = [], [], []
    for _ in range(pair.segment_rounds):
        started = time.perf_counter()
        session = open_session(pair.reference, 0)  # all cores, as the check uses
        for _ in range(2):
            for i in range(len(inputs)):
                session.run(None, {"x": inputs[i : i + 1]})
        del session
        between = time.perf_counter()
        with _timed_norms() as inside:
            propagate(pair.reference, replaced, {"x": inputs}, device=pair.device)
        forward.append(between - started)
        norms.append(sum(inside))
        check.append(time.perf_counter() - between - sum(inside))
    return {
        "segment_forward_s": min(forward),
        "segment_check_s": min(check),
        "segment_ratio": min(check) / min(forward),
        "segment_norms_s": min(norms),
    }


MEASUREMENTS = (whole_model_check, weight_norms, segment_check)


def _repeated(pair: Pair) -> NDArray[Any]:
    """So many samples that the passes take some seconds: opening files must not decide a ratio."""
    session = open_session(pair.reference, 0)
    started = time.perf_counter()
    session.run(None, {"x": pair.inputs[:1]})
    one = time.perf_counter() - started
    wanted = int(np.clip(pair.segment_seconds / (2 * one), 4, 256))
    return np.resize(pair.inputs, (wanted, *pair.inputs.shape[1:]))


def _middle_weights(reference: Path, candidate: Path) -> dict[str, NDArray[Any]]:
    """The candidate's numbers for the middle quarter of the reference's weights, in file order."""
    names = [t.name for t in onnx.load(reference, load_external_data=False).graph.initializer
             if t.external_data]  # fmt: skip
    start = len(names) * 3 // 8
    chosen = set(names[start : start + max(1, len(names) // 4)])
    donor = onnx.load(candidate)
    return {t.name: numpy_helper.to_array(t) for t in donor.graph.initializer if t.name in chosen}


@contextmanager
def _timed_norms() -> Iterator[list[float]]:
    """Seconds spent on norms inside the block, a number a call."""
    seconds: list[float] = []
    solve = NormRequests.solve

    def timed(self: NormRequests, device: str) -> None:
        started = time.perf_counter()
        solve(self, device)
        seconds.append(time.perf_counter() - started)

    NormRequests.solve = timed  # type: ignore[method-assign]  # restored below
    try:
        yield seconds
    finally:
        NormRequests.solve = solve  # type: ignore[method-assign]


def norm_requests(path: Path) -> list[Request]:
    """The weights of a file that multiply or are looked up, mapped from disk."""
    model = onnx.load(path, load_external_data=False)
    graph, _ = trace(model)
    places = {tensor.name: tensor for tensor in model.graph.initializer if tensor.external_data}
    found = []
    for node in graph.nodes:
        name = next((name for name in node.inputs if name in places), None)
        if name is None or node.op not in ("Conv", "MatMul", "Gather"):
            continue
        tensor = places[name]
        where = {entry.key: entry.value for entry in tensor.external_data}
        weight = np.memmap(
            path.parent / where["location"], np.float32, "r", int(where["offset"]),
            tuple(tensor.dims),
        )  # fmt: skip
        found.append(Request(weight, _window(graph, node) if node.op == "Conv" else None))
    return found


def _window(graph: Graph, node: Node) -> Window:
    shape = graph.tensor(node.inputs[0]).shape or ()
    spatial = [size for size in shape[2:] if size is not None]
    return Window.of(spatial, node.attributes["strides"], node.attributes["pads"])


if __name__ == "__main__":
    main()
