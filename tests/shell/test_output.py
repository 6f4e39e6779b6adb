"""Formats, byte for byte: the files in golden/ are what scripts out there rely on."""

from __future__ import annotations

import csv
import io
import json
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from sommelier.engine.result import ColumnInfo, Report, Result, Table
from sommelier.shell.boxes import box
from sommelier.shell.output import FORMATTERS, Layout, footer, human, pieces, raw, render
from sommelier.shell.terminal import display_width
from sommelier.units import Dimension

GOLDEN = Path(__file__).parent / "golden"
COLUMNS = (
    ColumnInfo("name"),
    ColumnInfo("memory", Dimension.BYTES),
    ColumnInfo("latency", Dimension.TIME),
    ColumnInfo("accuracy", Dimension.FRACTION),
    ColumnInfo("params", Dimension.COUNT),
    ColumnInfo("tags"),
    ColumnInfo("created"),
    ColumnInfo("note"),
)
TABLE = Table(
    "models",
    COLUMNS,
    [
        ("resnet20", 1_340_000, 2.51, 0.926, 272_474, ("cifar", "tiny"),
         datetime(2026, 11, 21, 14, 3, 5), "plain"),
        ("模型, wide", 250_000_000.0, 0.031, 0.95125, 1797, (), None, 'says "hi" | <b>'),
        ("evil\x1b[2J", None, float("nan"), None, None, None, None, "two\nlines\tand \\ tab"),
        ("NULL", 0, 3_600_000.0, 1.0, 25_600_000, ("a",), None, ""),
    ],
    ("1 model skipped: memory unknown",),
)  # fmt: skip
EMPTY = Table("models", COLUMNS[:2], [])
REPORT = Report(
    ("Limit 5", "└─ Filter memory < 1.2 MB   29 → 12"),
    {"stages": [{"rows_in": np.int64(29), "rows_out": 12}], "reference": None},
)
CASES = {"models": TABLE, "empty": EMPTY, "report": REPORT}


def text_of(outcome: Table | Result | Report, form: str, **layout: object) -> str:
    return "".join(pieces(outcome, form, Layout(**layout)))  # type: ignore[arg-type]


@pytest.mark.parametrize("form", FORMATTERS)
@pytest.mark.parametrize("case", CASES)
def test_every_format_is_fixed_byte_for_byte(case: str, form: str) -> None:
    expected = (GOLDEN / f"{case}.{form}").read_bytes()
    assert text_of(CASES[case], form).encode() == expected


def test_csv_is_read_back_by_the_standard_library() -> None:
    rows = list(csv.reader(io.StringIO(text_of(TABLE, "csv"), newline="")))
    assert rows[0] == [column.name for column in COLUMNS]
    assert rows[2][0] == "模型, wide"
    assert rows[3][7] == "two\nlines\tand \\ tab"


def test_json_is_read_back_with_base_units_and_nulls() -> None:
    rows = json.loads(text_of(TABLE, "json"))
    assert rows[0]["memory"] == 1_340_000
    assert rows[2]["latency"] is None  # NaN is unknown
    assert rows == [json.loads(line) for line in text_of(TABLE, "jsonl").splitlines()]


def test_tsv_has_one_line_a_row_and_a_fixed_number_of_cells() -> None:
    lines = text_of(TABLE, "tsv").splitlines()
    assert len(lines) == 1 + len(TABLE.rows)
    assert {line.count("\t") for line in lines} == {len(COLUMNS) - 1}


@pytest.mark.parametrize("form", FORMATTERS)
def test_a_name_from_a_strangers_file_cannot_control_the_terminal(form: str) -> None:
    table = Table("", (ColumnInfo("name"),), [("a\x1b[2J\x9b31m\u202eb\x7f",)])
    assert not set(text_of(table, form)) & set("\x1b\x9b\u202e\x7f")


def test_duplicate_column_names_lose_no_value() -> None:
    table = Table("", (ColumnInfo("a"), ColumnInfo("a")), [(1, 2)])
    assert json.loads(text_of(table, "jsonl")) == {"a": 1, "a_2": 2}


@pytest.mark.parametrize("width", [24, 40, 60, 80, 100, 120, 200])
def test_a_table_never_exceeds_the_terminal(width: int) -> None:
    lines = text_of(TABLE, "table", width=width).splitlines()
    assert max(display_width(line) for line in lines) <= width
    frame = [line for line in lines if not line.startswith("not shown: ")]
    assert len({display_width(line) for line in frame}) == 1  # the frame is straight


def test_a_narrow_terminal_keeps_the_first_column_and_names_the_missing_ones() -> None:
    lines = text_of(TABLE, "table", width=50).splitlines()
    assert lines[1].startswith("│ name")
    assert "│ … │" in lines[1]
    shown = {cell.strip() for cell in lines[1].strip("│").split("│")}
    missing = set(lines[-1].removeprefix("not shown: ").split(", "))
    assert missing == {column.name for column in COLUMNS} - shown


