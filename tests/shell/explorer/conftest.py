"""One database and one server for all that only ask."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.shell.explorer.serving import Serve, make_database, serving

if sys.platform == "win32":
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="package")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_database(tmp_path_factory.mktemp("explorer"))


@pytest.fixture(scope="package")
def served(database: Path) -> Iterator[Serve]:
    with serving(database) as served:
        yield served
