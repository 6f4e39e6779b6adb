"""Toy hosts, their twins, and how far the two really are apart in every tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from sommelier.analysis.propagation import Propagation, propagate
from tests.onnx_writer import with_weights

Array = NDArray[Any]

# Executed differences carry the rounding of two float32 runs: relative to the tensor itself.
ROUNDING = 2e-5
TINY = 1e-6


@dataclass
class Host:
    """A toy network. weights : what a twin may have others of; fixed : shapes, axes, indices."""

    nodes: Sequence[NodeProto]
    weights: dict[str, Array]
    inputs: dict[str, Array]
    fixed: dict[str, Array] = field(default_factory=dict)
    outputs: Sequence[str] = ()
    opsets: Mapping[str, int] = field(default_factory=lambda: {"": 17})

    def model(self) -> ModelProto:
        """The network as ONNX; the first axis of every input is open."""
        outputs = self.outputs or [next(o for o in self.nodes[-1].output if o)]
        stored = {**self.weights, **self.fixed}
        graph = helper.make_graph(
            list(self.nodes),
            "toy",
            [
                helper.make_tensor_value_info(
                    name, helper.np_dtype_to_tensor_dtype(array.dtype), ["N", *array.shape[1:]]
                )
                for name, array in self.inputs.items()
            ],
            [helper.make_empty_tensor_value_info(name) for name in outputs],
            [numpy_helper.from_array(np.asarray(array), name) for name, array in stored.items()],
        )
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid(d, v) for d, v in self.opsets.items()],
            ir_version=10,
        )


def perturbed(weights: Mapping[str, Array], scale: float, rng: np.random.Generator) -> dict:
    """The weights with noise of `scale` times their size; integers stay."""
    return {
        name: (array + scale * (np.std(array) + 0.1) * rng.standard_normal(array.shape)).astype(
            array.dtype
        )
        for name, array in weights.items()
        if array.dtype.kind == "f"
    }


def run_all(model: ModelProto, inputs: Mapping[str, Array]) -> list[dict[str, Array]]:
    """Every tensor of the graph, for each sample run alone."""
    whole = ModelProto()
    whole.CopyFrom(model)
    named = {value.name for value in whole.graph.output}
    made = [name for node in whole.graph.node for name in node.output if name]
    whole.graph.output.extend(
        helper.make_empty_tensor_value_info(name) for name in made if name not in named
    )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        whole.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_outputs()]
    count = len(next(iter(inputs.values())))
    found = []
    for i in range(count):
        values = session.run(None, {k: v[i : i + 1] for k, v in inputs.items()})
        found.append(dict(zip(names, values, strict=True)))
    return found


def distances(
    model: ModelProto, replaced: Mapping[str, Array], inputs: Mapping[str, Array]
) -> dict[str, tuple[Array, Array]]:
    """Tensor -> (n,) measured L2 distances of twin and host, and what rounding explains of them."""
    host = run_all(model, inputs)
    twin = run_all(with_weights(model, replaced), inputs)
    found = {}
    for name in host[0]:
        pairs = [(a[name].astype(np.float64), b[name].astype(np.float64)) for a, b in
                 zip(host, twin, strict=True)]  # fmt: skip
        apart = np.array([np.linalg.norm(np.nan_to_num(b - a)) for a, b in pairs])
        sizes = np.array([
            max(np.linalg.norm(v[np.isfinite(v)]) for v in pair) for pair in pairs
        ])  # fmt: skip
        found[name] = (apart, ROUNDING * sizes + TINY)
    return found


def assert_bounded(
    host: Host, replaced: Mapping[str, Array], **options: Any
) -> tuple[Propagation, dict[str, Array]]:
    """Assert measured <= bound for every tensor; also (bound / measured) by tensor."""
    model = host.model()
    result = propagate(model, replaced, host.inputs, **options)
    ratios = {}
    for name, (apart, rounding) in distances(model, replaced, host.inputs).items():
        bound = result.deltas[name]
        worst = int(np.argmax(apart - bound))
        assert np.all(apart <= bound + rounding), (
            f"{name}: measured {apart[worst]:.6g} > bound {bound[worst]:.6g}"
        )
        ratios[name] = bound / np.maximum(apart, 1e-30)
    return result, ratios


def shifted(name: str, shape: Sequence[int]) -> tuple[NodeProto, str, dict[str, Array]]:
    """A node that moves an input by a weight, so that a twin's input to what follows differs."""
    weight = f"{name}_shift"
    node = helper.make_node("Add", [name, weight], [f"{name}_moved"])
    return node, f"{name}_moved", {weight: np.zeros((1, *shape), np.float32)}


FLOAT = TensorProto.FLOAT
