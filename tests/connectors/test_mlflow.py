"""Model registries of MLflow: what is read, what is refused, and that nothing leads outside."""

from __future__ import annotations

import base64
import io
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

import sommelier as sm
from sommelier.connectors.mlflow import MlflowConnector
from sommelier.connectors.testing import Sample, check_connector
from sommelier.connectors.web import read_json
from sommelier.errors import ConnectorError
from sommelier.records import Artifact, Conversion, Provenance, Rejection
from tests.asking import rows
from tests.connectors.loopback import Page, Route, Server
from tests.connectors.mlflow_registry import (
    API,
    FILES,
    ONNX_MLMODEL,
    PYTORCH_MLMODEL,
    FakeVersion,
    lying_server,
    mlflow_server,
)
from tests.factories import external_data_model, tiny_classifier
from tests.torch_models import net, save_program


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own for each test, and nobody's credentials."""
    monkeypatch.setenv("SOMMELIER_CACHE", str(tmp_path / "cache"))
    for name in ("URI", "TOKEN", "USERNAME", "PASSWORD"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    return tmp_path / "cache"


@pytest.fixture
def model(tmp_path: Path) -> bytes:
    return tiny_classifier(tmp_path / "source.onnx").read_bytes()


def onnx_version(
    model: bytes, name: str = "digits", version: str = "1", **facts: object
) -> FakeVersion:
    files = {"MLmodel": Page(ONNX_MLMODEL.encode()), "model.onnx": Page(model)}
    return FakeVersion(name, version, files, **facts)  # type: ignore[arg-type]


def fetch(server: Server, *locations: str, **options: object) -> list[Artifact | Rejection]:
    given = {"tracking_uri": server.url, **options} if locations else options
    return list(MlflowConnector().fetch(locations or (server.url,), options=given))


def only(server: Server, **options: object) -> Artifact:
    (item,) = fetch(server, **options)
    assert isinstance(item, Artifact), item
    return item


def refused(version: FakeVersion) -> str:
    with lying_server([version]) as server:
        (item,) = fetch(server)
    assert isinstance(item, Rejection), item
    return item.reason


# ---- which versions a location means


@pytest.fixture
def registry(model: bytes) -> Iterator[Server]:
    versions = [
        onnx_version(model, "digits", "1"),
        onnx_version(model, "digits", "2"),
        onnx_version(model, "digits", "10", stage="Production"),
        *(onnx_version(model, name) for name in ("dials", "faces", "it's", "letters")),
    ]
    with lying_server(versions) as server:
        yield server


@pytest.mark.parametrize(
    ("location", "versions"),
    [
        ("digits", ["digits/1", "digits/2", "digits/10"]),
        ("digits/2", ["digits/2"]),
        ("digits/latest", ["digits/10"]),
        ("digits/Production", ["digits/10"]),
        ("digits@first", ["digits/1"]),
        ("models:/digits/2", ["digits/2"]),
        ("models:/digits@first", ["digits/1"]),
        ("di*", ["dials/1", "digits/1", "digits/2", "digits/10"]),
        ("it's", ["it's/1"]),
    ],
)
def test_a_location_is_read_as_mlflow_reads_it(
    registry: Server, location: str, versions: list[str]
) -> None:
    found = fetch(registry, location)
    assert [f"{i.name}/{i.version}" for i in found if isinstance(i, Artifact)] == versions
    assert len(found) == len(versions)


def test_a_server_alone_is_its_whole_registry_over_all_pages(registry: Server) -> None:
    names = [item.name for item in fetch(registry) if isinstance(item, Artifact)]
    assert names == ["dials", "digits", "digits", "digits", "faces", "it's", "letters"]


def test_a_page_of_the_web_interface_is_a_location(registry: Server) -> None:
    pages = (f"{registry.url}/#/models/digits/versions/2", f"{registry.url}/#/models/it%27s")
    found = list(MlflowConnector().fetch(pages, options={}))
    assert [i.revision for i in found] == [pages[0], f"{pages[1]}/versions/1"]


@pytest.mark.parametrize("location", ["digts", "digts/3", "dgits@second", "dig?ts"])
def test_what_the_registry_has_not_is_refused_with_what_it_has(
    registry: Server, location: str
) -> None:
    with pytest.raises(ConnectorError, match="has no model") as caught:
        fetch(registry, location)
    assert location in caught.value.message
    assert "digits" in caught.value.suggestions
    assert "letters" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("location", "words", "hint"),
    [
        ("digits/3", "model 'digits' has no version '3'", "its versions are 1, 2, 10"),
        ("digits/Staging", "has no version 'Staging'", "its versions are 1, 2, 10"),
        ("digits@frist", "model 'digits' has no alias 'frist'", "its aliases are first"),
        ("digits@", "model 'digits' has no alias ''", "its aliases are first"),
    ],
)
def test_an_alias_or_version_a_model_has_not_is_named_with_those_there_are(
    registry: Server, location: str, words: str, hint: str
) -> None:
    with pytest.raises(ConnectorError, match=words) as caught:
        fetch(registry, location)
    assert f"'{location}'" in caught.value.message
    assert caught.value.hint == hint
    assert "digits" not in caught.value.suggestions


