"""Statements that look for models on a hub: the real client, real HTTP, a database on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

import sommelier
from sommelier.connection import Connection
from sommelier.errors import BinderError, ConnectorError
from tests.connectors.hub_server import Repository, hub
from tests.connectors.loopback import Page, Server
from tests.factories import external_data_model, mlp_classifier, tiny_classifier

pytest.importorskip("huggingface_hub")

TASK = "image-classification"
SEARCH = f"WHERE task = '{TASK}' AND params < 30M"


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Seven repositories, more than two pages of the hub's search."""
    monkeypatch.setenv("SOMMELIER_CACHE", str(tmp_path / "cache"))
    models = [tiny_classifier(tmp_path / f"{n}.onnx", seed=n).read_bytes() for n in range(4)]
    large = mlp_classifier(tmp_path / "large.onnx").read_bytes()
    repositories = (
        Repository("acme/small", {"onnx/model.onnx": models[0]}, TASK, tags=("license:mit", "edge"),
                   parameters={"F32": 20_000_000}, downloads=900),
        Repository("acme/tiny", {"model.onnx": models[1]}, TASK, tags=("license:apache-2.0",),
                   parameters={"F32": 5_000_000}, downloads=300),
        Repository("acme/large", {"model.onnx": large}, TASK, parameters={"F32": 300_000_000},
                   downloads=5000),
        Repository("acme/unsized", {"model.onnx": models[2]}, TASK, downloads=800),
        Repository("beta/other", {"model.onnx": models[3]}, "fill-mask",
                   parameters={"F32": 1000}, downloads=700),
        Repository("beta/broken", {"model.onnx": b"junk"}, TASK, parameters={"F32": 1_000_000},
                   downloads=600),
        Repository("beta/row", {"model.safetensors": b""}, TASK, tags=("edge",),
                   parameters={"F16": 7_000_000}, downloads=100),
    )  # fmt: skip
    with hub(*repositories) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Connection]:
    with sommelier.connect(tmp_path / "zoo.sommelier") as connection:
        yield connection


def names(db: Connection) -> list[str]:
    return [row["name"] for row in db.execute("SELECT MODELS name ORDER BY name").dicts()]


