"""Downloads over real HTTP on loopback: what servers and networks do wrong, and what is kept."""

from __future__ import annotations

import base64
import errno
import hashlib
import os
import re
import resource
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path

import pytest

from sommelier.connectors.contents import note
from sommelier.connectors.downloads import DownloadLimits, disk_error, download, placed
from sommelier.connectors.parts import LEFT_SECONDS
from sommelier.connectors.web import UnreachableError, read, read_json, read_range, shown
from sommelier.errors import ConnectorError
from sommelier.storage.cache import cache_folder
from tests.connectors.loopback import Page, Request, Server, redirect, serving

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


@pytest.mark.parametrize("answer", ["another ETag", "another length"])
def test_a_server_that_goes_on_with_another_revision_is_asked_for_all_of_it(
    server: Server, answer: str
) -> None:
    new = b"n" * (len(BODY) + (answer == "another length"))

    def changed(request: Request) -> Page:
        if "range" not in request.headers:
            return Page(new, etag='"2"')
        start = int(request.headers["range"].removeprefix("bytes=").removesuffix("-"))
        extent = {"Content-Range": f"bytes {start}-{len(new) - 1}/{len(new)}"}
        return Page(new[start:], 206, extent, '"2"' if answer == "another ETag" else None)

    pages = iter([Page(BODY, etag='"1"', cut=1_500_000)])
    server.routes["/model.onnx"] = lambda request: next(pages, None) or changed(request)
    assert download(f"{server.url}/model.onnx").read_bytes() == new


def test_a_server_that_sends_less_than_the_rest_is_asked_for_what_is_missing(
    server: Server,
) -> None:
    def slice_of(request: Request) -> Page:
        start = int(request.headers["range"].removeprefix("bytes=").removesuffix("-"))
        end = min(start + 300_000, len(BODY))
        extent = {"Content-Range": f"bytes {start}-{end - 1}/{len(BODY)}"}
        return Page(BODY[start:end], 206, extent, '"1"')

    pages = iter([Page(BODY, etag='"1"', cut=1_500_000)])
    server.routes["/model.onnx"] = lambda request: next(pages, None) or slice_of(request)
    assert download(f"{server.url}/model.onnx").read_bytes() == BODY


def test_a_body_whose_end_nobody_tells_is_asked_for_again(server: Server) -> None:
    endless = Page(BODY, etag='"1"', claim="unknown")
    server.routes["/model.onnx"] = Page(
        BODY, etag='"1"', claim="unknown", cut=7, times=1, then=endless
    )
    url = f"{server.url}/model.onnx"
    assert download(url).read_bytes() == BODY[:7]  # which looks whole
    assert download(url).read_bytes() == BODY


def test_what_a_listener_to_progress_raises_is_no_fault_of_the_disk(server: Server) -> None:
    def closed(what: str, done: int, total: int | None) -> None:
        raise BrokenPipeError(errno.EPIPE, "nobody listens")

    with pytest.raises(BrokenPipeError, match="nobody listens"):
        download(f"{server.url}/model.onnx", progress=closed)
    assert download(f"{server.url}/model.onnx").read_bytes() == BODY


def test_a_newer_revision_goes_on_where_it_was_although_an_older_one_is_kept(
    server: Server,
) -> None:
    url = f"{server.url}/model.onnx"
    server.routes["/model.onnx"] = Page(b"older", etag='"0"')
    download(url)
    whole = Page(BODY, etag='"1"')
    server.routes["/model.onnx"] = Page(BODY, etag='"1"', cut=1_500_000, times=1, then=whole)
    assert download(url).read_bytes() == BODY
    assert server.requests[2].headers["range"] == "bytes=1500000-"


