"""The example of docs/connector-kit.md is short, works, and is proved by the test beside it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from textwrap import indent

import pytest

import sommelier as sm
from sommelier.connectors.registry import connector
from sommelier.connectors.testing import CHECKS
from tests.asking import rows
from tests.connectors.loopback import Page, serving
from tests.factories import tiny_classifier

PAGE = Path(__file__).parents[2] / "docs" / "connector-kit.md"
EXAMPLE, ADDED, PROOF = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example as a package that pip has installed: a module and its entry point."""
    folder = tmp_path / "site"
    facts = folder / "index_connector-1.0.dist-info"
    facts.mkdir(parents=True)
    (folder / "index_connector.py").write_text(EXAMPLE)
    (folder / "test_index.py").write_text(PROOF)
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: index-connector\nVersion: 1.0\n")
    (group, entry) = re.findall(
        r'```toml\n\[project.entry-points."(.*?)"\]\n(.*?)\n```', PAGE.read_text()
    )[0]
    (facts / "entry_points.txt").write_text(f"[{group}]\n{entry.replace(chr(34), '')}\n")
    monkeypatch.syspath_prepend(folder)
    sys.modules.pop("index_connector", None)  # of another test, from another folder
    monkeypatch.setenv("SOMMELIER_CACHE", str(tmp_path / "cache"))
    return folder


def test_the_example_is_written_in_fewer_than_100_lines() -> None:
    assert len(EXAMPLE.splitlines()) < 100


def test_the_proof_of_the_page_passes(package: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_index.py"],
        cwd=package, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(package)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert f"{len(CHECKS)} passed" in done.stdout


def test_the_page_has_every_promise() -> None:
    assert re.findall(r"^\| `(\w+)` \|", PAGE.read_text().partition("| check |")[2], re.M) == [
        check.__name__ for check in CHECKS
    ]


def test_what_a_connector_may_add_makes_it_searchable_at_a_place(
    package: Path, tmp_path: Path
) -> None:
    imports = "from urllib.parse import quote, urljoin\n\n"
    imports += "from sommelier.connectors.search import Candidate, Term\n"
    extended = EXAMPLE.replace("from urllib.parse import urljoin\n", imports)
    first, rest = extended.split('    options: Mapping[str, str] = {"max_size"', 1)
    (package / "index_connector.py").write_text(
        first + indent(ADDED, "    ") + rest.partition("\n")[2]
    )
    model = tiny_classifier(tmp_path / "tiny.onnx").read_bytes()
    with serving({"/tiny.onnx": Page(model)}) as server, sm.connect(tmp_path / "m.db") as db:
        names = {"tiny": 2000, "rare": 3}
        server.routes["/models"] = Page.of_json(
            [
                {"name": n, "task": "ner", "downloads": d, "list": f"{server.url}/{n}.json"}
                for n, d in names.items()
            ]
        )
        server.routes["/tiny.json"] = Page.of_json([{"name": "tiny", "file": "tiny.onnx"}])
        db.execute(f"CREATE REPOSITORY zoo TYPE index AT '{server.url}' USING max_size = '50 MB'")
        listed = rows(db, "SHOW MODELS FROM zoo WHERE task = 'ner'")
        db.execute("IMPORT MODELS FROM zoo WHERE downloads > 1000 AND task = 'ner' LIMIT 20")
        (found,) = rows(db, "SELECT MODELS name, source")
    assert [row["name"] for row in listed] == ["tiny", "rare"]
    assert found == {"name": "tiny", "source": "zoo"}
    searched = [request for request in server.requests if request.path == "/models"]
    assert {tuple(request.query["task"]) for request in searched} == {("ner",)}


def test_an_installed_connector_is_a_word_after_from(package: Path, tmp_path: Path) -> None:
    model = tiny_classifier(tmp_path / "tiny.onnx").read_bytes()
    models = [
        {"name": "tiny", "file": "models/tiny.onnx", "license": "mit", "accuracy": 0.91},
        {"name": "changed", "file": "models/other.onnx", "sha256": "0" * 64},
        {"name": "huge", "file": "models/huge.onnx"},
        {"file": "models/nameless.onnx"},
        {"name": "odd", "file": "models/odd.onnx", "accuracy": "high"},
    ]
    routes = {
        "/index.json": Page.of_json(models),
        **{f"/models/{name}.onnx": Page(model) for name in ("tiny", "other", "nameless", "odd")},
        "/models/huge.onnx": Page(b"", claim=3 << 30),
    }
    assert type(connector("index")).__name__ == "IndexConnector"
    with serving(routes) as server, sm.connect(tmp_path / "models.sommelier") as db:
        db.execute(f"IMPORT MODELS FROM index '{server.url}/index.json'")
        (found,) = rows(db, "SELECT MODELS name, accuracy, license, params")
        reasons = json.dumps([row["reason"] for row in rows(db, "SHOW REJECTIONS")])
    assert found == {"name": "tiny", "accuracy": 0.91, "license": "MIT", "params": 4 * 3 + 3}
    for words in ("another content", "the limit is", "KeyError('name')", "to float: 'high'"):
        assert words in reasons