def test_columns_that_say_nothing_go_first() -> None:
    names = ["name", "task", "family", "memory"]
    rows = [["x" * 20, "NULL", "NULL", "1 MB"]]
    text = box(names, rows, right=[False, False, False, True], width=36)
    assert text.splitlines()[1] == "│ name         │ task │ … │ memory │"
    assert text.splitlines()[-1] == "not shown: family"


def test_text_shrinks_before_columns_go() -> None:
    text = box(["name", "n"], [["x" * 90, "1"]], right=[False, True], width=40)
    assert "xxx…" in text
    assert "│ 1 │" in text


def test_maxrows_shows_both_ends_of_a_long_table() -> None:
    table = Table("", (ColumnInfo("n"),), [(i,) for i in range(100)])
    lines = text_of(table, "table", maxrows=5).splitlines()
    cells = [line.strip("│ ") for line in lines[3:-1]]
    assert cells == ["0", "1", "2", "…", "98", "99"]
    assert footer(table, shown=5) == ["5 of 100 rows"]


def test_maxrows_of_zero_shows_all_and_one_shows_one() -> None:
    table = Table("", (ColumnInfo("n"),), [(i,) for i in range(100)])
    assert text_of(table, "table").count("\n") == 104
    assert text_of(table, "table", maxrows=1).count("\n") == 5


def test_a_table_without_columns_is_empty_text() -> None:
    assert text_of(Table("", (), []), "table") == ""


def test_colours_change_nothing_but_colours() -> None:
    import re

    coloured = text_of(TABLE, "table", width=100, colour=True)
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) == text_of(TABLE, "table", width=100)


def test_people_read_chosen_units_and_programs_base_units() -> None:
    assert human(np.float64(2.5e8), Dimension.BYTES) == "250 MB"
    assert raw(np.float64(2.5e8)) == "250000000"
    assert human(12_345_678, None) == "12345678"
    assert human("sha256:" + "a" * 64, None) == "sha256:" + "a" * 12
    assert raw("sha256:" + "a" * 64) == "sha256:" + "a" * 64
    assert raw(1 / 3) == "0.3333333333333333"
    assert raw(np.bool_(True)) == "true"
    assert raw(np.array([1, 2])) == "[1, 2]"


def a_result(rows: int, matched: int) -> Result:
    names = np.array([f"m{i}" for i in range(rows)], dtype=object)
    memory = np.arange(rows) * 1e6
    return Result(
        (ColumnInfo("name"), ColumnInfo("memory", Dimension.BYTES)),
        (lambda: names, lambda: memory),
        np.array([f"sha256:{i:064x}" for i in range(rows)], dtype=object),
        matched=matched,
        notes=("2 models skipped: no latency profile on 'cpu'",),
        timing={"parse": 0.11, "plan": 0.32, "index": 0.012},
    )


def test_ids_of_models_are_whole_and_one_a_line() -> None:
    assert text_of(a_result(2, 2), "ids") == f"sha256:{0:064x}\nsha256:{1:064x}\n"


def test_ids_of_other_rows_are_their_names() -> None:
    table = Table("pools", (ColumnInfo("models"), ColumnInfo("name")), [(3, "edge")])
    assert text_of(table, "ids") == "edge\n"


def test_the_footer_counts_times_and_explains() -> None:
    assert footer(a_result(2, 29), took_ms=3.4) == [
        "2 of 29 rows (3.4 ms: parse 0.1, plan 0.3)",
        "2 models skipped: no latency profile on 'cpu'",
    ]
    assert footer(a_result(1, 1))[0] == "1 row"


def test_a_statement_that_changes_state_needs_no_row_count() -> None:
    columns = tuple(ColumnInfo(name) for name in ("status", "object", "rows", "took_ms"))
    assert footer(Table("", columns, [("ok", "x", 1, 2.0)], ("a note",))) == ["a note"]


def test_a_time_has_its_unit_in_the_value_for_people_and_in_the_name_for_programs() -> None:
    table = Table("jobs", (ColumnInfo("took_ms", Dimension.TIME),), [(2300.0,)])
    assert "".join(pieces(table, "csv")) == "took_ms\n2300\n"
    assert "".join(pieces(table, "line")) == "took = 2.3 s\n"


def test_reading_a_result_for_output_does_not_consume_it() -> None:
    result = a_result(3, 3)
    text_of(result, "csv")
    assert len(result.fetchall()) == 3


def test_render_is_the_answer_and_its_footer() -> None:
    text = render(a_result(1, 1), took_ms=2.0)
    assert text.splitlines()[-2:] == [
        "1 row (2 ms: parse 0.1, plan 0.3)",
        "2 models skipped: no latency profile on 'cpu'",
    ]


def test_times_are_read_to_the_second_and_exact_for_programs() -> None:
    table = Table("jobs", (ColumnInfo("started"),), [(datetime(2026, 11, 21, 14, 3, 5, 678901),)])
    for form, exact in (("csv", True), ("tsv", True), ("json", True), ("table", False)):
        assert ("05.678901" in "".join(pieces(table, form))) is exact
