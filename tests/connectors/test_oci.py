"""OCI registries: what a location means, which files of an artifact are taken, what is said of it.

Artifacts are pushed by the real client to a registry on loopback; see test_oci_hostile.py for what
no honest registry does.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import sommelier as sm
from sommelier.connectors.oci import OciConnector
from sommelier.errors import BinderError, ConnectorError, MissingDependencyError
from sommelier.records import Artifact, Provenance, Rejection
from tests.asking import rows
from tests.connectors.oci_registry import (
    DOC,
    IMAGE,
    INDEX,
    OCI,
    Registry,
    described,
    push,
    push_model,
    registry,
)
from tests.factories import external_data_model, mlp_classifier, tiny_classifier

pytest.importorskip("oras")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache and a home of its own for each test, and nobody's login."""
    monkeypatch.setenv("SOMMELIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("ORAS_USER", "ORAS_PASS", "ORAS_REGISTRY", "DOCKER_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


@pytest.fixture
def model(tmp_path: Path) -> bytes:
    return tiny_classifier(tmp_path / "source.onnx").read_bytes()


@pytest.fixture
def server() -> Iterator[Registry]:
    with registry() as running:
        yield running


@pytest.fixture
def zoo(server: Registry, tmp_path: Path) -> Registry:
    """A registry of three repositories and five tags, two of which are one artifact."""
    for seed, (target, facts) in enumerate(
        {
            "models/resnet18:v1": described(format="onnx", licenses=["MIT"], paramSize="11.7M"),
            "models/resnet18:v2": described(format="onnx", licenses=["Apache-2.0"]),
            "models/mobilenet:1.0": described(format="onnx", licenses=["Apache License 2.0"]),
            "other/bert:1": described(format="onnx", family="bert"),
        }.items()
    ):
        body = mlp_classifier(tmp_path / "next.onnx", seed=seed).read_bytes()
        push_model(server, target, [("raw", "model.onnx", body)], facts)
    server.tagged["models/resnet18"]["latest"] = server.tagged["models/resnet18"]["v2"]
    return server


def fetch(server: Registry, *locations: str, **options: object) -> list[Artifact | Rejection]:
    given = {"registry": f"{server.host}/models", **options}
    return list(OciConnector().fetch(locations, options=given))


def only(server: Registry, location: str = "m:1", **options: object) -> Artifact:
    (item,) = fetch(server, location, **options)
    assert isinstance(item, Artifact), item
    return item


def refused(server: Registry, location: str = "m:1", **options: object) -> str:
    (item,) = fetch(server, location, **options)
    assert isinstance(item, Rejection), item
    return item.reason


def tar_of(files: Mapping[str, bytes], compression: str = "") -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=f"w:{compression}") as archive:
        for name, body in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return content.getvalue()


# ---- which artifacts a location means


@pytest.mark.parametrize(
    ("location", "found"),
    [
        ("resnet18:v2", ["resnet18:v2"]),
        ("resnet18", ["resnet18:v2", "resnet18:v1"]),
        ("resnet18:latest", ["resnet18:latest"]),
        ("{host}/models/resnet18:v1", ["resnet18:v1"]),
        ("http://{host}/models/mobilenet", ["mobilenet:1.0"]),
        ("oci://{host}/other/bert:1", ["other/bert:1"]),
        ("http://{host}", ["mobilenet:1.0", "resnet18:v2", "resnet18:v1", "other/bert:1"]),
        ("{host}/other", ["other/bert:1"]),
        ("resnet18@{digest}", ["resnet18:{digest:.19}"]),
        ("resnet18:v1@{digest}", ["resnet18:v1"]),
    ],
)
def test_a_location_is_an_artifact_a_repository_a_path_or_a_registry(
    zoo: Registry, location: str, found: list[str]
) -> None:
    digest = zoo.tagged["models/resnet18"]["v1"]
    items = fetch(zoo, location.format(host=zoo.host, digest=digest))
    assert [f"{i.name}:{i.version}" for i in items if isinstance(i, Artifact)] == [
        name.format(digest=digest) for name in found
    ]
    assert len(items) == len(found)


