"""A module that is made again in a program leaves the program as it was."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from sommelier.analysis.conversion import ConversionRequest, table
from sommelier.analysis.conversion.torch_requests import VARIABLES

NETS = """
import torch
from beside import width

torch.manual_seed(99)

def net():
    from later import bias
    return torch.nn.Linear(2, width, bias=bias)
"""


@pytest.fixture
def nets(tmp_path: Path) -> Path:
    """A file of a program's library, by name, with what it imports beside it."""
    (tmp_path / "beside.py").write_text("width = 3")
    (tmp_path / "later.py").write_text("bias = True")
    (tmp_path / "json.py").write_text(NETS)
    (tmp_path / "hubconf.py").write_text(
        "import torch\ndef net():\n    return torch.nn.Linear(2, 3)"
    )
    torch.save(torch.nn.Linear(2, 3).state_dict(), tmp_path / "w.pt")
    return tmp_path


def requests(nets: Path) -> Mapping[str, ConversionRequest]:
    made_by = {"module": f"{nets}/json.py:net", "trust": True}
    entry = {"entry": "net", "trust": True}
    return {
        "torch_weights": ConversionRequest(nets / "w.pt", nets, made_by),
        "torchhub": ConversionRequest(nets / "hubconf.py", nets, entry),
    }


@pytest.mark.parametrize("format", ["torch_weights", "torchhub"])
def test_random_numbers_paths_modules_and_variables_are_as_before(nets: Path, format: str) -> None:
    request = requests(nets)[format]
    path, found = list(sys.path), sys.modules["json"]
    variables = {name: os.environ.get(name) for name in VARIABLES}
    torch.manual_seed(5)
    wanted = torch.rand(2)
    torch.manual_seed(5)
    assert isinstance(table.original(format, request), torch.nn.Linear)
    assert torch.equal(torch.rand(2), wanted)
    assert sys.path == path
    assert sys.modules["json"] is found is json
    assert {name: os.environ.get(name) for name in VARIABLES} == variables


def test_what_another_part_of_the_program_sets_meanwhile_stays(
    nets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOMMELIER_TEST_BEFORE", "1")
    monkeypatch.delenv("SOMMELIER_TEST_MEANWHILE", raising=False)
    seen = []

    def load(_: ConversionRequest) -> torch.nn.Module:
        os.environ["SOMMELIER_TEST_MEANWHILE"] = "1"
        seen.append(dict(os.environ))
        return torch.nn.Identity()

    monkeypatch.setattr(table, "_function", lambda _: load)
    monkeypatch.setattr(os.environ, "clear", lambda: pytest.fail("a moment without variables"))
    table.original("torchhub", requests(nets)["torchhub"])
    assert os.environ["SOMMELIER_TEST_MEANWHILE"] == "1"
    assert seen[0]["SOMMELIER_TEST_BEFORE"] == os.environ["SOMMELIER_TEST_BEFORE"]
    del os.environ["SOMMELIER_TEST_MEANWHILE"]


def test_a_module_without_learned_weights_is_the_same_one_every_time(nets: Path) -> None:
    made = [table.original("torchhub", requests(nets)["torchhub"]) for _ in range(2)]
    first, second = (one.state_dict()["weight"] for one in made)
    assert torch.equal(first, second)