@pytest.mark.parametrize("location", ["runs:/4f1e/model", "s3://bucket/model", "FILE:/models/a"])
def test_places_that_are_no_models_of_a_registry_are_refused_as_such(
    registry: Server, location: str
) -> None:
    with pytest.raises(ConnectorError, match="is no location of mlflow") as caught:
        fetch(registry, location)
    assert "models:/m-..." in str(caught.value.hint)
    assert registry.requests == []


def test_a_page_of_the_web_interface_that_shows_no_model_is_refused(registry: Server) -> None:
    with pytest.raises(ConnectorError, match="shows no model"):
        MlflowConnector().fetch((f"{registry.url}/#/experiments/1/runs/4f1e",), options={})


# ---- logged models, registered or not

LOGGED = f"m-{'0123456789abcdef' * 2}"


def logged_model(model: bytes, **info: object) -> dict[str, Route]:
    """Routes of a logged model that is registered nowhere."""
    root = f"{FILES}/7/models/{LOGGED}/artifacts"
    stated = {
        "model_id": LOGGED, "experiment_id": "7", "name": "cnn", "status": "LOGGED_MODEL_READY",
        "artifact_uri": f"mlflow-artifacts:/7/models/{LOGGED}/artifacts",
        "creation_timestamp_ms": "1795309133715", "tags": [{"key": "task", "value": "digits"}],
        **info,
    }  # fmt: skip
    metrics = [{"key": "accuracy", "value": 0.5, "timestamp": 1, "step": 0, "dataset_name": "d"}]
    answer = {"model": {"info": stated, "data": {"metrics": metrics}}}
    return {
        f"{API}logged-models/{LOGGED}": Page.of_json(answer),
        f"{root}/MLmodel": Page(ONNX_MLMODEL.encode()),
        f"{root}/model.onnx": Page(model),
    }


@pytest.mark.parametrize("form", ["models:/{0}", "{0}", "{1}/#/experiments/7/models/{0}"])
def test_a_logged_model_is_read_by_its_id(model: bytes, form: str) -> None:
    with lying_server([], logged_model(model)) as server:
        (item,) = fetch(server, form.format(LOGGED, server.url))
    assert isinstance(item, Artifact), item
    assert (item.name, item.version) == ("cnn", LOGGED)
    assert item.revision == f"{server.url}/#/experiments/7/models/{LOGGED}"
    assert item.path is not None
    assert item.path.read_bytes() == model
    assert (item.declared["task"], item.declared["created"]) == ("digits", "2026-11-22")
    assert [(m.metric, m.value, m.dataset) for m in item.measurements] == [("accuracy", 0.5, "d")]