def test_no_location_is_all_below_the_place_and_two_tags_of_one_artifact_are_one(
    zoo: Registry,
) -> None:
    items = [item for item in fetch(zoo) if isinstance(item, Artifact)]
    assert [(i.name, i.version) for i in items] == [
        ("mobilenet", "1.0"), ("resnet18", "v2"), ("resnet18", "v1")
    ]  # fmt: skip
    assert items[1].declared["tags"] == ("oci", "tag:latest", "tag:v2")
    assert items[1].revision == (
        f"{zoo.host}/models/resnet18:v2@{zoo.tagged['models/resnet18']['v2']}"
    )


def test_lists_go_on_over_all_their_pages(zoo: Registry) -> None:
    zoo.page = 1
    assert len(fetch(zoo, f"http://{zoo.host}")) == 4


@pytest.mark.parametrize(
    ("location", "words", "suggested", "hint"),
    [
        ("resnet18:v3", "models/resnet18 has no tag 'v3'", None, "its tags are latest, v1, v2"),
        ("resnet81:v1", "has no repository 'models/resnet81'", "resnet18", "mobilenet, resnet18"),
        ("resnet81", "has no repository 'models/resnet81'", "resnet18", "mobilenet, resnet18"),
        (f"resnet18@sha256:{'0' * 64}", "has no digest 'sha256:000", None, "its tags are"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is(
    zoo: Registry, location: str, words: str, suggested: str | None, hint: str
) -> None:
    with pytest.raises(ConnectorError, match=words) as caught:
        fetch(zoo, location)
    assert f"'{location}'" in caught.value.message
    assert hint in str(caught.value.hint)
    assert suggested in (*caught.value.suggestions, None)
    assert suggested is None or caught.value.suggestions


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("ResNet:v1", "lower case"),
        ("a//b", "'a//b' is no path"),
        ("../etc/passwd", "names no registry"),
        ("a/../b", "no path"),
        ("a:b:c", "'b:c' is no tag"),
        ("a@sha512:00", "is no digest"),
        ("a@sha256:00", "is no digest"),
        ("ftp://host/a", "no"),
    ],
)
def test_what_names_no_repository_is_refused_unasked(
    server: Registry, location: str, words: str
) -> None:
    with pytest.raises(ConnectorError, match=words):
        fetch(server, location)
    assert not server.requests


def test_a_place_is_asked_for_and_names_no_artifact() -> None:
    connector = OciConnector()
    with pytest.raises(ConnectorError, match=r"which registry has 'digits:1\.0'") as caught:
        connector.fetch(("digits:1.0",), options={})
    assert "FROM oci" in str(caught.value.hint)
    with pytest.raises(ConnectorError, match="names one artifact"):
        connector.fetch((), options={"registry": "host.example/a:v1"})
    with pytest.raises(ConnectorError, match="needs a registry"):
        list(connector.search((), options={}))


def test_a_registry_without_a_catalog_says_so_and_what_to_do(zoo: Registry) -> None:
    zoo.catalog = False
    with pytest.raises(ConnectorError, match="lists no repositories") as caught:
        OciConnector().fetch((zoo.host,), options={})
    assert f"FROM oci '{zoo.host}/path'" in str(caught.value.hint)
    with pytest.raises(ConnectorError, match=r"no repository '.*models' with tags") as caught:
        fetch(zoo)
    assert "lists no repositories" in caught.value.message
    assert [i.version for i in fetch(zoo, "resnet18:v1") if isinstance(i, Artifact)] == ["v1"]


# ---- which files are taken


def test_external_data_comes_as_a_layer_beside_the_model(server: Registry, tmp_path: Path) -> None:
    path = external_data_model(tmp_path / "large.onnx")
    beside = next(p for p in tmp_path.iterdir() if p.is_file() and p != path)
    layers = [
        ("raw", f"onnx/{beside.name}", beside.read_bytes()),
        ("raw", "onnx/large.onnx", path.read_bytes()),
    ]
    push_model(server, "models/m:1", layers)
    item = only(server)
    assert item == only(server)
    assert item.path is not None
    assert item.declared["external_data"] == [str(item.path.parent / beside.name)]
    push_model(server, "models/m:2", layers[1:])
    assert f"external data file 'onnx/{beside.name}' is missing" in refused(server, "m:2")
    limit = path.stat().st_size + 10
    assert "limit" in refused(server, max_size=limit)


@pytest.mark.parametrize("media", ["tar", "tar+gzip"])
@pytest.mark.parametrize("apart", [False, True])
def test_archives_are_unpacked_together(
    server: Registry, tmp_path: Path, media: str, apart: bool
) -> None:
    path = external_data_model(tmp_path / "large.onnx")
    beside = next(p for p in tmp_path.iterdir() if p.is_file() and p != path)
    files = [
        {"a/large.onnx": path.read_bytes()}, {f"a/{beside.name}": beside.read_bytes()}
    ]  # fmt: skip
    groups = files if apart else [files[0] | files[1]]
    packing = "gz" if "gzip" in media else ""
    push_model(server, "models/m:1", [(media, "a", tar_of(g, packing)) for g in groups])
    item = only(server)
    assert item.path is not None
    assert item.path.read_bytes() == path.read_bytes()
    assert item.declared["external_data"] == [str(item.path.parent / beside.name)]


def test_several_models_of_an_artifact_are_named_apart(
    server: Registry, model: bytes, tmp_path: Path
) -> None:
    other = mlp_classifier(tmp_path / "other.onnx").read_bytes()
    layers = [("raw", "encoder.onnx", model), ("raw", "decoder.onnx", other), (DOC, "R.md", b"r")]
    push_model(server, "models/m:1", layers, described(paramSize="8b", family="pair"))
    found = [item for item in fetch(server, "m:1") if isinstance(item, Artifact)]
    assert [i.name for i in found] == ["m/encoder", "m/decoder"]
    assert [str(i.revision).partition("#")[2] for i in found] == ["encoder.onnx", "decoder.onnx"]
    assert {i.declared["family"] for i in found} == {"pair"}
    assert [i.measurements for i in found] == [(), ()]
    listed = list(OciConnector().list(("m:1",), options={"registry": f"{server.host}/models"}))
    assert [(i.name, i.size_bytes) for i in listed] == [
        ("m/encoder", len(model)), ("m/decoder", len(other))
    ]  # fmt: skip
    tar = tar_of({"x/encoder.onnx": model, "x/decoder.onnx": other})
    push_model(server, "models/m:2", [("tar", None, tar)])
    names = [i.name for i in fetch(server, "m:2") if isinstance(i, Artifact)]
    assert names == ["m/decoder", "m/encoder"]


def test_one_model_that_cannot_be_had_does_not_keep_its_neighbour(
    server: Registry, model: bytes
) -> None:
    push(server, "models/m:1", {"a.onnx": b"junk", "b.onnx": model, "c.bin": b"unused"})
    bad, good = fetch(server, "m:1")
    assert isinstance(good, Artifact)
    assert isinstance(bad, Rejection)
    assert bad.revision.endswith("#a.onnx")
    assert "not an ONNX file" in bad.reason


def test_plain_artifacts_of_oras_are_read_by_their_titles(server: Registry, model: bytes) -> None:
    push(server, "models/m:1", {"model.onnx": model, "config.json": b"{}"})
    assert only(server).declared == {"tags": ("oci", "tag:1")}
    push(server, "models/m:2", {"net.onnx": model}, "application/x-anything")
    assert only(server, "m:2").name == "m"
    push(server, "models/m:3", {"nets.tar.gz": tar_of({"n.onnx": model}, "gz")})
    assert only(server, "m:3").name == "m"
    push_model(server, "models/m:4", [("raw", None, model)], described(format="onnx"))
    assert only(server, "m:4").name == "m"  # the only weights, and the config says what they are


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([("raw", "model.gguf", b"GGUF")], "its weights are GGUF.*push an ONNX export"),
        ([("application/vnd.ollama.image.model+gguf", None, b"")], "its weights are GGUF"),
        ([("raw", "model.safetensors", b"")], "are safetensors.*FROM huggingface"),
        ([("raw", "pytorch_model.bin", b"")], "are pickle.*would run whatever code"),
        ([("raw", "model.keras", b"")], "'model.keras'.*FROM folder"),
        ([("tar+zstd", "model.onnx", b"")], "zstd, which is not read.*tar\\+gzip"),
        ([("tar", "w", tar_of({"w/model.gguf": b""}))], "its weights are GGUF"),
        ([(DOC, "README.md", b"")], "it holds no .onnx file; it holds 1 .md"),
        ([], "it holds no layer at all|holds no .onnx file"),
    ],
)
def test_what_is_no_onnx_is_refused_by_name_with_what_to_do(
    server: Registry, layers: list[tuple[str, str | None, bytes]], words: str
) -> None:
    push_model(server, "models/m:1", layers)
    before = len(server.requests)
    reason = refused(server)
    assert re.search(words, reason), reason
    assets = [r.path for r in server.requests[before:] if "/blobs/" in r.path]
    assert len(assets) <= 1 + any(media == "tar" for media, *_ in layers)  # the config


