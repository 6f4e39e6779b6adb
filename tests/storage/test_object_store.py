"""A store on a real object server, and on a web server: kills, refusals, no network."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from sommelier.errors import StorageError
from sommelier.storage.artifact_places import Place, place_of
from sommelier.storage.object_store import ObjectStore
from sommelier.storage.shared_artifacts import SharedArtifacts
from sommelier.storage.store_faults import without_secrets
from tests.object_server import READER, READER_SECRET, SECRET, ObjectServer
from tests.storage.test_shared_artifacts import objects

KILLED_WHILE_SENDING = """
import os, sys
from contextlib import contextmanager
from pathlib import Path
from sommelier.storage import object_store
from sommelier.storage.artifact_places import Place
from sommelier.storage.shared_artifacts import SharedArtifacts
left = int(sys.argv[4])
kept = object_store.ObjectStore.writing
def step():
    global left
    left -= 1
    if left < 0:
        os.kill(os.getpid(), 9)
@contextmanager
def writing(self, name, size):
    with kept(self, name, size) as send:
        def counted(chunk):
            send(chunk)
            step()
        yield counted
        step()
object_store.ObjectStore.writing = writing
model = Path(sys.argv[2])
store = SharedArtifacts(Path(sys.argv[3]), Place(sys.argv[1]))
print(store.put(model, external=[model.parent / "weights.bin"]), flush=True)
"""
KILLED_WHILE_FETCHING = """
import os, sys
from pathlib import Path
from sommelier.storage import object_store
from sommelier.storage.artifact_places import Place
from sommelier.storage.shared_artifacts import SharedArtifacts
kept, left = object_store.ObjectStore.chunks, int(sys.argv[4])
def chunks(self, name):
    global left
    for chunk in kept(self, name):
        yield chunk
        left -= 1
        if left < 0:
            os.kill(os.getpid(), 9)
