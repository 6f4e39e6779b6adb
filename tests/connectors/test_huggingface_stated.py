"""What is taken from a hub's word and what is not: numbers, parts, dates, contents, waiting."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from sommelier.connectors.huggingface import HuggingFaceConnector
from sommelier.connectors.search import BusySourceError, Candidate, Term
from sommelier.errors import ConnectorError
from sommelier.records import Artifact, Rejection
from tests.connectors.hub_server import Repository, hub, safetensors
from tests.connectors.loopback import Page, Server
from tests.factories import external_data_model, tiny_classifier

pytest.importorskip("huggingface_hub")
from huggingface_hub import close_session

TASK = "image-classification"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOMMELIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_ENDPOINT", raising=False)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("models")
    return [tiny_classifier(folder / f"{n}.onnx", seed=n).read_bytes() for n in range(3)]


@pytest.fixture
def naps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were slept, without sleeping."""
    taken: list[float] = []
    monkeypatch.setattr("time.sleep", taken.append)
    return taken


def fetched(server: Server, *locations: str, **options: object) -> list[Artifact | Rejection]:
    told = {"endpoint": server.url, **options}
    return list(HuggingFaceConnector().fetch(locations, options=told))


def artifacts(server: Server, *locations: str, **options: object) -> list[Artifact]:
    found = fetched(server, *locations, **options)
    assert all(isinstance(item, Artifact) for item in found), found
    return [item for item in found if isinstance(item, Artifact)]


def searched(server: Server, *terms: Term) -> Iterator[Candidate]:
    return HuggingFaceConnector().search(terms, options={"endpoint": server.url})


def files_asked(server: Server) -> list[str]:
    return [r.path.rpartition("/")[2] for r in server.requests if "/resolve/" in r.path]


# ---- results


def card(*results: tuple[object, str | None, str]) -> dict[str, object]:
    """A model-index of (accuracy, split, dataset)."""
    return {
        "model-index": [
            {
                "name": "a",
                "results": [
                    {
                        "task": {"type": TASK},
                        "dataset": {"type": dataset, "name": dataset, "split": split},
                        "metrics": [{"type": "accuracy", "value": value}],
                    }
                    for value, split, dataset in results
                ],
            }
        ]
    }


LEFT = "results that may mean several things are left out: accuracy "


@pytest.mark.parametrize(
    ("results", "expected", "note"),
    [
        ([(0.99, "train", "beans"), (0.80, "validation", "beans")], {"beans": 0.80}, None),
        ([(0.99, "train", "beans")], {}, None),
        ([(0.7, "validation", "beans"), (0.8, "test", "beans"), (0.9, None, "beans")],
         {"beans": 0.8}, None),
        ([(0.7, "test", "beans"), (0.8, "test", "beans")], {}, LEFT + "on beans"),
        ([(0.7, "test", "beans"), (0.7, "test", "beans")], {"beans": 0.7}, None),
        ([(91.5, "test", "beans"), (1.0, "test", "cifar10")], {"beans": 0.915},
         LEFT + "on cifar10"),
        ([("91.5%", "test", "beans"), ("0.5%", "test", "mnist")],
         {"beans": 0.915, "mnist": 0.005}, None),
        ([(1.0, "test", "beans"), (0.5, "test", "mnist")], {"beans": 1.0, "mnist": 0.5}, None),
        ([(0.8, "test", "ILSVRC/imagenet-1k")], {"imagenet": 0.8}, None),
        ([(0.8, "test", "ImageNet-1K"), (0.7, None, "imagenet-1k")], {"imagenet": 0.8}, None),
        ([(0.8, "test", "imagefolder")], {}, LEFT + "of a dataset without a name"),
        ([(0.8, "test", "beans"), (180, "test", "mnist")], {"beans": 0.8}, None),
    ],
)  # fmt: skip
def test_a_result_is_declared_where_it_is_clear_what_it_means(
    results: list[tuple[object, str | None, str]],
    expected: dict[str, float],
    note: str | None,
    models: list[bytes],
) -> None:
    with hub(Repository("acme/a", {"model.onnx": models[0]}, card=card(*results))) as server:
        (found,) = artifacts(server, "acme/a")
    declared = {str(m.dataset): m.value for m in found.measurements}
    assert declared == pytest.approx(expected)
    assert found.declared.get("note") == note


