"""What a replica of Ray Serve makes of HTTP requests; it takes neither Ray nor starlette."""

from __future__ import annotations

import asyncio
import gzip
import json
import pickle
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sommelier.connection.scale_out import ray_application
from sommelier.errors import StorageError
from sommelier.runtime import ray_serve
from sommelier.runtime.pool import ModelPool
from sommelier.runtime.ray_serve import Replica, Scale
from sommelier.runtime.server.http_messages import HttpResponse, Limits
from sommelier.runtime.server.keys import keys_of
from sommelier.runtime.server.protocol import ProtocolError
from sommelier.runtime.server.served import single_model
from sommelier.runtime.server.service import ModelService
from sommelier.runtime.session_cache import ServedModel
from tests.runtime.server.asking import ready

INFER = "/v2/models/mlp/infer"
X = np.arange(8, dtype=np.float32).reshape(2, 4)
ASKED = {"name": "x", "shape": [2, 4], "datatype": "FP32", "data": X.ravel().tolist()}
BODY = json.dumps({"inputs": [ASKED]}).encode()
GONE = {"type": "http.disconnect"}


@dataclass
class Asked:
    """A request as Ray Serve hands it over. pieces : of its body; then its client says nothing."""

    path: str
    pieces: list[bytes | dict[str, Any]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    method: str = "POST"
    root_path: str = ""
    ends: bool = True

    @property
    def scope(self) -> dict[str, Any]:
        headers = [(name.lower().encode(), value.encode()) for name, value in self.headers.items()]
        raw = self.path.encode()
        return {"raw_path": raw, "root_path": self.root_path, "headers": headers}

    async def receive(self) -> dict[str, Any]:
        if not self.pieces:
            if self.ends:
                return {"type": "http.request", "body": b"", "more_body": False}
            await asyncio.sleep(60.0)
        piece = self.pieces.pop(0)
        if isinstance(piece, dict):
            return piece
        more = bool(self.pieces) or not self.ends
        return {"type": "http.request", "body": piece, "more_body": more}


Start = Callable[[], Any]


@pytest.fixture
def start(pool: ModelPool, files: dict[str, Path]) -> Start:
    return partial(_served, pool, files["mlp"])


@contextmanager
def _served(pool: ModelPool, file: Path) -> Iterator[ModelService]:
    with single_model(ServedModel.of_file(file, "mlp"), pool) as running:
        yield ready(ModelService(pool, [running]))


def _ask(replica: Replica, *requests: Asked) -> list[HttpResponse]:
    """Its answers, one request after the other."""

    async def ask() -> list[HttpResponse]:
        return [await _answer(replica)(request) for request in requests]

    return asyncio.run(ask())


def _answer(replica: Replica) -> Callable[[Any], Awaitable[HttpResponse]]:
    return replica._answer


# ---- bodies


def test_a_body_that_is_too_large_by_its_length_is_refused_before_it_is_read(start: Start) -> None:
    replica = Replica(start, 5.0, limits=Limits(body=1000))
    unread = Asked(INFER, [b"x"], {"Content-Length": "1001"})
    (said,) = _ask(replica, unread)
    assert said.status == 413
    assert json.loads(said.body)["error"] == "a body of 1001 bytes; at most 1000 are taken"
    assert unread.pieces == [b"x"]


def test_a_body_without_a_length_is_read_up_to_the_limit(start: Start) -> None:
    replica = Replica(start, 5.0, limits=Limits(body=1000))
    endless = Asked(INFER, [b"x" * 400] * 9)
    said, fits = _ask(replica, endless, Asked(INFER, [BODY[:50], BODY[50:]]))
    assert said.status == 413
    assert json.loads(said.body)["error"] == "a body of more than 1000 bytes"
    assert len(endless.pieces) == 6
    assert fits.status == 200, "the room of the body that was refused was given back"
    assert replica._room.used == 0


def test_the_bodies_of_all_requests_have_a_limit_together(start: Start) -> None:
    replica = Replica(start, 5.0, limits=Limits(body=1000, buffered=1500, body_s=0.5))

    async def ask() -> list[HttpResponse]:
        held = [Asked(INFER, [b"x" * 800], ends=False) for _ in range(2)]
        return await asyncio.gather(*map(_answer(replica), held))

    first, second = asyncio.run(ask())
    assert (first.status, second.status) == (408, 503), "one did not come, the other had no room"
    assert replica._room.used == 0


def test_a_client_that_goes_away_while_its_body_is_read_is_no_error(start: Start) -> None:
    replica = Replica(start, 5.0)
    (said,) = _ask(replica, Asked(INFER, [b"{", GONE]))
    assert said.status == 499
    assert replica._room.used == 0


def test_answers_are_those_of_the_plain_server(start: Start) -> None:
    replica = Replica(start, 5.0)
    zipped = gzip.compress(BODY)
    head = json.dumps({"inputs": [ASKED | {"parameters": {"binary_data_size": 32}}]}).encode()
    head = head.replace(json.dumps(ASKED["data"]).encode(), b"null")
    length = {"Inference-Header-Content-Length": str(len(head))}
    plain, packed, binary, twice, ready_, metadata, unknown, other = _ask(
        replica,
        Asked(INFER, [BODY]),
        Asked(INFER, [zipped], {"Content-Encoding": "gzip"}),
        Asked(INFER, [head, X.tobytes()], length),
        Asked(INFER, [BODY], {"Inference-Header-Content-Length": "999999"}),
        Asked("/v2/health/ready", method="GET"),
        Asked("/v2/models/mlp", method="GET"),
        Asked("/v2/models/m%6Cq", method="GET"),
        Asked(INFER, method="GET"),
    )
    outputs = [json.loads(said.body)["outputs"] for said in (plain, packed, binary)]
    assert outputs[0] == outputs[1] == outputs[2]
    assert (twice.status, unknown.status, other.status) == (400, 404, 405)
    assert "did you mean 'mlp'?" in json.loads(unknown.body)["error"]
    assert json.loads(ready_.body) == {"ready": True, "live": True}
    assert json.loads(metadata.body)["inputs"][0]["name"] == "x"


def test_the_prefix_of_an_application_is_not_part_of_the_path(start: Start) -> None:
    replica = Replica(start, 5.0)
    prefixed = Asked(f"/my%20vision{INFER}", [BODY], root_path="/my vision")
    (said,) = _ask(replica, prefixed)
    assert said.status == 200, said.body


# ---- keys


def test_requests_need_a_key_where_there_are_keys(start: Start, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("\ufeff# first\n  #spaced\n\n  mine \nother\n", encoding="utf-8")
    replica = Replica(start, 5.0, keys, Limits(body=1000))
    unread = Asked(INFER, [BODY])
    none, wrong, commented, large, *good = _ask(
        replica,
        unread,
        Asked(INFER, [BODY], {"Authorization": "Bearer min"}),
        Asked(INFER, [BODY], {"X-API-Key": "# first"}),
        Asked(INFER, [BODY], {"Content-Length": "2000"}),
        Asked(INFER, [BODY], {"Authorization": "Bearer mine"}),
        Asked(INFER, [BODY], {"X-API-Key": "other"}),
        Asked("/v2/health/live", method="GET"),
    )
    assert [said.status for said in (none, wrong, commented, large)] == [401, 401, 401, 413]
    assert dict(none.headers)[b"www-authenticate"] == b"Bearer"
    assert unread.pieces == [BODY], "refused before it is read"
    assert [said.status for said in good] == [200, 200, 200]


def test_without_keys_that_were_asked_for_nothing_is_served(tmp_path: Path) -> None:
    def start() -> Any:
        raise AssertionError("it is not to be started")

    keys = tmp_path / "keys"
    with pytest.raises(StorageError, match=r"cannot read the keys of .*keys"):
        Replica(start, 5.0, keys)
    keys.write_text("#all\n  # of them\n")
    with pytest.raises(StorageError, match="has no keys"):
        Replica(start, 5.0, keys)
    keys.write_text("\ufeffa\n\tb#c\r\n", encoding="utf-8")
    assert keys_of(keys) == {"a", "b#c"}


class _Ray:
    """`ray.serve`, as far as an application is made with it."""

    def __init__(self) -> None:
        self.options_given: dict[str, Any] = {}

    def deployment(self, _: object) -> _Ray:
        return self

    def options(self, **given: Any) -> _Ray:
        self.options_given = given
        return self

    def bind(self, *arguments: object) -> tuple[object, ...]:
        return arguments


def test_ray_is_told_where_keys_are_and_no_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ray = _Ray()
    monkeypatch.setattr(ray_serve, "_serve", lambda: ray)
    monkeypatch.chdir(tmp_path)
    Path("keys").write_text("very-secret")
    scale = Scale(drain_s=7.0, limits=Limits(body=1000))
    bound = ray_application("zoo.sommelier", ["vision"], scale, api_key_file="keys")
    assert bound[1:] == (7.0, tmp_path / "keys", scale.limits)
    told = pickle.dumps((bound, ray.options_given))
    assert b"keys" in told
    assert b"very-secret" not in told
    assert ray.options_given["graceful_shutdown_timeout_s"] > 7.0 + 10.0, "figures take time too"


def test_a_refusal_reaches_who_called_a_handle_as_it_was() -> None:
    """Ray sends errors between processes."""
    refused = ProtocolError(429, "too much to do", retry_after_ms=7.0)
    got = pickle.loads(pickle.dumps(refused))
    assert (got.status, got.message, got.retry_after_ms) == (429, "too much to do", 7.0)
