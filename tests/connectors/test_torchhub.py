"""PyTorch Hub: fetched over HTTP once, from the repository itself, run only when it is trusted."""

from __future__ import annotations

import io
import re
import shutil
import stat
import sys
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from sommelier.connectors import hub_repositories
from sommelier.connectors.base import Listing
from sommelier.connectors.bindings import Entry
from sommelier.connectors.hub_repositories import authorization
from sommelier.connectors.hubconf import read_hubconf
from sommelier.connectors.torchhub import TorchHubConnector
from sommelier.connectors.web import NothingThereError
from sommelier.errors import ConnectorError, RejectedModelError
from sommelier.records import Artifact, Rejection
from tests.connectors.hub import write_repository, zipball
from tests.connectors.loopback import Page, Request, Route, serving

NET = "class Net:\n    def __init__(self, width=5):\n        pass\n"
TAG = "/owner/toy/zipball/refs/tags/v1"
MAIN = "/owner/toy/zipball/refs/heads/main"
API = "/api/v3/repos/owner/toy"
SHA = "0123456789" * 4
ENTRIES = ["alias", "old", "small", "starred", "tiny", "wide"]


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("SOMMELIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GITHUB_TOKEN", raising=False)
    return write_repository(tmp_path / "toy", tmp_path / "executed", NET)


def fetch(*locations: str, **options: object) -> list[Artifact | Rejection]:
    return list(TorchHubConnector().fetch(locations, options=options))


def reason(*locations: str, **options: object) -> str:
    (item,) = fetch(*locations, **options)
    assert isinstance(item, Rejection), item
    return item.reason


def test_a_repository_is_listed_and_catalogued_without_running_it(
    repository: Path, tmp_path: Path
) -> None:
    offered = TorchHubConnector().list((str(repository),), options={})
    listed = [item.name for item in offered if isinstance(item, Listing)]
    found = fetch(str(repository), weights="DEFAULT", trust=True)
    assert sorted(listed) == ENTRIES
    assert [i.revision for i in found if isinstance(i, Artifact)]
    assert not (tmp_path / "executed").exists()
    assert not list(repository.rglob("__pycache__"))


def test_an_entry_tells_its_parameters_and_first_line_wherever_it_is_defined(
    repository: Path,
) -> None:
    entries = {entry.name: entry for entry in read_hubconf(repository).entries}
    assert entries["small"] == Entry(
        "small", "A small classifier of 3x8x8 images.", ("weights", "width")
    )
    assert entries["alias"].parameters == ("weights", "width")
    assert entries["tiny"] == Entry("tiny", "The smallest one.", ("progress",))
    assert entries["old"].signature == "old(pretrained, ...)"
    assert entries["starred"].parameters == ("depth",)


def test_learned_weights_are_asked_for_as_each_entry_takes_them(repository: Path) -> None:
    asked = {
        item.name: item.conversion.options["weights"]
        for item in fetch(str(repository), weights="DEFAULT")
        if isinstance(item, Artifact) and item.conversion
    }
    assert asked["small"] == {"weights": "DEFAULT"}
    assert asked["old"] == {"pretrained": True}
    refused = [item for item in fetch(str(repository), weights="DEFAULT") if item.revision]
    reasons = {i.revision: i.reason for i in refused if isinstance(i, Rejection)}
    assert "takes no weights" in reasons[f"{repository}#tiny"]


def test_a_repository_of_github_is_fetched_once(repository: Path, tmp_path: Path) -> None:
    with serving({TAG: Page(zipball(repository))}) as server:
        first = fetch("owner/toy:v1#small", endpoint=server.url)
        again = fetch("owner/toy:v1#small", endpoint=server.url)
        assert [request.path for request in server.requests] == [
            "/owner/toy/zipball/refs/heads/v1",
            TAG,
        ]
    offline = fetch("owner/toy:v1#small", endpoint=server.url)
    assert first == again == offline
    assert not (tmp_path / "executed").exists()


def test_to_look_at_a_repository_does_not_make_torch_hub_trust_it(
    repository: Path, tmp_path: Path
) -> None:
    with serving({TAG: Page(zipball(repository))}) as server:
        list(TorchHubConnector().list(("owner/toy:v1",), options={"endpoint": server.url}))
        fetch("owner/toy:v1", endpoint=server.url, trust=True)
    assert not (tmp_path / "torch").exists()


