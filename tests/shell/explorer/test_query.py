"""POST /query and who may ask it: answers and mistakes as JSON, other sites, keys, refusals."""

from __future__ import annotations

import base64
import json
import socket
from pathlib import Path

import pytest

import sommelier as sm
from tests.over_postgres import Databases
from tests.shell.explorer.serving import Serve, serving
from tests.storage.catalog_factories import plain_model

JSON = {"content-type": "application/json"}
SHOW = b'{"statement": "SHOW MODELS"}'
CHANGES = (
    "DROP MODEL base", "ALTER MODEL base RENAME TO b", "IMPORT MODELS FROM folder '/tmp'",
    "ANALYZE ALL FOR RESOURCES", "UNDEPLOY vision", "SET confidence = 50%",
)  # fmt: skip
READS_MORE = (
    "EXPORT MODEL base TO '/tmp/base.onnx'", "SHOW MODELS FROM folder '/tmp'",
    "EXPLAIN IMPORT MODELS FROM folder '/tmp/*.onnx'", "COMPARE base WITH tuned",
    "SIMULATE vision UNDER TRACE '/etc/passwd'",
    "SHOW DISAGREEMENTS OF base, tuned", "SELECT FUSIONS OF base, tuned",
    "SELECT * FROM read_csv('/etc/passwd')", "SELECT * FROM '/etc/passwd'",
    "COPY models TO '/tmp/models.csv'", "ATTACH '/tmp/x.db'", "INSTALL httpfs",
)  # fmt: skip


def test_an_answer_has_columns_with_units_rows_in_base_units_and_notes(served: Serve) -> None:
    heard = served.query("SELECT MODELS name, memory, equivalence CORR base >= 10% LIMIT 2")
    assert heard.status == 200
    assert heard.headers["content-type"] == "application/json"
    told = heard.json
    assert told["columns"] == [
        {"name": "name", "dimension": None, "unit": None},
        {"name": "memory", "dimension": "bytes", "unit": "B"},
        {"name": "equivalence", "dimension": "fraction", "unit": "fraction"},
    ]
    assert len(told["rows"]) == told["total"] == 2
    name, memory, equivalence = told["rows"][0]
    assert name in ("tuned", "grafted")
    assert memory > 1000
    assert 0 < equivalence < 1
    assert any("confidence" in note for note in told["notes"])
    assert told["truncated"] is False


@pytest.mark.parametrize("params", [{"given": "base"}, ["base"]])
def test_parameters_are_bound(served: Serve, params: object) -> None:
    sign = "$given" if isinstance(params, dict) else "?"
    statement = f"SELECT MODELS name WHERE name = {sign}"
    assert served.query(statement, params=params).json["rows"] == [["base"]]
    assert served.query(f"SELECT {sign} || '!'", params=params).json["rows"] == [["base!"]]
    wrong = served.query(statement, params={"other": 1})
    assert wrong.status == 400
    assert wrong.json["error"]["code"] == "parameter"


def test_a_mistake_has_its_place_and_what_would_work(served: Serve) -> None:
    heard = served.query("SELECT MODELS\nWHERE memry < 3 MB")
    assert heard.status == 400
    error = heard.json["error"]
    assert error["place"] == {"line": 2, "column": 7, "start": 20, "end": 25}
    assert error["suggestions"] == ["memory"]
    assert (error["code"], error["title"]) == ("binder", "Binder Error")
    assert "memry" in error["message"]
    assert error["hint"]
    assert served.query("SELECT MODELS WHRE x").json["error"]["expected"]


def test_rows_are_bounded(served: Serve) -> None:
    few = served.query("SELECT * FROM range(100)", limit=7).json
    assert few["rows"] == [[n] for n in range(7)]
    assert (few["total"], few["truncated"]) == (None, True)
    many = served.query("SELECT * FROM range(100000)", limit=1_000_000).json
    assert len(many["rows"]) == 10_000
    assert many["truncated"] is True
    models = served.query("SHOW MODELS", limit=1).json
    assert (len(models["rows"]), models["total"], models["truncated"]) == (1, 5, True)
    wide = served.query("SELECT repeat('x', 100000) FROM range(10000)").json
    assert wide["truncated"] is True
    assert 100 < len(wide["rows"]) < 200


def test_values_that_json_has_not_are_text_or_null(served: Serve) -> None:
    told = served.query("SELECT 'nan'::DOUBLE, DATE '2026-01-02', [1, 2], {'a': 1.5}, 10::HUGEINT")
    assert told.json["rows"] == [[None, "2026-01-02", [1, 2], {"a": 1.5}, 10]]
    report = served.query("EXPLAIN SELECT MODELS").json
    assert report["columns"][0]["name"] == "report"
    assert report["report"]


