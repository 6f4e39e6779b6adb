"""OCI registries that lie, fail or want a login: nothing wrong is kept, nothing secret is told."""

from __future__ import annotations

import io
import json
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sommelier.connectors.oci import OciConnector
from sommelier.connectors.oci_registry import Address, OciRegistry
from sommelier.connectors.search import BusySourceError
from sommelier.errors import ConnectorError
from sommelier.records import Artifact, Rejection
from tests.connectors.loopback import Page, Request, redirect, serving
from tests.connectors.oci_registry import (
    PASSWORD,
    USER,
    Registry,
    described,
    docker_config,
    push,
    push_model,
    registry,
)
from tests.connectors.test_oci import fetch, home, model, only, refused, server, tar_of

pytest.importorskip("oras")
__all__ = ["home", "model", "server"]  # fixtures


def blob_path(server: Registry, path: str = "models/m", tag: str = "1") -> str:
    """Where the first layer of an artifact is."""
    manifest = json.loads(server.manifests[path][server.tagged[path][tag]][1])
    return f"/v2/{path}/blobs/{manifest['layers'][0]['digest']}"


def altered(server: Registry, **changes: object) -> None:
    """The manifest of m:1 with its first layer changed, as an honest digest of it says."""
    manifest = json.loads(server.manifests["models/m"][server.tagged["models/m"]["1"]][1])
    manifest["layers"][0] |= changes
    server.keep("models/m", "1", json.dumps(manifest).encode())


# ---- contents that are not what they should be


def test_a_blob_of_another_content_is_refused_and_not_kept(server: Registry, model: bytes) -> None:
    push(server, "models/m:1", {"model.onnx": model})
    where = blob_path(server)
    server.routes[where] = Page(b"x" * len(model))
    assert "has another content than it should" in refused(server)
    del server.routes[where]
    assert only(server).path is not None


def test_a_manifest_of_another_content_is_refused(server: Registry, model: bytes) -> None:
    digest = push(server, "models/m:1", {"model.onnx": model})
    body = server.manifests["models/m"][digest][1]
    server.routes[f"/v2/models/m/manifests/{digest}"] = Page(body + b" ")
    assert "another content than it should" in refused(server, f"m@{digest}")
    lie = {"Docker-Content-Digest": f"sha256:{'1' * 64}"}
    server.routes["/v2/models/m/manifests/1"] = Page(body, headers=lie)
    assert "another content than it should" in refused(server)


def test_a_config_of_another_content_is_not_believed(server: Registry, model: bytes) -> None:
    push_model(server, "models/m:1", [("raw", "m.onnx", model)], described(family="honest"))
    manifest = json.loads(server.manifests["models/m"][server.tagged["models/m"]["1"]][1])
    where = f"/v2/models/m/blobs/{manifest['config']['digest']}"
    server.routes[where] = Page.of_json(described(family="forged"))
    item = only(server)
    assert "family" not in item.declared
    assert "another content" in str(item.declared["note"])
    server.routes[where] = Page(b"gone", 404)
    assert "config is not read" in str(only(server).declared["note"])


def test_a_blob_that_breaks_off_goes_on_where_it_was(server: Registry, model: bytes) -> None:
    push(server, "models/m:1", {"model.onnx": model})
    where = blob_path(server)
    whole = Page(model, etag='"1"')
    server.routes[where] = Page(model, etag='"1"', cut=50, times=1, then=whole)
    assert only(server).path is not None
    asked = [r.headers.get("range") for r in server.requests if r.path == where]
    assert asked == [None, "bytes=50-"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"size": 3}, "says that layer 'model.onnx' has 3 bytes, it has"),
        ({"size": 10**12}, "too large: 1.0 TB, the limit is 2.0 GB|too large"),
        ({"size": -1}, "has the size '-1', which no file has"),
        ({"size": "9"}, "which no file has"),
        ({"digest": "sha256:0"}, "has the digest 'sha256:0'"),
        ({"digest": "sha512:" + "0" * 128}, "read are those of sha256"),
        ({"digest": f"sha256:{'0' * 64}"}, "no layer 'model.onnx', which the manifest names"),
        ({"annotations": {"org.opencontainers.image.title": "../../x.onnx"}}, "leads out of"),
        ({"annotations": {"org.opencontainers.image.title": "/etc/x.onnx"}}, "leads out of"),
        ({"annotations": {"org.opencontainers.image.title": "a\nb.onnx"}}, "which no file can be"),
        ({"annotations": ["x"]}, "is damaged"),
    ],
)
def test_a_layer_that_lies_of_itself_is_refused(
    server: Registry, model: bytes, changes: dict[str, object], words: str
) -> None:
    push(server, "models/m:1", {"model.onnx": model})
    altered(server, **changes)
    reason = refused(server)
    assert any(part in reason for part in words.split("|")), reason


