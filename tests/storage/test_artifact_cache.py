"""Fetched model files: bounded, never taken from who uses them, whole after any kill."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from sommelier.errors import StorageError
from sommelier.storage.artifact_cache import ArtifactCache, held
from sommelier.storage.artifact_places import Place
from sommelier.storage.shared_artifacts import SharedArtifacts

SIZE = 100_000
OPEN = """
import sys
from pathlib import Path
from sommelier.storage.artifact_places import Place
from sommelier.storage.shared_artifacts import SharedArtifacts
store = SharedArtifacts(Path(sys.argv[2]), Place(sys.argv[1]))
"""


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"file://{tmp_path}/shared"


@pytest.fixture
def keys(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Eight models of SIZE bytes in a store, by a machine whose cache is another one."""
    monkeypatch.setenv("SOMMELIER_CACHE", str(tmp_path / "other"))
    store, found = SharedArtifacts(tmp_path / "db", Place(address)), []
    for number in range(8):
        model = tmp_path / f"{number}.onnx"
        model.write_bytes(bytes([number]) * SIZE)
        found.append(store.put(model))
    monkeypatch.setenv("SOMMELIER_CACHE", str(tmp_path / "cache"))
    return found


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for three of them."""
    monkeypatch.setenv("SOMMELIER_ARTIFACT_CACHE", "320 kB")


def opened(address: str, tmp_path: Path) -> SharedArtifacts:
    return SharedArtifacts(tmp_path / "db", Place(address))


def entries(store: SharedArtifacts) -> int:
    return len(list(store.cache.root.glob("??/*/manifest.json")))


def left(store: SharedArtifacts) -> list[Path]:
    """What is neither an entry nor on its way to one."""
    return [path for path in store.cache.root.iterdir() if path.name.startswith(".")]


@contextmanager
def process(program: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", OPEN + program, *map(str, arguments)]
    started = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with started:
        try:
            yield started
        finally:
            started.kill()


def lines(started: Sequence[subprocess.Popen[str]]) -> list[str]:
    return [one.stdout.readline().strip() for one in started if one.stdout is not None]


# ---- room


def test_what_was_used_longest_ago_goes_first(
    keys: list[str], small: None, address: str, tmp_path: Path
) -> None:
    store = opened(address, tmp_path)
    paths = []
    for key in (keys[0], keys[1], keys[2], keys[0], keys[3]):
        with store.using():
            paths.append(store.path(key))
    assert [path.exists() for path in paths] == [True, False, True, True, True]
    assert store.cache.size_bytes() <= 320_000
    with store.using():
        assert store.path(keys[1]).read_bytes() == b"\1" * SIZE
    assert left(store) == []


def test_what_is_in_use_stays_and_goes_when_it_is_not(
    keys: list[str], small: None, address: str, tmp_path: Path
) -> None:
    store = opened(address, tmp_path)
    paths = [store.path(key) for key in keys]
    assert all(path.exists() for path in paths), "their paths were handed out"
    store.close()
    assert store.cache.make_room() >= 5 * SIZE
    assert [path.exists() for path in paths] == [False] * 5 + [True] * 3


def test_of_one_connection_the_newest_paths_stay(
    keys: list[str], small: None, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sommelier.storage.shared_artifacts.LEASES", 4)
    store = opened(address, tmp_path)
    paths = [store.path(key) for key in keys]
    store.cache.make_room()
    assert [path.exists() for path in paths] == [False] * 4 + [True] * 4


def test_another_process_uses_what_it_has_asked_for(
    keys: list[str], small: None, address: str, tmp_path: Path
) -> None:
    program = "print(store.path(sys.argv[3]), flush=True); sys.stdin.readline()"
    store = opened(address, tmp_path)
    with process(program, address, tmp_path / "db2", keys[0]) as other:
        (told,) = lines([other])
        path = Path(told)
        for key in keys[1:]:
            with store.using():
                store.path(key)
        assert path.read_bytes() == b"\0" * SIZE
        other.kill()  # as it happens
        other.wait()
    store.cache.make_room()
    with store.using():
        store.path(keys[1])
    assert not path.exists()


def test_a_server_keeps_the_file_that_another_process_named(
    keys: list[str], small: None, address: str, tmp_path: Path
) -> None:
    store = opened(address, tmp_path)
    path = store.path(keys[0])
    lease = held(path)
    assert lease is not None
    assert held(tmp_path / "0.onnx") is None
    store.close()
    for key in keys[1:]:
        with store.using():
            store.path(key)
    assert path.exists()
    lease.release()
    lease.release()
    assert held(path.parent / "none" / "none.onnx") is None
    store.cache.make_room()
    with store.using():
        store.path(keys[1])
    assert not path.exists()


def test_a_size_that_is_none_is_said(
    keys: list[str], address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOMMELIER_ARTIFACT_CACHE", "much")
    with pytest.raises(StorageError, match="SOMMELIER_ARTIFACT_CACHE is 'much'"):
        opened(address, tmp_path)


# ---- damage


@pytest.mark.parametrize("content", [b"", b"x" * SIZE, b"x" * (SIZE + 1), None])
def test_a_file_damaged_in_the_cache_is_fetched_again(
    keys: list[str], address: str, tmp_path: Path, content: bytes | None
) -> None:
    path = opened(address, tmp_path).path(keys[1])
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    store = opened(address, tmp_path)
    assert store.path(keys[1]).read_bytes() == b"\1" * SIZE
    assert left(store) == []


@pytest.mark.parametrize("content", [b"y" * SIZE, b"y" * (SIZE - 1), b"y" * (3 * SIZE), b""])
def test_a_file_damaged_in_the_store_is_refused(
    keys: list[str], address: str, tmp_path: Path, content: bytes
) -> None:
    (damaged,) = (tmp_path / "shared").glob(f"{keys[1][7:9]}/{keys[1][9:]}/*.onnx")
    damaged.write_bytes(content)
    store = opened(address, tmp_path)
    with pytest.raises(StorageError, match="damaged: its content is not what its name"):
        store.path(keys[1])
    assert entries(store) == 0
    assert left(store) == []


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"name": "../../../escaped"}, "names a file that cannot be one of it"),
        ({"name": "/tmp/escaped"}, "names a file that cannot be one of it"),
        ({"name": "in-use.lock"}, "names a file that cannot be one of it"),
        ({"name": ""}, "names a file that cannot be one of it"),
        ({"size": -1}, "has no size"),
        ({"size": "1"}, "has no size"),
        ({"sha256": "1"}, "has no digest"),
        ({"sha256": "0" * 64}, "manifest.json is of sha256:000"),
    ],
)
def test_a_manifest_that_leads_astray_is_refused(
    keys: list[str], address: str, tmp_path: Path, change: dict[str, object], told: str
) -> None:
    manifest = tmp_path / "shared" / keys[1][7:9] / keys[1][9:] / "manifest.json"
    fields = json.loads(manifest.read_text())
    fields["files"][0] |= change
    manifest.write_text(json.dumps(fields))
    store = opened(address, tmp_path)
    with pytest.raises(StorageError, match="is damaged") as failure:
        store.path(keys[1])
    assert told in failure.value.message
    assert entries(store) == 0
    assert not list(tmp_path.rglob("escaped"))


def test_a_manifest_that_is_none_is_refused(keys: list[str], address: str, tmp_path: Path) -> None:
    manifest = tmp_path / "shared" / keys[1][7:9] / keys[1][9:] / "manifest.json"
    for content in ("", "[]", '{"format": 9, "files": []}', '{"format": 1, "files": []}'):
        manifest.write_text(content)
        with pytest.raises(StorageError, match="is damaged"):
            opened(address, tmp_path).path(keys[1])


def test_a_disk_that_refuses_leaves_nothing(keys: list[str], address: str, tmp_path: Path) -> None:
    """A file may not grow beyond 50 kB here, as if the disk were full."""
    program = """
