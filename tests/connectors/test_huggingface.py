"""The connector `huggingface`: the hub's real client over real HTTP against a loopback hub."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sommelier.connectors.huggingface import HuggingFaceConnector
from sommelier.connectors.registry import connector
from sommelier.connectors.testing import CHECKS, Check, Sample
from sommelier.errors import ConnectorError
from sommelier.records import Artifact, Measurement, Rejection
from tests.connectors.hub_server import Repository, hub, safetensors
from tests.connectors.loopback import Page, Server, redirect
from tests.factories import external_data_model, tiny_classifier

pytest.importorskip("huggingface_hub")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOMMELIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_ENDPOINT", raising=False)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return tiny_classifier(tmp_path_factory.mktemp("model") / "model.onnx").read_bytes()


def fetched(
    server: Server, monkeypatch: pytest.MonkeyPatch, *locations: str, **options: object
) -> list[Artifact | Rejection]:
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    return list(HuggingFaceConnector().fetch(locations, options=options))


def artifact(item: Artifact | Rejection) -> Artifact:
    assert isinstance(item, Artifact), item
    return item


def reasons(found: list[Artifact | Rejection]) -> list[str]:
    return [item.reason for item in found if isinstance(item, Rejection)]


def header(shape: list[int]) -> bytes:
    """A safetensors header that claims a tensor of this shape, without data."""
    text = json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}).encode()
    return len(text).to_bytes(8, "little") + text


def page_of(server: Server, repository: Repository, path: str) -> str:
    return f"/{repository.id}/resolve/{repository.sha}/{path}"


def files_asked(server: Server) -> list[str]:
    """Paths in repositories that were fetched, in order."""
    return [
        r.path.partition("/resolve/")[2].partition("/")[2]
        for r in server.requests
        if "/resolve/" in r.path
    ]


def test_the_only_onnx_file_of_a_repository_has_its_name_and_its_facts(
    model: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {"model_type": "vit", "id2label": {"0": "cat", "1": "dog", "2": "cow"}}
    repository = Repository(
        "acme/vit-tiny",
        {"onnx/model.onnx": model, "config.json": json.dumps(config).encode()},
        task="image-classification",
        card={"license": "apache-2.0", "base_model": "google/vit-base"},
        tags=("transformers", "vit", "license:apache-2.0", "base_model:finetune:google/vit-base"),
        config=config,
    )
    with hub(repository) as server:
        (item,) = fetched(server, monkeypatch, "acme/vit-tiny")
        found = artifact(item)
        assert found.path is not None
        assert found.path.read_bytes() == model
        assert found.name == "acme/vit-tiny"
        assert found.revision == f"acme/vit-tiny@{repository.sha}:onnx/model.onnx"
        assert found.declared == {
            "task": "image-classification",
            "family": "vit",
            "license": "Apache-2.0",
            "tags": ("huggingface", "transformers", "vit", "base_model:finetune:google/vit-base"),
            "created": "2025-03-04",
            "homepage": f"{server.url}/acme/vit-tiny",
            "note": "made from google/vit-base (finetune)",
            "labels": ("cat", "dog", "cow"),
        }


def test_a_commit_is_fetched_once_and_then_only_asked_about(
    model: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = Repository("acme/a", {"model.onnx": model})
    with hub(repository) as server:
        first = fetched(server, monkeypatch, "acme/a")
        assert fetched(server, monkeypatch, f"acme/a@{repository.sha}") == first
        assert files_asked(server) == ["model.onnx"]


def test_external_data_comes_along_into_the_same_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "source").mkdir()
    path = external_data_model(tmp_path / "source" / "model.onnx")
    files = {f"onnx/{p.name}": p.read_bytes() for p in path.parent.iterdir()}
    with hub(Repository("acme/big", files)) as server:
        found = artifact(fetched(server, monkeypatch, "acme/big")[0])
    assert found.path is not None
    (beside,) = [Path(p) for p in found.declared["external_data"]]  # type: ignore[attr-defined]  # a list
    assert beside.parent == found.path.parent
    assert len(files) == 2
    assert files[f"onnx/{beside.name}"] == beside.read_bytes()


VARIANTS = ("onnx/model.onnx", "onnx/model_fp16.onnx", "onnx/model_quantized.onnx")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"acme/v": "onnx/model.onnx"}),
        ({"variant": "fp16"}, {"acme/v/model_fp16": "onnx/model_fp16.onnx"}),
        ({"file": "*quant*"}, {"acme/v/model_quantized": "onnx/model_quantized.onnx"}),
        (
            {"variant": "all"},
            dict(
                zip(
                    ("acme/v", "acme/v/model_fp16", "acme/v/model_quantized"), VARIANTS, strict=True
                )
            ),
        ),
    ],
)
def test_an_option_chooses_among_quantised_variants(
    options: dict[str, object],
    expected: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = {
        path: tiny_classifier(tmp_path / "model.onnx", seed=seed).read_bytes()
        for seed, path in enumerate(VARIANTS)
    }
    with hub(Repository("acme/v", files)) as server:
        found = [artifact(i) for i in fetched(server, monkeypatch, "acme/v", **options)]
        assert files_asked(server) == list(expected.values())
    assert {i.name: str(i.revision).partition(":")[2] for i in found} == expected
    tags = {i.name: i.declared["tags"] for i in found}
    for name in tags:
        assert ("fp16" in tags[name]) == name.endswith("fp16")  # type: ignore[operator]  # a tuple


def test_a_variant_that_is_not_there_is_refused_with_what_is(
    model: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub(Repository("acme/v", dict.fromkeys(VARIANTS, model))) as server:
        found = fetched(server, monkeypatch, "acme/v", variant="q4")
    assert reasons(found) == [f"has no variant 'q4'; it has {', '.join(VARIANTS)}"]


def test_several_models_of_a_repository_have_the_names_of_their_files(
    model: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = dict.fromkeys(("onnx/decoder_model.onnx", "onnx/encoder_model.onnx"), model)
    with hub(Repository("acme/seq", files)) as server:
        names = [artifact(i).name for i in fetched(server, monkeypatch, "acme/seq")]
        (one,) = fetched(server, monkeypatch, "acme/seq:onnx/encoder_model.onnx")
    assert names == ["acme/seq/decoder_model", "acme/seq/encoder_model"]
    assert artifact(one).name == "acme/seq/encoder_model"


def test_without_onnx_a_row_states_parameters_from_the_safetensors_header_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tensors = {"w": ("F32", [1000, 1000]), "b": ("F16", [1000]), "scalar": ("I64", [])}
    body = safetensors(tensors)
    files = {"model.safetensors": body, "pytorch_model.bin": b"a pickle"}
    with hub(Repository("acme/st", files)) as server:
        found = artifact(fetched(server, monkeypatch, "acme/st")[0])
        (request,) = [r for r in server.requests if "/resolve/" in r.path]
    assert request.headers["range"] == "bytes=0-65535"
    assert found.path is None
    assert numbers(found) == {"params": 1_001_001, "size": 4_002_008}
    assert "1 .bin, 1 .safetensors" in str(found.declared["note"])


def test_headers_of_all_shards_count_and_a_long_header_is_read_to_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    many = {f"layer.{n}.{'x' * 200}": ("I8", [10]) for n in range(500)}  # a header above 64 KiB
    files = {
        "model-00001-of-00002.safetensors": safetensors(many),
        "model-00002-of-00002.safetensors": safetensors({"w": ("BF16", [7])}),
    }
    with hub(Repository("acme/st", files)) as server:
        found = artifact(fetched(server, monkeypatch, "acme/st")[0])
    assert numbers(found) == {"params": 5007, "size": 5014}


def test_a_count_the_hub_states_needs_no_header(monkeypatch: pytest.MonkeyPatch) -> None:
    repository = Repository("acme/st", {"model.safetensors": b""}, parameters={"F16": 50, "I8": 3})
    with hub(repository) as server:
        found = artifact(fetched(server, monkeypatch, "acme/st")[0])
        assert files_asked(server) == []
    assert numbers(found) == {"params": 53, "size": 103}


@pytest.mark.parametrize(
    "body",
    [b"", b"junk", b"\xff" * 100, b"\x02" + b"\0" * 7 + b"[]", safetensors({"w": ("F32", [-1])}),
     b"\x10\0\0\0\0\0\0\0" + b'{"w": {"shape"', header([10**400]), header([1 << 62, 2]),
     header([2] * 20_000)],
)  # fmt: skip
def test_a_broken_safetensors_header_leaves_parameters_unknown(
    body: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub(Repository("acme/st", {"model.safetensors": body})) as server:
        found = artifact(fetched(server, monkeypatch, "acme/st")[0])
    assert numbers(found) == {}
    assert "parameters unknown" in str(found.declared["note"])


def test_results_of_the_card_are_declared_numbers_with_their_dataset(
    model: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def result(metric: str, value: object, dataset: str = "imagenet-1k") -> dict[str, object]:
        return {
            "task": {"type": "image-classification"},
            "dataset": {"type": dataset, "name": dataset, "config": 5 if dataset == "x5" else None},
            "metrics": [{"type": metric, "value": value}],
        }

    results = [
        result("accuracy", 0.8125), result("top_5_accuracy", 0.95), result("loss", 1.5),
        result("accuracy", "n/a", "x"), result("accuracy", 0.5, "x5"),
        result("accuracy", -3, "y"), result("wer", 25, "z"),
    ]  # fmt: skip
    card = {"model-index": [{"name": "a", "results": results}]}
    with hub(Repository("acme/a", {"model.onnx": model}, card=card)) as server:
        found = artifact(fetched(server, monkeypatch, "acme/a")[0])
    declared = {(m.metric, m.dataset, m.value, m.method) for m in found.measurements}
    assert declared == {
        ("accuracy", "imagenet", 0.8125, "model-index"),
        ("top5_accuracy", "imagenet", 0.95, "model-index"),
        ("accuracy", "x5/5", 0.5, "model-index"),
    }


def test_preprocessing_of_a_picture_model_is_read_from_its_configuration(
    model: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {
        "image_processor_type": "BitImageProcessor",
        "do_resize": True, "size": {"shortest_edge": 256}, "resample": 3, "do_center_crop": True,
        "crop_size": {"height": 224, "width": 224}, "do_rescale": True, "do_normalize": True,
        "rescale_factor": 0.00392156862745098,
        "image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225],
    }  # fmt: skip
    files = {"model.onnx": model, "preprocessor_config.json": json.dumps(config).encode()}
    with hub(Repository("acme/a", files)) as server:
        found = artifact(fetched(server, monkeypatch, "acme/a")[0])
    assert found.declared["preprocessing"] == (
        ("resize_short", {"size": 256, "filter": "bicubic"}),
        ("center_crop", {"size": [224, 224]}),
        ("to_float", {"scale": 1 / 255}),
        ("normalize", {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}),
        ("layout", {"order": "NCHW"}),
    )


@pytest.mark.parametrize(
    ("card", "tags", "note"),
    [
        ({"base_model": "a/b"}, (), "made from a/b"),
        ({"base_model": ["a/b", 5]}, ("base_model:a/b", "base_model:merge:c/d"),
         "made from a/b; made from c/d (merge)"),
        ({"base_model": 5}, (), None),
        ({}, ("base_model:a/b", "base_model:quantized:a/b"), "made from a/b (quantized)"),
    ],
)  # fmt: skip
def test_the_model_tree_is_noted_as_it_is_stated(
    card: dict[str, object],
    tags: tuple[str, ...],
    note: str | None,
    model: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with hub(Repository("acme/a", {"model.onnx": model}, card=card, tags=tags)) as server:
        declared = artifact(fetched(server, monkeypatch, "acme/a")[0]).declared
    assert declared.get("note") == note


@pytest.mark.parametrize(
    ("card", "tags", "license", "note"),
    [
        ({"license": "mit"}, (), "MIT", None),
        ({}, ("license:bsd-3-clause",), "BSD-3-Clause", None),
        ({"license": ["mit"]}, (), "MIT", None),
        ({"license": ["mit", "apache-2.0"]}, (), None, "licence as stated: mit, apache-2.0"),
        ({}, ("license:mit", "license:gpl-3.0"), None, "licence as stated: mit, gpl-3.0"),
        ({"license": "other", "license_name": "acme-1"}, (), None, "licence as stated: acme-1"),
        ({"license": "llama3"}, (), None, "licence as stated: llama3"),
        ({"license": {"not": "text"}}, (), None, None),
    ],
)
def test_a_licence_is_spdx_or_noted_as_it_is_stated(
    card: dict[str, object],
    tags: tuple[str, ...],
    license: str | None,
    note: str | None,
    model: bytes,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with hub(Repository("acme/a", {"model.onnx": model}, card=card, tags=tags)) as server:
        declared = artifact(fetched(server, monkeypatch, "acme/a")[0]).declared
    assert (declared.get("license"), declared.get("note")) == (license, note)


# ---- what servers do wrong


def test_one_failing_file_does_not_stop_the_others(
    model: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"a.onnx": b"junk", "b.onnx": model, "c.onnx": model + b"\0"}
    repository = Repository("acme/m", files)
    with hub(repository) as server:
        server.routes[page_of(server, repository, "c.onnx")] = Page(status=404)
        found = fetched(server, monkeypatch, "acme/m")
    assert [type(item) for item in found] == [Rejection, Artifact, Rejection]
    assert "not an ONNX file" in reasons(found)[0]
    assert "there is nothing at" in reasons(found)[1]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Page(status=403), "refuses us (403"),
        (Page(status=429, headers={"Retry-After": "900"}), "is busy (429"),
        (Page(b"x" * 100, cut=50), "broke off 3 times"),
        (Page(b"not what the hub promised"), "has another content than it should"),
        (redirect("/loop"), "was redirected more than 5 times"),
        (redirect("file:///etc/passwd"), "no http or https address"),
    ],
)
def test_a_file_that_cannot_be_had_whole_is_refused_with_the_reason(
    fault: Page, reason: str, model: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = Repository("acme/a", {"model.onnx": model})
    with hub(repository) as server:
        server.routes["/loop"] = redirect("/loop")
        server.routes[page_of(server, repository, "model.onnx")] = fault
        (found,) = reasons(fetched(server, monkeypatch, "acme/a"))
    assert reason in found


def test_a_small_file_is_compared_with_the_hash_git_gives_it(
    model: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = Repository("acme/a", {"model.onnx": model}, large=())
    with hub(repository) as server:
        page = page_of(server, repository, "model.onnx")
        right, server.routes[page] = server.routes[page], Page(model + b"\0", etag='"2"')
        (found,) = reasons(fetched(server, monkeypatch, "acme/a"))
        server.routes[page] = right
        assert not reasons(fetched(server, monkeypatch, "acme/a"))
    assert "another content than the commit says" in found


@pytest.mark.parametrize("told", ["by the hub", "by the server of the file"])
def test_a_claim_of_3_gb_is_refused_before_it_is_fetched(
    told: str, model: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = 3 * 10**9
    claim = {"size": size, "lfs": {"size": size, "sha256": "0" * 64, "pointerSize": 1}}
    claims = {"model.onnx": claim} if told == "by the hub" else {}
    repository = Repository("acme/a", {"model.onnx": model}, claims=claims)
    with hub(repository) as server:
        page = page_of(server, repository, "model.onnx")
        server.routes[page] = Page(b"x", claim=size)
        (found,) = reasons(fetched(server, monkeypatch, "acme/a"))
        assert files_asked(server) == ([] if claims else ["model.onnx"])
    assert "3 GB" in found
    assert "the limit is 2 GB" in found


@pytest.mark.parametrize("name", ["../../evil.onnx", "/evil.onnx", "a/../../evil.onnx", "C:e.onnx"])
def test_no_name_of_a_file_leaves_the_cache(
    name: str, tmp_path: Path, model: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub(Repository("acme/a", {name: model})) as server:
        (found,) = reasons(fetched(server, monkeypatch, "acme/a"))
    assert "outside of itself" in found
    assert not list(tmp_path.rglob("*evil*"))


def test_external_data_outside_of_the_repository_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = external_data_model(tmp_path / "model.onnx", location="../../../../outside.bin")
    with hub(Repository("acme/a", {"model.onnx": path.read_bytes()})) as server:
        (found,) = reasons(fetched(server, monkeypatch, "acme/a"))
    assert "outside the model's folder" in found


def test_a_gated_repository_is_refused_and_the_next_one_comes(
    model: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated = Page(b"{}", 403, {"X-Error-Code": "GatedRepo"})
    repositories = (
        Repository("acme/gated", refusal=gated),
        Repository("acme/open", {"model.onnx": model}),
    )
    with hub(*repositories) as server:
        found = fetched(server, monkeypatch, "acme/gated@main", "acme/open")
    assert "is gated" in reasons(found)[0]
    assert f"accept its terms at {server.url}/acme/gated," in reasons(found)[0]
    assert artifact(found[1]).name == "acme/open"


@pytest.mark.parametrize(
    "answer",
    [b"[]", b"{}", b"<html>", b'{"id": "a/b"}', b'{"id": "../../x", "sha": "1234567"}',
     b'{"id": "acme/a", "sha": "1234567", "tags": [5]}',
     b'{"id": "acme/a", "sha": "1234567", "pipeline_tag": {}}',
     b'{"id": "acme/a", "sha": "1234567", "siblings": [{"rfilename": "a.onnx", "size": "x"}]}',
     b'{"id": "acme/a", "sha": "1234567", "safetensors": {"parameters": [1], "total": 1}}',
     b'{"id": "acme/a", "sha": "../../x"}', b'{"id": "acme/a", "sha": 5, "siblings": 7}'],
)  # fmt: skip
def test_nonsense_from_the_hub_is_refused(
    answer: bytes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with hub(Repository("acme/a", refusal=Page(answer))) as server:
        found = fetched(server, monkeypatch, "acme/a")
    assert len(reasons(found)) == 1
    assert not (tmp_path / "cache" / "huggingface").exists()


@pytest.mark.parametrize("location", ["acme/nowhere", "acme/a@nowhere"])
def test_a_place_that_leads_nowhere_stops_the_statement(
    location: str, model: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        hub(Repository("acme/a", {"model.onnx": model})) as server,
        pytest.raises(ConnectorError, match=location),
    ):
        fetched(server, monkeypatch, "acme/a", location)


@pytest.mark.parametrize(
    "location",
    [
        "a/b/c",
        "",
        "a b",
        "https://host/a/b",
        "acme/a@",
        "https://huggingface.co/datasets/a/b",
        "https://huggingface.co/a/b/tree/main/onnx",
        "https://huggingface.co/",
    ],
)
def test_what_is_no_repository_is_refused_with_how_one_is_written(location: str) -> None:
    with pytest.raises(ConnectorError, match="no repository") as caught:
        HuggingFaceConnector().fetch((location,), options={})
    assert "owner/name" in str(caught.value.hint)


def test_the_page_of_another_hub_is_refused_with_the_hub_that_is_asked() -> None:
    asked = {"endpoint": "http://127.0.0.1:9"}
    with pytest.raises(ConnectorError, match=r"hub at http://127\.0\.0\.1:9, which") as caught:
        HuggingFaceConnector().fetch(("https://huggingface.co/acme/small",), options=asked)
    assert "endpoint" in str(caught.value.hint)


def test_a_token_goes_to_the_hub_only(model: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    repository = Repository("acme/a", {"model.onnx": model})
    with hub(repository) as server:
        elsewhere = server.url.replace("127.0.0.1", "localhost")
        page = page_of(server, repository, "model.onnx")
        server.routes |= {page: redirect(f"{elsewhere}/cdn"), "/cdn": Page(model)}
        assert not reasons(fetched(server, monkeypatch, "acme/a"))
    sent = {r.path: r.headers.get("authorization") for r in server.requests}
    assert sent[page] == "Bearer hf_secret"
    assert sent["/cdn"] is None


def test_files_are_listed_with_their_sizes_and_nothing_is_fetched(
    model: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub(Repository("acme/a", {"model.onnx": model}), Repository("acme/none")) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        listed = list(HuggingFaceConnector().list(("acme/a", "acme/none"), options={}))
        assert files_asked(server) == []
    assert [(i.name, i.size_bytes) for i in listed] == [("acme/a", len(model)), ("acme/none", None)]


def numbers(found: Artifact) -> dict[str, float]:
    def value(m: Measurement) -> float:
        assert m.provenance.value == "declared"
        assert m.source == found.revision
        return m.value

    return {m.metric: value(m) for m in found.measurements}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_connector_keeps_the_contract(
    check: Check, model: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub(Repository("toy/models", {"good.onnx": model, "bad.onnx": b"junk"})) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        check(connector("huggingface"), Sample(("toy/models",), "toy/nowhere"))