def test_a_logged_model_that_is_not_there_or_not_ready_is_refused(model: bytes) -> None:
    with lying_server([]) as server, pytest.raises(ConnectorError, match="no logged model 'm-0123"):
        fetch(server, f"models:/{LOGGED}")
    routes = logged_model(model, status="LOGGED_MODEL_UPLOAD_FAILED")
    with lying_server([], routes) as server:
        (item,) = fetch(server, LOGGED)
    assert isinstance(item, Rejection)
    assert "it is UPLOAD_FAILED" in item.reason


def test_a_name_without_a_server_asks_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConnectorError, match="which MLflow server") as caught:
        MlflowConnector().fetch(("digits",), options={})
    assert "tracking_uri" in str(caught.value.hint)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    with pytest.raises(ConnectorError, match="not the address of a server"):
        MlflowConnector().fetch(("digits",), options={})
    database = "postgresql://mlflow:s3cret@db/mlflow"
    with pytest.raises(ConnectorError, match="'postgresql://db/mlflow', not the address") as caught:
        MlflowConnector().fetch(("digits",), options={"tracking_uri": database})
    assert "s3cret" not in str(caught.value)


def test_listing_asks_for_no_file(registry: Server) -> None:
    listed = list(MlflowConnector().list((registry.url,), options={}))
    assert len(listed) == 7
    assert not [request for request in registry.requests if FILES in request.path]


# ---- what is said of a version


def test_metrics_count_by_their_name_and_in_base_units(model: bytes) -> None:
    metrics = [
        {"key": "accuracy", "value": 0.5, "step": 0, "timestamp": 1},
        {"key": "accuracy", "value": 0.875, "step": 1, "timestamp": 2},
        {"key": "accuracy", "value": 0.75, "step": 0, "timestamp": 1, "dataset_name": "b"},
        {"key": "latency_s", "value": 0.25, "step": 0, "timestamp": 1},
        {"key": "loss", "value": 0.1, "step": 0, "timestamp": 1},
        {"key": "train_accuracy", "value": 1.0, "step": 0, "timestamp": 1},
    ]
    with lying_server([onnx_version(model, run={"metrics": metrics})]) as server:
        item = only(server, dataset="a", device="xpu")
    found = {(m.metric, m.dataset, m.device): m.value for m in item.measurements}
    assert found == {
        ("accuracy", "a", None): 0.875,
        ("accuracy", "b", None): 0.75,
        ("latency", None, "xpu"): 250.0,
    }
    assert {m.provenance for m in item.measurements} == {Provenance.DECLARED}


def test_an_option_says_which_metric_is_which_and_in_what_unit(model: bytes) -> None:
    run = {"metrics": [{"key": "val acc", "value": 87.5}, {"key": "accuracy", "value": 1.0}]}
    with lying_server([onnx_version(model, run=run)]) as server:
        item = only(server, accuracy="val acc %", latency="step ms")
    assert [(m.metric, m.value) for m in item.measurements] == [("accuracy", 0.875)]
    assert "no metric 'step' to be the latency" in str(item.declared["note"])


def test_an_impossible_value_is_left_out_and_noted(model: bytes) -> None:
    run = {"metrics": [{"key": "accuracy", "value": 87.5}, {"key": "params", "value": "NaN"}]}
    with lying_server([onnx_version(model, run=run)]) as server:
        item = only(server)
    assert item.measurements == ()
    assert item.declared["note"] == "accuracy = 87.5 is left out, it cannot be the accuracy"


def test_tags_that_state_a_fact_are_facts_and_the_versions_tags_win(model: bytes) -> None:
    run = {
        "tags": [
            {"key": "task", "value": "from the run"},
            {"key": "labels", "value": '["a", "b, c"]'},
            {"key": "output_kind", "value": "poem"},
            {"key": "mlflow.user", "value": "root"},
            {"key": "team", "value": "vision"},
        ]
    }
    tags = {"task": "image-classification", "license": "apache 2.0"}
    with lying_server([onnx_version(model, run=run, tags=tags)]) as server:
        item = only(server)
    assert item.declared == {
        "family": "digits",
        "task": "image-classification",
        "labels": ("a", "b, c"),
        "license": "Apache-2.0",
        "created": "2026-11-22",
        "tags": ("mlflow", "alias:first", "team:vision"),
        "note": item.declared["note"],
    }
    assert "output_kind is 'poem'" in str(item.declared["note"])