@pytest.mark.parametrize("statement", CHANGES)
def test_nothing_is_changed(served: Serve, database: Path, statement: str) -> None:
    before = database.read_bytes()
    for heard in (served.query(statement), served.page(q=statement)):
        assert heard.status == 400, heard.text
        assert "changes nothing" in heard.text or "only reads" in heard.text
    assert database.read_bytes() == before


@pytest.mark.parametrize("statement", READS_MORE)
def test_no_file_source_or_model_is_touched(served: Serve, statement: str) -> None:
    heard = served.query(statement)
    assert heard.status == 400, heard.text
    assert "root:" not in heard.text
    assert not Path("/tmp/base.onnx").exists()


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "is no JSON"), (b"[]", "is an object"), (b'{"statement": 3}', "is no text"),
        (b'{"statement": "SHOW MODELS", "params": 3}', "neither an object nor an array"),
        (b'{"statement": "SHOW MODELS", "limit": "x"}', "no number of rows"),
        (b'{"sql": "SHOW MODELS"}', "is an object with"), (b"[" * 100_000, "is no JSON"),
        (b'{"statement": ""}', "there is no statement"), (b"\xff", "is no JSON"),
        (b'{"statement": "SELECT \'\\ud800\'"}', "is no JSON"),
        (b'{"statement": "SHOW MODELS; SHOW JOBS"}', "one statement"),
    ],
)  # fmt: skip
def test_a_malformed_question_is_told_so(served: Serve, body: bytes, told: str) -> None:
    heard = served.ask("/query", body, JSON)
    assert heard.status == 400
    assert told in heard.json["error"]["message"]


# ---- other sites


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"content-type": "text/plain"}, 415),
        ({}, 415),
        ({"content-type": "application/x-www-form-urlencoded"}, 415),
        (JSON | {"origin": "http://evil.example"}, 403),
        (JSON | {"origin": "null"}, 403),
        (JSON | {"sec-fetch-site": "cross-site"}, 403),
        (JSON | {"host": "evil.example"}, 421),
        (JSON | {"host": "127.0.0.1.evil.example:8000"}, 421),
        (JSON | {"host": ""}, 421),
        (JSON | {"host": "10.1.2.3"}, 421),
        (JSON | {"host": "localhost:1", "origin": "http://localhost:1"}, 200),
        (JSON | {"host": "[::1]:8000"}, 200),
        ({"content-type": "application/json; charset=utf-8"}, 200),
    ],
)
def test_other_sites_may_not_ask(served: Serve, headers: dict[str, str], status: int) -> None:
    heard = served.ask("/query", SHOW, headers)
    assert heard.status == status, heard.text
    assert not any(name.startswith("access-control") for name in heard.headers)


@pytest.mark.parametrize("path", ["/", "/?q=SHOW+MODELS", "/complete?q=S", "/model?name=base"])
def test_pages_may_be_linked_to_but_not_be_part_of_other_sites(served: Serve, path: str) -> None:
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    assert served.ask(path, headers=link | {"sec-fetch-dest": "document"}).status == 200
    assert served.ask(path, headers=link | {"sec-fetch-dest": "iframe"}).status == 403
    image = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}
    assert served.ask(path, headers=image).status == 403
    rebound = served.ask(path, headers={"host": "evil.example:8000"})
    assert rebound.status == 421
    assert "evil.example" not in rebound.text or rebound.headers["content-type"].endswith("json")


def test_a_preflight_of_another_site_is_granted_nothing(served: Serve) -> None:
    asked = {"origin": "http://evil.example", "access-control-request-method": "POST"}
    heard = served.ask("/query", None, asked, method="OPTIONS")
    assert not any(name.startswith("access-control") for name in heard.headers)
    assert served.ask("/query").status == 405
    assert served.ask("/jobs", b"{}", JSON).status == 405


def test_a_head_gets_the_head_of_a_page(served: Serve) -> None:
    heard = served.ask("/jobs", method="HEAD")
    assert (heard.status, heard.body) == (200, b"")
    assert int(heard.headers["content-length"]) > 1000


# ---- keys and flags


