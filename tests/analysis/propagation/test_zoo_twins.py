"""Real networks: bounds hold in every tensor, and prove some answers for a change near the end."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from sommelier.analysis.propagation import propagate
from tests.analysis.propagation.twins import distances

MEAN, STD = (np.array(v, np.float32) for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))


def _noise(model, names, scale):
    rng = np.random.default_rng(0)
    stored = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    return {
        name: (stored[name] + scale * stored[name].std() * rng.standard_normal(stored[name].shape))
        .astype(np.float32)
        for name in names
    }  # fmt: skip


def _weights_from(model, part):
    """Trained floating weights of the last `part` of a model's convolutions and products."""
    nodes = [n for n in model.graph.node if n.op_type in ("Conv", "Gemm", "MatMul")]
    stored = {t.name for t in model.graph.initializer if t.data_type == 1}
    late = nodes[int(len(nodes) * (1 - part)) :]
    return [name for node in late for name in node.input[1:] if name in stored]


def _assert_holds(model, replaced, inputs):
    result = propagate(model, replaced, inputs)
    for name, (apart, rounding) in distances(model, replaced, inputs).items():
        assert np.all(apart <= result.deltas[name] + rounding), name
    return result


@pytest.mark.zoo
@pytest.mark.parametrize("part", [0.1, 0.5, 1.0])
def test_bounds_hold_in_every_tensor_of_a_real_resnet(part, zoo):
    model = onnx.load(zoo / "onnx" / "cifar10_resnet20.onnx")
    with np.load(zoo / "data" / "cifar10_test.npz") as data:
        pixels = data["x"][:32].astype(np.float32) / 255
    images = np.ascontiguousarray(((pixels - MEAN) / STD).transpose(0, 3, 1, 2))
    twin = _noise(model, _weights_from(model, part), 1e-3)
    result = _assert_holds(model, twin, {"input": images})
    assert not result.unbounded
    if part == 0.1:
        assert result.certified_unchanged("logits").mean() > 0.8


@pytest.mark.zoo
@pytest.mark.parametrize("name", ["yunet_n_320_320", "version-RFB-320", "fsanet-1x1-iter-688590"])
def test_bounds_hold_in_every_tensor_of_real_detectors(name, zoo):
    model = onnx.load(zoo / "onnx" / f"{name}.onnx")
    entry = model.graph.input[0]
    shape = [max(1, d.dim_value) for d in entry.type.tensor_type.shape.dim]
    inputs = {entry.name: np.random.default_rng(0).random(shape).astype(np.float32)}
    twin = _noise(model, _weights_from(model, 0.1), 1e-3)
    _assert_holds(model, twin, inputs)