def test_a_link_that_breaks_again_and_again_is_used_as_long_as_it_brings_something(
    server: Server,
) -> None:
    server.routes["/model.onnx"] = Page(BODY, etag='"1"', cut=500_000)
    assert download(f"{server.url}/model.onnx", sha256=SHA).read_bytes() == BODY
    assert len(server.requests) == -(-len(BODY) // 500_000)


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


def test_a_time_to_wait_for_may_be_a_date(server: Server) -> None:
    past = {"Retry-After": formatdate(time.time() - 60, usegmt=True)}
    server.routes["/model.onnx"] = Page(status=503, headers=past, times=1, then=Page(BODY))
    assert download(f"{server.url}/model.onnx").read_bytes() == BODY
    later = {"Retry-After": formatdate(time.time() + 3600, usegmt=True)}
    server.routes["/model.onnx"] = Page(status=503, headers=later)
    with pytest.raises(ConnectorError, match="503") as caught:
        download(f"{server.url}/model.onnx")
    assert re.fullmatch(r"try again in 3[56]\d\d s", str(caught.value.hint))
    assert len(server.requests) == 3


def test_a_403_of_a_server_that_counts_requests_says_when_it_answers_again(server: Server) -> None:
    counted = {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": f"{time.time() + 1800:.0f}"}
    server.routes["/model.onnx"] = Page(status=403, headers=counted)
    with pytest.raises(ConnectorError, match="answers no more requests for now") as caught:
        download(f"{server.url}/model.onnx")
    assert re.match(r"try again in 1[78]\d\d s; a token", str(caught.value.hint))
    server.routes["/model.onnx"] = Page(
        status=403, headers=counted | {"X-RateLimit-Remaining": "9"}
    )
    with pytest.raises(ConnectorError, match="refuses us"):
        download(f"{server.url}/model.onnx")


def test_a_wait_beyond_our_patience_is_told_at_once(server: Server) -> None:
    server.routes["/model.onnx"] = Page(status=429, headers={"Retry-After": "3600"})
    with pytest.raises(ConnectorError, match="429") as caught:
        download(f"{server.url}/model.onnx")
    assert caught.value.hint == "try again in 3600 s"
    assert len(server.requests) == 1


def test_a_claim_of_3_gb_is_refused_by_the_header_alone(server: Server, cache: Path) -> None:
    server.routes["/model.onnx"] = Page(b"little", claim=3 * 10**9)
    with pytest.raises(ConnectorError, match="says it has 3 GB, the limit is 1 GB"):
        download(f"{server.url}/model.onnx", limits=DownloadLimits(bytes=10**9))
    assert files(cache) == []


def test_what_never_says_its_length_is_cut_off_at_the_limit(server: Server, cache: Path) -> None:
    server.routes["/model.onnx"] = Page(BODY, chunked=True)
    with pytest.raises(ConnectorError, match=r"sends at least 1.* MB, the limit is 1 MB"):
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


def test_a_name_and_password_in_an_address_log_in_there_and_nowhere_else(server: Server) -> None:
    server.routes["/a"] = redirect(f"{server.url.replace('127.0.0.1', 'localhost')}/model.onnx")
    download(f"{server.url.replace('//', '//me:p%40ss@')}/a")
    login = f"Basic {base64.b64encode(b'me:p@ss').decode()}"
    assert [r.headers.get("authorization") for r in server.requests] == [login, None]
    with pytest.raises(ConnectorError) as caught:
        download(f"{server.url.replace('//', '//me:verysecret@')}/gone")
    assert "verysecret" not in str(caught.value)


@pytest.mark.parametrize(
    "near", ["127.0.0.1", "[::ffff:10.0.0.1]", "169.254.169.254", "2130706433"]
)
def test_the_internet_leads_to_nothing_of_our_own_network(
    server: Server, monkeypatch: pytest.MonkeyPatch, near: str
) -> None:
    monkeypatch.setenv("http_proxy", server.url)  # asked for any host, on loopback itself
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    server.routes["/far"] = redirect(f"http://{near}/model.onnx")
    with pytest.raises(ConnectorError, match=r"http://1\.1\.1\.1/far leads into a private network"):
        download("http://1.1.1.1/far")
    assert len(server.requests) == 1
    server.routes["/far"] = redirect("http://8.8.8.8/model.onnx")
    assert download("http://1.1.1.1/far").read_bytes() == BODY
    server.routes["/near"] = redirect(f"http://{near}/model.onnx")
    assert download("http://127.0.0.2/near").read_bytes() == BODY


def test_a_redirect_to_other_letters_than_ascii_is_followed(server: Server) -> None:
    server.routes["/moved"] = redirect("/mod\xe8le")
    server.routes["/mod%E8le"] = Page(BODY)
    assert download(f"{server.url}/moved").read_bytes() == BODY


def test_an_address_that_cannot_be_sent_is_not_taken_for_a_server_that_is_gone(
    server: Server,
) -> None:
    with pytest.raises(ConnectorError, match="no address that can be asked") as caught:
        download(f"{server.url}/mod\xe8le")
    assert not isinstance(caught.value, UnreachableError)


def test_a_redirect_loop_ends_after_five(server: Server) -> None:
    server.routes |= {"/a": redirect("/b"), "/b": redirect("/a")}
    with pytest.raises(ConnectorError, match="more than 5 times"):
        download(f"{server.url}/a")
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    "target",
    ["file:///etc/passwd", "ftp://host/x", "gopher://x", "data:,x", "http://[", "http://h:x/",
     "http://h:99999/"],
)  # fmt: skip
def test_a_redirect_to_what_is_no_address_of_http_is_refused(server: Server, target: str) -> None:
    server.routes["/a"] = redirect(target)
    with pytest.raises(ConnectorError, match=r"no http or https address.*redirected from"):
        download(f"{server.url}/a")


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "/etc/passwd", "http://", "ftp://host/x", "http://["]
)
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


