"""Fixtures that every room's tests may use."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.object_server import BUCKET, GoogleServer, ObjectServer
from tests.over_postgres import VARIABLE, Databases, redirected

# no example fails for the speed of the machine
settings.register_profile(
    "any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("any machine")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # so a shell starts what runs in its background: tests of Ctrl-C would wait for ever
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def zoo() -> Path:
    """The folder of real models; the test is skipped where SOMMELIER_ZOO is not set."""
    folder = os.environ.get("SOMMELIER_ZOO")
    if not folder:
        pytest.skip("SOMMELIER_ZOO is not set: the real models are not on this machine")
    return Path(folder)


@pytest.fixture(scope="session", autouse=True)
def _databases() -> Iterator[Databases | None]:
    """The databases of a PostgreSQL server that stand for files, where one is to be tested."""
    with redirected() as databases:
        yield databases


@pytest.fixture(autouse=True)
def _forgotten(request: pytest.FixtureRequest, _databases: Databases | None) -> Iterator[None]:
    """No database stays that only one test used."""
    own = "tmp_path" in request.fixturenames and _databases is not None
    folder = request.getfixturevalue("tmp_path") if own else None
    yield
    if _databases is not None and folder is not None:
        _databases.forget(folder)


@pytest.fixture(scope="session")
def databases(_databases: Databases | None) -> Databases:
    """Databases of a real PostgreSQL server; the test is skipped where none is named."""
    if _databases is None:
        pytest.skip(f"{VARIABLE} names no server: `make test-postgres` starts one")
    return _databases


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Over PostgreSQL, leave out what is about files, and say why."""
    if VARIABLE not in os.environ:
        return
    for item in items:
        mark = item.get_closest_marker("duckdb")
        if mark is not None:
            item.add_marker(pytest.mark.skip(reason=f"over PostgreSQL: {mark.args[0]}"))


@pytest.fixture(scope="session")
def object_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectServer]:
    """A real object server with the bucket `models`."""
    server = ObjectServer(tmp_path_factory.mktemp("objects"))
    try:
        server.start()
        server.make_bucket()
        yield server
    finally:
        server.stop()


@pytest.fixture
def s3(object_server: ObjectServer, monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> str:
    """The address of an empty store there, with the environment that reaches it."""
    for name, value in object_server.environment().items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{os.urandom(6).hex()}"


@pytest.fixture(scope="session")
def google_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GoogleServer]:
    """A server of Google Cloud Storage's protocol with the bucket `models`."""
    server = GoogleServer(tmp_path_factory.mktemp("google"))
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture
def gs(google_server: GoogleServer, monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> str:
    """The address of an empty store there, with the environment that reaches it."""
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", google_server.endpoint)
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "tests")
    return f"gs://{BUCKET}/{os.urandom(6).hex()}"


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is fetched stays in the test's own folder."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("SOMMELIER_CACHE", str(folder))
    return folder
