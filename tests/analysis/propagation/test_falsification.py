"""The search for an input that reaches a bound."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import helper

from sommelier.analysis.propagation import falsify
from sommelier.analysis.propagation.differentiable import evaluate
from sommelier.analysis.propagation.weights import constants
from sommelier.analysis.tracing import trace
from sommelier.errors import AnalysisError
from tests.analysis.propagation.operator_cases import _f, operator
from tests.analysis.propagation.random_networks import random_network
from tests.analysis.propagation.twins import Host, perturbed, run_all

RECURRENT = ("LSTM", "GRU", "RNN")


def test_the_search_finds_the_top_direction_of_a_difference_of_matrices():
    rng = np.random.default_rng(0)
    host = Host([helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": _f(rng, 8, 5)},
                {"x": np.zeros((2, 8), np.float32)})  # fmt: skip
    twin = {"w": host.weights["w"] + 0.1 * _f(rng, 8, 5)}
    found = falsify(host.model(), twin, host.inputs, "y", radius=2.0)
    exact = 2.0 * np.linalg.norm(twin["w"] - host.weights["w"], 2)
    np.testing.assert_allclose(found.distances, exact, rtol=1e-3)
    assert np.all(found.tightness <= 1 + 1e-5)
    assert np.all(found.tightness > 0.95)
    assert np.all(np.linalg.norm(found.inputs["x"], axis=1) <= 2.0 * (1 + 1e-5))


def test_a_search_beats_random_inputs_and_never_the_bound():
    for seed in range(6):
        rng = np.random.default_rng(seed)
        host = random_network(rng)
        while any(n.op_type in (*RECURRENT, "InstanceNormalization", "LRN", "Resize", "LpPool")
                  for n in host.nodes):  # fmt: skip
            host = random_network(rng)
        twin = perturbed(host.weights, 0.05, rng)
        tensor = host.outputs[0]
        found = falsify(host.model(), twin, host.inputs, tensor, radius=1.0, steps=20)
        still = falsify(host.model(), twin, host.inputs, tensor, radius=0.0)
        assert np.all(found.tightness <= 1 + 1e-4)
        assert np.all(found.distances >= still.distances)
        assert found.distances.mean() > still.distances.mean()


@pytest.mark.parametrize("seed", range(12))
def test_torch_computes_what_onnx_runtime_does(seed):
    rng = np.random.default_rng(seed)
    host = random_network(rng)
    while any(n.op_type in (*RECURRENT, "InstanceNormalization", "LRN", "Resize", "LpPool")
              for n in host.nodes):  # fmt: skip
        host = random_network(rng)
    model = host.model()
    graph, _ = trace(model)
    known = {name: torch.from_numpy(np.array(c.before))
             for name, c in constants(model, graph, {}).items()}  # fmt: skip
    expected = run_all(model, host.inputs)[0]
    for node in graph.nodes:
        name = node.outputs[0]
        x = {"x": torch.from_numpy(host.inputs["x"][:1])}
        np.testing.assert_allclose(
            evaluate(graph, known, x, name).numpy(), expected[name], rtol=1e-3, atol=1e-4
        )


def test_an_operator_without_gradient_is_named():
    rng = np.random.default_rng(1)
    host = operator(rng, "LRN", (6, 3, 3), size=5)
    with pytest.raises(AnalysisError, match="LRN 'op'"):
        falsify(host.model(), perturbed(host.weights, 0.1, rng), host.inputs, "y", radius=1.0)