def test_container_images_and_indexes_are_refused_as_such(server: Registry, model: bytes) -> None:
    push_model(server, "models/app:1", [("tar", "model.onnx", model)])
    body = server.manifests["models/app"][server.tagged["models/app"]["1"]][1]
    image = body.replace(b"application/vnd.cncf.model.config.v1+json", IMAGE.encode())
    server.keep("models/app", "image", image)
    assert "it is a container image" in refused(server, "app:image")
    good = push(server, "models/m:1", {"model.onnx": model})
    other = push(server, "models/m:2", {"other.onnx": model})

    def index(*digests: str) -> bytes:
        entries = [{"mediaType": OCI, "digest": digest, "size": 9} for digest in digests]
        return json.dumps({"mediaType": INDEX, "manifests": entries}).encode()

    server.keep("models/m", "one", index(good), INDEX)
    assert str(only(server, "m:one").revision).endswith(f":one@{good}")
    server.keep("models/m", "two", index(good, other), INDEX)
    reason = refused(server, "m:two")
    assert "an index of 2 manifests" in reason
    assert f"'@{other}'" in reason


# ---- what is said of a model


def test_facts_are_those_of_the_config(server: Registry, model: bytes) -> None:
    facts = described(
        name="xyz", title="XYZ 3", family="xyz3", licenses=["Apache License 2.0"],
        authors=["ann@example.org"], description="Answers\nquestions.",
        sourceURL="https://example.org/xyz", createdAt="2025-01-01T23:00:00Z",
        architecture="cnn", format="ONNX", paramSize="1.5K", precision="fp16", quantization="awq",
    )  # fmt: skip
    push_model(server, "models/m:1", [("raw", "model.onnx", model)], facts)
    item = only(server)
    assert item.declared == {
        "family": "xyz3",
        "license": "Apache-2.0",
        "created": "2025-01-01",
        "homepage": "https://example.org/xyz",
        "note": "XYZ 3; Answers questions; by ann@example.org",
        "tags": ("oci", "tag:1", "architecture:cnn", "precision:fp16", "quantization:awq"),
    }
    (params,) = item.measurements
    assert (params.metric, params.value, params.low, params.high) == ("params", 1500, 1450, 1550)
    assert params.provenance is Provenance.DECLARED
    assert params.source == item.revision