import resource
from sommelier.errors import StorageError
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    store.path(sys.argv[3])
except StorageError as error:
    print(str(error).replace(chr(10), " "), flush=True)
"""
    with process(program, address, tmp_path / "db2", keys[1]) as other:
        (told,) = lines([other])
    assert "could not keep the fetched model file" in told
    assert "SOMMELIER_CACHE" in told
    store = opened(address, tmp_path)
    assert entries(store) == 0
    assert left(store) == []


# ---- processes


def test_processes_may_fetch_the_same_at_once(
    keys: list[str], address: str, tmp_path: Path
) -> None:
    program = """
print("ready", flush=True)
sys.stdin.readline()
path = store.path(sys.argv[3])
store.verify(sys.argv[3])
print(path, flush=True)
"""
    arguments = (address, tmp_path / "db2", keys[1])
    with process(program, *arguments) as one, process(program, *arguments) as two:
        both = (one, two)
        assert lines(both) == ["ready", "ready"]
        for other in both:
            assert other.stdin is not None
            other.stdin.write("\n")
            other.stdin.flush()
        first, second = lines(both)
    assert first == second
    assert Path(first).read_bytes() == b"\1" * SIZE
    store = opened(address, tmp_path)
    assert entries(store) == 1
    assert left(store) == []


def test_a_kill_while_it_is_fetched_leaves_nothing_that_is_taken_for_whole(
    keys: list[str], address: str, tmp_path: Path
) -> None:
    """The process dies before its 1st, 2nd ... write, rename or sync, until it comes through."""
    program = """
import os
store_left = int(sys.argv[4])
def watch(event, arguments):
    global store_left
    steps = ("open", "os.rename", "os.mkdir", "os.utime")
    if event in steps and str(arguments[0]).startswith(str(store.cache.root)):
        store_left -= 1
        if store_left < 0:
            os.kill(os.getpid(), 9)
sys.addaudithook(watch)
print(store.path(sys.argv[3]), flush=True)
"""
    kills = 0
    for moment in range(0, 60, 3):
        with process(program, address, tmp_path / "db2", keys[1], moment) as other:
            (told,) = lines([other])
        if told:
            break
        kills += 1
        store = opened(address, tmp_path)
        assert entries(store) <= 1
        if entries(store):  # it died after the last rename
            store.verify(keys[1])
    assert kills >= 2
    assert told
    store = opened(address, tmp_path)
    store.path(keys[2])  # sweeps
    store.verify(keys[1])
    assert left(store) == []


def test_an_entry_that_cannot_be_replaced_is_no_reason_to_fail(tmp_path: Path) -> None:
    cache = ArtifactCache(tmp_path, limit_bytes=None)
    assert cache.find("0" * 64) is None
    assert cache.make_room() == 0
    assert cache.size_bytes() == 0
    assert os.listdir(tmp_path) == []  # noqa: PTH208