def test_a_search_sees_the_tags_that_an_import_keeps(model: bytes) -> None:
    tags = {"team": "vision", "task": "ocr", "mlflow.source": "x"}
    with lying_server([onnx_version(model, tags=tags, stage="Production")]) as server:
        (found,) = MlflowConnector().search((), options={"tracking_uri": server.url})
        asked = [request.path for request in server.requests]
        item = only(server)
    assert found.facts["tags"] == item.declared["tags"]
    assert item.declared["tags"] == ("mlflow", "alias:first", "stage:Production", "team:vision")
    assert not [path for path in asked if "runs/get" in path or FILES in path]


def test_a_deleted_run_costs_the_metrics_and_not_the_model(model: bytes) -> None:
    with lying_server([onnx_version(model, run=None)]) as server:
        item = only(server)
    assert item.measurements == ()
    assert "metrics cannot be read" in str(item.declared["note"])


def test_external_weights_come_along(tmp_path: Path) -> None:
    path = external_data_model(tmp_path / "large.onnx")
    beside = [p for p in tmp_path.iterdir() if p.is_file() and p != path]
    files = {"MLmodel": Page(ONNX_MLMODEL.encode()), "model.onnx": Page(path.read_bytes())}
    files |= {file.name: Page(file.read_bytes()) for file in beside}
    with lying_server([FakeVersion("digits", "1", files)]) as server:
        item = only(server)
        assert item == only(server)
    assert item.path is not None
    assert [Path(str(p)).parent for p in item.declared["external_data"]] == [item.path.parent]  # type: ignore[attr-defined]  # object
    with sm.connect(tmp_path / "models.sommelier") as db:
        db.execute(f"REGISTER MODEL large FROM '{item.path}'")


QUESTION = "SELECT MODELS name, version, accuracy, params, task, license ORDER BY params"


def test_a_statement_imports_what_is_acceptable_and_records_the_rest(
    model: bytes, tmp_path: Path
) -> None:
    run = {"metrics": [{"key": "accuracy", "value": 0.9}]}
    versions = [onnx_version(model, run=run, tags={"license": "MIT"}), onnx_version(b"junk", "bad")]
    with lying_server(versions) as server, sm.connect(tmp_path / "models.sommelier") as db:
        db.execute(f"IMPORT MODELS FROM mlflow '*' USING tracking_uri = '{server.url}'")
        assert [tuple(row.values()) for row in rows(db, QUESTION)] == [
            ("digits", "1", 0.9, 4 * 3 + 3, None, "MIT")
        ]
        (refusal,) = rows(db, "SHOW REJECTIONS")
        assert "not an ONNX file" in str(refusal["reason"])
        assert "/models/bad/versions/1" in str(refusal)


def test_a_registry_under_a_name_is_listed_and_searched_and_only_what_passes_is_fetched(
    model: bytes, tmp_path: Path
) -> None:
    other = tiny_classifier(tmp_path / "other.onnx", seed=7).read_bytes()
    versions = [
        onnx_version(model, "digits", "1"),
        onnx_version(other, "dials", "1", stage="Production"),
        onnx_version(model, "letters", "2"),
    ]
    with lying_server(versions) as server, sm.connect(tmp_path / "models.sommelier") as db:
        db.execute(f"CREATE REPOSITORY registry TYPE mlflow AT '{server.url}'")

        def named(asked: str) -> list[object]:
            return [row["name"] for row in rows(db, f"SHOW MODELS FROM registry {asked}")]

        assert named("") == ["dials", "digits", "letters"]
        assert named("LIKE 'di%'") == ["dials", "digits"]
        assert named("WHERE aliases HAS 'first' AND status = 'READY'") == ["dials", "digits"]
        db.execute("IMPORT MODELS FROM registry LIKE 'dig%' LIMIT 20")
        db.execute("IMPORT MODELS FROM registry WHERE stage = 'Production' LIMIT 20")
        found = rows(db, "SELECT MODELS name, source ORDER BY name")
    assert [tuple(row.values()) for row in found] == [("dials", "registry"), ("digits", "registry")]
    fetched = {r.path for r in server.requests if r.path.endswith("model.onnx")}
    assert len(fetched) == 2
    assert not any("letters" in path for path in fetched)