def test_what_cannot_be_is_left_out_and_noted(server: Registry, model: bytes) -> None:
    facts = described(
        paramSize="lots", createdAt="yesterday", sourceURL="javascript:alert(1)", family=["a"],
        licenses=["Ours 1.0", "MIT"], format=7,
    )  # fmt: skip
    push_model(server, "models/m:1", [("raw", "model.onnx", model)], facts)
    item = only(server)
    assert set(item.declared) == {"tags", "note"}
    assert item.measurements == ()
    for words in ("paramSize 'lots'", "createdAt 'yesterday'", "sourceURL", "Ours 1.0, MIT"):
        assert words in str(item.declared["note"])


@pytest.mark.parametrize("config", [b"[]", b"{", b"[" * 100_000])
def test_a_broken_config_costs_the_facts_and_not_the_model(
    server: Registry, model: bytes, config: bytes
) -> None:
    push_model(server, "models/m:1", [("raw", "model.onnx", model)], config)
    assert "its config is not read" in str(only(server).declared["note"])


def test_listing_and_searching_fetch_no_layer(zoo: Registry) -> None:
    options = {"registry": f"{zoo.host}/models"}
    listed = list(OciConnector().list((), options=options))
    assert [i.name for i in listed] == ["mobilenet", "resnet18", "resnet18"]
    found = list(OciConnector().search((), options=options))
    assert [(c.name, c.facts["version"], c.facts["license"]) for c in found] == [
        ("mobilenet", "1.0", "Apache-2.0"),
        ("resnet18", "v2", "Apache-2.0"),
        ("resnet18", "v1", "MIT"),
    ]
    assert found[1].facts["tags"] == ("latest", "v2")
    assert "params" not in found[1].facts  # unknown, not 0
    assert found[2].facts["params"] == 11.7e6
    manifests = [b for _, b in zoo.manifests["models/resnet18"].values()]
    layers = [json.loads(b)["layers"][0]["digest"] for b in manifests]
    assert not [r for r in zoo.requests if any(layer in r.path for layer in layers)]


