"""The library is cheap to import, and stored answers are compared without any runtime."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "onnxruntime", "onnx", "scipy", "pandas")


@pytest.mark.parametrize("module", ["differences", "differences.disagreements"])
def test_importing_loads_nothing_heavy(module):
    code = (
        f"import sys, sommelier.analysis.{module}\n"
        f"print(' '.join(name for name in {HEAVY!r} if name in sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""
