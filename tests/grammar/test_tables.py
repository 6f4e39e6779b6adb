"""The grammar has no ambiguity; its tables are read, kept and rebuilt without anyone noticing."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import zlib
from pathlib import Path

import pytest
from lark import Lark

from sommelier.grammar import nodes, tables
from sommelier.grammar.parser import parse
from sommelier.grammar.transformer import NodeBuilder
from sommelier.grammar.vocabulary import RESERVED_COLUMNS, RESERVED_NAMES

TEXT = tables.GRAMMAR.read_text(encoding="utf-8")
KEY = tables.tables_key(TEXT)
QUERY = "SELECT MODELS CORR resnet50 95%"


def _reads(parser: Lark) -> bool:
    return parser.parse(QUERY, start="statement") == parse(QUERY)


def _competitors(terminal: str) -> frozenset[str]:
    """Keywords that some state of the parser accepts beside `terminal`."""
    states = tables.language().parser.parser._parse_table.states.values()
    beside = {name for state in states if terminal in state for name in state}
    words = {t.name for t in tables.language().terminals if t.name.isalpha() and t.priority == 7}
    return frozenset(beside & words)


def test_strict_mode_finds_no_conflict_and_no_collision() -> None:
    pytest.importorskip("interegular")
    assert _reads(tables.build(TEXT, strict=True))


def test_the_shipped_tables_are_those_of_the_grammar() -> None:
    document = json.loads(zlib.decompress(tables.SHIPPED.read_bytes()))
    assert document["key"] == KEY, "run python -m sommelier.grammar.tables"


def test_every_rule_becomes_a_node() -> None:
    names = {rule.alias or rule.origin.name for rule in tables.language().rules}
    passed_on = {rule.origin.name for rule in tables.language().rules if rule.options.expand1}
    made_by_lark = {name for name in names if name.startswith("__")}
    assert all(hasattr(NodeBuilder, name) for name in names - passed_on - made_by_lark)


def test_the_reserved_words_are_exactly_those_that_compete_with_a_name() -> None:
    assert _competitors("MODEL_NAME") == RESERVED_NAMES
    assert _competitors("IDENT") == RESERVED_COLUMNS


def test_tables_are_kept_privately_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "sommelier" / "grammar.tables"
    assert _reads(tables.load(TEXT, (path,)))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    written = path.stat().st_mtime_ns
    assert _reads(tables.load(TEXT, (path,)))
    assert path.stat().st_mtime_ns == written
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not compressed",
        zlib.compress(b"not json"),
        zlib.compress(b"[]"),
        zlib.compress(b"{}"),
        zlib.compress(json.dumps({"key": KEY, "tables": {}, "memo": {}}).encode()),
        zlib.compress(
            json.dumps(
                {
                    "key": KEY,
                    "tables": {"parser": {"parser": {"states": {}, "tokens": {}}}},
                    "memo": {},
                }
            ).encode()
        ),
    ],
)
def test_damaged_tables_are_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "grammar.tables"
    path.write_bytes(content)
    assert _reads(tables.load(TEXT, (path,)))
    assert path.read_bytes() != content


def test_tables_of_another_grammar_do_not_fit() -> None:
    assert tables.tables_key(TEXT + "// changed") != KEY


@pytest.mark.slow
def test_a_place_that_cannot_be_written_only_costs_time(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert _reads(tables.load(TEXT, (tmp_path / "file" / "grammar.tables",)))


def test_a_folder_that_everybody_can_write_is_not_used(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    path = tmp_path / "grammar.tables"
    assert _reads(tables.load(TEXT, (path,)))
    assert not path.exists()


def test_the_cache_is_in_the_user_s_own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert tables.cache_path(KEY).parent == Path("/somewhere/sommelier")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    monkeypatch.setenv("HOME", "/home/me")
    assert tables.cache_path(KEY).parent == Path("/home/me/.cache/sommelier")


@pytest.mark.slow
def test_first_runs_at_the_same_time_do_not_disturb_each_other(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from sommelier.grammar import tables\n"
        "parser = tables.load(tables.GRAMMAR.read_text(), (Path(sys.argv[1]),))\n"
        f"print(parser.parse({QUERY!r}, start='statement').corr.reference.name)"
    )
    path = tmp_path / "c" / "grammar.tables"
    command = [sys.executable, "-c", program, str(path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0].strip() for process in running] == ["resnet50"] * 3
    assert list(path.parent.iterdir()) == [path]
    assert _reads(tables.load(TEXT, (path,)))


def test_a_cold_start_reads_tables_and_loads_little() -> None:
    program = (
        "import sys, lark; lark.Lark.__init__ = None  # nothing can be built\n"
        "from sommelier.grammar.parser import parse\n"
        f"parse({QUERY!r})\n"
        "heavy = {'numpy', 'duckdb', 'pandas', 'rapidfuzz', 'sommelier.grammar.diagnostics'}\n"
        "print(*(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.split() == []


def test_nodes_made_by_threads_are_equal() -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(parse, [QUERY] * 64))
    assert set(results) == {parse(QUERY)}
    assert isinstance(results[0], nodes.Select)
