"""Repositories, places of sources kept under a name: statements over real files and HTTP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import sommelier as sm
from sommelier import origin_records
from sommelier.analysis.inspection import Inspection, Inspector
from sommelier.connection.repositories import Origin, origin
from sommelier.connectors.base import Listing
from sommelier.engine.result import Table
from sommelier.errors import BinderError, ConnectorError, ParserError, UnknownNameError
from sommelier.records import Artifact
from tests import torch_models as made
from tests.asking import rows
from tests.connectors.hub import write_repository, zipball
from tests.connectors.hub_server import Repository, hub
from tests.connectors.loopback import Page, serving
from tests.connectors.mlflow_registry import ONNX_MLMODEL, FakeVersion, lying_server
from tests.factories import mlp_classifier, tiny_classifier


@pytest.fixture
def db(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sm.Connection]:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("SOMMELIER_CACHE", str(tmp_path / "cache"))
    with sm.connect(tmp_path / "m.sommelier") as connection:
        yield connection


@pytest.fixture
def zoo(db: sm.Connection, tmp_path: Path) -> Path:
    """A folder of two models, which the repository `zoo` names."""
    folder = tmp_path / "models"
    folder.mkdir()
    mlp_classifier(folder / "small.onnx", seed=1)
    mlp_classifier(folder / "smaller.onnx", seed=2)
    db.execute(f"CREATE REPOSITORY zoo TYPE folder AT '{folder}'")
    return folder


def names(db: sm.Connection, text: str) -> list[str]:
    return [row["name"] for row in rows(db, text)]


def test_a_repository_of_pytorch_hub_is_listed_and_imported_from(
    db: sm.Connection, tmp_path: Path
) -> None:
    toy = write_repository(tmp_path / "toy", tmp_path / "executed", made.NET)
    with serving({"/owner/toy/zipball/refs/tags/v1": Page(zipball(toy))}) as server:
        db.execute(
            "CREATE REPOSITORY toys TYPE torchhub AT 'owner/toy:v1' "
            f"USING weights = 'DEFAULT', endpoint = '{server.url}'"
        )
        assert not server.requests
        assert names(db, "SHOW MODELS FROM toys LIKE 's%'") == ["small", "starred"]
        wanted = "IMPORT MODELS FROM toys 'small' USING inputs = 'float32[n,3,8,8]'"
        with pytest.raises(ConnectorError, match="USING trust = yes"):
            db.execute(wanted)
        assert not (tmp_path / "executed").exists()
        db.execute(f"{wanted}, trust = yes")
    record = db.model("small").record
    assert (record.source, record.revision) == ("toys", "owner/toy:v1#small")
    assert names(db, "SELECT MODELS FROM toys") == ["small"]


def test_show_tells_what_could_not_be_read(db: sm.Connection, tmp_path: Path) -> None:
    toy = write_repository(tmp_path / "toy", tmp_path / "executed", made.NET)
    with serving({}) as server:
        table = db.execute(
            f"SHOW MODELS FROM torchhub '{toy}', 'owner/nope' LIKE 's%' "
            f"USING endpoint = '{server.url}'"
        )
    assert isinstance(table, Table)
    assert [row[0] for row in table.rows] == ["small", "starred"]
    (note,) = table.notes
    assert note.startswith("not listed: owner/nope: there is no such repository")


def test_a_hub_and_a_registry_are_searched_by_their_repositories(
    db: sm.Connection, tmp_path: Path
) -> None:
    pytest.importorskip("huggingface_hub")
    model = tiny_classifier(tmp_path / "model.onnx").read_bytes()
    with hub(Repository("acme/tiny", {"model.onnx": model}, "fill-mask")) as running:
        db.execute(f"CREATE REPOSITORY ours TYPE huggingface AT '{running.url}'")
        assert names(db, "SHOW MODELS FROM ours WHERE task = 'fill-mask'") == ["acme/tiny"]
        db.execute("IMPORT MODELS FROM ours 'acme/tiny'")
    files = {"MLmodel": Page(ONNX_MLMODEL.encode()), "model.onnx": Page(model)}
    other = mlp_classifier(tmp_path / "other.onnx").read_bytes()
    more = {**files, "model.onnx": Page(other)}
    versions = (FakeVersion("digits", "1", files), FakeVersion("letters", "1", more))
    with lying_server(versions) as registry:
        db.execute(f"CREATE REPOSITORY registry TYPE mlflow AT '{registry.url}'")
        assert names(db, "SHOW MODELS FROM registry") == ["digits", "letters"]
        before = len(registry.requests)
        db.execute("IMPORT MODELS FROM registry LIKE 'let%' LIMIT 5")
        fetched = [r.path for r in registry.requests[before:] if r.path.endswith("model.onnx")]
        assert len(fetched) == 1  # a name that does not fit is not downloaded
    assert names(db, "SELECT MODELS FROM registry") == ["letters"]
    assert names(db, "SELECT MODELS FROM ours") == ["acme/tiny"]


def test_names_behind_a_folder_are_those_of_its_models(db: sm.Connection, zoo: Path) -> None:
    assert names(db, "SHOW MODELS FROM zoo 'smaller'") == ["smaller"]
    db.execute("IMPORT MODELS FROM zoo 'smaller'")
    assert names(db, "SELECT MODELS FROM zoo") == ["smaller"]
    with pytest.raises(ConnectorError, match="no model 'smal'") as failure:
        db.execute("IMPORT MODELS FROM zoo 'smal'")
    assert set(failure.value.suggestions) == {"small", "smaller"}
    db.execute("IMPORT MODELS FROM zoo LIKE 'small'")
    assert names(db, "SELECT MODELS FROM zoo ORDER BY name") == ["small", "smaller"]
    assert str(db.model("small").record.revision) == str(zoo / "small.onnx")


def test_a_relative_place_means_the_same_in_every_folder(
    db: sm.Connection, zoo: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(zoo.parent)
    db.execute(f"CREATE REPOSITORY near TYPE folder AT './{zoo.name}'")
    monkeypatch.chdir(zoo)
    assert names(db, "SHOW MODELS FROM near") == ["small", "smaller"]


def test_repositories_are_shown_described_replaced_and_dropped(
    db: sm.Connection, zoo: Path
) -> None:
    db.execute("IMPORT MODELS FROM zoo 'small'")
    assert rows(db, "SHOW REPOSITORIES") == [
        {"name": "zoo", "type": "folder", "place": str(zoo), "options": None, "models": 1}
    ]
    assert {"property": "models", "value": "1 imported"} in rows(db, "DESCRIBE zoo")
    again = f"CREATE OR REPLACE REPOSITORY zoo TYPE folder AT '{zoo}' USING max_size = '1 MB'"
    db.execute(again)
    assert rows(db, "SHOW REPOSITORIES")[0]["options"] == "max_size = 1 MB"
    assert rows(db, "CREATE REPOSITORY IF NOT EXISTS zoo TYPE wheel AT 'x'")[0]["status"] == (
        "exists"
    )
    db.execute("DROP REPOSITORY zoo")
    assert rows(db, "SHOW REPOSITORIES") == []
    assert names(db, "SELECT MODELS FROM zoo") == ["small"]  # what came stays
    with pytest.raises(UnknownNameError, match="repository 'zoo'"):
        db.execute("DROP REPOSITORY zoo")


def test_a_repository_is_kept_in_the_file_and_read_from_its_snapshot(
    db: sm.Connection, zoo: Path, tmp_path: Path
) -> None:
    with sm.connect(tmp_path / "m.sommelier", read_only=True) as reader:
        assert names(reader, "SHOW MODELS FROM zoo") == ["small", "smaller"]
    db.close()
    with sm.connect(tmp_path / "m.sommelier") as again:
        assert again.names("repository") == ["zoo"]
        assert again.sql("SELECT name, connector FROM repositories").rows == [("zoo", "folder")]


def test_a_question_about_a_repository_nothing_came_from_has_no_rows(
    db: sm.Connection, zoo: Path
) -> None:
    assert names(db, "SELECT MODELS FROM zoo") == []


def test_options_of_the_import_win_over_those_that_are_kept(db: sm.Connection, zoo: Path) -> None:
    db.execute(f"CREATE REPOSITORY small TYPE folder AT '{zoo}' USING max_size = '1 kB'")
    with pytest.raises(ConnectorError, match=r"nothing at .* was accepted"):
        db.execute("IMPORT MODELS FROM small")
    db.execute("IMPORT MODELS FROM small USING max_size = '1 MB'")


def test_nothing_in_a_received_database_gives_trust(db: sm.Connection) -> None:
    kept = {"trust": True, "module": "evil.py:Net", "max_size": "1 MB"}
    db.catalog.save_repository(origin_records.Repository("theirs", "folder", "/w.pt", kept))
    assert origin(db, "theirs", (), {}).options == {"max_size": "1 MB"}
    said = {"trust": True, "module": "mine.py:Net"}
    assert origin(db, "theirs", (), said).options == {"max_size": "1 MB", **said}


def test_a_password_that_was_kept_is_not_shown(db: sm.Connection) -> None:
    options = {"endpoint": "https://you:alsosecret@h2/x?token=secretest", "weights": "DEFAULT"}
    kept = origin_records.Repository("old", "mlflow", "http://me:verysecret@h:5000/a", options)
    db.catalog.save_repository(kept)
    (shown,) = rows(db, "SHOW REPOSITORIES")
    assert shown["place"] == "http://h:5000/a"
    assert shown["options"] == "endpoint = https://h2/x, weights = DEFAULT"
    assert "secret" not in str(rows(db, "DESCRIBE REPOSITORY old"))
    assert "secret" not in "".join(db.execute("EXPLAIN IMPORT MODELS FROM old 'x'").lines)


def test_a_model_that_is_asked_for_and_refused_is_told_with_the_reason(
    db: sm.Connection, zoo: Path
) -> None:
    (zoo / "bad.onnx").write_bytes(b"junk")
    db.execute("IMPORT MODELS FROM zoo 'small'")
    assert db.catalog.rejections() == []  # nobody asked for bad
    with pytest.raises(ConnectorError, match="nothing at 'bad' was accepted, 1 rejected: not an"):
        db.execute("IMPORT MODELS FROM zoo 'bad'")
    assert [r.revision for r in db.catalog.rejections()] == [str(zoo / "bad.onnx")]
    (zoo / "empty.onnx").write_bytes(b"")  # refused by the connector, not by what reads it
    table = db.execute("IMPORT MODELS FROM zoo 'empty', 'smaller'")
    assert table.notes == ("1 new", f"rejected {zoo}/empty.onnx: the file is empty")


def test_every_version_of_a_name_comes(db: sm.Connection, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("name,version,params\nm,1,10\nother,1,5\nm,2,20\n")
    db.execute(f"CREATE REPOSITORY tab TYPE table AT '{tmp_path}/t.csv'")
    db.execute("IMPORT MODELS FROM tab 'm'")
    versions = rows(db, "SELECT MODELS FROM tab ORDER BY version")
    assert [(row["name"], row["version"]) for row in versions] == [("m", "1"), ("m", "2")]


def test_no_more_is_read_once_every_name_has_come(
    db: sm.Connection, zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sommelier.connectors import folder

    looked_at, checked = [], folder._checked

    def noted(path: Path, limit: int) -> str | None:
        looked_at.append(path.stem)
        return checked(path, limit)

    monkeypatch.setattr(folder, "_checked", noted)
    db.execute("IMPORT MODELS FROM zoo 'small'")
    assert looked_at == ["small"]


def test_like_of_an_import_minds_the_case_no_more_than_that_of_show(
    db: sm.Connection, zoo: Path
) -> None:
    assert names(db, "SHOW MODELS FROM zoo LIKE 'SMALL'") == ["small"]
    db.execute("IMPORT MODELS FROM zoo LIKE 'SMALL'")
    assert names(db, "SELECT MODELS FROM zoo") == ["small"]


def test_an_import_of_none_is_no_failure(db: sm.Connection, zoo: Path) -> None:
    assert rows(db, "IMPORT MODELS FROM zoo LIMIT 0")[0]["rows"] == 0
    assert db.catalog.model_names() == []


class _Failing:
    """A third party's connector, which yields one model and falls over."""

    name = "failing"
    options: Mapping[str, str] = {}

    def describe(self) -> str:
        return "anything"

    def fetch(
        self, locations: tuple[str, ...], *, options: Mapping[str, object], progress: object = None
    ) -> Iterator[Artifact]:
        yield Artifact("first", None, self.name, "1", None, {})
        raise KeyError("rows")

    def list(
        self, locations: tuple[str, ...], *, options: Mapping[str, object]
    ) -> Iterator[Listing]:
        return iter(())


