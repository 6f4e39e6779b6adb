"""JupySQL, the real one, over the SQLAlchemy dialect: questions, snippets and its inspection."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

import sommelier as sm
from tests.factories import mlp_classifier

pytest.importorskip("sql", reason="jupysql is not installed (pip install 'sommelier-db[tools]')")


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InteractiveShell]:
    folder = tmp_path_factory.mktemp("jupysql")
    for name, width in (("large", 64), ("small", 4)):
        mlp_classifier(folder / f"{name}.onnx", hidden=(width,))
    with sm.connect(folder / "zoo.sommelier") as db:
        db.import_models("folder", str(folder / "*.onnx"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PLOOMBER_STATS_ENABLED", "false")  # it would tell its makers of its use
        patch.setenv("PLOOMBER_VERSION_CHECK_DISABLED", "true")
        patch.setenv("HOME", str(folder))
        shell = InteractiveShell()
        shell.run_line_magic("load_ext", "sql")
        shell.run_line_magic("config", "SqlMagic.feedback = 0")
        shell.run_line_magic("config", 'SqlMagic.named_parameters = "enabled"')
        address = f"sommelier:///{folder / 'zoo.sommelier'}"
        shell.run_line_magic("sql", address)
        yield shell
        shell.run_line_magic("sql", f"--close {address}")


def rows(shell: InteractiveShell, line: str) -> list[tuple[Any, ...]]:
    answer: Any = shell.run_line_magic("sql", line)
    return [tuple(row.values()) for row in answer.dicts()]


def inspected(shell: InteractiveShell, line: str) -> list[list[Any]]:
    table: Any = shell.run_line_magic("sqlcmd", line)
    return [list(row) for row in table._table.rows]


def test_questions_take_variables_and_snippets(shell: InteractiveShell) -> None:
    shell.user_ns["wanted"] = "small"
    assert rows(shell, "SELECT MODELS name WHERE name = :wanted") == [("small",)]
    rows(shell, "--save tiny SELECT name FROM models WHERE memory < 1000")
    assert rows(shell, "--with tiny SELECT * FROM tiny") == [("small",)]
    with pytest.raises(UsageError, match=r"(?s)SELECT MODLS.*\^{5}.*Did you mean MODELS"):
        rows(shell, "SELECT MODLS")


def test_tables_and_columns_are_listed_with_what_they_mean(shell: InteractiveShell) -> None:
    listed = [name for (name,) in inspected(shell, "tables")]
    assert [name for (name,) in rows(shell, "SHOW TABLES")] == listed
    columns = {row[0]: row[1:] for row in inspected(shell, "columns --table models")}
    assert [str(told) for told in columns["name"][:2]] == ["VARCHAR", "True"]
    assert [str(told) for told in columns["id"][:2]] == ["VARCHAR", "False"]
    assert columns["memory"][-1] == "bytes, weights plus peak activation memory"
    with pytest.raises(UsageError, match="models"):
        inspected(shell, "columns --table modles")
