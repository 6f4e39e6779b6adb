"""Fixtures that every room's tests may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def zoo() -> Path:
    """The folder of real models; the test is skipped where SOMMELIER_ZOO is not set."""
    folder = os.environ.get("SOMMELIER_ZOO")
    if not folder:
        pytest.skip("SOMMELIER_ZOO is not set: the real models are not on this machine")
    return Path(folder)