@pytest.mark.parametrize("sha256", [None, hashlib.sha256(b"good").hexdigest()])
@pytest.mark.parametrize("kept", [None, b"evil"])
def test_not_modified_is_no_answer_to_a_request_without_a_condition(
    server: Server, kept: bytes | None, sha256: str | None
) -> None:
    url = f"{server.url}/model.onnx"
    if kept is not None:
        server.routes["/model.onnx"] = Page(kept)  # no ETag
        download(url)
    server.routes["/model.onnx"] = Page(status=304)
    with pytest.raises(ConnectorError, match="304"):
        download(url, sha256=sha256)


def test_a_kept_file_is_measured_against_the_limit_too(server: Server) -> None:
    url = f"{server.url}/model.onnx"
    download(url)
    for sha256 in (None, SHA):
        with pytest.raises(ConnectorError, match=r"has 2\.1 MB, the limit is 10 B"):
            download(url, sha256=sha256, limits=DownloadLimits(bytes=10))


def test_a_length_that_is_no_number_is_as_good_as_none(server: Server) -> None:
    server.routes["/model.onnx"] = Page(BODY, claim="\u00b2")
    assert download(f"{server.url}/model.onnx").read_bytes() == BODY
    assert read(f"{server.url}/model.onnx") == BODY


def test_a_small_answer_that_is_shorter_than_it_says_is_refused(server: Server) -> None:
    server.routes["/short"] = Page(b"x" * 46, claim=5000)
    with pytest.raises(ConnectorError, match="46 of 5000 bytes came"):
        read(f"{server.url}/short")
    with pytest.raises(ConnectorError, match="46 of 5000 bytes came"):
        read_range(f"{server.url}/short", 0, 100)
    assert read_range(f"{server.url}/short", 0, 46) == b"x" * 46