def test_a_connector_that_falls_over_is_named_after_what_came_before() -> None:
    found = Origin("mine", _Failing(), (), {}).fetched(None)
    assert next(found) == Artifact("first", None, "mine", "1", None, {})
    with pytest.raises(ConnectorError, match="connector 'failing' failed: KeyError: 'rows'"):
        next(found)


def test_a_model_that_nobody_foresaw_does_not_stop_the_others(
    db: sm.Connection, zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inspect = Inspector.inspect

    def unforeseen(self: Inspector, item: Artifact) -> Inspection:
        if item.name == "small":
            raise ZeroDivisionError("division by zero")
        return inspect(self, item)

    monkeypatch.setattr(Inspector, "inspect", unforeseen)
    table = db.execute("IMPORT MODELS FROM zoo")
    assert "unexpected ZeroDivisionError: division by zero" in " ".join(table.notes)
    assert names(db, "SELECT MODELS FROM zoo") == ["smaller"]


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("CREATE REPOSITORY zoo TYPE folder AT 'x'", BinderError, "repository 'zoo' exists"),
        ("CREATE REPOSITORY folder TYPE folder AT 'x'", BinderError, "name of a connector"),
        ("CREATE REPOSITORY z TYPE foldr AT 'x'", ConnectorError, "no connector 'foldr'"),
        ("CREATE REPOSITORY z TYPE folder", BinderError, "where is it"),
        ("CREATE REPOSITORY z TYPE torchhub AT 'a/b' USING trust = yes", BinderError, "not kept"),
        ("CREATE REPOSITORY z TYPE folder AT 'w.pt' USING module = 'n.py:Net'", BinderError,
         "module is not kept"),
        ("CREATE REPOSITORY z TYPE mlflow AT 'http://me:secret@h'", BinderError,
         "which is not kept"),
        ("CREATE REPOSITORY z TYPE torchhub AT 'a/b' USING endpoint = 'https://me:p@ss@h'",
         BinderError, "address of endpoint has a user or a password"),
        ("CREATE REPOSITORY z TYPE torchhub AT 'a/b' USING wights = 'x'", ConnectorError,
         "no option 'wights'"),
        ("IMPORT MODELS FROM zo", ConnectorError, "no connector or repository 'zo'"),
        ("SELECT MODELS FROM zo", UnknownNameError, "unknown source 'zo'"),
        ("IMPORT MODELS FROM zoo WHERE task = 'x' LIMIT 3", ConnectorError, "cannot be searched"),
    ],
)  # fmt: skip
def test_a_mistake_says_what_to_do(
    db: sm.Connection, zoo: Path, text: str, kind: type[Exception], said: str
) -> None:
    assert zoo.is_dir()
    with pytest.raises(kind, match=said):
        db.execute(text)
    assert db.names("repository") == ["zoo"]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("CREATE REPOSITORY v", "TYPE torchhub AT 'pytorch/vision'"),
        ("CREATE REPOSITORY v TYPE torchhub 'pytorch/vision'", "AT 'pytorch/vision'"),
        ("CREATE REPOSITORY v TYPE torchhub FROM 'pytorch/vision'", "say where it is by AT"),
        ("EXPORT small TO 'x.onnx'", "EXPORT MODEL small TO"),
        ("EXPORT MODEL small 'x.onnx'", "EXPORT MODEL small TO 'x.onnx'"),
    ],
)
def test_a_misspelt_statement_is_shown_as_it_should_be(text: str, hint: str) -> None:
    from sommelier.grammar.parser import parse

    with pytest.raises(ParserError) as failure:
        parse(text)
    assert hint in str(failure.value.hint)


def test_the_plan_of_an_import_names_the_repository_and_the_limit(
    db: sm.Connection, tmp_path: Path
) -> None:
    db.execute(f"CREATE REPOSITORY ten TYPE folder AT '{tmp_path}'")
    report = db.execute("EXPLAIN IMPORT MODELS FROM ten LIMIT 3")
    assert report.lines == (f"import from ten, a folder: {tmp_path}", "  at most 3 models")
    report = db.execute(f"EXPLAIN IMPORT MODELS FROM folder '{tmp_path}'")
    assert report.lines == (f"import from folder: {tmp_path}",)