# ---- credentials


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"TOKEN": "secret"}, "Bearer secret"),
        ({"USERNAME": "u", "PASSWORD": "p"}, "Basic " + base64.b64encode(b"u:p").decode()),
        ({}, None),
    ],
)
@pytest.mark.parametrize("configured", [False, True], ids=["by option", "by variable"])
def test_credentials_of_the_mlflow_client_are_sent_to_the_server_it_is_told_of(
    model: bytes,
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    expected: str | None,
    configured: bool,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
    with lying_server([onnx_version(model)]) as server:
        if configured:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
            only(server)
        else:
            (item,) = fetch(server, "digits")
            assert isinstance(item, Artifact)
        assert {request.headers.get("authorization") for request in server.requests} == {expected}


@pytest.mark.parametrize("home", ["https://corp.example", "http://127.0.0.1:5", "databricks", None])
@pytest.mark.parametrize("named", [False, True], ids=["by location", "by option"])
def test_credentials_of_the_mlflow_client_are_for_one_server_only(
    model: bytes, monkeypatch: pytest.MonkeyPatch, home: str | None, named: bool
) -> None:
    """Where $MLFLOW_TRACKING_URI names none, an option does, and a location never."""
    for name, value in {"TOKEN": "secret", "USERNAME": "u", "PASSWORD": "p"}.items():
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
    if home is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", home)
    with lying_server([onnx_version(model)]) as server:
        assert fetch(server, *(["digits"] if named else []))
        sent = {request.headers.get("authorization") for request in server.requests}
        somebody = server.url.replace("//", "//somebody@")
        server.requests.clear()
        assert list(MlflowConnector().fetch((somebody,), options={}))
        mixed = {request.headers.get("authorization") for request in server.requests}
    assert sent == ({"Bearer secret"} if named and home is None else {None})
    assert mixed == {"Basic " + base64.b64encode(b"somebody:").decode()}


def test_a_password_in_the_address_is_used_and_never_shown(model: bytes) -> None:
    with lying_server([onnx_version(model)]) as server:
        address = server.url.replace("//", "//u:hush@")
        (item,) = MlflowConnector().fetch((address,), options={})
        assert all("authorization" in request.headers for request in server.requests)
        with pytest.raises(ConnectorError) as caught:
            MlflowConnector().fetch((f"{address}/#/models/none",), options={})
    assert "hush" not in str(item) + str(caught.value) + str(caught.value.hint)


def test_credentials_do_not_follow_to_another_server(
    model: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret")
    with lying_server([]) as other:
        root = f"{other.url}{FILES}/1/models/m-digits1/artifacts"
        with lying_server([onnx_version(model, root=root)]) as server:
            (item,) = fetch(server)
        assert isinstance(item, Rejection)
        assert other.requests == []


# ---- what is refused


@pytest.mark.parametrize(
    "root",
    [
        "s3://bucket/1/model",
        "file:///etc",
        "/etc",
        "mlflow-artifacts:/1/../../etc",
        "mlflow-artifacts:/1/%2e%2e/etc",
        "http://example.org/api/2.0/mlflow-artifacts/artifacts/1",
        "",
    ],
)
def test_files_the_server_does_not_hand_out_itself_are_refused(model: bytes, root: str) -> None:
    assert "does not hand out" in refused(onnx_version(model, root=root))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("flavors:\n  onnx:\n    data: ../../../secret.onnx\n", "outside of its folder"),
        ("flavors:\n  onnx:\n    data: /etc/passwd\n", "outside of its folder"),
        ("flavors:\n  sklearn: {}\n  python_function: {}\n", "python_function, sklearn"),
        ("flavors: [onnx]\n", "flavors are none"),
        ("- a\n- b\n", "no mapping"),
        ("a: [", "no YAML"),
        ("a: !!bool x", "no YAML"),
        ("a: !!timestamp x", "no YAML"),
        ("a: !!int ''", "no YAML"),
        ("a: !!float ''", "no YAML"),
        ("[" * 100_000, "no YAML"),
        ("!!python/object/apply:os.system ['touch /tmp/sommelier-was-here']", "no YAML"),
        ("".join(f"a{i}: &a{i}\n  <<: [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60)), "no YAML"),
    ],
)
def test_a_description_that_cannot_be_trusted_is_refused(
    model: bytes, content: str, words: str
) -> None:
    files = {"MLmodel": Page(content.encode()), "model.onnx": Page(model)}
    assert words in refused(FakeVersion("digits", "1", files))
    assert not Path("/tmp/sommelier-was-here").exists()


def test_a_bomb_of_nested_aliases_is_read_without_unfolding_it(model: bytes) -> None:
    bomb = "a0: &a0 [x, x]\n" + "".join(
        f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]\n" for i in range(1, 60)
    )
    content = f"{bomb}metadata:\n  labels: *a59\n  note: *a59\n{ONNX_MLMODEL}"
    files = {"MLmodel": Page(content.encode()), "model.onnx": Page(model)}
    with lying_server([FakeVersion("digits", "1", files)]) as server:
        assert "labels" not in only(server).declared


class _Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("/tmp/sommelier-was-here"),)  # type: ignore[return-value]


