"""What is kept of the heads of requests: little, whatever clients send, and it is shared."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.runtime.server.asking import wait_until
from tests.runtime.server.test_lane import (
    FEATURES,
    Client,
    Running,
    clients,
    lane_of,
    post,
    read,
    running,
    service,
)

__all__ = ["running", "service"]  # fixtures

X = {"x": np.ones((1, FEATURES), np.float32)}


def lanes(running: Running) -> Any:
    connection = next(iter(running.server.connections))
    return connection._server.handler.lane.__self__._lanes  # type: ignore[attr-defined]


def traced(number: int) -> bytes:
    """A request whose head comes once."""
    return post("mlp", X, headers=f"traceparent: 00-{number:032x}-{number:016x}-01\r\n")


def test_lanes_are_few_whatever_clients_send(running: Running) -> None:
    with clients(running.port, 1) as (client,):
        for number in range(300):
            client.send(traced(number))
            assert client.answer()[0] == 200
        assert len(lanes(running)) == 1


def test_lanes_stay_though_others_send_heads_that_change(running: Running) -> None:
    request = post("mlp", X)
    with clients(running.port, 6) as (noisy, *those):
        for place, client in enumerate(those):
            client.send(request)
            client.answer()
            for number in range(100):
                noisy.send(traced(1_000 * place + number))
                noisy.answer()
        found = [lane_of(connection) for connection in running.server.connections]
        assert len({id(lane) for lane in found}) == 2
        with running.held():
            for client in those:
                client.send(request)
        for client in those:
            assert read(client.answer())[0]["parameters"]["sommelier_together"] == 5


def test_heads_are_forgotten_with_their_connections(running: Running) -> None:
    with clients(running.port, 3) as those:
        for number, client in enumerate(those):
            for again in range(3):
                client.send(traced(10 * number + again))
                client.answer()
        known = [c._known for c in running.server.connections if c._known is not None]
        assert len(known) == 3
        assert running.server.heads.used == sum(head.cost for head in known) > 0
    wait_until(lambda: not running.server.connections)
    assert running.server.heads.used == 0
    assert running.server.room.used == 0


def test_too_many_heads_are_not_known(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    large = post("mlp", X, headers="".join(f"x-{i}: {'v' * 300}\r\n" for i in range(80)))
    monkeypatch.setattr(running.server.heads, "limit", 200_000)
    with clients(running.port, 5) as those:
        for client in those:
            ask(client, large)
        known = [c for c in running.server.connections if c._known is not None]
        assert len(known) == 2
        assert running.server.heads.used <= 200_000
        assert not any(c._headers for c in running.server.connections)
        for client in those:  # they are answered as well
            ask(client, large)
        ask(those[-1], post("mlp", X))
        assert sum(c._known is not None for c in running.server.connections) == 3


def ask(client: Client, request: bytes) -> None:
    client.send(request)
    assert client.answer()[0] == 200
