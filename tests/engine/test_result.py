"""Result and Table: rows as objects, tuples, frames and text; columns gathered when read."""

from __future__ import annotations

import re
from html import unescape

import numpy as np
import pytest

from sommelier.engine.result import ColumnInfo, Report, Result, Table
from sommelier.errors import NoModelFoundError, SommelierError
from sommelier.notebook_tables import Bar, Head, bars_of, html_facts, html_table
from sommelier.units import Dimension
from tests.engine.conftest import Ask

NAN = float("nan")


def result() -> tuple[Result, list[str]]:
    """Three rows, and a list that records which columns were gathered."""
    read: list[str] = []

    def source(name: str, values: list[object], kind: type) -> object:
        def gather() -> np.ndarray:
            read.append(name)
            return np.array(values, dtype=kind)

        return gather

    columns = [
        ColumnInfo("name"),
        ColumnInfo("memory", Dimension.BYTES),
        ColumnInfo("share", Dimension.FRACTION),
    ]
    sources = [
        source("name", ["a", "b", None], object),
        source("memory", [2e6, NAN, 5.0], float),
        source("share", [0.5, 1.0, NAN], float),
    ]
    ids = np.array(["1", "2", "3"], dtype=object)
    return Result(columns, sources, ids, matched=7, notes=("2 skipped",)), read


def test_columns_are_gathered_once_and_when_read() -> None:
    answer, read = result()
    assert (len(answer), read) == (3, [])
    assert answer[0].memory == 2_000_000
    assert answer[1]["memory"] is None
    assert read == ["memory"]


def test_values_are_python_objects() -> None:
    answer, _ = result()
    assert answer.fetchall() == [("a", 2_000_000, 0.5), ("b", None, 1.0), (None, 5, None)]
    assert isinstance(answer[0].memory, int)
    assert isinstance(answer[1].share, float)


def test_fetching_moves_on() -> None:
    answer, _ = result()
    assert answer.fetchone() == ("a", 2_000_000, 0.5)
    assert answer.fetchmany(1) == [("b", None, 1.0)]
    assert answer.fetchall() == [(None, 5, None)]
    assert answer.fetchone() is None


def test_a_match_is_a_mapping_with_attributes() -> None:
    match = result()[0][0]
    assert dict(match) == {"name": "a", "memory": 2_000_000, "share": 0.5}
    assert repr(match) == "Match(name=a, memory=2 MB, share=50%)"
    with pytest.raises(AttributeError, match="no column 'flops'; there are name, memory, share"):
        _ = match.flops
    with pytest.raises(KeyError):
        match["flops"]


def test_rows_can_be_indexed_and_sliced() -> None:
    answer, _ = result()
    assert answer[-1].id == "3"
    assert [match.id for match in answer[1:]] == ["2", "3"]
    with pytest.raises(IndexError):
        answer[3]


def test_frames_keep_types() -> None:
    frame = result()[0].df()
    assert frame["memory"].dtype == np.float64
    assert frame["memory"].isna().tolist() == [False, True, False]
    assert list(frame.columns) == ["name", "memory", "share"]
    assert frame["name"].tolist() == ["a", "b", None]


def test_arrow_has_nulls() -> None:
    pytest.importorskip("pyarrow")
    table = result()[0].arrow()
    assert table.column("memory").to_pylist() == [2_000_000, None, 5]


def test_text_shows_types_units_and_counts() -> None:
    lines = repr(result()[0]).splitlines()
    assert lines[0].split() == ["name", "memory", "share"]
    assert lines[1].split() == ["text", "bytes", "fraction"]
    assert lines[3].split() == ["a", "2", "MB", "50%"]
    assert lines[-2:] == ["3 rows", "2 skipped"]


def test_long_answers_say_how_much_is_shown() -> None:
    table = Table("t", (ColumnInfo("n", Dimension.COUNT),), [(i,) for i in range(312)])
    assert "40 of 312 rows" in repr(table)
    assert "40 of 312 rows" in table._repr_html_()


def test_html_is_escaped() -> None:
    table = Table("t", (ColumnInfo("<b>"),), [("<script>",)])
    assert "<script>" not in table._repr_html_()
    assert "<b>" not in table._repr_html_().replace("<br>", "")
    facts = html_facts("<b>", [("<i>", "<u>")], {0: Bar(0.5, '"<s>')})
    assert not re.search("<(i|u|s|b><)", facts.replace("<p><b>", "")), facts
    shown = Report(("<i>",))._repr_html_()
    assert shown.startswith("<pre ")
    assert shown.endswith(">&lt;i&gt;</pre>")


