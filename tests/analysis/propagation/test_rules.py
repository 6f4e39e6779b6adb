"""Every rule: no twin is ever further from its host than the bound."""

from __future__ import annotations

import numpy as np
import pytest

from sommelier.analysis.propagation import RULES
from tests.analysis.propagation.operator_cases import CASES
from tests.analysis.propagation.twins import assert_bounded, perturbed

TRIALS = 6
UNRUN = {
    "RotaryEmbedding",  # opset 23: the same function as com.microsoft's
    "Swish",  # opset 24: the same function as QuickGelu
    "com.microsoft:LayerNormalization",
    "com.microsoft:SimplifiedLayerNormalization",
    "com.microsoft:QuantizeLinear",
    "com.microsoft:DequantizeLinear",
}
"""Second names of a rule that another name exercises."""


@pytest.mark.parametrize("op", sorted(CASES))
def test_no_twin_is_further_away_than_the_bound(op):
    rng = np.random.default_rng(sum(map(ord, op)))
    for _ in range(TRIALS):
        host = CASES[op](rng)
        twin = perturbed(host.weights, 10 ** rng.uniform(-3, 0), rng)
        result, _ = assert_bounded(host, twin)
        finite = [np.isfinite(result.deltas[host.outputs[0]]).any()]
        assert all(finite), f"{op} gave no finite bound: {result.unbounded}"


def test_every_rule_is_exercised():
    assert set(RULES) - UNRUN == set(CASES)
    for name in UNRUN:
        same = [op for op in CASES if RULES[op] is RULES[name]]
        assert same, f"no case runs the rule of {name}"