def test_keys_are_wanted_for_pages_too_and_a_browser_can_bring_one(
    database: Path, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("sesame\n")
    with serving(database, "--api-key-file", str(keys)) as served:
        for path in ("/", "/jobs", "/explorer.js", "/complete?q=S", "/model?name=base"):
            refused = served.ask(path)
            assert refused.status == 401
            assert "Basic" in refused.headers["www-authenticate"]
            assert served.ask(path, headers={"x-api-key": "sesame"}).status == 200
            assert served.ask(path, headers=basic("anyone", "sesame")).status == 200
            assert served.ask(path, headers=basic("sesame", "other")).status == 401
        assert served.ask("/query", SHOW, JSON).status == 401
        assert served.ask("/query", SHOW, JSON | {"authorization": "Bearer sesame"}).status == 200
        other = served.ask("/v2", headers=basic("anyone", "sesame"))
        assert other.status == 401, "what is no page wants it as before"
        assert "Basic" not in other.headers["www-authenticate"]


def basic(name: str, password: str) -> dict[str, str]:
    given = base64.b64encode(f"{name}:{password}".encode()).decode()
    return {"authorization": f"Basic {given}"}


def test_without_questions_the_server_is_as_it_was(database: Path) -> None:
    with serving(database, "--no-query") as served:
        assert "Open Inference Protocol" in served.page().text
        assert "browser" not in "".join(served.said)
        for path in ("/query", "/jobs", "/model", "/complete", "/explorer.js"):
            assert served.ask(path).status == 404
        assert served.ask("/query", SHOW, JSON).status == 404
        assert "/query" not in served.ask("/openapi.json").json["paths"]


def test_other_machines_may_ask_only_where_that_is_said(database: Path) -> None:
    with serving(database, "--host", "0.0.0.0") as served:
        assert served.ask("/query", SHOW, JSON).status == 404
    with serving(database, "--host", "0.0.0.0", "--query") as served:
        own = {"host": f"10.1.2.3:{served.port}"}
        assert served.ask("/query", SHOW, JSON | own).status == 200, "an address of digits"
        assert served.ask("/query", SHOW, JSON | {"host": "evil.example"}).status == 421


def test_what_is_described_is_answered(served: Serve) -> None:
    paths = served.ask("/openapi.json").json["paths"]
    for path in ("/query", "/", "/model", "/jobs", "/deployments", "/complete"):
        assert path in paths
    told = served.ask("/docs").text
    assert "POST /query" in told
    assert 'href="/"' in told, "the way back"


def test_completion_is_that_of_the_shell(served: Serve) -> None:
    def offered(text: str) -> list[tuple[str, str]]:
        heard = served.page("/complete", q=text)
        assert heard.status == 200
        return [(one["insert"], one["kind"]) for one in heard.json["completions"]]

    assert ("MODELS", "") in offered("SELECT MOD")
    assert offered("SELECT MODELS CORR ba")[0] == ("base", "model")
    assert ("memory", "metric") in offered("SELECT MODELS ON mem")
    (hostile,) = [text for text, _ in offered("SELECT MODELS CORR ") if "<script>" in text]
    assert hostile.startswith('"<script>')
    assert offered(".open /etc/pass") == []
    assert offered("x" * 30_000) == []


def test_a_request_in_pieces_keeps_its_own_question(served: Serve) -> None:
    """What comes again on a connection is not parsed again: the words of the question are."""
    asked = [
        f"GET /?q={q} HTTP/1.1\r\nhost: localhost\r\n\r\n".encode()
        for q in ("SHOW+JOBS", "SHOW+TASKS", "SHOW+TASKS", "SHOW+JOBS")
    ]
    with socket.create_connection(("127.0.0.1", served.port), timeout=60) as connection:
        stream = connection.makefile("rb")
        for one in asked:
            connection.sendall(one)
            while not (line := stream.readline().lower()).startswith(b"content-length"):
                assert line
            size = int(line.partition(b":")[2])
            while stream.readline() != b"\r\n":
                pass
            page = stream.read(size).decode()
            words = one.decode().partition("q=")[2].partition(" ")[0].replace("+", " ")
            assert f">{words}</textarea>" in page


def test_json_of_the_pages_is_no_page(served: Serve) -> None:
    heard = served.query("SELECT '<script>' AS x")
    assert heard.headers["x-content-type-options"] == "nosniff"
    assert json.loads(heard.body)["rows"] == [["<script>"]]


def test_questions_are_answered_where_nothing_is_deployed(tmp_path: Path) -> None:
    database = tmp_path / "bare.sommelier"
    with sm.connect(database) as db:
        db.catalog.add_model(plain_model("bare"))
    with serving(database, "--query", ready="REST") as bare:
        assert bare.query("SELECT MODELS name").json["rows"] == [["bare"]]
        assert bare.infer("bare").status == 404
        with sm.connect(database) as db:
            db.catalog.add_model(plain_model("new"))
        assert len(bare.query("SELECT MODELS name").json["rows"]) == 2


def test_questions_are_answered_from_a_server_and_follow_it(
    databases: Databases, tmp_path: Path
) -> None:
    url, files = databases.fresh(tmp_path / "server"), tmp_path / "files"
    with sm.connect(url, folder=files) as db:
        db.catalog.add_model(plain_model("first"))
        with serving(url, "--query", "--folder", str(files), ready="REST") as thin:
            assert thin.query("SELECT MODELS name").json["rows"] == [["first"]]
            assert thin.query("DROP MODEL first").status == 400
            db.catalog.add_model(plain_model("second"))
            assert len(thin.query("SELECT MODELS name").json["rows"]) == 2