def test_what_came_from_another_server_is_not_taken_for_what_github_has(
    repository: Path, tmp_path: Path
) -> None:
    theirs = tmp_path / "torch" / "hub" / "owner_toy_v1"
    shutil.copytree(repository, theirs)
    (theirs / "hubconf.py").write_text("def small(): pass")
    with serving({TAG: Page(zipball(repository))}) as server:
        (there,) = fetch("owner/toy:v1#small", endpoint=server.url)
    (github,) = fetch("owner/toy:v1#small")
    with serving({TAG: Page(_archive(**{"a/hubconf.py": "def small(width): pass"}))}) as other:
        (elsewhere,) = fetch("owner/toy:v1#small", endpoint=other.url)
    homes = [item.path for item in (there, github, elsewhere) if isinstance(item, Artifact)]
    assert len(set(homes)) == 3
    assert homes[1] == theirs / "hubconf.py"


def test_a_branch_is_asked_for_again_where_that_is_wanted(repository: Path, tmp_path: Path) -> None:
    first = Page(zipball(repository, "owner-toy-aaaaaaa"), times=1)
    other = zipball(write_repository(tmp_path / "b", tmp_path / "x", NET), "owner-toy-bbbbbbb")
    with serving({MAIN: replace(first, then=Page(other))}) as server:
        notes = [
            str(item.declared["note"])
            for reload in (False, False, True, False)
            for item in fetch("owner/toy#small", endpoint=server.url, reload=reload)
            if isinstance(item, Artifact)
        ]
    commits = [re.findall(r"commit (\w+)", note) for note in notes]
    assert commits == [["aaaaaaa"], ["aaaaaaa"], ["bbbbbbb"], ["bbbbbbb"]]


def test_the_commit_is_told_in_full_where_the_archive_says_it(repository: Path) -> None:
    stream = io.BytesIO(zipball(repository))
    with zipfile.ZipFile(stream, "a") as archive:
        archive.comment = SHA.encode()
    with serving({TAG: Page(stream.getvalue())}) as server:
        (item,) = fetch("owner/toy:v1#small", endpoint=server.url)
    assert isinstance(item, Artifact)
    assert f"commit {SHA}" in str(item.declared["note"])


def _commits(*shas: str) -> list[object]:
    return [{"name": f"n{sha[:9]}", "commit": {"sha": sha}} for sha in shas]


def _pages(*pages: list[object]) -> Callable[[Request], Page]:
    return lambda request: Page.of_json(pages[int(request.query["page"][0]) - 1])


def test_a_commit_is_fetched_if_a_branch_or_tag_of_the_repository_is_at_it(
    repository: Path,
) -> None:
    others = _commits(*(f"{n:040x}" for n in range(100)))
    routes: dict[str, Route] = {
        f"{API}/branches": _pages(others, others[:2]),
        f"{API}/tags": _pages(others, _commits(SHA)),
        f"/owner/toy/zipball/{SHA}": Page(zipball(repository)),
    }
    with serving(routes) as server:
        (item,) = fetch(f"owner/toy:{SHA[:9]}#small", endpoint=server.url)
    assert isinstance(item, Artifact)
    assert f"commit {SHA}" in str(item.declared["note"])


def test_a_commit_of_a_fork_is_not_taken_for_the_repositorys(repository: Path) -> None:
    routes: dict[str, Route] = {
        f"{API}/branches": _pages(_commits("1" * 40)),
        f"{API}/tags": _pages([]),
        f"/owner/toy/zipball/{SHA}": Page(zipball(repository)),
        "/owner/toy/zipball/refs/pull/1/head": Page(zipball(repository)),
    }
    with serving(routes) as server:
        assert "name the fork" in reason(f"owner/toy:{SHA}", endpoint=server.url)
        assert "no such" in reason("owner/toy:refs/pull/1/head", endpoint=server.url)
        routes = {f"{API}/branches": Page(b"rate limit exceeded", status=403)}
        server.routes.update(routes)
        told = reason(f"owner/toy:{SHA}", endpoint=server.url)
    assert "fork cannot be asked" in told
    assert "403" in told


def test_what_torch_hub_has_fetched_needs_no_network(repository: Path, tmp_path: Path) -> None:
    home = tmp_path / "torch" / "hub" / "owner_toy_main"
    home.parent.mkdir(parents=True)
    repository.rename(home)
    (item,) = fetch("owner/toy#small")
    assert isinstance(item, Artifact)
    assert item.path == home / "hubconf.py"


