"""PyTorch Hub: read as syntax, fetched over HTTP once, run only when the user trusts it."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest

from sommelier.connectors.hubconf import Entry, read_hubconf
from sommelier.connectors.torchhub import TorchHubConnector
from sommelier.errors import ConnectorError, RejectedModelError
from sommelier.records import Artifact, Rejection
from tests.connectors.hub import write_repository, zipball
from tests.connectors.loopback import Page, serving

NET = "class Net:\n    def __init__(self, width=5):\n        pass\n"
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
    listed = [item.name for item in TorchHubConnector().list((str(repository),), options={})]
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


def test_a_repository_of_github_is_fetched_once_into_the_cache_of_torch_hub(
    repository: Path, tmp_path: Path
) -> None:
    with serving({"/owner/toy/zipball/v1": Page(zipball(repository))}) as server:
        first = fetch("owner/toy:v1#small", endpoint=server.url)
        again = fetch("owner/toy:v1#small", endpoint=server.url)
        assert len(server.requests) == 1
    offline = fetch("owner/toy:v1#small", endpoint="http://127.0.0.1:9")
    assert first == again == offline
    assert (tmp_path / "torch" / "hub" / "owner_toy_v1" / "hubconf.py").is_file()
    assert not (tmp_path / "executed").exists()


def test_what_torch_hub_has_fetched_needs_no_network(repository: Path, tmp_path: Path) -> None:
    home = tmp_path / "torch" / "hub" / "owner_toy_main"
    home.parent.mkdir(parents=True)
    repository.rename(home)
    (item,) = fetch("owner/toy#small", endpoint="http://127.0.0.1:9")
    assert isinstance(item, Artifact)
    assert item.path == home / "hubconf.py"


def test_without_a_ref_main_is_asked_for_and_then_master(repository: Path) -> None:
    with serving({"/owner/toy/zipball/master": Page(zipball(repository))}) as server:
        (item,) = fetch("owner/toy#small", endpoint=server.url)
    assert isinstance(item, Artifact)
    assert [request.path for request in server.requests] == [
        "/owner/toy/zipball/main",
        "/owner/toy/zipball/master",
    ]


def test_the_token_goes_to_the_server_and_an_answer_of_403_is_told(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", "secret")
    with serving({"/owner/toy/zipball/v1": Page(b"rate limit", status=403)}) as server:
        told = reason("owner/toy:v1", endpoint=server.url)
        assert server.requests[0].headers["authorization"] == "token secret"
    assert "403" in told
    assert "secret" not in told


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
    with serving({"/owner/toy/zipball/v1": Page(body)}) as server:
        assert words in reason("owner/toy:v1", endpoint=server.url)
    assert not list((tmp_path / "torch" / "hub").rglob("*.py"))
    assert not list(tmp_path.glob("out.py"))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def broken(:", "not Python"),
        ("x = " + "(" * 10_000, "not Python"),
        ("x = " + "-" * 200_000 + "1", "not Python"),
        ("#" * 2_100_000, "too large"),
        ('dependencies = ["nosuchpackage_x"]\ndef a(): pass', "nosuchpackage_x"),
    ],
)
def test_a_hubconf_that_cannot_be_used_is_refused(tmp_path: Path, source: str, words: str) -> None:
    (tmp_path / "hubconf.py").write_text(source)
    assert words in reason(str(tmp_path))


def test_imports_do_not_lead_out_of_the_repository_or_in_circles(tmp_path: Path) -> None:
    inside = tmp_path / "toy"
    inside.mkdir()
    (tmp_path / "secret.py").write_text("def leaked(): pass")
    (inside / "linked.py").symlink_to(tmp_path / "secret.py")
    (inside / "hubconf.py").write_text(
        "from linked import leaked\nfrom ..secret import leaked as up\n"
        "from hubconf import round_and_round\nfrom round import *\ndef good(): pass"
    )
    (inside / "round.py").write_text("from round import *\nfrom hubconf import *")
    read = {entry.name for entry in read_hubconf(inside).entries if entry.parameters is not None}
    assert read == {"good"}


def test_a_link_in_place_of_hubconf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real.py").write_text("def a(): pass")
    inside = tmp_path / "toy"
    inside.mkdir()
    (inside / "hubconf.py").symlink_to(tmp_path / "real.py")
    with pytest.raises(RejectedModelError, match="link out of"):
        read_hubconf(inside)


def test_a_wrong_entry_is_refused_with_the_nearest_name(repository: Path) -> None:
    assert "did you mean small" in reason(f"{repository}#smal")


@pytest.mark.parametrize("text", ["nowhere", "./nowhere", "a/b/c", "a/..", "a/b:", "-a/b"])
def test_what_is_no_repository_is_refused_at_once(text: str) -> None:
    with pytest.raises(ConnectorError, match="there is no repository"):
        TorchHubConnector().fetch((text,), options={})