object_store.ObjectStore.chunks = chunks
print(SharedArtifacts(Path(sys.argv[3]), Place(sys.argv[1])).path(sys.argv[2]), flush=True)
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model with 40 MB of weights: three parts of an upload."""
    folder = tmp_path / "zoo"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"graph")
    (folder / "weights.bin").write_bytes(os.urandom(1 << 20) * 40)
    return folder / "model.onnx"


@pytest.fixture
def store(s3: str, tmp_path: Path) -> SharedArtifacts:
    return SharedArtifacts(tmp_path / "db", Place(s3))


def put(store: SharedArtifacts, model: Path) -> str:
    return store.put(model, external=[model.parent / "weights.bin"])


def python(program: str, *arguments: object) -> tuple[int, str]:
    """(how it ended, what it printed)"""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout.strip()


# ---- kills


def test_a_kill_while_it_is_sent_leaves_nothing_that_anybody_sees(
    store: SharedArtifacts, s3: str, model: Path, tmp_path: Path
) -> None:
    """One process after the other dies: at the first file, in the second, before the manifest."""
    for moment in (0, 3, 7):
        assert python(KILLED_WHILE_SENDING, s3, model, tmp_path / "db2", moment) == (-9, "")
        assert not [name for name in objects(s3) if name.endswith("manifest.json")]
    assert not [name for name in objects(s3) if name.endswith("weights.bin")], "a part of it"
    key = put(store, model)
    assert sorted(name.rpartition("/")[2] for name in objects(s3)) == [
        "manifest.json", "model.onnx", "weights.bin",
    ]  # fmt: skip
    store.verify(key)


def test_a_kill_while_it_is_fetched_leaves_nothing_that_is_taken_for_whole(
    store: SharedArtifacts, s3: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = put(store, model)
    monkeypatch.setenv("SOMMELIER_CACHE", str(tmp_path / "cold"))
    for moment in (0, 2):
        assert python(KILLED_WHILE_FETCHING, s3, key, tmp_path / "db2", moment) == (-9, "")
        assert not list((tmp_path / "cold").rglob("manifest.json"))
    cold = SharedArtifacts(tmp_path / "db2", Place(s3))
    assert (cold.path(key).parent / "weights.bin").stat().st_size == 40 << 20
    cold.verify(key)
    assert not list((tmp_path / "cold").rglob(".incoming-*"))


def test_processes_may_send_the_same_at_once(
    store: SharedArtifacts, s3: str, model: Path, tmp_path: Path
) -> None:
    program = KILLED_WHILE_SENDING  # with more steps than there are
    command = [sys.executable, "-c", program, s3, str(model), str(tmp_path / "db2"), "1000"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    told = [process.communicate(timeout=120)[0].strip() for process in both]
    assert told == [put(store, model)] * 2
    assert len(objects(s3)) == 3
    store.verify(told[0])


def test_a_server_that_dies_while_it_is_sent_to_is_told(
    tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = ObjectServer(tmp_path / "server")
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    store = SharedArtifacts(tmp_path / "db", Place("s3://models/dies"))
    try:
        server.start()
        server.make_bucket()
        store.prepare()
        with pytest.raises(StorageError, match=r"could not write 'a'.*no answer"):
            _sent_to_one_that_dies(store, server)
    finally:
        server.stop()


def _sent_to_one_that_dies(store: SharedArtifacts, server: ObjectServer) -> None:
    with store._store.writing("a", 40 << 20) as send:
        for number in range(5):
            if number == 2:
                server.stop()
            send(bytes(8 << 20))


# ---- no network, no right


def test_without_a_network_what_was_fetched_goes_on_working(
    store: SharedArtifacts, s3: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = put(store, model)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    offline = SharedArtifacts(tmp_path / "db", Place(s3))
    assert offline.path(key).read_bytes() == b"graph"
    offline.verify(key)
    begun = time.monotonic()
    for ask in (partial(offline.path, f"sha256:{'0' * 64}"), partial(put, offline, model)):
        with pytest.raises(StorageError, match="there is no answer") as failure:
            ask()
        assert "models that were used before are on this machine" in str(failure.value)
        assert SECRET not in f"{failure.value}"
    assert time.monotonic() - begun < 60


def test_refusals_say_what_to_do_and_no_secret(
    object_server: ObjectServer,
    s3: str,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failure(address: str) -> str:
        with pytest.raises(StorageError) as error:
            SharedArtifacts(tmp_path / "db", Place(address)).prepare()
        assert SECRET not in str(error.value)
        assert READER_SECRET not in str(error.value)
        return str(error.value)

    assert "there is no such bucket" in failure("s3://no-such-bucket/models")
    for name, value in object_server.environment(secret="wrong-and-secret").items():
        monkeypatch.setenv(name, value)
    told = failure(s3)
    assert "it is not allowed" in told
    assert "wrong-and-secret" not in told
    for name, value in object_server.environment(READER, READER_SECRET).items():
        monkeypatch.setenv(name, value)
    assert "could not write 'sommelier-store.json'" in failure(s3)
    assert "it is not allowed" in failure(s3)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "there are no credentials for it" in failure(s3)


def test_who_may_only_read_uses_what_is_there(
    object_server: ObjectServer,
    store: SharedArtifacts,
    s3: str,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    key = put(store, model)
    for name, value in object_server.environment(READER, READER_SECRET).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SOMMELIER_CACHE", str(tmp_path / "cold"))
    reader = SharedArtifacts(tmp_path / "db2", Place(s3))
    reader.verify(key)
    assert put(reader, model) == key, "nothing is to be written for it"
    (model.parent / "model.onnx").write_bytes(b"another graph")
    with pytest.raises(StorageError, match="it is not allowed"):
        put(reader, model)


def test_what_was_removed_from_the_store_is_missed(
    store: SharedArtifacts, s3: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import s3fs

    key = put(store, model)
    fs = s3fs.S3FileSystem(skip_instance_cache=True)
    folder = f"{s3.removeprefix('s3://')}/{key[7:9]}/{key[9:]}"
    fs.rm_file(f"{folder}/weights.bin")
    monkeypatch.setenv("SOMMELIER_CACHE", str(tmp_path / "cold"))
    cold = SharedArtifacts(tmp_path / "db2", Place(s3))
    with pytest.raises(StorageError, match=r"weights\.bin.*: it is not there"):
        cold.path(key)
    fs.rm_file(f"{folder}/manifest.json")
    with pytest.raises(StorageError, match="there is no model file"):
        cold.path(key)
    assert not list((tmp_path / "cold").rglob("model.onnx"))
    put(store, model)
    fs.rm_file(f"{folder}/weights.bin")
    assert put(store, model) == key, "what is missing is sent again"
    cold.verify(key)


# ---- a web server


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """What lies in tmp_path/shared, on a web server that knows no ranges."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    (tmp_path / "shared").mkdir()
    handler = partial(Quiet, directory=str(tmp_path / "shared"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def test_a_web_server_is_a_store_to_read(
    web: str, model: Path, tmp_path: Path, own_cache: Path
) -> None:
    written = SharedArtifacts(tmp_path / "db", Place(f"file://{tmp_path}/shared"))
    reader = SharedArtifacts(tmp_path / "db2", Place(web))
    with pytest.raises(StorageError, match="there is no store of model files"):
        reader.prepare()
    written.prepare()
    reader.prepare()
    key = put(written, model)
    assert reader.path(key) != written.path(key)
    reader.verify(key)
    assert put(reader, model) == key
    (model.parent / "model.onnx").write_bytes(b"another graph")
    with pytest.raises(StorageError, match="can only be read"):
        put(reader, model)
    with pytest.raises(StorageError, match="there is no model file"):
        reader.path(f"sha256:{'0' * 64}")


# ---- addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("s3://bucket/models/", "s3://bucket/models"),
        ("s3a://bucket//models", "s3://bucket/models"),
        ("S3://bucket", "s3://bucket"),
        ("gcs://bucket/a", "gs://bucket/a"),
        ("file:///mnt/models/", "file:///mnt/models"),
        ("/mnt/models", "file:///mnt/models"),
        ("https://host:8000/models/", "https://host:8000/models"),
    ],
)
def test_a_store_has_one_spelling(text: str, address: str) -> None:
    assert place_of(text) == Place(address)