def test_two_layers_of_one_name_are_refused(server: Registry, model: bytes) -> None:
    push_model(server, "models/m:1", [("raw", "m.onnx", model), ("raw", "./m.onnx", b"other")])
    assert "two of its layers are called 'm.onnx'" in refused(server)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<html>", "its manifest is no JSON"),
        (b"[" * 100_000, "its manifest is no JSON"),
        (b"[]", "no JSON object"),
        (b'{"schemaVersion": 1, "fsLayers": []}', "names no layers"),
        (b'{"layers": [7]}', "layer 1 has the digest ''"),
        (b" " * (5 << 20), "answers with more than 4"),
    ],
)
def test_a_manifest_that_is_none_costs_one_model(
    server: Registry, model: bytes, body: bytes, words: str
) -> None:
    push(server, "models/m:1", {"model.onnx": model})
    push(server, "models/m:2", {"model.onnx": model})
    server.routes["/v2/models/m/manifests/1"] = Page(body)
    bad, good = fetch(server, "m")
    assert isinstance(bad, Rejection)
    assert words in bad.reason
    assert isinstance(good, Artifact)


def links(name: str, target: str, kind: bytes) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, target
        archive.addfile(info)
    return content.getvalue()


@pytest.mark.parametrize(
    ("tar", "words"),
    [
        (tar_of({"../out.onnx": b"x"}), "outside of itself"),
        (tar_of({"/out.onnx": b"x"}), "outside of itself"),
        (links("m.onnx", "/etc/passwd", tarfile.SYMTYPE), "is a link"),
        (links("m.onnx", "/etc/passwd", tarfile.LNKTYPE), "is a link"),
        (tar_of({"a.onnx": b"x" * 10**6}, "gz"), "would unpack to more than"),
        (b"no tar at all", "is damaged"),
        (tar_of({"a.onnx": b"x"}, "gz")[:-9], "is damaged"),
    ],
    ids=("above", "root", "symlink", "hard link", "bomb", "no archive", "cut off"),
)
def test_archives_of_anyone_stay_in_their_folder(
    server: Registry, tmp_path: Path, tar: bytes, words: str
) -> None:
    push_model(server, "models/m:1", [("tar+gzip", "w", tar)])
    assert words in refused(server, max_size=100_000)
    assert not list(tmp_path.rglob("out.onnx"))


# ---- registries that fail


def test_a_busy_registry_is_asked_again_when_it_says(server: Registry, model: bytes) -> None:
    push(server, "models/m:1", {"model.onnx": model})
    digest = server.tagged["models/m"]["1"]
    media, body = server.manifests["models/m"][digest]
    good = Page(body, headers={"Content-Type": media})
    busy = Page(b"", 429, {"Retry-After": "0"}, times=2, then=good)
    server.routes["/v2/models/m/manifests/1"] = busy
    assert only(server).path is not None


def test_a_registry_that_stays_busy_is_not_asked_on(server: Registry, model: bytes) -> None:
    for name in ("a", "b"):
        push(server, f"models/{name}:1", {"model.onnx": model})
    server.routes["/v2/models/a/tags/list"] = Page(b"", 429, {"Retry-After": "86400"})
    found = fetch(server)
    assert [type(item) for item in found] == [Rejection, Rejection]
    assert all("in 86400 s" in item.reason for item in found if isinstance(item, Rejection))
    assert not [r for r in server.requests if "/models/b/" in r.path]
    with pytest.raises(BusySourceError):
        list(OciConnector().search((), options={"registry": f"{server.host}/models"}))