# ---- statements


def test_statements_list_search_and_import(zoo: Registry, tmp_path: Path) -> None:
    with sm.connect(tmp_path / "models.sommelier") as db:
        db.execute(f"CREATE REPOSITORY harbor TYPE oci AT '{zoo.host}/models'")
        assert not zoo.requests
        shown = rows(db, "SHOW MODELS FROM harbor LIKE 'RESNET%'")
        assert [(r["name"], r["version"]) for r in shown] == [
            ("resnet18", "v2"),
            ("resnet18", "v1"),
        ]
        assert not [r for r in zoo.requests if "mobilenet" in r.path]
        where = "WHERE format = 'onnx' AND license = 'Apache-2.0' AND name = 'resnet18'"
        db.execute(f"IMPORT MODELS FROM harbor {where} LIMIT 5")
        record = db.model("resnet18").record
        assert (record.source, record.version, record.license) == ("harbor", "v2", "Apache-2.0")
        assert len(rows(db, "SELECT MODELS FROM harbor")) == 1
        with pytest.raises(BinderError, match="states no 'licence'") as caught:
            db.execute("SHOW MODELS FROM harbor WHERE licence = 'MIT'")
        assert caught.value.suggestions == ("license",)


def test_an_import_keeps_what_is_good_and_records_the_rest(
    server: Registry, model: bytes, tmp_path: Path
) -> None:
    push(server, "models/bad:1", {"model.gguf": b"GGUF"})
    push(server, "models/good:1", {"model.onnx": model})
    push(server, "models/junk:1", {"model.onnx": b"junk"})
    with sm.connect(tmp_path / "models.sommelier") as db:
        db.execute(f"IMPORT MODELS FROM oci '{server.host}'")
        assert [r["name"] for r in rows(db, "SELECT MODELS")] == ["models/good"]
        reasons = {r["revision"].split("@")[0]: r["reason"] for r in rows(db, "SHOW REJECTIONS")}
    assert "GGUF" in reasons[f"{server.host}/models/bad:1"]
    assert "not an ONNX file" in reasons[f"{server.host}/models/junk:1"]


def test_without_oras_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "oras", None)
    monkeypatch.delitem(sys.modules, "sommelier.connectors.oci_transport", raising=False)
    monkeypatch.delattr("sommelier.connectors.oci_transport", raising=False)
    with pytest.raises(MissingDependencyError, match="not installed") as caught:
        OciConnector().fetch(("127.0.0.1:9/a:1",), options={})
    assert caught.value.hint == "pip install 'sommelier-db[oci]'"


def test_oras_is_imported_only_where_a_registry_is_asked() -> None:
    program = (
        "import sys; from sommelier.connectors.registry import connector; connector('oci');"
        "sys.exit(str({'oras', 'requests'} & set(sys.modules) or ''))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert not done.stderr.strip()
