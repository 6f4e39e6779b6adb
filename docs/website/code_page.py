"""`python -m docs.website.code_page`: docs/code.md again, where every file says what it is for."""

from __future__ import annotations

import ast
import re
from itertools import groupby
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "code.md"
_BEGIN = {
    "a question": "connection/connection grammar/parser engine/planner engine/executor",
    "an import": "connection/importing connectors/registry analysis/inspection storage/catalog",
    "an analysis": "connection/analyzing analysis/jobs analysis/workers storage/tasks",
    "a request": "runtime/server/rest runtime/dispatcher runtime/policy runtime/predictor",
    "the command line": "shell/cli shell/repl",
    "the language": "grammar/transformer grammar/tables",
}
_HEAD = """# Where things are

Made by `make code` from the first sentence of every file. Rooms see only what lies below them
([architecture](architecture.md)). Where to begin:
"""
_BESIDE = """
The grammar itself is `grammar/query.lark`; after changes `python -m sommelier.grammar.tables`
makes its tables again. Beside the package: `tests/` has its rooms and journeys through all of them,
`benchmarks/` a module for each table of [benchmarks](benchmarks.md), `notebooks/` five stories,
`docs/website/` what makes the site of these pages.
"""
_ROOMS = (
    "shell",
    "connection",
    "runtime",
    "engine",
    "analysis",
    "connectors",
    "storage",
    "grammar",
)


def main() -> None:
    """Writes the page."""
    PAGE.write_text(code_page())


def code_page() -> str:
    """Markdown: a section for each folder, from the top of the house down, a line for each file."""
    parts = [_HEAD, _table() + _BESIDE]
    for folder, group in groupby(sorted(files(), key=_place), key=lambda path: path.parent):
        name = folder.relative_to(ROOT).as_posix()
        modules = list(group)
        parts.append(f"## {name}/\n")
        if (says := purpose(folder / "__init__.py")) and name != "sommelier":
            parts.append(f"{says}\n")
        lines = [f"- `{path.name}`: {purpose(path)}" for path in modules]
        parts.append("\n".join(line for line in lines if "`__init__.py`" not in line) + "\n")
    return "\n".join(parts)


def _table() -> str:
    rows = ["| to follow | begin at |", "|---|---|"]
    for journey, modules in _BEGIN.items():
        rows.append(f"| {journey} | {', '.join(f'`{name}.py`' for name in modules.split())} |")
    return "\n".join(rows) + "\n"


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