def _zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name.replace("__", "/"), content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [pickle.dumps(_Bomb()), _zipped(**{"model__data.pkl": pickle.dumps(_Bomb())})],
    ids=["bare", "zipped"],
)
def test_a_pickled_module_is_refused_unopened_and_says_what_to_log_instead(content: bytes) -> None:
    files = {"MLmodel": Page(PYTORCH_MLMODEL.encode()), "data/model.pth": Page(content)}
    assert "serialization_format='pt2'" in refused(FakeVersion("digits", "1", files))
    assert not Path("/tmp/sommelier-was-here").exists()


@pytest.mark.parametrize(
    ("file", "content", "format"),
    [
        ("data/model.pt2", b"an exported program", "torch_export"),
        ("data/model.pth", _zipped(**{"m__code____torch__.py": b"x"}), "torchscript"),
    ],
)
def test_exported_programs_and_torchscript_are_left_to_a_converter(
    file: str, content: bytes, format: str
) -> None:
    files = {"MLmodel": Page(PYTORCH_MLMODEL.encode()), file: Page(content)}
    with lying_server([FakeVersion("digits", "1", files)]) as server:
        item = only(server, trust=True)
    assert item.conversion == Conversion(format, {"trust": True})
    assert item.path is not None
    assert item.path.read_bytes() == content


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (Page(b"", 403), "it may need a token"),
        (Page(b"", 404), "nothing at"),
        (Page(b"", 429, {"Retry-After": "9999"}), "busy (429"),
        (Page(b"x" * 100, claim=3 << 30), "the limit is"),
        (Page(b"not a model"), "not an ONNX file"),
    ],
    ids=["403", "404", "429", "3 GB", "junk"],
)
def test_a_file_that_does_not_come_is_a_rejection_and_the_rest_goes_on(
    model: bytes, page: Page, words: str
) -> None:
    bad = FakeVersion("bad", "1", {"MLmodel": Page(ONNX_MLMODEL.encode()), "model.onnx": page})
    with lying_server([bad, onnx_version(model, "good")]) as server:
        first, second = fetch(server, max_size="1 GB")
    assert isinstance(first, Rejection)
    assert words in first.reason or page.body == b"not a model"
    assert isinstance(second, Artifact)