def test_html_has_text_on_the_left_numbers_on_the_right_and_lines_in_letters_of_one_width() -> None:
    columns = (ColumnInfo("n"), ColumnInfo("size", Dimension.BYTES), ColumnInfo("of_sql"))
    table = Table("t", columns, [("a", 2, None), ("b", None, 0.5)])
    sides = re.findall(r'<t[hd] style="text-align:(\w+)', table._repr_html_())
    assert sides == ["left", "right", "right"] * 3
    assert "monospace" in Report(("a  b",))._repr_html_()  # JupyterLab's own style has none


def drawn(html: str) -> list[str]:
    """The bars: their words, and the widths and colours of their parts."""
    bars = re.findall(r'title="([^"]*)">(.*?)</div></div>', html)
    widths = [re.findall(r"width:([\d.]+%|2px)", parts) for _, parts in bars]
    return [f"{unescape(told)}: {' '.join(w)}" for (told, _), w in zip(bars, widths, strict=True)]


def test_shares_and_numbers_beside_the_reference_have_bars_and_types_are_not_told(
    ask: Ask,
) -> None:
    answer = ask("SELECT MODELS name, equivalence, memory CORR resnet50 WHERE name = 'resnet101'")
    html, (row,) = answer._repr_html_(), answer.fetchall()
    assert drawn(html)[0] == f"{row[1]:.2%}: {row[1]:.1%}"
    own = ask("SELECT MODELS memory WHERE name = 'resnet50'").one().memory
    share = own / row[2]  # it is larger: up to the reference's, then beyond it
    assert drawn(html)[1].endswith(f"of resnet50's: {share:.1%} {1 - share:.1%}")
    assert "<small style" in html, "whose number a bar is beside"
    assert not re.search("text<|bytes|fraction", html)
    assert "script" not in html
    assert drawn(answer[0]._repr_html_()) == drawn(html)
    alone = ask("SELECT MODELS name, memory WHERE name = 'resnet101'")._repr_html_()
    assert drawn(alone) == [], "beside no reference"


def test_a_bar_shorter_than_the_longest_shows_where_the_reference_is() -> None:
    bars, under = bars_of([Head("memory", Dimension.BYTES)], [[2e6], [8e6]], {0: 4e6}, "base")
    table = html_table([Head("memory", Dimension.BYTES)], [[2e6], [8e6]], bars=bars, under=under)
    assert drawn(table) == ["50% of base's: 25.0% 25.0% 2px", "200% of base's: 50.0% 50.0%"]
    assert "base: 4 MB" in table


@pytest.mark.parametrize("values", [[1.5, 0.5], [-0.1, 0.5], [None, None]])
def test_shares_that_are_not_between_0_and_1_have_no_bars(values: list[float | None]) -> None:
    assert bars_of([Head("loss", Dimension.FRACTION)], [[v] for v in values]) == ({}, {})


def test_an_unattached_result_says_so() -> None:
    with pytest.raises(SommelierError, match="not attached to a database"):
        result()[0][0].load()


def test_one_is_the_first_row_or_an_error_with_near_misses(ask: Ask) -> None:
    assert ask("SELECT MODELS CORR resnet50").one().name == "resnet101"
    with pytest.raises(NoModelFoundError) as caught:
        ask("SELECT MODELS ON memory < 10 MB").one()
    assert caught.value.suggestions[0] == "mobilenet_v2"
    assert caught.value.hint == "mobilenet_v2 would match with memory < 14.1 MB"


def test_a_match_knows_its_record_and_numbers(ask: Ask) -> None:
    match = ask("SELECT MODELS CORR resnet50").one()
    assert match.model.name == "resnet101"
    assert {m.metric for m in match.profile} == {"memory", "flops", "params", "accuracy", "latency"}
    assert match.onnx_path is None


def test_frames_of_tables_keep_types_as_those_of_results_do() -> None:
    columns = (
        ColumnInfo("name"),
        ColumnInfo("memory", Dimension.BYTES),
        ColumnInfo("rank"),
        ColumnInfo("size"),
        ColumnInfo("name"),
        ColumnInfo("sure"),
    )
    rows: list[tuple[object, ...]] = [("a", 2_000_000, 1, None, "x", True)]
    rows += [(None, None, 2, 3, "y", False)]
    frame = Table("models", columns, rows).df()
    assert list(frame.columns) == ["name", "memory", "rank", "size", "name", "sure"]
    kinds = [object, np.float64, np.int64, np.float64, object, np.bool_]
    assert [frame.iloc[:, i].dtype for i in range(6)] == kinds
    assert frame.iloc[1, 0] is None
    assert frame["memory"].isna().tolist() == frame["size"].isna().tolist()[::-1] == [False, True]
    empty = Table("models", columns, []).df()
    assert (len(empty), list(empty.columns)) == (0, list(frame.columns))
    assert empty["memory"].dtype == np.float64
