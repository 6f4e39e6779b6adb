"""Models of several speeds, and what is kept of them: one set a test file."""

from __future__ import annotations

import pytest

from sommelier.runtime.session_cache import ServedModel, SessionCache
from tests.runtime.deploying import ladder, slow


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> SessionCache:
    return SessionCache(tmp_path_factory.mktemp("sessions"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ServedModel]:
    folder = tmp_path_factory.mktemp("models")
    return {**ladder(folder), "slow": slow(folder)}