def test_without_a_ref_main_is_asked_for_and_then_master(repository: Path) -> None:
    master = "/owner/toy/zipball/refs/heads/master"
    with serving({master: Page(zipball(repository))}) as server:
        (item,) = fetch("owner/toy#small", endpoint=server.url)
    assert isinstance(item, Artifact)
    assert [request.path for request in server.requests] == [MAIN, master]


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        ("https://github.com/owner/toy/zipball/refs/heads/v1", True),
        ("https://api.github.com/repos/owner/toy/tags", True),
        ("http://github.com/owner/toy", False),
        ("https://github.com.evil.org/owner/toy", False),
        ("https://evilgithub.com/owner/toy", False),
        ("http://127.0.0.1:80/github.com", False),
    ],
)
def test_the_token_goes_to_github_alone_and_never_in_the_open(
    url: str, sent: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "secret")
    assert authorization(url) == ({"Authorization": "token secret"} if sent else {})


def test_an_answer_of_403_is_told_and_another_server_gets_no_token(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "secret")
    with serving({"/": Page(b"rate limit", status=403)}) as server:
        told = reason("owner/toy:v1", endpoint=server.url)
        assert "authorization" not in server.requests[0].headers
    assert "403" in told
    assert "may need a token" in told


def test_a_full_disk_is_not_the_repositorys_fault(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("SOMMELIER_CACHE", str(tmp_path / "file"))
    with serving({TAG: Page(zipball(repository))}) as server, pytest.raises(ConnectorError) as told:
        fetch("owner/toy:v1", endpoint=server.url)
    assert not isinstance(told.value, RejectedModelError)


def test_links_of_a_repository_are_left_out(repository: Path) -> None:
    link = zipfile.ZipInfo("owner-toy-0123abc/docs/link.md")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    stream = io.BytesIO(zipball(repository))
    with zipfile.ZipFile(stream, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    with serving({TAG: Page(stream.getvalue())}) as server:
        (item,) = fetch("owner/toy:v1#small", endpoint=server.url)
    assert isinstance(item, Artifact)
    assert item.path is not None
    assert not list(item.path.parent.rglob("*.md"))


def _archive(**members: str) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, text in members.items():
            archive.writestr(name, text)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"no archive", "damaged"),
        (_archive(**{"a/hubconf.py": "", "../out.py": ""}), "out"),
        (_archive(**{"a/hubconf.py": "", "b/hubconf.py": ""}), "not one folder"),
    ],
)
def test_an_archive_that_is_none_or_leaves_its_folder_is_refused(
    repository: Path, tmp_path: Path, body: bytes, words: str
) -> None:
    with serving({TAG: Page(body)}) as server:
        assert words in reason("owner/toy:v1", endpoint=server.url)
        with pytest.raises(RejectedModelError, match=words):
            list(TorchHubConnector().list(("owner/toy:v1",), options={"endpoint": server.url}))
    assert not list(tmp_path.rglob("out.py"))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def broken(:", "not Python"),
        ("x = " + "(" * 10_000, "not Python"),
        ("x = " + "-" * 190_000 + "1", "not Python"),
        ("#" * 2_100_000, "too large"),
        ('dependencies = ["nosuchpackage_x"]\ndef a(): pass', "nosuchpackage_x"),
        ('dependencies = ["__main__.x"]\ndef a(): pass', "__main__"),
        ("import os\nglobals().update(os.environ)", "name an entry"),
    ],
)
def test_a_hubconf_that_cannot_be_used_is_refused(
    tmp_path: Path, source: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)  # as in an interactive session
    (tmp_path / "hubconf.py").write_text(source)
    assert words in reason(str(tmp_path))


def test_a_link_in_place_of_hubconf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real.py").write_text("def a(): pass")
    inside = tmp_path / "toy"
    inside.mkdir()
    (inside / "hubconf.py").symlink_to(tmp_path / "real.py")
    with pytest.raises(RejectedModelError, match="link out of"):
        read_hubconf(inside)


def test_a_wrong_entry_is_refused_with_the_nearest_name(repository: Path) -> None:
    assert "did you mean small" in reason(f"{repository}#smal")
    with pytest.raises(RejectedModelError, match="no 'smal'"):
        list(TorchHubConnector().list((f"{repository}#smal",), options={}))