def test_results_and_task_are_of_the_whole_model_only(models: list[bytes]) -> None:
    config = json.dumps({"id2label": {"0": "cat", "1": "dog"}}).encode()
    files = {
        "model.onnx": models[0], "int8/model.onnx": models[1], "tokenizer.onnx": models[2],
        "config.json": config,
    }  # fmt: skip
    repository = Repository("acme/a", files, TASK, card(("0.9", "test", "beans")))
    with hub(repository) as server:
        found = {a.name: a for a in artifacts(server, "acme/a", variant="all")}
    whole, int8, part = (found[f"acme/a{n}"] for n in ("/model", "/int8/model", "/tokenizer"))
    assert [len(a.measurements) for a in (whole, int8, part)] == [1, 0, 0]
    assert [a.declared.get("task") for a in (whole, int8, part)] == [TASK, TASK, None]
    assert [a.declared.get("labels") for a in (int8, part)] == [("cat", "dog"), None]
    assert "a part of the repository" in str(part.declared["note"])
    assert "int8" in str(int8.declared["tags"])


# ---- parameters


def numbers(found: Artifact) -> dict[str, float]:
    return {m.metric: m.value for m in found.measurements}


def test_packed_weights_count_as_the_hub_counts_them_for_import_and_search() -> None:
    repository = Repository(
        "acme/q", {"model.safetensors": b""}, parameters={"I32": 100, "F16": 10}, total=810
    )
    with hub(repository) as server:
        (found,) = artifacts(server, "acme/q")
        (candidate,) = searched(server, Term("params", ">", 1.0))
    assert numbers(found) == {"params": 810}  # bytes cannot be told from counts that disagree
    assert candidate.facts["params"] == 810


def test_packed_weights_that_only_their_header_counts_are_unknown() -> None:
    files = {"model.safetensors": safetensors({"w": ("I64", [10])})}
    config = {"quantization_config": {"bits": 4}}
    with hub(Repository("acme/q", files, config=config)) as server:
        (found,) = artifacts(server, "acme/q")
    assert numbers(found) == {}
    assert "packed" in str(found.declared["note"])


WHOLE = safetensors({"w": ("F32", [30])})
PARTS = {
    "model-00001-of-00002.safetensors": safetensors({"w": ("F32", [10])}),
    "model-00002-of-00002.safetensors": safetensors({"w": ("F32", [20])}),
}


def index(*files: str) -> bytes:
    return json.dumps({"weight_map": {f"w{n}": file for n, file in enumerate(files)}}).encode()


@pytest.mark.parametrize(
    ("files", "params"),
    [
        ({"model.safetensors": WHOLE, **PARTS}, 30),
        ({"model.safetensors": WHOLE, **PARTS, "model.safetensors.index.json": index(*PARTS)}, 30),
        ({"adapter.safetensors": WHOLE, "model.safetensors.index.json": index("adapter.safetensors")
          }, 30),
        ({**PARTS, "model.safetensors.index.json": index("gone.safetensors")}, None),
        ({**PARTS, "model.safetensors.index.json": b"[]"}, None),
    ],
)  # fmt: skip
def test_each_weight_counts_once(files: dict[str, bytes], params: int | None) -> None:
    with hub(Repository("acme/st", files)) as server:
        (found,) = artifacts(server, "acme/st")
    assert numbers(found).get("params") == params


# ---- dates, names and places


@pytest.mark.parametrize(
    ("created", "expected"),
    [("2022-03-02T23:29:04.000Z", None), ("2022-03-03T23:29:04.000Z", "2022-03-03")],
)
def test_the_date_the_hub_gives_to_all_that_is_older_is_unknown(
    created: str, expected: str | None, models: list[bytes]
) -> None:
    with hub(Repository("acme/a", {"model.onnx": models[0]}, created=created)) as server:
        (found,) = artifacts(server, "acme/a")
        (candidate,) = searched(server)
    assert (found.declared.get("created"), candidate.facts.get("created")) == (expected, expected)


def test_a_path_with_an_empty_folder_is_fetched_like_any_other(models: list[bytes]) -> None:
    with hub(Repository("acme/a", {"a//m.onnx": models[0]})) as server:
        (found,) = artifacts(server, "acme/a")
    assert found.path is not None
    assert found.path.read_bytes() == models[0]


@pytest.mark.parametrize(
    ("location", "options"),
    [
        ("acme/none:onnx/model_int8.onnx", {}),
        ("acme/none", {"file": "*.onnx"}),
        ("acme/none", {"variant": "fp16"}),
    ],
)
def test_a_file_that_is_asked_for_and_is_not_there_is_refused(
    location: str, options: dict[str, object]
) -> None:
    with hub(Repository("acme/none", {"model.safetensors": WHOLE})) as server:
        (found,) = fetched(server, location, **options)
    assert isinstance(found, Rejection)
    assert found.reason.endswith("it has no ONNX file")


