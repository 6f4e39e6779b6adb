"""The two models that servers are compared with, and how fast ONNX Runtime alone runs them."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import numpy as np

from benchmarks.serving_load import Load, cores, pinned
from tests.factories import mlp_classifier
from tests.onnx_writer import FLOAT, save_model

SHAPE = (1, 3, 32, 32)
SMALL, MIDDLE = "small", "middle"
MIDDLE_MS = 0.3
WIDTHS = (8, 12, 16, 20, 24, 28, 32, 40, 48, 64, 96, 128)  # of the convolutions
LAYERS = 4

ALONE = """
import json, sys, time
import numpy as np
import onnxruntime
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
options.add_session_config_entry("session.intra_op.allow_spinning", "0")
session = onnxruntime.InferenceSession(sys.argv[1], options)
given, asked = session.get_inputs()[0], [output.name for output in session.get_outputs()]
shape = [size if isinstance(size, int) else 1 for size in given.shape]
feed = {given.name: np.ones(shape, np.float32)}
seconds, times = float(sys.argv[2]), []
until = time.perf_counter() + 0.3
while time.perf_counter() < until:
    session.run(asked, feed)
spent = time.process_time()
until, now = until + seconds, time.perf_counter()
while now < until:
    session.run(asked, feed)
    before, now = now, time.perf_counter()
    times.append(now - before)
p50, p99 = np.quantile(times, [.5, .99]) * 1e3
spent = (time.process_time() - spent) / len(times)
print(json.dumps([len(times) / sum(times), p50, p99, len(times), 1e3 * spent]))
"""


def make_models(folder: Path, seed: int, middle_ms: float = MIDDLE_MS) -> dict[str, Path]:
    """0.86 million weights in dense layers, and convolutions that take about `middle_ms` here."""
    small = _dense(folder / f"{SMALL}.onnx", seed)
    return {SMALL: small, MIDDLE: _middle(folder / f"{MIDDLE}.onnx", seed, middle_ms)}


def _middle(path: Path, seed: int, middle_ms: float) -> Path:
    """The nearest to `middle_ms` of networks that are wider and wider until one takes as long, and
    of those of the last width below it with more and more layers."""
    tried: dict[tuple[int, int], tuple[float, Path]] = {}

    def is_quicker(width: int, layers: int) -> bool:
        one = _convolutions(path.with_stem(f"{width}_{layers}"), width, layers, seed)
        tried[width, layers] = alone(one, 0.2).p50_ms, one
        return tried[width, layers][0] < middle_ms

    below = list(takewhile(lambda width: is_quicker(width, LAYERS), WIDTHS))
    for layers in range(LAYERS + 1, 3 * LAYERS):
        if not below or not is_quicker(below[-1], layers):
            break

    def distance(form: tuple[int, int]) -> float:
        return abs(math.log(tried[form][0] / middle_ms))

    nearer = sorted(tried, key=distance)[:2]
    for form in nearer:  # a short look may be a tenth too long
        one = tried[form][1]
        tried[form] = min(alone(one, 0.5).p50_ms for _ in range(3)), one
    width, layers = min(nearer, key=distance)
    taken_ms, nearest = tried[width, layers]
    nearest.rename(path)
    for _, other in tried.values():
        other.unlink(missing_ok=True)
    print(f"the larger model: {layers} convolutions, {width} wide: {taken_ms:.3f} ms")
    return path


def _dense(path: Path, seed: int) -> Path:
    """x[N,3,32,32] -> logits[N,10]: two hidden layers of 256."""
    import onnx
    from onnx import helper

    features = int(np.prod(SHAPE))
    model = onnx.load(mlp_classifier(path, features=features, hidden=(256, 256), classes=10,
                                     seed=seed))  # fmt: skip
    graph = model.graph
    graph.node.insert(0, helper.make_node("Flatten", ["image"], ["flat"]))
    graph.node[1].input[0] = "flat"
    image = helper.make_tensor_value_info("image", FLOAT, ["N", *SHAPE[1:]])
    graph.input[0].CopyFrom(image)
    onnx.save(model, path)
    return path


def _convolutions(path: Path, width: int, layers: int, seed: int) -> Path:
    """image[N,3,32,32] -> logits[N,10]: convolutions, 3 x 3, all but the first at a quarter of the
    places, the mean, a dense layer."""
    from onnx import helper

    rng = np.random.default_rng(seed)
    nodes, weights, value, channels = [], {}, "image", SHAPE[1]
    for i, stride in enumerate((1, 2, *[1] * (layers - 2))):
        scale = (9 * channels) ** -0.5
        kernel = rng.normal(scale=scale, size=(width, channels, 3, 3))
        weights[f"k{i}"] = kernel.astype(np.float32)
        nodes += [
            helper.make_node(
                "Conv", [value, f"k{i}"], [f"c{i}"], pads=[1] * 4, strides=[stride] * 2
            ),
            helper.make_node("Relu", [f"c{i}"], [f"r{i}"]),
        ]
        value, channels = f"r{i}", width
    weights["w"] = rng.normal(size=(width, 10)).astype(np.float32)
    nodes += [
        helper.make_node("GlobalAveragePool", [value], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["logits"]),
    ]
    image = {"image": (FLOAT, ["N", *SHAPE[1:]])}
    return save_model(path, nodes, image, {"logits": (FLOAT, ["N", 10])}, weights)


def alone(path: Path, seconds: float) -> Load:
    """ONNX Runtime in a loop, in a process of its own on the core of servers: the limit."""
    command = pinned([sys.executable, "-c", ALONE, str(path), str(seconds)], cores()[0])
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    per_second, p50, p99, runs, cpu_ms = json.loads(done.stdout)
    return Load(per_second, p50, p99, 0, runs, cpu_ms)