@pytest.mark.parametrize("status", [403, 404, 500])
def test_a_repository_that_fails_costs_itself(server: Registry, model: bytes, status: int) -> None:
    for name in ("a", "b"):
        push(server, f"models/{name}:1", {"model.onnx": model})
    server.routes["/v2/models/a/tags/list"] = Page(b"no", status)
    started = time.monotonic()
    bad, good = fetch(server)
    assert time.monotonic() - started < 3  # oras alone would ask on for two minutes
    assert isinstance(bad, Rejection)
    assert isinstance(good, Artifact)
    options = {"registry": f"{server.host}/models"}
    assert [c.name for c in OciConnector().search((), options=options)] == ["b"]


def test_redirects_end_and_lead_to_no_other_http_host(server: Registry, model: bytes) -> None:
    push(server, "models/m:1", {"model.onnx": model})
    where = "/v2/models/m/manifests/1"
    server.routes[where] = redirect(where)
    assert "redirected us more than 5 times" in refused(server)
    server.routes[where] = redirect("http://elsewhere.example/x")
    assert "sends us to http://elsewhere.example/x, over plain http" in refused(server)
    del server.routes[where]
    server.routes[blob_path(server)] = redirect(blob_path(server))
    assert "redirected more than" in refused(server)


def test_a_list_goes_on_nowhere_else_and_not_for_ever(server: Registry, model: bytes) -> None:
    push(server, "models/m:1", {"model.onnx": model})
    elsewhere = {"Link": '<https://elsewhere.example/next>; rel="next"'}
    server.routes["/v2/models/m/tags/list"] = Page(b'{"tags": ["1"]}', headers=elsewhere)
    with pytest.raises(ConnectorError, match=r"next page of a list at https://elsewhere\.example"):
        fetch(server, "m")
    circle = {"Link": '</v2/models/m/tags/list>; rel="next"'}
    server.routes["/v2/models/m/tags/list"] = Page(b'{"tags": ["1", 7, "../x"]}', headers=circle)
    assert len(fetch(server, "m")) == 1


def test_what_is_no_registry_is_said_to_be_none() -> None:
    with serving({}) as site, pytest.raises(ConnectorError, match="is no OCI registry") as caught:
        OciConnector().fetch((f"{site.url}/a:1",), options={})
    assert "docker pull" in str(caught.value.hint)


# ---- logins


@pytest.fixture(params=["token", "basic"])
def locked(request: pytest.FixtureRequest, model: bytes) -> Iterator[Registry]:
    with registry(auth=request.param) as running:
        push(running, "models/m:1", {"model.onnx": model})
        push(running, "models/n:1", {"model.onnx": model})
        yield running


def test_the_login_of_the_configuration_opens_its_registry(locked: Registry, home: Path) -> None:
    docker_config(home, {locked.host: (USER, PASSWORD)})
    assert [type(item) for item in fetch(locked)] == [Artifact, Artifact]
    assert only(locked, f"{locked.host}/models/m:1").path is not None


def test_without_a_login_the_refusal_says_what_to_do(locked: Registry, home: Path) -> None:
    docker_config(home, {"other.example": (USER, PASSWORD)})
    with pytest.raises(ConnectorError, match="refuses us") as caught:
        fetch(locked)
    assert f"docker login {locked.host}" in str(caught.value.hint)
    assert "refuses us" in refused(locked)
    assert USER not in str([r.headers for r in locked.requests])