def test_what_cannot_be_listed_is_told_beside_what_can(repository: Path) -> None:
    asked = (f"{repository}#smal", "owner/nope", f"{repository}#small")
    with serving({}) as server:
        wrong, gone, good = TorchHubConnector().list(asked, options={"endpoint": server.url})
    assert isinstance(wrong, Rejection)
    assert "did you mean small" in wrong.reason
    assert isinstance(gone, Rejection)
    assert (gone.revision, "no such repository" in gone.reason) == ("owner/nope", True)
    assert isinstance(good, Listing)


def test_the_nearest_name_goes_along_where_running_decides(repository: Path) -> None:
    (item,) = fetch(f"{repository}#smal", trust=True)
    assert isinstance(item, Artifact)
    assert item.conversion is not None
    assert item.conversion.hint == "did you mean small?"


def test_nothing_is_declared_that_the_repository_does_not_say(repository: Path) -> None:
    (item,) = fetch(f"{repository}#small")
    assert isinstance(item, Artifact)
    assert set(item.declared) == {"note"}
    assert "A small classifier of 3x8x8 images; made by small()" in str(item.declared["note"])


@pytest.mark.parametrize("endpoint", ["", " ", "github.example"])
def test_a_server_that_is_no_address_is_refused(repository: Path, endpoint: str) -> None:
    with pytest.raises(ConnectorError, match=r"endpoint is empty|no http or https address"):
        fetch("owner/toy:v1", endpoint=endpoint)


def test_an_entry_that_only_running_would_show_is_passed_on_once_it_is_trusted(
    tmp_path: Path,
) -> None:
    (tmp_path / "hubconf.py").write_text("globals().update(resnet18=print)")
    assert "offers no 'resnet18'" in reason(f"{tmp_path}#resnet18")
    (item,) = fetch(f"{tmp_path}#resnet18", trust=True, weights="DEFAULT")
    assert isinstance(item, Artifact)
    assert item.conversion is not None
    assert item.conversion.options["entry"] == "resnet18"
    assert item.conversion.options["weights"] == {"weights": "DEFAULT"}
    assert "offers no 'a b'" in reason(f"{tmp_path}#a b", trust=True)


@pytest.mark.parametrize(
    "text",
    ["nowhere", "./nowhere", "a/b/c", "a/..", "a/b:", "-a/b", "a" * 300, "~nobody/b", "a\0b"],
)
def test_what_is_no_repository_is_refused_at_once(text: str) -> None:
    with pytest.raises(ConnectorError, match="there is no repository"):
        TorchHubConnector().fetch((text,), options={})


@pytest.mark.parametrize("location", ["owner/a:b_c", "owner/a_b:c", "owner/a:b/c"])
def test_what_torch_hub_keeps_under_an_ambiguous_name_is_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str
) -> None:
    home = tmp_path / "torch" / "hub" / "owner_a_b_c"
    home.mkdir(parents=True)
    (home / "hubconf.py").write_text("def other(): pass")
    monkeypatch.setattr(hub_repositories, "download", _nothing_there)
    with pytest.raises(RejectedModelError, match="no such repository"):
        hub_repositories.checkout(
            hub_repositories.parse_handle(location), hub_repositories.Server()
        )


def _nothing_there(*_: object, **__: object) -> Path:
    raise NothingThereError("nothing there")


def test_a_server_that_answers_nonsense_is_named_without_its_password() -> None:
    with serving({f"{API}/branches": Page.of_json({}), f"{API}/tags": Page.of_json({})}) as server:
        endpoint = server.url.replace("//", "//me:verysecret@")
        told = reason(f"owner/toy:{SHA}", endpoint=endpoint)
    assert "does not answer with a list" in told
    assert "verysecret" not in told


def test_threads_may_fetch_the_same_repository_at_once(repository: Path) -> None:
    together = threading.Barrier(4)
    with serving({TAG: Page(zipball(repository))}) as server:

        def go(_: int) -> list[Artifact | Rejection]:
            together.wait()
            return [fetch("owner/toy:v1#small", endpoint=server.url, reload=True)[0] for _ in "123"]

        with ThreadPoolExecutor(4) as pool:
            found = [item for items in pool.map(go, range(4)) for item in items]
    assert all(isinstance(item, Artifact) for item in found), found
