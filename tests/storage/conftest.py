"""A catalog on a real PostgreSQL server, for the tests that are about one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sommelier.storage.catalog import Catalog
from tests.over_postgres import Databases


@pytest.fixture
def url(databases: Databases, tmp_path: Path) -> str:
    return databases.fresh(tmp_path / "shared")


@pytest.fixture
def both(url: str, tmp_path: Path) -> Iterator[tuple[Catalog, Catalog]]:
    """Two clients of one catalog."""
    with (
        Catalog.open(url, folder=tmp_path / "files") as one,
        Catalog.open(url, folder=tmp_path / "files") as other,
    ):
        yield one, other