def test_a_wrong_login_is_refused_and_never_told(
    locked: Registry, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    docker_config(home, {locked.host: (USER, "wr0ng-one")})
    reason = refused(locked) + caplog.text
    assert "refuses us" in reason
    assert "wr0ng-one" not in reason


def test_the_login_of_the_environment_is_for_the_place_alone(
    locked: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORAS_USER", USER)
    monkeypatch.setenv("ORAS_PASS", PASSWORD)
    assert len([i for i in fetch(locked) if isinstance(i, Artifact)]) == 2
    locked.requests.clear()
    (item,) = OciConnector().fetch((f"{locked.host}/models/m:1",), options={})
    assert isinstance(item, Rejection)
    monkeypatch.setenv("ORAS_REGISTRY", "registry.example")
    with pytest.raises(ConnectorError, match="refuses us"):
        fetch(locked)
    assert not [
        r for r in locked.requests if r.headers.get("authorization", "").startswith("Basic")
    ]
    monkeypatch.setenv("ORAS_REGISTRY", locked.url)
    (item,) = OciConnector().fetch((f"{locked.host}/models/m:1",), options={})
    assert isinstance(item, Artifact)


def test_an_address_may_hold_a_login_that_no_message_shows(locked: Registry) -> None:
    place = f"http://{USER}:{PASSWORD}@{locked.host}/models"
    found = list(OciConnector().fetch((), options={"registry": place}))
    assert [type(item) for item in found] == [Artifact, Artifact]
    assert PASSWORD not in str(found)
    for location in (f"{place}/x:1", f"{place}/UPPER", f"{place}/m:9"):
        with pytest.raises(ConnectorError) as caught:
            OciConnector().fetch((location,), options={})
        assert PASSWORD not in f"{caught.value} {caught.value.hint}"


def test_a_token_is_not_asked_for_elsewhere_over_http(home: Path, model: bytes) -> None:
    with serving({"/token": Page.of_json({"token": "t"})}) as other:
        with registry(auth="token", realm=f"{other.url}/token") as server:
            push(server, "models/m:1", {"model.onnx": model})
            docker_config(home, {server.host: (USER, PASSWORD)})
            assert "over plain http" in refused(server)
        assert not other.requests


@pytest.mark.parametrize("near", ["127.0.0.1", "169.254.169.254"])
def test_a_registry_of_the_internet_leads_to_nothing_of_our_own_network(near: str) -> None:
    import requests

    from sommelier.connectors.oci_transport import _Gate  # it needs oras

    asked = requests.Request("GET", f"https://{near}/token").prepare()
    with pytest.raises(ConnectorError, match=r"https://1\.1\.1\.1 leads into a private network"):
        _Gate("1.1.1.1", plain=False).send(asked)


def test_a_redirected_layer_takes_no_login_along(home: Path, model: bytes) -> None:
    seen: list[Request] = []

    def store(request: Request) -> Page:
        seen.append(request)
        return Page(model)

    with registry(auth="basic") as server, serving({"/layer": store}) as other:
        push(server, "models/m:1", {"model.onnx": model})
        server.routes[blob_path(server)] = redirect(f"{other.url}/layer?signature=s3cret")
        docker_config(home, {server.host: (USER, PASSWORD)})
        assert only(server).path is not None
    assert "authorization" not in seen[0].headers


@pytest.mark.parametrize("content", ["{", "[]", '{"auths": {"HOST": {"auth": "%%%"}}}'])
def test_a_configuration_that_cannot_be_read_is_said(
    server: Registry, home: Path, model: bytes, content: str
) -> None:
    push(server, "models/m:1", {"model.onnx": model})
    docker_config(home, {})
    (home / ".docker" / "config.json").write_text(content.replace("HOST", server.host))
    assert "the login for" in refused(server)


def test_a_login_is_not_sent_over_http_that_only_a_location_asks_for() -> None:
    from sommelier.connectors.oci_locations import Registries

    def address(location: str, **options: object) -> Address:
        return Registries(options)._understood(location).address

    assert address("http://registry.example/a:1") == Address("registry.example", True, None, True)
    assert not address("http://registry.example/a:1", insecure=True).downgraded
    assert address("registry.example/a:1") == Address("registry.example")
    assert address("registry.example/a:1", insecure=True).plain
    assert not address("https://registry.example/a:1", insecure=True).plain
    assert address("localhost:5000/a:1").plain
    assert not address("localhost.example/a:1").plain
    assert OciRegistry(Address("a.example")).host == "a.example"


def test_a_token_that_may_have_run_out_is_had_anew(
    model: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sommelier.connectors.oci_transport.FRESH_SECONDS", 1.0)
    with registry(auth="token", public=True) as server:
        push_model(server, "models/m:1", [("raw", "model.onnx", model)], described(family="f"))
        body = server.manifests["models/m"][server.tagged["models/m"]["1"]][1]
        config = json.loads(body)["config"]["digest"]

        def late(_: Request) -> Page:
            time.sleep(1.05)
            server.tokens.clear()
            return Page(server.blobs[config])

        server.routes[f"/v2/models/m/blobs/{config}"] = late
        assert only(server).declared["family"] == "f"
