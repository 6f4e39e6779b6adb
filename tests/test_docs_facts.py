"""Facts that the documentation repeats from elsewhere: figures, files, functions, connectors."""

from __future__ import annotations

import configparser
import re
from importlib import import_module
from pathlib import Path

import pytest

from docs.website.code_page import files
from sommelier.shell.demo import QUESTIONS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
DOCS = ROOT / "docs"
ROW = re.compile(r"^\| (.+) \|$", re.MULTILINE)
NUMBER = re.compile(r"\d+(?: \d{3})*(?:\.\d+)?")


def _rows(text: str, last: str) -> list[list[str]]:
    """The cells of table rows whose last cell begins so."""
    found = [[cell.strip() for cell in row.split(" | ")] for row in ROW.findall(text)]
    return [cells for cells in found if cells[-1].startswith(last)]


def _figures() -> list[tuple[str, str]]:
    """(what is measured and its figure, command) of each row of the README's figures."""
    return [("; ".join(cells[:-1]), cells[-1].strip("`")) for cells in _rows(README, "`python -m")]


def test_the_readme_is_readable() -> None:
    assert len(README.splitlines()) < 200


@pytest.mark.parametrize(("said", "command"), _figures())
def test_a_figure_of_the_readme_stands_in_the_benchmarks_under_its_command(
    said: str, command: str
) -> None:
    sections = (DOCS / "benchmarks.md").read_text().split("\n## ")
    (section,) = [part for part in sections if f"`{command}`" in part.splitlines()[0]]
    numbers = NUMBER.findall(said)
    assert numbers
    missing = [n for n in numbers if not re.search(rf"(?<![\d.]){re.escape(n)}(?!\d)", section)]
    assert missing == []


def test_every_command_of_the_readme_is_run_by_make_bench() -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert len(_figures()) >= 8
    assert [c for _, c in _figures() if c.removeprefix("python ") not in makefile] == []


def test_the_first_question_of_the_readme_is_that_of_the_demo() -> None:
    question = "\n".join(f"> {line}" for line in f"{QUESTIONS[0][1]};".splitlines())
    assert question in README


def test_every_room_is_in_the_readme() -> None:
    rooms = {path.parent.name for path in (ROOT / "sommelier").glob("*/__init__.py")}
    assert {room for room in rooms if f"| `{room}/` |" not in README} == set()


def test_every_file_of_the_package_is_named_where_the_code_is_told_of() -> None:
    """`make code` writes that page again."""
    page = (DOCS / "code.md").read_text()
    sections = re.split(r"^## (\S+)/$", page, flags=re.MULTILINE)
    named = {
        f"{folder}/{name}"
        for folder, body in zip(sections[1::2], sections[2::2], strict=True)
        for name in re.findall(r"^- `([\w.]+)`: \S", body, re.MULTILINE)
    }
    there = {p.relative_to(ROOT).as_posix() for p in files() if p.name != "__init__.py"}
    assert len(there) > 500
    assert (there - named, named - there) == (set(), set()), "run `make code`"


def test_every_place_to_begin_exists() -> None:
    head = (DOCS / "code.md").read_text().split("\n## ")[0]
    named = re.findall(r"`([\w/]+\.(?:py|lark))`", head)
    assert len(named) > 12
    assert [name for name in named if not (ROOT / "sommelier" / name).exists()] == []
    for room, names in re.findall(r"^\| `(\w+)/` \|.*\| (.*) \|$", README, re.MULTILINE):
        for name in re.findall(r"`([\w/.]+)`", names):
            assert (ROOT / "sommelier" / room / name).exists(), f"{room}/{name}"


def _proofs() -> list[tuple[str, str]]:
    rows = ROW.findall((DOCS / "bounds.md").read_text().split("## Formula, function, test")[1])
    found = [re.search(r"`(sommelier\.[\w.]+)` \| `([\w/.]+::\w+)`$", row) for row in rows]
    return [(match[1], match[2]) for match in found if match]


@pytest.mark.parametrize(("function", "test"), _proofs())
def test_a_bound_names_a_function_and_a_test_that_exist(function: str, test: str) -> None:
    module, name = function.rsplit(".", 1)
    assert callable(getattr(import_module(module), name))
    path, tested = test.split("::")
    assert re.search(rf"^def {tested}\(", (ROOT / "tests" / path).read_text(), re.MULTILINE)


def test_every_module_of_the_bounds_has_a_proof_in_the_table() -> None:
    told = {function.rsplit(".", 1)[0].rsplit(".", 1)[1] for function, _ in _proofs()}
    folder = ROOT / "sommelier" / "analysis" / "bounds"
    limits = {
        p.stem for p in folder.glob("*.py") if re.search(r"^def \w+_limits", p.read_text(), re.M)
    }
    assert len(limits) >= 5
    assert limits <= told


def test_every_connector_has_a_row_at_the_entrance() -> None:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    entries = settings["options.entry_points"]["sommelier.connectors"].split()
    names = {entry for entry in entries if entry.isidentifier()}
    page = (DOCS / "connectors.md").read_text()
    assert len(names) >= 9
    assert {name for name in names if f"\n| `{name}` |" not in page} == set()


@pytest.mark.parametrize("connector", ["folder", "wheel"])
def test_the_entrance_tells_every_option_that_has_no_other_page(connector: str) -> None:
    from sommelier.connectors.registry import connector as named

    page = (DOCS / "connectors.md").read_text()
    options = set(named(connector).options)
    assert len(options) >= 3
    assert {option for option in options if f"`{option}`" not in page} == set()
