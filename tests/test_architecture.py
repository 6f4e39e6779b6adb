"""The promises of docs/architecture.md that a reader should be able to rely on."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import sommelier

ROOT = Path(sommelier.__file__).parent
SOURCES = sorted(ROOT.rglob("*.py"))
HEAVY = ("torch", "onnxruntime", "tensorflow", "onnx")


def _loaded_modules(program: str) -> set[str]:
    """Top-level modules a fresh interpreter has loaded after running `program`."""
    script = f"{program}\nimport sys; print(' '.join(m for m in sys.modules if '.' not in m))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_package_loads_nothing_but_the_standard_library() -> None:
    third_party = {"duckdb", "sqlalchemy", "numpy", "lark", *HEAVY}
    assert not _loaded_modules("import sommelier") & third_party


def test_a_query_loads_no_runtime() -> None:
    program = (
        "import sommelier as sm\n"
        "with sm.connect(':memory:') as db: db.query('SELECT MODELS').fetchall()"
    )
    assert not _loaded_modules(program) & set(HEAVY)


def test_a_question_to_a_file_loads_nothing_of_servers_and_stores(tmp_path: Path) -> None:
    sommelier.connect(tmp_path / "a.sommelier").close()
    program = (
        "import sommelier as sm\n"
        f"with sm.connect({str(tmp_path / 'a.sommelier')!r}, read_only=True) as db:\n"
        "    db.query('SELECT MODELS').fetchall()"
    )
    assert not _loaded_modules(program) & {"psycopg", "sqlalchemy", "fsspec", "s3fs", "ray"}


def test_the_public_surface_is_what_we_decided() -> None:
    assert set(sommelier.__all__) == {
        "Connection",
        "Model",
        "Relation",
        "SommelierError",
        "connect",
    }
    for name in sommelier.__all__:
        assert getattr(sommelier, name) is not None


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_says_what_it_is_for_and_keeps_to_the_house_rules(path: Path) -> None:
    text = path.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree), "a module docstring says what the file is for"
    assert text.count("\n") <= 400, "a file over 400 lines wants to be two"
    long_functions = [
        f"{node.name} ({node.end_lineno - node.lineno + 1})"
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > 40
    ]
    assert not long_functions, "functions over 40 lines"


def test_no_room_has_a_drawer_for_odds_and_ends() -> None:
    assert not {p.stem for p in SOURCES} & {"utils", "util", "helpers", "common", "misc"}


def test_what_we_start_takes_no_module_from_the_folder_we_are_in() -> None:
    """`python -m` puts that folder first on the path, `python -P -m` does not."""
    commands = [
        [element.value if isinstance(element, ast.Constant) else None for element in node.elts]
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.List)
    ]
    modules = [words for words in commands if "-m" in words]
    assert len(modules) >= 6
    assert [words for words in modules if words[words.index("-m") - 1] != "-P"] == []
