"""The magics, in a real IPython; progress and mistakes in a real Jupyter kernel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from queue import Empty
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from jupyter_client.manager import start_new_kernel

import sommelier as sm
from sommelier.engine.result import Result
from sommelier.shell.notebook import MagicError
from tests.factories import mlp_classifier

KERNEL_S = 60.0


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("notebook")
    for name, width in (("large", 64), ("small", 4)):
        mlp_classifier(folder / f"{name}.onnx", hidden=(width,))
    with sm.connect(folder / "zoo.sommelier") as db:
        db.import_models("folder", str(folder / "*.onnx"))
    return folder / "zoo.sommelier"


@pytest.fixture
def ipython(path: Path) -> Iterator[InteractiveShell]:
    shell = InteractiveShell()
    shell.extension_manager.load_extension("sommelier")
    shell.run_line_magic("sommelier", str(path))
    yield shell
    shell.run_line_magic("sommelier", "--close")


def names(found: Any) -> list[str]:
    assert isinstance(found, Result)
    return [match.name for match in found]


def test_a_line_is_a_statement(ipython: InteractiveShell) -> None:
    found = ipython.run_line_magic("sommelier", "SELECT MODELS name ORDER BY name")
    assert names(found) == ["large", "small"]


def test_a_cell_has_several_and_the_last_is_its_answer(
    ipython: InteractiveShell, capsys: pytest.CaptureFixture[str]
) -> None:
    cell = "SHOW MODELS;\nSELECT MODELS name\nORDER BY name LIMIT 1;"
    assert names(ipython.run_cell_magic("sommelier", "", cell)) == ["large"]
    assert "small" in capsys.readouterr().out  # SHOW MODELS was shown


def test_names_are_variables_of_the_notebook_bound_as_values(ipython: InteractiveShell) -> None:
    ipython.user_ns["wanted"] = "small"
    ask = "SELECT MODELS name WHERE name = $wanted"
    assert names(ipython.run_line_magic("sommelier", ask)) == ["small"]
    ipython.user_ns["wanted"] = "x' OR '1' = '1"
    assert names(ipython.run_line_magic("sommelier", ask)) == []
    sql = "SELECT name FROM models WHERE name = $wanted"
    assert ipython.run_line_magic("sommelier", sql).rows == []
    ipython.user_ns["wanted"] = "large"
    assert ipython.run_line_magic("sommelier", sql).rows == [("large",)]


def test_options_go_before_variables_and_choose_the_form(ipython: InteractiveShell) -> None:
    ipython.user_ns["wanted"], ipython.user_ns["k"] = "large", 7
    line = "--out best --format df --param wanted='small' -p k=1"
    cell = "SELECT MODELS name WHERE name = $wanted LIMIT $k"
    assert ipython.run_cell_magic("sommelier", line, cell) is None
    assert ipython.user_ns["best"]["name"].tolist() == ["small"]


def test_an_open_connection_is_taken_and_left_open(path: Path) -> None:
    shell = InteractiveShell()
    shell.extension_manager.load_extension("sommelier")
    with sm.connect(path, read_only=True) as db:
        shell.user_ns["db"] = db
        assert shell.run_line_magic("sommelier", "db") is db
        assert names(shell.run_line_magic("sommelier", "SELECT MODELS name")) == ["small", "large"]
        shell.run_line_magic("sommelier", "--close")
        assert len(db.query("SELECT MODELS")) == 2
        with pytest.raises(MagicError, match="no database is open"):
            shell.run_line_magic("sommelier", "SHOW MODELS")


def test_a_database_that_is_not_there_is_made_aloud_or_not_at_all(
    ipython: InteractiveShell, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = path.with_name("zooo.sommelier")
    with pytest.raises(MagicError, match=f"there is no database {missing}\nDid you mean '{path}'"):
        ipython.run_cell_magic("sommelier", f"--db {missing}", "SELECT MODELS name")
    assert not missing.exists()
    ipython.run_line_magic("sommelier", str(missing))
    assert f"{missing} is a new database; there is also {path}" in capsys.readouterr().out
    ipython.run_line_magic("sommelier", str(missing))
    assert "new" not in capsys.readouterr().out


def test_a_model_shows_what_it_is_and_its_numbers_with_their_provenance(path: Path) -> None:
    with sm.connect(":memory:") as db:
        task = "<script>alert(1)</script>"
        db.execute(f"REGISTER MODEL odd FROM '{path.with_name('small.onnx')}' TASK '{task}'")
        model = db.model("odd")
        html = model._repr_html_()
        assert "<script" not in html
        assert "&lt;script&gt;" in html
        for told in ("odd@1", "params", "measured", "estimated", "float32["):
            assert told in html
        assert f"<Model odd@1 ({task}) " in repr(model)
        assert "; params " in repr(model)
    assert "odd@1" in repr(model), "of a closed connection"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("SELECT MODLS", "Did you mean MODELS"),
        ("SELECT MODELS WHERE name = $missing", r"\$missing is no variable of this notebook"),
        ("--wrong x", "there is no --wrong; there are --db, --out"),
        ("--format csv SHOW MODELS", "there is no --format csv; there are result, df"),
        ("--format pl SHOW MODELS", "--format pl is for SELECT MODELS"),
        ("--param k SHOW MODELS", "write --param name=value"),
        ("-p k SHOW MODELS", "write --param name=value"),
        ("--out", "--out needs a value"),
        ("nowhere/zoo.sommelier", "there is no folder"),
    ],
)
def test_mistakes_are_told_in_a_sentence(ipython: InteractiveShell, line: str, told: str) -> None:
    with pytest.raises(MagicError, match=told):
        ipython.run_line_magic("sommelier", line)


def test_statements_stand_below_a_cell_magic(ipython: InteractiveShell) -> None:
    with pytest.raises(MagicError, match="stand below"):
        ipython.run_cell_magic("sommelier", "SHOW MODELS", "SHOW MODELS")


# ---- in a kernel


def run_in_kernel(client: Any, code: str) -> list[dict[str, Any]]:
    """What a cell put out: streams, displays, results, errors."""
    asked, found = client.execute(code), []
    while True:
        try:
            message = client.get_iopub_msg(timeout=KERNEL_S)
        except Empty:
            raise AssertionError(f"no answer to {code}") from None
        if message["parent_header"].get("msg_id") != asked:
            continue
        kind, content = message["msg_type"], message["content"]
        if kind == "status" and content["execution_state"] == "idle":
            return found
        if kind in ("stream", "display_data", "update_display_data", "execute_result", "error"):
            found.append({"kind": kind, **content})


def test_a_kernel_shows_tables_progress_and_short_errors(path: Path) -> None:
    manager, client = start_new_kernel(kernel_name="python3", startup_timeout=KERNEL_S)
    try:
        run_in_kernel(client, f"%load_ext sommelier\n%sommelier {path}")
        (answer,) = run_in_kernel(client, "%sommelier SELECT MODELS name ORDER BY name")
        assert answer["kind"] == "execute_result"
        assert "<table" in answer["data"]["text/html"]
        assert "large" in answer["data"]["text/plain"]
        (error,) = run_in_kernel(client, "%%sommelier\nSELECT MODLS")
        assert error["kind"] == "error"
        told = "\n".join(error["traceback"])
        assert "^^^^^" in told
        assert "File" not in told, "no traceback"
        slow = """
import time
from sommelier.shell.notebook_progress import NotebookProgress
with NotebookProgress() as progress:
    for i in range(12):
        progress("measuring", i, 12, f"model {i}")
        time.sleep(0.1)
"""
        shown = run_in_kernel(client, slow)
        assert shown[0]["kind"] == "display_data"
        assert "measuring" in shown[0]["data"]["text/plain"]
        assert 'max="12"' in shown[0]["data"]["text/html"]
        assert shown[-1]["kind"] == "update_display_data"
        assert shown[-1]["data"] == {"text/plain": "", "text/html": ""}
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