@pytest.mark.parametrize(
    "text",
    [
        "s3://", "", "s3:///", "simplecache::s3://bucket", "s3://key:pass-word@bucket/models",
        "https://host/models?X-Amz-Signature=pass-word", "https://me:pass-word@host/models",
    ],
)  # fmt: skip
def test_what_is_no_address_or_holds_a_secret_is_refused(text: str) -> None:
    with pytest.raises(StorageError) as failure:
        place_of(text)
    assert failure.value.hint
    assert "pass-word" not in str(failure.value)


def test_a_protocol_that_nobody_knows_is_said() -> None:
    with pytest.raises(StorageError, match="could not open the store 'nope://x'"):
        ObjectStore(Place("nope://x")).read("a")


@pytest.mark.parametrize(
    ("protocol", "blocked", "command"),
    [
        ("s3", "s3fs", "[s3]"),
        ("gs", "gcsfs", "[gs]"),
        ("https", "aiohttp", "[http]"),
        ("file", "fsspec", "[store]"),
    ],
)
def test_a_library_that_is_missing_is_named(protocol: str, blocked: str, command: str) -> None:
    program = """
import sys
from sommelier.errors import MissingDependencyError
from sommelier.storage.artifact_places import Place
from sommelier.storage.object_store import ObjectStore
sys.modules[sys.argv[2]] = None
try:
    ObjectStore(Place(f"{sys.argv[1]}://x")).read("a")
except MissingDependencyError as error:
    print(error, error.hint)
"""
    ended, told = python(program, protocol, blocked)
    assert ended == 0
    assert f"a store at {protocol}:// needs" in told
    assert f"pip install 'sommelier-db{command}'" in told


def test_a_message_of_another_library_is_freed_of_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "s3cr3t-token")
    told = without_secrets("s3cr3t-token refused by https://me:pw@host/a?X-Amz-Signature=1f")
    assert told == "*** refused by https://host/a"
