"""The package of links has one door, and the engine's part of it is light."""

from __future__ import annotations

import subprocess
import sys

import pytest

from sommelier.analysis import links

HEAVY = ("torch", "onnxruntime", "scipy", "onnx", "pandas")
LIGHT = (
    "formats", "scoring", "splits", "screening", "collecting", "ensemble", "selection",
    "features", "networks", "linear", "training", "judging", "fitting",
)  # fmt: skip


@pytest.mark.parametrize("name", links.__all__)
def test_every_public_name_is_where_the_package_says(name):
    assert getattr(links, name).__name__ == name


def test_an_unknown_name_is_no_attribute():
    with pytest.raises(AttributeError, match="no attribute 'chain'"):
        _ = links.chain


def test_what_the_engine_imports_loads_no_heavy_library():
    lines = [f"import sommelier.analysis.links.{module}" for module in LIGHT]
    found = f"print([name for name in {HEAVY} if name in sys.modules])"
    script = "\n".join(["import sys", *lines, found])
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