@pytest.mark.parametrize(
    "page", ["", "/", "/tree/main", "/tree/{sha}", "/blob/main/on%20nx/model.onnx?download=true"]
)
def test_the_address_of_a_page_of_the_hub_names_its_repository(
    page: str, models: list[bytes]
) -> None:
    repository = Repository("acme/a", {"on nx/model.onnx": models[0]})
    with hub(repository) as server:
        server.routes[f"/acme/a/resolve/{repository.sha}/on%20nx/model.onnx"] = Page(models[0])
        (found,) = artifacts(server, f"{server.url}/acme/a{page.format(sha=repository.sha)}")
    assert found.revision == f"acme/a@{repository.sha}:on nx/model.onnx"


# ---- contents


def test_a_new_commit_fetches_only_what_it_changed(models: list[bytes]) -> None:
    first = Repository("acme/a", {"model.onnx": models[0], "README.md": b"one"})
    second = Repository("acme/a", {"model.onnx": models[0], "README.md": b"two"})
    assert first.sha != second.sha
    with hub(first) as server:
        (before,) = artifacts(server, "acme/a")
        assert files_asked(server) == ["model.onnx"]
    with hub(second) as server:
        (after,) = artifacts(server, "acme/a")
        assert files_asked(server) == []
    assert after.path == before.path
    assert after.revision != before.revision


def test_content_that_was_changed_in_the_cache_is_fetched_again(models: list[bytes]) -> None:
    repository = Repository("acme/a", {"model.onnx": models[0]})
    with hub(repository) as server:
        (before,) = artifacts(server, "acme/a")
        assert before.path is not None
        before.path.write_bytes(models[1])
        (after,) = artifacts(server, "acme/a")
        assert files_asked(server) == ["model.onnx", "model.onnx"]
    assert after.path is not None
    assert after.path.read_bytes() == models[0]


def test_a_file_lies_in_the_cache_once_unless_weights_lie_beside_it(
    tmp_path: Path, models: list[bytes]
) -> None:
    (tmp_path / "source").mkdir()
    path = external_data_model(tmp_path / "source" / "model.onnx")
    beside = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    with hub(Repository("acme/a", {"model.onnx": models[0]}), Repository("acme/b", beside)) as at:
        artifacts(at, "acme/a", "acme/b")
    held = [file.read_bytes() for file in (tmp_path / "cache").rglob("*") if file.is_file()]
    assert held.count(models[0]) == 1
    assert [held.count(body) for body in beside.values()] == [2, 2]


# ---- busy hubs