def test_weights_beside_a_model_come_with_it(
    db: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnx refuses such a file if it has a second hard link, in the cache."""
    monkeypatch.setenv("SOMMELIER_CACHE", str(tmp_path / "cache"))
    (tmp_path / "source").mkdir()
    path = external_data_model(tmp_path / "source" / "model.onnx")
    files = {f"onnx/{file.name}": file.read_bytes() for file in path.parent.iterdir()}
    assert len(files) == 2
    with hub(Repository("acme/big", files)) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        db.execute("IMPORT MODELS FROM huggingface 'acme/big'")
    assert names(db) == ["acme/big"]


def query_of(server: Server) -> dict[str, list[str]]:
    """The filters the hub was asked for first, without what every search asks."""
    first = next(r for r in server.requests if r.path == "/api/models")
    return {k: v for k, v in first.query.items() if k not in ("expand", "sort")}


def test_an_import_by_task_and_size_brings_the_most_downloaded_that_fit(
    server: Server, db: Connection
) -> None:
    outcome = db.execute(f"IMPORT MODELS FROM huggingface {SEARCH} LIMIT 2")
    assert names(db) == ["acme/small", "acme/tiny"]
    assert query_of(server) == {"pipeline_tag": [TASK], "num_parameters": ["max:30M"]}
    assert any("rejected beta/broken@" in note for note in outcome.notes)
    found = db.execute("SELECT MODELS name, task, license, source ORDER BY name").dicts()[0]
    assert found == {
        "name": "acme/small", "task": TASK, "license": "MIT", "source": "huggingface",
    }  # fmt: skip


def test_only_as_many_models_are_fetched_as_the_limit_says(server: Server, db: Connection) -> None:
    db.execute(f"IMPORT MODELS FROM huggingface {SEARCH} LIMIT 1")
    assert names(db) == ["acme/small"]
    assert len([r for r in server.requests if r.path.endswith(".onnx")]) == 1


def test_a_repository_without_onnx_becomes_a_row_with_declared_parameters(
    server: Server, db: Connection
) -> None:
    db.execute(f"IMPORT MODELS FROM huggingface {SEARCH} LIMIT 9")
    assert names(db) == ["acme/small", "acme/tiny", "beta/row"]
    (row,) = db.execute("SELECT MODELS name, params WHERE name = 'beta/row'").dicts()
    assert row["params"] == 7_000_000


def test_what_the_hub_cannot_filter_is_filtered_here_page_after_page(
    server: Server, db: Connection
) -> None:
    db.execute("IMPORT MODELS FROM huggingface WHERE downloads < 350 AND author = 'acme' LIMIT 5")
    assert names(db) == ["acme/tiny"]
    assert query_of(server) == {"author": ["acme"]}
    assert len([r for r in server.requests if r.path == "/api/models"]) == 2


def test_a_repository_by_name_comes_with_what_it_declares(server: Server, db: Connection) -> None:
    db.execute("IMPORT MODELS FROM huggingface 'acme/tiny', 'beta/other'")
    assert names(db) == ["acme/tiny", "beta/other"]
    again = db.execute("IMPORT MODELS FROM huggingface 'acme/tiny'")
    assert "1 already there" in again.notes
    assert again.dicts()[0]["rows"] == 0
    mixed = db.execute("IMPORT MODELS FROM huggingface 'acme/tiny', 'acme/small'")
    assert mixed.dicts()[0]["rows"] == 1


def test_explain_says_what_the_hub_filters_and_asks_it_nothing(
    server: Server, db: Connection
) -> None:
    statement = (
        f"IMPORT MODELS FROM huggingface WHERE task = '{TASK}' AND params BETWEEN 1M AND 30M "
        "AND license = 'Apache-2.0' AND tags HAS 'edge' AND downloads > 100 LIMIT 20"
    )
    text = str(db.execute(f"EXPLAIN {statement}"))
    assert "search huggingface, most downloaded first" in text
    by_hub = next(line for line in text.splitlines() if "filtered by huggingface" in line)
    for how in (f"pipeline_tag={TASK}", "min:1M", "max:30M", "filter=license:apache-2.0", "edge"):
        assert how in by_hub
    assert "filtered here: downloads > 100" in text
    data = json.loads(str(db.execute(f"EXPLAIN (FORMAT json) {statement}")))
    assert data["filtered_here"] == ["downloads > 100"]
    assert len(data["filtered_by_source"]) == 5
    assert server.requests == []


def test_show_lists_what_an_import_would_bring_without_fetching(
    server: Server, db: Connection
) -> None:
    table = db.execute(f"SHOW MODELS FROM huggingface {SEARCH} LIMIT 2")
    assert [(row["name"], row["params"], row["license"]) for row in table.dicts()] == [
        ("acme/small", 20_000_000, "MIT"),
        ("beta/broken", 1_000_000, None),
    ]
    assert table.notes == ("there are more: the first 2 are shown",)
    assert not [r for r in server.requests if "/resolve/" in r.path]
    assert names(db) == []


def test_show_lists_the_files_of_a_repository_and_of_a_folder(
    server: Server, db: Connection, tmp_path: Path
) -> None:
    (row,) = db.execute("SHOW MODELS FROM huggingface 'acme/small'").dicts()
    size = (tmp_path / "0.onnx").stat().st_size
    assert (row["name"], row["size"]) == ("acme/small", size)
    assert str(row["revision"]).endswith(":onnx/model.onnx")
    folder = db.execute(f"SHOW MODELS FROM folder '{tmp_path}' LIKE '%arg%'").dicts()
    assert [row["name"] for row in folder] == ["large"]
    assert not [r for r in server.requests if "/resolve/" in r.path]


def test_like_narrows_a_search_by_name(server: Server, db: Connection) -> None:
    table = db.execute("SHOW MODELS FROM huggingface LIKE 'beta/%'")
    assert [row["name"] for row in table.dicts()] == ["beta/other", "beta/broken", "beta/row"]
    assert server.requests


def rare(n: int, **stated: object) -> Repository:
    return Repository(f"acme/common-{n}", downloads=1000 + n, **stated)  # type: ignore[arg-type]


@pytest.fixture
def crowded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Thirty repositories with more downloads than the one that is looked for."""
    monkeypatch.setenv("SOMMELIER_CACHE", str(tmp_path / "cache"))
    many = tuple(f"tag-{n}" for n in range(80))
    wanted = Repository(
        "Owner/rare_bert-small", task=TASK, downloads=1, library="pytorch",
        tags=(*many, "dataset:beans", "arxiv:1234.5678", "license:gpl-3.0"),
    )  # fmt: skip
    with hub(*(rare(n) for n in range(30)), wanted) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


@pytest.mark.parametrize(
    ("condition", "asked"),
    [
        ("WHERE name = 'Owner/rare_bert-small'", None),
        ("WHERE name LIKE 'Owner/rare%'", {"author": ["Owner"], "search": ["rare"]}),
        ("WHERE name LIKE 'Owner/rare%' AND likes = 0", {"author": ["Owner"], "search": ["rare"]}),
        ("WHERE name ILIKE '%RARE_bert%'", {"search": ["RARE"]}),
        ("LIKE '%rare_bert%'", {"search": ["rare"]}),
        ("WHERE author = 'Owner'", {"author": ["Owner"]}),
        ("WHERE library = 'PyTorch'", {"filter": ["pytorch"]}),
        ("WHERE tags HAS 'dataset:beans'", {"filter": ["dataset:beans"]}),
        ("WHERE tags HAS 'arxiv:1234.5678'", {"filter": ["arxiv:1234.5678"]}),
        ("WHERE tags HAS 'tag-79'", {"filter": ["tag-79"]}),
        (f"WHERE tags HAS '{TASK}'", {"filter": [TASK]}),
        ("WHERE license = 'GPL-3.0-only'", {"filter": ["license:gpl-3.0"]}),
        ("WHERE license = 'gpl-3.0'", {"filter": ["license:gpl-3.0"]}),
    ],
)
def test_the_hub_is_asked_for_what_its_pages_would_bring_last(
    condition: str, asked: dict[str, list[str]] | None, crowded: Server, db: Connection
) -> None:
    table = db.execute(f"SHOW MODELS FROM huggingface {condition}")
    assert [row["name"] for row in table.dicts()] == ["Owner/rare_bert-small"]
    # the client asks once a day which agents there are
    (asking,) = [r for r in crowded.requests if r.path.startswith("/api/models")]
    if asked is None:
        assert asking.path == "/api/models/Owner/rare_bert-small"
    else:
        assert query_of(crowded) == asked


@pytest.mark.parametrize(
    "condition",
    ["tags HAS 'huggingface'", "license = 'GPL-3.0-or-later'", "name LIKE '%a%'",
     "name REGEXP 'rare'", "NOT name LIKE 'Owner/rare%'", "license = 'acme-1'"],
)  # fmt: skip
def test_what_the_hub_does_not_know_is_not_asked_of_it(
    condition: str, crowded: Server, db: Connection
) -> None:
    db.execute(f"SHOW MODELS FROM huggingface WHERE {condition} LIMIT 1")
    assert query_of(crowded) == {}


def test_a_tag_of_ours_holds_for_all_and_a_name_nobody_has_for_none(
    crowded: Server, db: Connection
) -> None:
    found = db.execute("SHOW MODELS FROM huggingface WHERE tags HAS 'huggingface'").dicts()
    assert len(found) == 31
    assert db.execute("SHOW MODELS FROM huggingface WHERE name = 'no/body'").dicts() == []
    (row,) = db.execute("SHOW MODELS FROM huggingface WHERE author IN ('OWNER', 'x')").dicts()
    assert row["author"] == "Owner"


def test_explain_says_how_the_hub_looks_for_a_name(crowded: Server, db: Connection) -> None:
    statement = "IMPORT MODELS FROM huggingface WHERE name LIKE 'acme/common%' LIMIT 3"
    text = str(db.execute(f"EXPLAIN {statement}"))
    assert "name LIKE 'acme/common%' (author=acme&search=common)" in text


def test_of_several_licences_a_search_states_none(db: Connection, tmp_path: Path) -> None:
    both = Repository("acme/two", tags=("license:mit", "license:apache-2.0"))
    with hub(both) as running:
        options = f"USING endpoint = '{running.url}'"
        (row,) = db.execute(f"SHOW MODELS FROM huggingface LIKE 'acme/%' {options}").dicts()
    assert row["license"] is None


def test_a_busy_hub_ends_an_import_that_says_so(
    server: Server, db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    busy = Page(b"{}", 429, {"Retry-After": "86400"})
    for route in [r for r in server.routes if r.startswith("/api/models/beta/broken")]:
        server.routes[route] = busy
    outcome = db.execute(f"IMPORT MODELS FROM huggingface {SEARCH} LIMIT 9")
    assert names(db) == ["acme/small"]
    (given_up,) = [note for note in outcome.notes if "given up" in note]
    assert "try again in 86400 s" in given_up
    assert not [r for r in server.requests if r.path.startswith("/api/models/acme/tiny")]


def test_a_hub_that_becomes_busy_between_pages_leaves_what_was_found(
    crowded: Server, db: Connection
) -> None:
    pages = crowded.routes["/api/models"]
    assert not isinstance(pages, Page)
    answers = iter([pages, lambda _: Page(b"{}", 429, {"Retry-After": "86400"})])
    crowded.routes["/api/models"] = lambda request: next(answers)(request)
    table = db.execute("SHOW MODELS FROM huggingface WHERE likes >= 0")
    assert [row["name"] for row in table.dicts()] == [f"acme/common-{n}" for n in (29, 28, 27)]
    assert "given up after 3 models" in str(table.notes)


def test_an_import_that_is_refused_too_often_says_that_it_gave_up(
    db: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sommelier.connection.searching.REFUSED_IN_A_ROW", 3)
    monkeypatch.setenv("SOMMELIER_CACHE", str(tmp_path / "cache"))
    model = tiny_classifier(tmp_path / "model.onnx").read_bytes()
    good = Repository("acme/good", {"model.onnx": model}, TASK, downloads=9999)
    bad = [rare(n, files={"model.onnx": b"junk"}, task=TASK) for n in range(5)]
    with hub(good, *bad) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        outcome = db.execute(f"IMPORT MODELS FROM huggingface WHERE task = '{TASK}' LIMIT 9")
    assert "the search was given up after 4 models: 3 in a row were refused" in outcome.notes


def test_a_value_may_be_a_parameter(server: Server, db: Connection) -> None:
    statement = "SHOW MODELS FROM huggingface WHERE task = $task AND params < $most"
    table = db.execute(statement, {"task": "fill-mask", "most": 2000})
    assert [row["name"] for row in table.dicts()] == ["beta/other"]
    assert query_of(server)["num_parameters"] == ["max:2K"]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("NOT task = 'fill-mask' AND params IS NULL", ["acme/unsized"]),
        ("NOT params < 30M", ["acme/large"]),  # what is not known is not kept
        ("author IN ('beta') AND tags HAS 'edge'", ["beta/row"]),
        ("task = 'Fill-Mask'", []),
        ("license IS NOT NULL AND downloads NOT BETWEEN 0 AND 500", ["acme/small"]),
        ("task = 'fill-mask' OR license = 'mit'", ["acme/small", "beta/other"]),
        ("name LIKE '%/t%' OR name REGEXP '^beta/o'", ["beta/other", "acme/tiny"]),
        ("name ILIKE '%/T%' AND name NOT LIKE '%/T%'", ["acme/tiny"]),
        ("5000 <= downloads", ["acme/large"]),
    ],
)
def test_conditions_are_three_valued_and_text_minds_its_case(
    where: str, expected: list[str], server: Server, db: Connection
) -> None:
    table = db.execute(f"SHOW MODELS FROM huggingface WHERE {where}")
    assert [row["name"] for row in table.dicts()] == expected
    assert server.requests


@pytest.mark.parametrize(
    ("statement", "error", "says"),
    [
        (f"IMPORT MODELS FROM huggingface {SEARCH}", BinderError, "needs a LIMIT"),
        ("IMPORT MODELS FROM huggingface", ConnectorError, "needs a repository"),
        ("IMPORT MODELS FROM huggingface 'a/b' WHERE task = 'x'", BinderError, "locations name"),
        ("SHOW MODELS FROM huggingface WHERE parms < 3M", BinderError, "states no 'parms'"),
        ("SHOW MODELS FROM huggingface WHERE params < 'x'", BinderError, "params is a number"),
        ("SHOW MODELS FROM huggingface WHERE params < 3 MB", BinderError, "'MB' measures"),
        ("SHOW MODELS FROM huggingface WHERE tags = 'x'", BinderError, "tags are several"),
        ("SHOW MODELS FROM huggingface WHERE task HAS 'x'", BinderError, "task is one value"),
        ("SHOW MODELS FROM huggingface WHERE FITS ON 'x'", BinderError, "cannot be asked this"),
        ("SHOW MODELS FROM huggingface WHERE 1 < 2", BinderError, "cannot be asked this"),
        ("SHOW MODELS FROM folder '.' WHERE task = 'x'", ConnectorError, "cannot be searched"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    statement: str, error: type[Exception], says: str, server: Server, db: Connection
) -> None:
    with pytest.raises(error, match=says):
        db.execute(statement)
    assert not server.requests


def test_models_of_which_a_fact_is_unknown_are_counted(server: Server, db: Connection) -> None:
    table = db.execute("SHOW MODELS FROM huggingface WHERE NOT params < 30M")
    assert "1 model skipped: params is unknown" in table.notes
    table = db.execute("SHOW MODELS FROM huggingface WHERE params < 30M AND likes > 9M")
    assert table.rows == []
    assert "huggingface leaves out models that state no params, uncounted" in table.notes


@pytest.mark.parametrize(
    ("where", "hint"),
    [("task = 1", "in single quotes: '1'"), ("params < 'x'", "without quotes: 5000, 30M")],
)
def test_a_value_of_the_wrong_kind_is_told_how_to_be_written(
    db: Connection, where: str, hint: str
) -> None:
    with pytest.raises(BinderError) as caught:
        db.execute(f"SHOW MODELS FROM huggingface WHERE {where}")
    assert caught.value.hint == hint


def test_a_mistaken_fact_is_underlined_with_what_it_may_be(db: Connection) -> None:
    with pytest.raises(BinderError) as caught:
        db.execute("SHOW MODELS FROM huggingface WHERE parms < 3M")
    assert caught.value.suggestions[0] == "params"
    assert "^^^^^" in str(caught.value)


@pytest.mark.parametrize("status", [403, 429, 500])
def test_a_hub_that_refuses_the_search_is_told_of(
    status: int, server: Server, db: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)  # the client waits before it asks again
    server.routes["/api/models"] = Page(b"{}", status, {"Retry-After": "0"})
    with pytest.raises(ConnectorError, match=str(status)) as caught:
        db.execute(f"IMPORT MODELS FROM huggingface {SEARCH} LIMIT 2")
    assert caught.value.hint


def test_hostile_candidates_are_rejected_and_the_import_goes_on(
    server: Server, db: Connection
) -> None:
    gone = Page(b"{}", 404, {"X-Error-Code": "RepoNotFound"})
    for route in [r for r in server.routes if r.startswith("/api/models/acme/small")]:
        server.routes[route] = gone
    outcome = db.execute(f"IMPORT MODELS FROM huggingface {SEARCH} LIMIT 9")
    assert names(db) == ["acme/tiny", "beta/row"]
    assert any("acme/small" in note for note in outcome.notes)


def test_an_import_that_finds_nothing_says_where_it_looked(server: Server, db: Connection) -> None:
    with pytest.raises(ConnectorError, match="found no model at huggingface WHERE"):
        db.execute("IMPORT MODELS FROM huggingface WHERE task = 'nothing' LIMIT 3")
    assert query_of(server) == {"pipeline_tag": ["nothing"]}


def test_a_misspelt_word_of_a_search_is_told_with_the_nearest(
    server: Server, db: Connection
) -> None:
    condition = "task = 'image-clasification' AND params < 30M"
    with pytest.raises(ConnectorError) as caught:
        db.execute(f"IMPORT MODELS FROM huggingface LIKE '%a%' WHERE {condition} LIMIT 3")
    error = caught.value
    assert error.message == f"found no model at huggingface LIKE '%a%' WHERE {condition}"
    assert error.suggestions == (TASK,)
    assert f"task of some there: {TASK}, fill-mask" in str(error.hint)


def test_a_search_whose_words_are_all_there_points_at_what_the_source_states(
    server: Server, db: Connection
) -> None:
    with pytest.raises(ConnectorError) as caught:
        db.execute("IMPORT MODELS FROM huggingface WHERE task = 'fill-mask' AND likes > 9M LIMIT 3")
    assert caught.value.suggestions == ()
    assert str(caught.value.hint).endswith("SHOW MODELS FROM huggingface lists what it states")


@pytest.mark.slow
def test_a_model_of_transformers_is_exported_where_that_is_asked_for(
    db: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From config.json and safetensors over HTTP to rows of the database; unasked it is a row."""
    transformers = pytest.importorskip("transformers")
    monkeypatch.setenv("SOMMELIER_CACHE", str(tmp_path / "cache"))
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32,
        image_size=16, patch_size=4, num_labels=4,
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "saved")
    files = {file.name: file.read_bytes() for file in (tmp_path / "saved").iterdir()}
    pickled = {"config.json": files["config.json"], "pytorch_model.bin": b"x"}
    with hub(Repository("acme/vit", files, TASK), Repository("acme/old", pickled, TASK)) as running:
        db.execute(f"CREATE REPOSITORY ours TYPE huggingface AT '{running.url}'")
        table = db.execute("IMPORT MODELS FROM ours 'acme/vit', 'acme/old' USING export = yes")
    assert "no safetensors files to export it from" in " ".join(table.notes)
    record = db.model("acme/vit").record
    assert [str(spec) for spec in record.inputs] == ["pixel_values:float32[batch,3,16,16]"]
    assert record.task == TASK
    assert "converted from a model of transformers" in str(record.note)
    assert rows_named(db, "converted from")[0].startswith("transformers ")


def rows_named(db: Connection, name: str) -> list[str]:
    """Values of a property of the first model."""
    found = db.execute('DESCRIBE MODEL "acme/vit"').dicts()
    return [str(row["value"]) for row in found if row["property"] == name]
