"""What a request may bring and wish is looked at before it waits, and told in one line."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sommelier.deployment_records import DeploymentOptions
from sommelier.errors import InputError
from sommelier.runtime.deployment import RunningDeployment
from sommelier.runtime.session_cache import SessionCache
from tests.runtime.deploying import X, deployed, deployment, ladder, pool_of

NAMED = {"x": X}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningDeployment]:
    """Of a model that nobody has loaded: whoever has to wait makes it load."""
    folder: Path = tmp_path_factory.mktemp("models")
    record = deployment(deployed("large"), options=DeploymentOptions(warm=0))
    with (
        pool_of(SessionCache(folder / "sessions")) as pool,
        RunningDeployment(record, ladder(folder), pool) as running,
    ):
        yield running


@pytest.mark.parametrize(
    ("given", "wishes", "told", "advice"),
    [
        (5, {}, "inputs cannot be 5", "tensors by name"),
        (None, {}, "inputs cannot be None", "tensors by name"),
        ("abc", {}, "inputs cannot be 'abc'", "tensors by name"),
        (b"a file", {}, "inputs cannot be b'a file'", "a list of arrays or bytes"),
        (np.float32(3), {}, "inputs cannot be", "tensors by name"),
        ((item for item in X), {}, "inputs cannot be <generator", "tensors by name"),
        ([b"a file", 5], {}, "inputs cannot be", "a list of arrays or bytes"),
        ([], {}, "no items are given", None),
        (NAMED, {"deadline_ms": "5"}, "deadline is no number: '5'", "in ms from now on"),
        (NAMED, {"deadline_ms": math.nan}, "deadline is no number: nan", "in ms from now on"),
        (NAMED, {"deadline_ms": True}, "deadline is no number: True", "in ms from now on"),
        (NAMED, {"deadline_ms": 0}, "deadline is not above 0: 0", "in ms from now on"),
        (NAMED, {"deadline_ms": -5.0}, "deadline is not above 0: -5.0", "in ms from now on"),
        (NAMED, {"deadline_ms": -math.inf}, "deadline is not above 0: -inf", "in ms from now on"),
        (NAMED, {"deadline_ms": math.inf}, "deadline is endless: inf", "or leave it"),
        (NAMED, {"priority": True}, "priority True is no whole number", "0 is usual"),
        (NAMED, {"priority": False}, "priority False is no whole number", "0 is usual"),
        (NAMED, {"priority": 1.7}, "priority 1.7 is no whole number", "0 is usual"),
        (NAMED, {"priority": 2**32 + 1}, "no whole number from -4294967296 to 4294967296", "usual"),
        (NAMED, {"priority": -(2**32) - 1}, "no whole number from -4294967296 to", "0 is usual"),
        (NAMED, {"priority": "high"}, "priority 'high' is no whole number", "0 is usual"),
        (NAMED, {"priority": math.nan}, "priority nan is no whole number", "0 is usual"),
        (NAMED, {"priority": None}, "priority None is no whole number", "0 is usual"),
        (NAMED, {"min_accuracy": 78}, "min_accuracy cannot be 78", "78 % is 0.78"),
        (NAMED, {"min_accuracy": math.nan}, "min_accuracy cannot be nan", "from 0 to 1"),
        (NAMED, {"min_accuracy": "0.9"}, "min_accuracy cannot be '0.9'", "from 0 to 1"),
        (NAMED, {"outputs": "logits"}, "outputs cannot be 'logits'", "a list of names"),
        (NAMED, {"outputs": [5]}, r"outputs cannot be \[5\]", "a list of names"),
        (NAMED, {"outputs": (5,)}, r"outputs cannot be \(5,\)", "a list of names"),
        (NAMED, {"outputs": ""}, "outputs cannot be ''", "a list of names"),
    ],
)
def test_what_makes_no_sense_is_refused_before_it_waits(
    running: RunningDeployment, given: Any, wishes: dict[str, Any], told: str, advice: str | None
) -> None:
    for ask in (running.infer, running.submit):
        with pytest.raises(InputError, match=told) as refused:
            ask(given, **wishes)
        assert advice is None or (refused.value.hint and advice in refused.value.hint)
    state = running.state()
    assert (state.waiting, state.running, state.failed) == (0, 0, 0)
    assert {model.state for model in state.models} == {"absent"}  # nobody asked for it


def test_numbers_of_numpy_are_numbers(running: RunningDeployment) -> None:
    wishes: dict[str, Any] = {
        "deadline_ms": np.float32(60_000), "priority": np.int64(-1), "min_accuracy": np.float64(0.5)
    }  # fmt: skip
    answer = running.infer(NAMED, outputs=["logits"], **wishes)
    assert tuple(answer.outputs) == ("logits",)
    with pytest.raises(InputError, match="has no input '5'"):  # known once the model is loaded
        running.infer({5: X})  # type: ignore[dict-item]  # which is the mistake
    assert running.infer(NAMED, priority=2**32, outputs=[]).outputs.keys() == {"logits"}
