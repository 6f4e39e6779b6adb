"""What checking two models against each other costs, beside the forward passes it cannot avoid.

    python -m benchmarks.equivalence_cost --quick
    python -m benchmarks.equivalence_cost --models bert_large --device cuda:0

Networks have the shapes of well-known ones and random weights. For each, in one run:

forward_s  ONNX Runtime opens both files and answers the inputs: the limit. One thread, as the check
check_s    `compare_models` on the same files and inputs, nothing kept from before
ratio      check_s / forward_s, which should stay below 1.2
norms_s    certified norms of all weights of one model by `analysis.norms`, on --device; norms_cpu_s
           is what they took of the processors, which other programs on the machine change less

A new measurement is a function in MEASUREMENTS; its figures become columns.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks.report import Cell, arguments, finish, table
from benchmarks.shaped_models import NETWORKS, write
from sommelier.analysis.equivalence import compare_models
from sommelier.analysis.execution import open_session
from sommelier.analysis.graph import Graph, Node
from sommelier.analysis.norms import EFFORT, Request, Window, many
from sommelier.analysis.tracing import trace

QUICK = ("resnet50", "bert_base")
SAMPLES, QUICK_SAMPLES = 8, 2
ROUNDS = 3  # of which the fastest counts: what else the machine does must not decide a ratio
QUICK_EFFORT = 0.5  # seconds a convolution, by the cost model


@dataclass(frozen=True, slots=True)
class Pair:
    """Two files of one architecture, and what they are asked."""

    reference: Path
    candidate: Path
    inputs: NDArray[Any]
    device: str
    effort: float


def main() -> None:
    parser = arguments("Cost of checking two models against plain forward passes")
    parser.add_argument("--device", default="cpu", help="where norms are computed, as cuda:0")
    parser.add_argument("--models", nargs="+", choices=[n.name for n in NETWORKS])
    parser.add_argument("--samples", type=int, help="inputs that both models answer")
    options = parser.parse_args()
    names = options.models or (QUICK if options.quick else [n.name for n in NETWORKS])
    samples = options.samples or (QUICK_SAMPLES if options.quick else SAMPLES)
    effort = QUICK_EFFORT if options.quick else EFFORT
    found: dict[str, dict[str, float]] = {}
    for network in (n for n in NETWORKS if n.name in names):
        with tempfile.TemporaryDirectory() as folder:
            files = write(network, Path(folder), seed=options.seed)
            inputs = network.inputs(np.random.default_rng(options.seed), samples)
            pair = Pair(*files, inputs, options.device, effort)
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


MEASUREMENTS = (whole_model_check, weight_norms)


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