def test_the_size_limit_holds_for_what_is_in_the_cache_too(model: bytes) -> None:
    with lying_server([onnx_version(model)]) as server:
        only(server)
        (item,) = fetch(server, max_size=len(model) - 1)
    assert isinstance(item, Rejection)
    assert "the limit is" in item.reason
    assert "max_size" in item.reason


def test_instants_and_numbers_that_cannot_be_are_left_out(model: bytes) -> None:
    metrics = [
        {"key": "accuracy", "value": 0.5, "timestamp": "²", "step": "9" * 5000},
        {"key": "flops", "value": 10**400},
        {"key": "params", "value": 25.6},
        {"key": "layers", "value": 7.0},
    ]
    version = onnx_version(model, run={"metrics": metrics})
    for instant in (10**17, "²", "9" * 5000):
        stated = {**version.as_json(), "creation_timestamp": instant}
        page = Page.of_json({"model_versions": [stated]})
        with lying_server([version], {f"{API}model-versions/search": page}) as server:
            item = only(server)
        assert "created" not in item.declared
    assert {m.metric: m.value for m in item.measurements} == {"accuracy": 0.5, "layers": 7}
    assert "params = 25.6 is left out" in str(item.declared["note"])


def test_a_version_whose_registration_failed_is_refused(model: bytes) -> None:
    assert "FAILED_REGISTRATION" in refused(onnx_version(model, status="FAILED_REGISTRATION"))


@pytest.mark.parametrize(
    ("page", "words"),
    [
        (Page(b"<html>"), "JSON"),
        (Page(b"[]"), "as an MLflow server"),
        (Page(b"", 401), "refuses us"),
        (Page.of_json({"registered_models": [{}]}), "without a name"),
        (Page.of_json({"registered_models": [], "next_page_token": "again"}), "more than"),
    ],
    ids=["html", "list", "401", "nameless", "endless"],
)
def test_what_is_no_mlflow_server_is_told_before_the_first_model(
    monkeypatch: pytest.MonkeyPatch, page: Page, words: str
) -> None:
    monkeypatch.setattr("sommelier.connectors.mlflow_server.MAX_PAGES", 5)
    with (
        lying_server([], {f"{API}registered-models/search": page}) as server,
        pytest.raises(ConnectorError, match=words),
    ):
        fetch(server)


# ---- a real server


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("mlflow")
    small = tiny_classifier(folder / "small.onnx", seed=1)
    large = tiny_classifier(folder / "large.onnx", seed=2, features=64, classes=10)
    exported = save_program(folder / "model.pt2", net())
    pickled = folder / "model.pth"
    pickled.write_bytes(pickle.dumps(_Bomb()))
    items = [
        {
            "name": "digits", "onnx": str(small), "metrics": {"accuracy": 0.91, "loss": 0.3},
            "run_tags": {"task": "digit-recognition"}, "tags": {"license": "MIT"},
            "aliases": ["champion"], "metadata": {"labels": ["zero", "one", "two"]},
            "model_tags": {"team": "vision"},
        },
        {"name": "digits", "onnx": str(large), "metrics": {"accuracy": 0.95, "latency_ms": 2.5}},
        {"name": "legacy", "flavors": {"sklearn": {"pickled_model": "model.pkl"}}, "files": {}},
        {
            "name": "unsafe", "flavors": {"pytorch": {"model_data": "data"}},
            "files": {str(pickled): "data"},
        },
        {
            "name": "exported", "flavors": {"pytorch": {"model_data": "data"}},
            "files": {str(exported): "data"}, "metrics": {"accuracy": 0.5},
        },
    ]  # fmt: skip
    with mlflow_server(folder, items) as url:
        yield url


