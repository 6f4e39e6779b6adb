"""Downloads over real HTTP on loopback: what servers and networks do wrong, and what is kept."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sommelier.connectors.downloads import DownloadLimits, download
from sommelier.connectors.web import read, read_json, read_range
from sommelier.errors import ConnectorError
from sommelier.storage.cache import cache_folder
from tests.connectors.loopback import Page, Server, redirect, serving

BODY = bytes(range(256)) * 8192  # 2 MiB: two chunks
SHA = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SOMMELIER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving({"/model.onnx": Page(BODY, etag='"1"')}) as running:
        yield running


def files(cache: Path) -> list[str]:
    return sorted(p.name for p in cache.rglob("*") if p.is_file() and p.name != "writer.lock")


def test_a_file_arrives_whole_under_its_name_and_progress_counts_its_bytes(server: Server) -> None:
    calls: list[tuple[str, int, int | None]] = []
    path = download(
        f"{server.url}/model.onnx", progress=lambda what, n, total: calls.append((what, n, total))
    )
    assert path.name == "model.onnx"
    assert path.is_relative_to(cache_folder() / "downloads")
    assert path.read_bytes() == BODY
    assert calls[-1] == ("model.onnx", len(BODY), len(BODY))
    assert [n for _, n, _ in calls] == sorted(n for _, n, _ in calls)


def test_the_second_time_only_the_etag_is_compared(server: Server) -> None:
    url = f"{server.url}/model.onnx"
    first = download(url)
    assert download(url) == first
    assert server.requests[1].headers["if-none-match"] == '"1"'
    server.routes["/model.onnx"] = Page(b"new", etag='"2"')
    assert download(url).read_bytes() == b"new"


def test_a_file_of_a_known_hash_is_not_asked_for_again(server: Server) -> None:
    url = f"{server.url}/model.onnx"
    assert download(url, sha256=SHA) == download(url, sha256=SHA.upper())
    assert len(server.requests) == 1


def test_a_damaged_copy_in_the_cache_is_fetched_again(server: Server) -> None:
    url = f"{server.url}/model.onnx"
    download(url, sha256=SHA).write_bytes(b"bit rot")
    assert download(url, sha256=SHA).read_bytes() == BODY


def test_the_copy_serves_when_the_server_is_gone() -> None:
    with serving({"/m": Page(BODY, etag='"1"')}) as server:
        url = f"{server.url}/m"
        download(url)
    assert download(url).read_bytes() == BODY
    with pytest.raises(ConnectorError, match="cannot be reached"):
        download(url, sha256="0" * 64)  # the copy is not what is wanted


def test_a_transfer_that_breaks_off_goes_on_where_it_was(server: Server) -> None:
    whole = Page(BODY, etag='"1"')
    server.routes["/model.onnx"] = Page(BODY, etag='"1"', cut=1_500_000, times=1, then=whole)
    assert download(f"{server.url}/model.onnx", sha256=SHA).read_bytes() == BODY
    assert server.requests[1].headers["range"] == "bytes=1500000-"
    assert server.requests[1].headers["if-range"] == '"1"'


def test_a_part_of_another_revision_is_not_gone_on_with(server: Server, cache: Path) -> None:
    url = f"{server.url}/model.onnx"
    server.routes["/model.onnx"] = Page(b"x" * len(BODY), etag='"0"', cut=1000)
    with pytest.raises(ConnectorError, match="broke off 3 times"):
        download(url)
    assert "model.onnx.part" in files(cache)
    server.routes["/model.onnx"] = Page(BODY, etag='"1"')
    assert download(url).read_bytes() == BODY
    assert files(cache) == ["model.onnx", "model.onnx.json"]


def test_a_server_that_ignores_ranges_sends_all_again(server: Server) -> None:
    whole = Page(BODY, etag='"1"', ranges=False)
    server.routes["/model.onnx"] = Page(BODY, etag='"1"', cut=1_500_000, times=1, then=whole)
    assert download(f"{server.url}/model.onnx", sha256=SHA).read_bytes() == BODY


def test_a_server_that_always_breaks_off_is_given_up_and_says_how_far_it_came(
    server: Server,
) -> None:
    server.routes["/model.onnx"] = Page(BODY, cut=1000)
    with pytest.raises(ConnectorError, match=f"1000 of {len(BODY)} bytes came") as caught:
        download(f"{server.url}/model.onnx")
    assert "run it again" in str(caught.value.hint)
    assert len(server.requests) == 3


def test_a_wrong_hash_is_refused_and_nothing_of_it_is_kept(server: Server, cache: Path) -> None:
    with pytest.raises(ConnectorError, match=f"sha256 {SHA}, expected 0000"):
        download(f"{server.url}/model.onnx", sha256="0" * 64)
    assert files(cache) == []


@pytest.mark.parametrize("status", [401, 403, 404, 410, 500])
def test_a_refusal_says_what_was_asked_what_came_and_what_to_do(
    server: Server, status: int
) -> None:
    server.routes["/model.onnx"] = Page(status=status)
    with pytest.raises(ConnectorError, match=rf"{server.url}/model\.onnx.*{status}") as caught:
        download(f"{server.url}/model.onnx?secret=1")
    assert caught.value.hint
    assert "secret" not in str(caught.value)


def test_a_busy_server_is_asked_again_after_the_time_it_names(server: Server) -> None:
    busy = Page(status=429, headers={"Retry-After": "0"}, times=2, then=Page(BODY))
    server.routes["/model.onnx"] = busy
    assert download(f"{server.url}/model.onnx").read_bytes() == BODY
    assert len(server.requests) == 3


def test_a_wait_beyond_our_patience_is_told_at_once(server: Server) -> None:
    server.routes["/model.onnx"] = Page(status=429, headers={"Retry-After": "3600"})
    with pytest.raises(ConnectorError, match="429") as caught:
        download(f"{server.url}/model.onnx")
    assert caught.value.hint == "try again in 3600 s"
    assert len(server.requests) == 1


def test_a_claim_of_3_gb_is_refused_by_the_header_alone(server: Server, cache: Path) -> None:
    server.routes["/model.onnx"] = Page(b"little", claim=3 * 10**9)
    with pytest.raises(ConnectorError, match="says it has 3 GB or more, the limit is 1 GB"):
        download(f"{server.url}/model.onnx", limits=DownloadLimits(bytes=10**9))
    assert files(cache) == []


def test_what_never_says_its_length_is_cut_off_at_the_limit(server: Server, cache: Path) -> None:
    server.routes["/model.onnx"] = Page(BODY, chunked=True)
    with pytest.raises(ConnectorError, match=r"sends 1.* MB or more, the limit is 1 MB"):
        download(f"{server.url}/model.onnx", limits=DownloadLimits(bytes=10**6))
    assert files(cache) == []
    assert download(f"{server.url}/model.onnx", sha256=SHA).read_bytes() == BODY


def test_a_chunked_transfer_that_breaks_off_is_noticed(server: Server) -> None:
    server.routes["/model.onnx"] = Page(BODY, chunked=True, cut=100_000)
    with pytest.raises(ConnectorError, match="broke off 3 times"):
        download(f"{server.url}/model.onnx")


def test_a_redirect_is_followed_and_secrets_stay_with_their_host(server: Server) -> None:
    other = server.url.replace("127.0.0.1", "localhost")
    server.routes |= {"/a": redirect("/b", 307), "/b": redirect(f"{other}/model.onnx", 308)}
    download(f"{server.url}/a", headers={"Authorization": "Bearer s", "X-Kind": "k"})
    assert [r.headers.get("authorization") for r in server.requests] == ["Bearer s"] * 2 + [None]
    assert {r.headers["x-kind"] for r in server.requests} == {"k"}


def test_a_redirect_loop_ends_after_five(server: Server) -> None:
    server.routes |= {"/a": redirect("/b"), "/b": redirect("/a")}
    with pytest.raises(ConnectorError, match="more than 5 times"):
        download(f"{server.url}/a")
    assert len(server.requests) == 6


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://host/x", "gopher://x", "data:,x"])
def test_a_redirect_to_another_scheme_is_refused(server: Server, target: str) -> None:
    server.routes["/a"] = redirect(target)
    with pytest.raises(ConnectorError, match=r"no http or https address.*redirected from"):
        download(f"{server.url}/a")


@pytest.mark.parametrize("url", ["file:///etc/passwd", "/etc/passwd", "http://", "ftp://host/x"])
def test_only_http_is_spoken(url: str) -> None:
    with pytest.raises(ConnectorError, match="no http or https address"):
        download(url)


def test_a_slow_server_meets_the_limit_of_time(server: Server) -> None:
    with pytest.raises(ConnectorError, match="took more than"):
        download(f"{server.url}/model.onnx", limits=DownloadLimits(seconds=0))


@pytest.mark.parametrize("name", ["%2e%2e%2fescape", "..", "a%00b", "writer.lock", "x" * 300])
def test_no_address_names_a_file_outside_of_its_folder(
    server: Server, cache: Path, name: str
) -> None:
    server.routes["/"] = Page(b"content")
    path = download(f"{server.url}/{name}")
    assert path.read_bytes() == b"content"
    assert path.resolve().is_relative_to(cache / "downloads")
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,100}", path.name)


def test_small_answers_are_read_whole_or_not_at_all(server: Server) -> None:
    server.routes |= {"/j": Page.of_json({"a": [1]}), "/html": Page(b"<html>")}
    assert read_json(f"{server.url}/j") == {"a": [1]}
    with pytest.raises(ConnectorError, match="more than 1 MB"):
        read(f"{server.url}/model.onnx", limit=10**6)
    with pytest.raises(ConnectorError, match="does not answer with JSON"):
        read_json(f"{server.url}/html")


@pytest.mark.parametrize("ranges", [True, False])
def test_the_beginning_of_a_file_is_read_without_the_rest(server: Server, ranges: bool) -> None:
    server.routes["/model.onnx"] = Page(BODY, ranges=ranges)
    assert read_range(f"{server.url}/model.onnx", 0, 100) == BODY[:100]
    if ranges:
        assert read_range(f"{server.url}/model.onnx", 50, 10) == BODY[50:60]
        assert read_range(f"{server.url}/model.onnx", len(BODY), 10) == b""
    else:
        with pytest.raises(ConnectorError, match="cannot be read in parts"):
            read_range(f"{server.url}/model.onnx", 50, 10)