def test_secrets_of_an_address_are_kept_nowhere_and_facts_are_for_the_user_alone(
    server: Server, cache: Path
) -> None:
    server.routes["/model.onnx"] = Page(BODY, etag='"1"', times=1, then=Page(BODY, etag='"1"'))
    url = f"{server.url}/model.onnx?X-Amz-Signature=verysecret"
    assert download(url) == download(url)
    assert server.requests[1].headers["if-none-match"] == '"1"'
    for path in cache.rglob("*"):
        assert "verysecret" not in path.name
        assert path.is_dir() or b"verysecret" not in path.read_bytes()
    kept = [path for path in cache.rglob("model.onnx*") if path.is_file()]
    assert len(kept) == 2
    assert {stat.S_IMODE(path.stat().st_mode) for path in kept} == {0o600}


@pytest.mark.parametrize(
    "url",
    ["https://me:verysecret@h/a?b=verysecret", "http://me:verysecret@[/a?b=verysecret#verysecret"],
)
def test_an_address_is_shown_without_its_secrets(url: str) -> None:
    assert "verysecret" not in shown(url)
    assert shown(url).startswith("http")


@contextmanager
def files_of_at_most(count: int) -> Iterator[None]:
    """The kernel lets this process write no file of more bytes, as a disk that is full does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_the_disk_does_not_take_is_told_with_the_place(server: Server, cache: Path) -> None:
    url = f"{server.url}/model.onnx"
    with files_of_at_most(10**6), pytest.raises(ConnectorError, match=re.escape(str(cache))) as e:
        download(url)
    assert "SOMMELIER_CACHE" in str(e.value.hint)
    kept = download(url)
    with files_of_at_most(10**6), pytest.raises(ConnectorError, match=re.escape(str(cache))):
        placed(kept, cache / "models" / "model.onnx")
    assert list((cache / "models").iterdir()) == []


def test_a_cache_that_is_no_folder_is_told(server: Server, cache: Path) -> None:
    cache.write_bytes(b"a file")
    with pytest.raises(ConnectorError, match="nothing can be kept") as caught:
        download(f"{server.url}/model.onnx")
    assert "SOMMELIER_CACHE" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "no room left in /kept"),
        (errno.EDQUOT, "no room left in /kept"),
        (errno.EFBIG, "of /kept holds no file of that size"),
        (errno.EACCES, "/kept cannot be written to"),
        (errno.EROFS, "/kept cannot be written to"),
        (errno.EIO, "nothing can be kept in /kept"),
    ],
)
def test_every_error_of_a_disk_names_the_place_and_the_way_out(number: int, said: str) -> None:
    error = disk_error(OSError(number, os.strerror(number), "/kept/model.onnx"), Path("/kept"))
    assert said in error.message
    assert "SOMMELIER_CACHE" in str(error.hint)


def test_threads_may_place_the_same_file_at_once(tmp_path: Path) -> None:
    kept, target = tmp_path / "kept.onnx", tmp_path / "there" / "model.onnx"
    kept.write_bytes(BODY)
    together = threading.Barrier(8)

    def place(_: int) -> Path:
        together.wait()
        return placed(kept, target)

    for _ in range(5):
        target.unlink(missing_ok=True)
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(place, range(8))) == {target}
    assert list(target.parent.iterdir()) == [target]
    assert target.read_bytes() == BODY


def test_what_killed_processes_left_is_swept_after_a_day_and_nothing_else(tmp_path: Path) -> None:
    old, new, other = (tmp_path / name for name in (".part-old", ".part-new", "models"))
    for folder in (old, new, other):
        (folder / "all").mkdir(parents=True)
    for folder in (old, other):
        os.utime(folder, (time.time() - 2 * LEFT_SECONDS,) * 2)
    (tmp_path / "kept").write_bytes(b"x")
    placed(tmp_path / "kept", tmp_path / "there")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".part-new", "kept", "models", "there",
    ]  # fmt: skip


def test_threads_may_note_the_same_at_once(tmp_path: Path) -> None:
    together = threading.Barrier(8)
    target = tmp_path / "notes" / "one"

    def write(_: int) -> None:
        together.wait()
        note(target, "said")

    for _ in range(5):
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(write, range(8)))
    assert list(target.parent.iterdir()) == [target]
    assert target.read_text() == "said"