def busy(page: Page, times: int, **headers: str) -> Page:
    """The page after so many answers of 429."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Page(b"{}", 429, named, times=times, then=page)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Retry_After": "7"}, [7.0, 7.0]),
        ({"RateLimit": '"api";r=0;t=55', "Retry_After": "7"}, [55.0, 55.0]),
        ({"Retry_After": "Thu, 01 Jan 1970 00:00:00 GMT"}, []),
        ({}, [1.0, 2.0]),
    ],
)
def test_a_busy_hub_is_asked_again_when_it_says(
    headers: dict[str, str], expected: list[float], models: list[bytes], naps: list[float]
) -> None:
    repository = Repository("acme/a", {"model.onnx": models[0]})
    with hub(repository) as server:
        route = server.routes["/api/models/acme/a"]
        assert isinstance(route, Page)
        server.routes["/api/models/acme/a"] = busy(route, 2, **headers)
        assert len(artifacts(server, "acme/a")) == 1
    assert [nap for nap in naps if nap >= 1] == expected


def test_a_search_waits_for_a_busy_hub_too(naps: list[float]) -> None:
    repositories = [Repository(f"acme/{n}", downloads=n) for n in range(5)]
    with hub(*repositories) as server:
        pages = server.routes["/api/models"]
        assert not isinstance(pages, Page)
        answers = iter([pages, lambda _: busy(Page(), 1, Retry_After="3"), pages])
        server.routes["/api/models"] = lambda request: next(answers)(request)
        found = [candidate.name for candidate in searched(server)]
    assert found == ["acme/4", "acme/3", "acme/2", "acme/1", "acme/0"]
    assert [nap for nap in naps if nap >= 1] == [3.0]


def test_a_hub_that_wants_more_patience_than_we_have_is_not_asked_on(
    models: list[bytes], naps: list[float]
) -> None:
    repositories = [Repository(f"acme/{n}", {"model.onnx": models[0]}) for n in range(3)]
    with hub(*repositories) as server:
        for name in ("acme/1", "acme/2"):
            server.routes[f"/api/models/{name}"] = Page(b"{}", 429, {"Retry-After": "86400"})
        found = fetched(server, "acme/0", "acme/1", "acme/2")
        asked = [r.path for r in server.requests]
        with pytest.raises(BusySourceError) as caught:
            fetched(server, "acme/1")
    assert isinstance(found[0], Artifact)
    assert [isinstance(item, Rejection) for item in found[1:]] == [True, True]
    assert "/api/models/acme/2" not in asked
    assert "86400 s" in str(caught.value.hint)
    assert not [nap for nap in naps if nap >= 1]


def test_a_next_page_elsewhere_is_not_told_who_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with hub(Repository("acme/a")) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        elsewhere = server.url.replace("127.0.0.1", "localhost")
        link = {"Link": f'<{elsewhere}/more>; rel="next"'}
        server.routes["/api/models"] = Page(b'[{"id": "acme/a", "sha": "1234567"}]', headers=link)
        server.routes["/more"] = Page(b'[{"id": "acme/b", "sha": "1234567"}]')
        assert [candidate.name for candidate in searched(server)] == ["acme/a", "acme/b"]
    sent = {r.path: r.headers.get("authorization") for r in server.requests}
    assert sent == {"/api/models": "Bearer hf_secret", "/more": None}


def test_a_refused_file_keeps_the_hint_of_what_to_do(models: list[bytes]) -> None:
    repository = Repository("acme/a", {"model.onnx": models[0]})
    with hub(repository) as server:
        server.routes[f"/acme/a/resolve/{repository.sha}/model.onnx"] = Page(b"", 403)
        (found,) = fetched(server, "acme/a")
    assert isinstance(found, Rejection)
    assert "token" in found.reason


def test_nonsense_among_the_found_does_not_end_a_search() -> None:
    answer = [
        {"id": None, "sha": "1234567"},
        {"id": "a/huge", "sha": "1", "safetensors": {"parameters": {}, "total": 10**400}},
        {"id": "a/good", "sha": "1234567"},
    ]
    with hub() as server:
        server.routes["/api/models"] = Page.of_json(answer)
        assert [candidate.name for candidate in searched(server)] == ["a/good"]
        server.routes["/api/models"] = Page.of_json({"error": "no"})
        with pytest.raises(ConnectorError, match="the search"):
            list(searched(server))


# ---- without the hub


def test_what_was_imported_once_can_be_imported_without_the_hub(
    tmp_path: Path, models: list[bytes]
) -> None:
    (tmp_path / "source").mkdir()
    path = external_data_model(tmp_path / "source" / "model.onnx")
    beside = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    config = b'{"id2label": {"0": "cat", "1": "dog"}}'
    first = Repository("acme/a", {"model.onnx": models[0], "config.json": config}, TASK)
    with hub(first, Repository("acme/b", beside)) as server:
        online = artifacts(server, "acme/a", "acme/b")
    close_session()  # it would go on over a connection that is open
    offline = artifacts(server, f"acme/a@{first.sha}", "acme/b")
    assert [a.path for a in offline] == [a.path for a in online]
    for before, after in zip(online, offline, strict=True):
        note = after.declared["note"]
        assert "it was not reached" in str(note)
        assert {**after.declared, "note": None} == {**before.declared, "note": None}
    (unknown,) = fetched(server, "acme/never-seen")
    assert isinstance(unknown, Rejection)
    assert "check the network" in unknown.reason


def test_the_clients_offline_mode_is_kept_to(
    models: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = (Repository(f"acme/{n}", {"model.onnx": models[0], "b.onnx": models[1]}) for n in "ab")
    with hub(a, b) as server:
        artifacts(server, "acme/a:model.onnx")
        asked = len(server.requests)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        (known,) = artifacts(server, "acme/a:model.onnx")
        other, unknown = fetched(server, "acme/a:b.onnx", "acme/b")
        assert len(server.requests) == asked
    assert known.path is not None
    assert known.path.read_bytes() == models[0]
    for item, says in ((other, "not in the cache"), (unknown, "looked up offline")):
        assert isinstance(item, Rejection)
        assert says in item.reason
        assert "unset HF_HUB_OFFLINE" in item.reason
