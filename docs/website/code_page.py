"""`python -m docs.website.code_page`: docs/code.md again, where every file says what it is for."""

from __future__ import annotations

import ast
import re
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "code.md"
_HEAD = """# Where things are

Made by `make code` from the first sentence of every file. Rooms see only what lies below them
([architecture](architecture.md)). Where to begin:

| to follow | begin at |
|---|---|
| a question | `connection/connection.py`, `grammar/parser.py`, `engine/planner.py`, `engine/executor.py` |
| an import | `connection/importing.py`, `connectors/registry.py`, `analysis/inspection.py`, `storage/catalog.py` |
| an analysis | `connection/analyzing.py`, `analysis/jobs.py`, `analysis/workers.py`, `storage/tasks.py` |
| a request | `runtime/server/rest.py`, `runtime/dispatcher.py`, `runtime/policies/__init__.py`, `runtime/predictor.py` |
| the command line | `shell/cli.py`, `shell/repl.py` |
| the language | `grammar/query.lark`, and `python -m sommelier.grammar.tables` after a change |

Beside the package: `tests/` has its rooms and the journeys through all of them, `benchmarks/` a
module for each table of [benchmarks](benchmarks.md), `notebooks/` five stories, `docs/website/` what
makes the site of these pages.
"""
_ROOMS = ("shell", "connection", "runtime", "engine", "analysis", "connectors", "storage", "grammar")


def main() -> None:
    """Writes the page."""
    PAGE.write_text(code_page())


def code_page() -> str:
    """Markdown: a section for each folder, from the top of the house down, a line for each file."""
    parts = [_HEAD]
    for folder, group in groupby(sorted(files(), key=_place), key=lambda path: path.parent):
        name = folder.relative_to(ROOT).as_posix()
        modules = list(group)
        parts.append(f"## {name}/\n")
        if (says := purpose(folder / "__init__.py")) and name != "sommelier":
            parts.append(f"{says}\n")
        lines = [f"- `{path.name}`: {purpose(path)}" for path in modules]
        parts.append("\n".join(line for line in lines if "`__init__.py`" not in line) + "\n")
    return "\n".join(parts)


def files() -> list[Path]:
    """Every module of the package, and the grammar."""
    found = (ROOT / "sommelier").rglob("*.py")
    return [path for path in found if path.name != "__init__.py" or len(_body(path)) > 1]


def purpose(path: Path) -> str:
    """The first sentence of a module's docstring; empty where there is none."""
    if not path.exists():
        return ""
    said = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").split("\n\n")[0].split())
    sentence = re.split(r"(?<=[.]) (?=[A-Z])", said)[0].rstrip(".")
    return re.sub(r"(?<!`)([<*])", r"\\\1", sentence) if "`" not in sentence else sentence


def _body(path: Path) -> list[ast.stmt]:
    return ast.parse(path.read_text()).body


def _place(path: Path) -> tuple[int, str]:
    parts = path.relative_to(ROOT / "sommelier").parts
    room = _ROOMS.index(parts[0]) if parts[0] in _ROOMS else len(_ROOMS)
    return room, path.as_posix().removesuffix(path.name), path.name


if __name__ == "__main__":
    main()
