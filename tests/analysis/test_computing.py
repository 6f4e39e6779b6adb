"""What long computations share: devices that exist, and threads that are given back."""

from __future__ import annotations

import sys

import pytest
import torch

from sommelier.analysis.computing import check_device, torch_threads
from sommelier.errors import AnalysisError, MissingDependencyError


def test_torch_gets_its_threads_back():
    usual = torch.get_num_threads()

    def failing():
        with torch_threads(usual + 3):
            assert torch.get_num_threads() == usual + 3
            raise KeyError

    with pytest.raises(KeyError):
        failing()
    assert torch.get_num_threads() == usual


def test_a_device_that_is_not_there_is_named_with_those_that_are():
    check_device("cpu")
    for name in ("cuda:99", "tpu", "cpu:7", "meta"):
        with pytest.raises(AnalysisError, match=f"no device '{name}'") as caught:
            check_device(name)
        assert "cpu" in caught.value.hint


def test_without_torch_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(MissingDependencyError) as caught:
        check_device("cpu")
    assert caught.value.hint == "pip install 'sommelier-db[torch]'"
