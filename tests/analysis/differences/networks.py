"""Toy networks in torch, trained in a second where a test asks for it, and their ONNX files."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper
from torch import nn

Array = NDArray[Any]
CLASSES = 5


class Block(nn.Module):
    """Two convolutions with normalisation and a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = torch.relu(self.first_norm(self.first(x)))
        return torch.relu(x + self.second_norm(self.second(inner)))


class Net(nn.Module):
    """x (n, 3, 8, 8) -> (n, 5): stem, residual blocks, pooling, flattening, two matrices."""

    def __init__(self, seed: int = 0, *, blocks: int = 2, width: int = 12) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.pool = nn.MaxPool2d(2)
        self.hidden = nn.Linear(width * 16, 24)
        self.head = nn.Linear(24, CLASSES)
        for norm in (m for m in self.modules() if isinstance(m, nn.BatchNorm2d)):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.running_var, 0.5, 2.0)
            nn.init.normal_(norm.running_mean, 0.0, 0.2)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem(x))
        for block in self.blocks:
            x = block(x)
        hidden = torch.relu(self.hidden(self.pool(x).flatten(1)))
        return self.head(hidden)


def pictures(samples: int, seed: int = 0) -> Array:
    """float32 (samples, 3, 8, 8)."""
    return np.random.default_rng(seed).normal(size=(samples, 3, 8, 8)).astype(np.float32)


def labelled(samples: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pictures and classes that can be learned: each class has a pattern of its own."""
    rng = np.random.default_rng(99)
    patterns = rng.normal(size=(CLASSES, 3, 8, 8))
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, samples)
    x = 0.5 * patterns[labels] + rng.normal(size=(samples, 3, 8, 8))
    return torch.tensor(x, dtype=torch.float32), torch.tensor(labels)


def train(net: Net, *, seed: int, steps: int, rate: float, turned: bool = False) -> Net:
    """Trained in place. turned : the classes are renumbered, which is another task."""
    torch.set_num_threads(1)  # threads that wait for a busy core take longer than the work
    x, y = labelled(512, seed)
    y = (y + 2) % CLASSES if turned else y
    torch.manual_seed(seed)
    optimiser = torch.optim.Adam(net.parameters(), lr=rate)
    net.train()
    for _ in range(steps):
        chosen = torch.randint(0, len(x), (64,))
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x[chosen]), y[chosen]).backward()
        optimiser.step()
    return net.eval()


def export(
    net: nn.Module, *, opset: int = 17, fold: bool = True, size: tuple[int, ...] = (3, 8, 8)
) -> ModelProto:
    """The network as torch writes it. fold : normalisation is folded into the convolutions."""
    stream = io.BytesIO()
    mode = torch.onnx.TrainingMode.EVAL if fold else torch.onnx.TrainingMode.PRESERVE
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, (torch.zeros(2, *size),), stream, dynamo=False, opset_version=opset,
            do_constant_folding=fold, training=mode, input_names=["x"], output_names=["y"],
            dynamic_axes={"x": {0: "N"}, "y": {0: "N"}},
        )  # fmt: skip
    return onnx.load_from_string(stream.getvalue())


def saved(model: ModelProto, path: Path) -> Path:
    onnx.save(model, str(path))
    return path


def renamed(model: ModelProto) -> ModelProto:
    """Other names for every node and inner tensor."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kept = {v.name for v in (*copy.graph.input, *copy.graph.output)} | {""}
    names: dict[str, str] = {}

    def name(old: str) -> str:
        return old if old in kept else names.setdefault(old, f"t{len(names)}")

    for k, node in enumerate(copy.graph.node):
        node.name = f"node{k}"
        node.input[:] = [name(n) for n in node.input]
        node.output[:] = [name(n) for n in node.output]
    for tensor in copy.graph.initializer:
        tensor.name = name(tensor.name)
    del copy.graph.value_info[:]
    return copy


def arrays(model: ModelProto) -> dict[str, Array]:
    """The initializers."""
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


def channels_last(model: ModelProto) -> ModelProto:
    """The same network on (n, height, width, channels): every Relu and Add works in that layout."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    nodes = list(graph.node)
    four = {"Conv", "MaxPool"}
    pictures = {"x"}
    for node in nodes:
        if node.op_type in four or (node.op_type in {"Relu", "Add"} and set(node.input) & pictures):
            pictures.update(node.output)
    del graph.node[:]
    for node in nodes:
        if node.op_type in four or (node.op_type == "Flatten" and node.input[0] in pictures):
            source = node.input[0]
            inner = f"{source}/first/{len(graph.node)}"
            graph.node.append(helper.make_node("Transpose", [source], [inner], perm=[0, 3, 1, 2]))
            node.input[0] = inner
        graph.node.append(node)
        if node.op_type in four:
            made = node.output[0]
            graph.node[-1].output[0] = f"{made}/first"
            graph.node.append(
                helper.make_node("Transpose", [f"{made}/first"], [made], perm=[0, 2, 3, 1])
            )
    dims = graph.input[0].type.tensor_type.shape.dim
    for dim, size in zip(list(dims)[1:], (8, 8, 3), strict=True):
        dim.dim_value = size
    del graph.value_info[:]
    onnx.checker.check_model(copy)
    return copy


def quantise(path: Path, target: Path, samples: Array, **options: Any) -> Path:
    """Static quantisation by onnxruntime, calibrated on the samples."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]  # the library has no types
        def __init__(self) -> None:
            self.rows = iter([{"x": samples[k : k + 8]} for k in range(0, len(samples), 8)])

        def get_next(self) -> Any:
            return next(self.rows, None)

    quantize_static(str(path), str(target), Reader(), **options)
    return target