@pytest.mark.slow
def test_a_statement_imports_the_registry_of_a_real_server(real: str, tmp_path: Path) -> None:
    with sm.connect(tmp_path / "models.sommelier") as db:
        db.execute(f"IMPORT MODELS FROM mlflow '{real}'")
        found = rows(db, QUESTION)
        reasons = [row["reason"] for row in rows(db, "SHOW REJECTIONS")]
    assert [tuple(row.values()) for row in found] == [
        ("digits", "1", 0.91, 4 * 3 + 3, "digit-recognition", "MIT"),
        ("digits", "2", 0.95, 64 * 10 + 10, None, None),
    ]
    assert any("flavors are sklearn" in str(reason) for reason in reasons)
    assert any("pickled PyTorch module" in str(reason) for reason in reasons)
    assert not Path("/tmp/sommelier-was-here").exists()


@pytest.mark.slow
def test_an_exported_program_becomes_onnx_once_it_is_trusted(real: str, tmp_path: Path) -> None:
    asked = f"IMPORT MODELS FROM mlflow 'exported' USING tracking_uri = '{real}'"
    with sm.connect(tmp_path / "models.sommelier") as db:
        with pytest.raises(ConnectorError, match="expressions"):
            db.execute(asked)
        db.execute(f"{asked}, trust = yes")
        (found,) = rows(db, "SELECT MODELS name, format, accuracy, params, source")
    layers = (net().conv, net().head)  # the normalisation between them is folded into the first
    weights = sum(weight.numel() for layer in layers for weight in layer.parameters())
    assert (found["name"], found["format"], found["source"]) == ("exported", "onnx", "mlflow")
    assert found["accuracy"] == 0.5
    assert found["params"] == weights


@pytest.mark.slow
def test_a_real_server_keeps_the_contract(real: str) -> None:
    check_connector(MlflowConnector(), Sample(("*",), "nothing", {"tracking_uri": real}))


@pytest.mark.slow
def test_weights_beside_the_file_come_from_a_real_server(real: str) -> None:
    """mlflow.onnx saves weights of 1 kB and more in a file beside the model."""
    (item,) = MlflowConnector().fetch(("digits/2",), options={"tracking_uri": real})
    assert isinstance(item, Artifact)
    assert len(item.declared["external_data"]) == 1  # type: ignore[arg-type]  # object


@pytest.mark.slow
def test_aliases_and_metadata_of_a_real_server_are_read(real: str) -> None:
    (item,) = MlflowConnector().fetch(("digits@champion",), options={"tracking_uri": real})
    assert isinstance(item, Artifact)
    assert item.version == "1"
    assert item.declared["labels"] == ("zero", "one", "two")
    assert set(item.declared["tags"]) == {"mlflow", "alias:champion", "team:vision"}  # type: ignore[call-overload]  # object


@pytest.mark.slow
def test_a_logged_model_of_a_real_server_is_what_was_registered_of_it(real: str) -> None:
    condition = quote("name = 'digits'")
    asked = f"{real}{API}model-versions/search?filter={condition}"
    versions = read_json(asked)["model_versions"]  # type: ignore[index]  # object
    (source,) = (v["source"] for v in versions if v["version"] == "1")
    assert source.startswith("models:/m-")
    options = {"tracking_uri": real}
    (logged,) = MlflowConnector().fetch((source,), options=options)
    (registered,) = MlflowConnector().fetch(("digits/1",), options=options)
    assert isinstance(logged, Artifact), logged
    assert isinstance(registered, Artifact)
    assert (logged.name, logged.version) == ("model", source.removeprefix("models:/"))
    assert logged.path is not None
    assert registered.path is not None
    assert logged.path.read_bytes() == registered.path.read_bytes()
    assert logged.declared["labels"] == registered.declared["labels"]
    assert [(m.metric, m.value) for m in logged.measurements] == [("accuracy", 0.91)]
    gone = f"m-{'0' * 32}"
    with pytest.raises(ConnectorError, match=f"no logged model '{gone}'"):
        MlflowConnector().fetch((gone,), options=options)
