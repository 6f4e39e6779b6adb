"""Models of TensorFlow are found by handle, in caches and in folders; dead links are told."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sommelier.connectors.base import Listing
from sommelier.connectors.tfhub import TfHubConnector
from sommelier.connectors.tfhub_handles import HUB_CACHE
from sommelier.errors import ConnectorError, MissingDependencyError
from sommelier.records import Artifact, Conversion, Rejection
from tests.connectors.loopback import Page, Request, Server, redirect, serving
from tests.connectors.saved_models import FLOAT, classifier, saved_model, tar_of
from tests.factories import tiny_classifier

HANDLE = "google/toys/classifier/5"
TWO = {
    "serving_default": ({"x": (FLOAT, [-1, 8])}, {"probs": (FLOAT, [-1, 3])}),
    "features": ({"x": (FLOAT, [-1, 8])}, {"vector": (FLOAT, [-1, 16])}),
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SOMMELIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(HUB_CACHE, raising=False)
    return tmp_path / "cache"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving({}) as running:
        yield running


def packed(content: bytes | None = None) -> Page:
    files = {"./saved_model.pb": content or classifier(), "./variables/variables.index": b"i"}
    return Page(tar_of(files), etag='"1"')


def fetch(server: Server | None, *locations: str, **options: object) -> list[Artifact | Rejection]:
    if server is not None:
        options["endpoint"] = server.url
    return list(TfHubConnector().fetch(locations, options=options))


def only(found: list[Artifact | Rejection]) -> Artifact:
    (item,) = found
    assert isinstance(item, Artifact), item
    return item


def refusal(found: list[Artifact | Rejection]) -> str:
    (item,) = found
    assert isinstance(item, Rejection), item
    return item.reason


def test_a_handle_is_downloaded_by_the_protocol_of_the_hub(server: Server) -> None:
    server.routes[f"/{HANDLE}"] = packed()
    item = only(fetch(server, HANDLE))
    assert (item.name, item.version) == ("google/toys/classifier", "5")
    assert item.revision == f"{server.url}/{HANDLE}#serving_default"
    assert item.conversion == Conversion("savedmodel", {"signature": "serving_default"})
    assert item.declared["homepage"] == f"{server.url}/{HANDLE}"
    assert item.declared["producer"] == "tensorflow 2.21.0"
    assert item.path is not None
    assert (item.path / "saved_model.pb").read_bytes() == classifier()
    assert server.requests[0].query == {"tf-hub-format": ["compressed"]}


def test_an_address_may_lead_elsewhere_and_is_unpacked_once(server: Server, cache: Path) -> None:
    server.routes[f"/{HANDLE}"] = redirect(f"{server.url}/storage/5.tar.gz", 303)
    server.routes["/storage/5.tar.gz"] = packed()
    first = only(fetch(None, f"{server.url}/{HANDLE}"))
    assert only(fetch(None, f"{server.url}/{HANDLE}")) == first
    assert len(list((cache / "models").iterdir())) == 1


def test_a_model_is_unpacked_by_many_at_once_without_a_quarrel(server: Server, cache: Path) -> None:
    files = {"./saved_model.pb": classifier(), "./variables/variables": bytes(5_000_000)}
    server.routes[f"/{HANDLE}"] = Page(tar_of(files), etag='"1"')
    together = threading.Barrier(6)

    def alone(_: int) -> Artifact:
        together.wait()
        return only(fetch(server, HANDLE))

    with ThreadPoolExecutor(6) as pool:
        first, *others = pool.map(alone, range(6))
    assert others == [first] * 5
    assert len(list((cache / "models").iterdir())) == 1


def test_the_secrets_of_an_address_are_asked_with_but_told_and_kept_nowhere(
    server: Server, cache: Path
) -> None:
    server.routes["/files/mlp.keras"] = Page(b"PK\3\4 and so on")
    signed = f"{server.url}/files/mlp.keras?X-Amz-Signature=verysecret"
    item = only(fetch(None, signed))
    assert server.requests[0].query == {"X-Amz-Signature": ["verysecret"]}
    assert "verysecret" not in f"{item}"
    assert item.declared["homepage"] == f"{server.url}/files/mlp.keras"
    assert "verysecret" not in f"{fetch(None, signed.replace('mlp', 'gone'))}"
    assert not [p for p in cache.rglob("*") if p.is_file() and b"verysecret" in p.read_bytes()]


def test_what_the_cache_holds_serves_while_the_server_is_gone() -> None:
    with serving({f"/{HANDLE}": packed()}) as server:
        address = f"{server.url}/{HANDLE}"
        first = only(fetch(None, address))
    assert only(fetch(None, address)) == first


@pytest.mark.parametrize(
    ("page", "said"),
    [
        (Page(b"gone", 404), "a dead link: there is nothing at"),
        (Page(b"gone", 410), "a dead link: there is nothing at"),
        (Page(b"<!DOCTYPE html><html>Kaggle</html>"), "leads to a web page, not to a model"),
        (Page(b"no", 403), "refuses us (403"),
        (redirect("http://["), "is no http or https address"),
        (Page(b"later", 429, {"Retry-After": "999"}), "is busy (429"),
        (Page(b"junk that is no tar"), ""),
        (Page(tar_of({"./readme.md": b"#"})), "Keras or TFLite file (it has 1 .md)"),
        (Page(tar_of({"./saved_model.pb": b"\xff"})), "saved_model.pb is damaged"),
        (Page(tar_of({"./saved_model.pb": b"x", "../evil": b"e"})), "outside of itself"),
        (Page(tar_of({"./saved_model.pb": classifier()})[:-40]), ""),
        (Page(b"x", claim=3 * 10**9, cut=1), "3 GB"),
    ],
)
def test_one_bad_link_is_refused_with_its_reason_and_the_import_goes_on(
    server: Server, tmp_path: Path, page: Page, said: str
) -> None:
    server.routes |= {"/bad/link/1": page, f"/{HANDLE}": packed()}
    bad, good = fetch(server, "bad/link/1", HANDLE)
    assert isinstance(bad, Rejection)
    assert isinstance(good, Artifact)
    assert said in bad.reason
    assert bad.reason
    assert not list(tmp_path.rglob("evil"))


def test_a_dead_link_says_where_models_of_the_hub_are_now(server: Server) -> None:
    reason = refusal(fetch(server, HANDLE))
    assert "moved to Kaggle" in reason
    assert "'classifier'" in reason


def test_a_server_that_sends_us_in_circles_is_left(server: Server) -> None:
    server.routes[f"/{HANDLE}"] = redirect(f"{server.url}/{HANDLE}?again=1")
    assert "redirected more than" in refusal(fetch(server, HANDLE))


def test_a_model_larger_than_the_limit_is_refused(server: Server) -> None:
    server.routes[f"/{HANDLE}"] = Page(tar_of({"./saved_model.pb": b"\0" * 500_000}))
    assert "more than 100 kB" in refusal(fetch(server, HANDLE, max_size="100 KB"))


def test_a_lite_model_is_taken_as_it_comes(server: Server) -> None:
    server.routes["/google/lite/1"] = Page(b"\x1c\0\0\0TFL3" + bytes(64))
    item = only(fetch(None, f"{server.url}/google/lite/1?lite-format=tflite"))
    assert item.conversion == Conversion("tflite", {})
    assert item.name == "google/lite"


def test_a_file_at_an_address_is_taken_by_its_suffix(server: Server) -> None:
    server.routes["/files/mlp.keras"] = Page(b"PK\3\4 and so on")
    item = only(fetch(None, f"{server.url}/files/mlp.keras"))
    assert item.conversion == Conversion("keras", {})
    assert item.name == "files/mlp"
    assert server.requests[0].query == {}


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"x")
    assert "no SavedModel, Keras or TFLite" in refusal(fetch(None, str(tmp_path / "model.onnx")))


def test_what_tensorflow_hub_has_in_its_cache_is_taken_without_a_request(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(HUB_CACHE, str(tmp_path / "hub"))
    address = f"{server.url}/{HANDLE}"
    folder = tmp_path / "hub" / hashlib.sha1(address.encode()).hexdigest()
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(classifier())
    assert only(fetch(server, HANDLE)).path == folder
    assert server.requests == []


def test_models_in_a_hub_cache_are_named_by_their_handles(tmp_path: Path) -> None:
    address = f"https://tfhub.dev/{HANDLE}"
    folder = tmp_path / "hub" / hashlib.sha1(address.encode()).hexdigest()
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(classifier())
    descriptor = folder.with_name(f"{folder.name}.descriptor.txt")
    descriptor.write_text(f"Module: {address}\nDownload Time: ...\n")
    item = only(fetch(None, str(tmp_path / "hub")))
    assert (item.name, item.version) == ("google/toys/classifier", "5")
    assert item.revision == f"{address}#serving_default"


@pytest.mark.parametrize("content", [b"Module: gs://bucket/model\n", b"\xff", b"Module: http://[/"])
def test_a_descriptor_without_a_handle_leaves_the_folder_its_own_name(
    tmp_path: Path, content: bytes
) -> None:
    for name in ("a1b2", "c3.v2"):
        (tmp_path / "hub" / name).mkdir(parents=True)
        (tmp_path / "hub" / name / "saved_model.pb").write_bytes(classifier())
    (tmp_path / "hub" / "a1b2.descriptor.txt").write_bytes(content)
    found = fetch(None, str(tmp_path / "hub"))
    assert [item.name for item in found if isinstance(item, Artifact)] == ["a1b2", "c3.v2"]


def test_a_folder_is_searched_and_names_stay_apart(tmp_path: Path) -> None:
    for name in ("mlp.keras", "mlp.tflite", "other.h5", ".hidden/x.keras"):
        (tmp_path / "zoo" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "zoo" / name).write_bytes(b"x")
    model = tmp_path / "zoo" / "mlp"
    (model / "assets").mkdir(parents=True)
    (model / "saved_model.pb").write_bytes(classifier())
    (model / "assets" / "inner.keras").write_bytes(b"of the SavedModel")
    found = fetch(None, str(tmp_path / "zoo"))
    assert [item.name for item in found if isinstance(item, Artifact)] == [
        "mlp", "mlp.keras", "mlp.tflite", "other",
    ]  # fmt: skip


def test_every_signature_is_listed_with_what_it_takes_and_gives(server: Server) -> None:
    server.routes[f"/{HANDLE}"] = packed(saved_model(TWO))
    found = list(TfHubConnector().list((HANDLE,), options={"endpoint": server.url}))
    listed = [item for item in found if isinstance(item, Listing)]
    assert [item.name for item in listed] == [
        "google/toys/classifier/features",
        "google/toys/classifier",
    ]
    assert listed[0].revision.endswith("#features(x:float32[?,8]) -> vector:float32[?,16]")
    assert all(item.size_bytes for item in listed)
    assert listed == found


def test_a_listing_tells_a_dead_link_where_it_has_nothing_else(server: Server) -> None:
    with pytest.raises(ConnectorError, match="a dead link"):
        list(TfHubConnector().list((HANDLE,), options={"endpoint": server.url}))


def test_a_dead_link_among_others_is_told_where_they_are_listed(server: Server) -> None:
    server.routes[f"/{HANDLE}"] = packed()
    asked = ("acme/dead/1", HANDLE)
    dead, good = TfHubConnector().list(asked, options={"endpoint": server.url})
    assert isinstance(dead, Rejection)
    assert dead.revision == f"{server.url}/acme/dead/1"
    assert "a dead link" in dead.reason
    assert isinstance(good, Listing)


def test_without_a_location_the_message_is_of_no_statement() -> None:
    for asked in (TfHubConnector().fetch, TfHubConnector().list):
        with pytest.raises(ConnectorError, match=r"^tfhub needs a handle"):
            list(asked((), options={}))


def test_nothing_is_asked_of_an_endpoint_that_is_empty() -> None:
    with pytest.raises(ConnectorError, match="option endpoint is empty"):
        TfHubConnector().fetch((HANDLE,), options={"endpoint": ""})


def test_a_signature_is_chosen_and_names_the_model(server: Server) -> None:
    server.routes[f"/{HANDLE}"] = packed(saved_model(TWO))
    item = only(fetch(server, HANDLE, signature="features"))
    assert item.name == "google/toys/classifier/features"
    assert item.conversion == Conversion("savedmodel", {"signature": "features"})
    assert "no signature 'logits'" in refusal(fetch(server, HANDLE, signature="logits"))


def test_a_card_states_what_the_model_does_not(server: Server, tmp_path: Path) -> None:
    server.routes[f"/{HANDLE}"] = packed()
    card = tmp_path / "card.json"
    entry = {"match": "google/*", "family": "toys", "license": "Apache-2.0"}
    card.write_text(json.dumps({"models": [entry]}))
    declared = only(fetch(server, HANDLE, card=str(card))).declared
    assert (declared["family"], declared["license"]) == ("toys", "Apache-2.0")


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("./nowhere", "there is no './nowhere'"),
        ("nowhere", "there is no 'nowhere'"),
        ("zoo/model.tflite", "there is no"),
        ("ftp://example.org/x", "is no address of a model"),
        ("https://tfhub.dev", "is no address of a model"),
        ("https://www.kaggle.com/models/google/mobilenet-v2", "which variation"),
        ("google/m/tensorFlow2/v/latest", "is no version"),
        ("http://[/model/1", "is no address of a model"),
        ("https://me:secret@h?a=secret", "'https://h' is no address of a model"),
    ],
)
def test_a_location_that_names_nothing_is_refused_at_once(location: str, said: str) -> None:
    with pytest.raises(ConnectorError) as caught:
        TfHubConnector().fetch((location,), options={})
    assert said in str(caught.value)


def test_trust_is_a_word_that_must_be_said(server: Server) -> None:
    server.routes[f"/{HANDLE}"] = packed()
    item = only(fetch(server, HANDLE, trust="yes"))
    assert item.conversion is not None
    assert item.conversion.options["trust"] is True
    with pytest.raises(ConnectorError, match="true or false"):
        fetch(server, HANDLE, trust="perhaps")


# ---- Kaggle, with its own client


PORT = 7777  # where kagglehub looks for the server of its tests
SERVICE = "/api/v1/models.ModelApiService"
MODEL = "google/toys/tensorFlow2/classifier"


@pytest.fixture
def kaggle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    pytest.importorskip("kagglehub")
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", PORT)) == 0:
            pytest.skip(f"something listens on port {PORT}")
    for name in ("KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KAGGLE_API_ENVIRONMENT", "TEST")
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path / "no-credentials"))
    monkeypatch.setenv("KAGGLEHUB_CACHE", str(tmp_path / "kagglehub"))
    with serving({}, port=PORT) as running:
        yield running


def kaggle_model(server: Server, files: dict[str, bytes]) -> None:
    """Routes for version 2 of MODEL with these files."""
    base = server.url.replace("127.0.0.1", "localhost")
    listed = [{"name": name, "size": len(body)} for name, body in files.items()]

    def download(request: Request) -> Page:
        return redirect(f"{base}/files/{json.loads(request.body)['path']}")

    server.routes |= {
        f"{SERVICE}/GetModelInstance": Page.of_json({"versionNumber": 2}),
        f"{SERVICE}/ListModelInstanceVersionFiles": Page.of_json({"files": listed}),
        f"{SERVICE}/DownloadModelInstanceVersion": download,
    }
    server.routes |= {f"/files/{name}": Page(body) for name, body in files.items()}


def test_a_handle_of_kaggle_comes_by_kagglehub_and_then_from_its_cache(kaggle: Server) -> None:
    files = {"saved_model.pb": classifier(), "variables/variables.index": b"i"}
    kaggle_model(kaggle, files)
    item = only(fetch(None, f"{MODEL}/2"))
    assert (item.name, item.version) == (MODEL, "2")
    assert item.declared["homepage"] == f"https://www.kaggle.com/models/{MODEL}/2"
    assert item.path is not None
    assert (item.path / "variables" / "variables.index").read_bytes() == b"i"
    asked = len(kaggle.requests)
    address = "https://www.kaggle.com/models/google/toys/frameworks/tensorFlow2/variations"
    assert only(fetch(None, f"{address}/classifier/versions/2")) == item
    assert len(kaggle.requests) == asked


def test_the_newest_version_is_asked_for_where_none_is_named(kaggle: Server) -> None:
    kaggle_model(kaggle, {"saved_model.pb": classifier()})
    item = only(fetch(None, MODEL))
    assert item.path is not None
    assert item.path.name == "2"


def test_a_name_that_leads_out_of_the_cache_is_never_fetched(
    kaggle: Server, tmp_path: Path
) -> None:
    kaggle_model(kaggle, {"saved_model.pb": classifier(), "../../../../../../evil": b"e"})
    assert "outside of itself" in refusal(fetch(None, f"{MODEL}/2"))
    assert not any("DownloadModelInstanceVersion" in r.path for r in kaggle.requests)
    assert not list(tmp_path.rglob("evil"))


def test_a_model_of_kaggle_above_the_limit_is_never_fetched(kaggle: Server) -> None:
    kaggle_model(kaggle, {"saved_model.pb": bytes(2000)})
    assert "2000 bytes, the limit is 1000" in refusal(fetch(None, f"{MODEL}/2", max_size=1000))
    assert not any("DownloadModelInstanceVersion" in r.path for r in kaggle.requests)


def test_a_kagglehub_in_the_folder_we_are_in_is_never_run(
    kaggle: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    for name in ("kagglehub", "requests", "json"):
        (tmp_path / "here" / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.chdir(tmp_path / "here")
    kaggle_model(kaggle, {"saved_model.pb": classifier()})
    assert only(fetch(None, f"{MODEL}/2")).version == "2"
    assert not (tmp_path / "ran").exists()


def test_onnx_files_of_kaggle_are_taken_as_they_are(kaggle: Server, tmp_path: Path) -> None:
    kaggle_model(kaggle, {"NET.ONNX": tiny_classifier(tmp_path / "m.onnx").read_bytes()})
    item = only(fetch(None, "google/toys/onnx/classifier/2"))
    assert item.name == "google/toys/onnx/classifier"
    assert item.conversion is None
    assert item.path is not None
    assert item.path.name == "NET.ONNX"


def test_a_model_of_kaggle_in_no_format_of_ours_is_never_fetched(kaggle: Server) -> None:
    kaggle_model(kaggle, {"a.safetensors": b"w", "b.safetensors": b"w", "config.json": b"{}"})
    said = refusal(fetch(None, "google/toys/transformers/classifier/2"))
    assert (
        "holds no SavedModel, Keras, TFLite or ONNX file (it has 2 .safetensors, 1 .json)" in said
    )
    assert not any("DownloadModelInstanceVersion" in r.path for r in kaggle.requests)


def test_a_signed_address_of_kaggles_storage_is_told_without_its_signature(kaggle: Server) -> None:
    kaggle_model(kaggle, {"saved_model.pb": classifier()})
    base = kaggle.url.replace("127.0.0.1", "localhost")
    signed = redirect(f"{base}/gone?X-Goog-Signature=verysecret")
    kaggle.routes[f"{SERVICE}/DownloadModelInstanceVersion"] = signed
    kaggle.routes["/gone"] = Page(b"", 500)
    said = refusal(fetch(None, f"{MODEL}/2"))
    assert f"500 Server Error: Internal Server Error for url: {base}/gone (" in said


@pytest.mark.parametrize(
    ("status", "said"), [(404, "a dead link"), (403, "KAGGLE_API_TOKEN"), (500, "try again later")]
)
def test_an_answer_of_kaggle_that_is_no_model_is_told(
    kaggle: Server, status: int, said: str
) -> None:
    kaggle.routes[f"{SERVICE}/"] = Page(b"{}", status)
    assert said in refusal(fetch(None, f"{MODEL}/2"))


def test_without_kagglehub_the_reason_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from sommelier.connectors import kaggle as module

    monkeypatch.setattr(module, "find_spec", lambda _: None)
    with pytest.raises(MissingDependencyError) as caught:
        module.fetched(MODEL, 1000)
    assert "sommelier-db[tf]" in str(caught.value.hint)
