"""SELECT FUSIONS and EXPLAIN of it through statements, over real files and real runs of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

import sommelier as sm
from sommelier.analysis.fusion import AbsGraph
from sommelier.analysis.fusion.search.ranking import candidates
from sommelier.engine.result import Report, Table
from sommelier.errors import AnalysisError, BinderError, CancelledError, SommelierError
from tests.analysis.fusion.models import in_blocks, protos, samples
from tests.onnx_writer import FLOAT, save_model

TASKS = ("digit0", "digit1", "digit2")
OF = "OF digit0, digit1, digit2"
ITEMS = 120


def filled(folder: Path, *, data: bool = True) -> sm.Connection:
    """A database with the three networks of `digits`, and images that they take."""
    files = folder / "files"
    files.mkdir(parents=True)
    db = sm.connect(folder / "models.sommelier")
    for name, proto in protos("digits").items():
        onnx.save(proto, files / f"{name}.onnx")
        db.execute(f"REGISTER MODEL {name} FROM '{files / name}.onnx'")
    if data:
        np.savez(files / "images.npz", x=samples("digits", ITEMS)[0])
        db.execute(f"REGISTER DATASET images FROM '{files / 'images.npz'}'")
    return db


def wide(path: Path) -> Path:
    """A model of another input than the networks of `digits`."""
    node = onnx.helper.make_node("Flatten", ["x"], ["y"])
    shapes = {"x": (FLOAT, ["n", 3, 32, 32])}, {"y": (FLOAT, ["n", 3072])}
    return save_model(path, [node], *shapes, {})


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sm.Connection]:
    folder = tmp_path_factory.mktemp("fusions")
    with filled(folder) as db:
        db.execute(f"REGISTER MODEL wide FROM '{wide(folder / 'wide.onnx')}'")
        db.execute("ANALYZE digit0, digit1, digit2 FOR RESOURCES")
        db.execute("CREATE POOL digits AS SELECT MODELS WHERE name LIKE 'digit%'")
        yield db


@pytest.fixture(scope="module")
def timed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sm.Connection]:
    with filled(tmp_path_factory.mktemp("timed")) as db:
        db.execute("ANALYZE ALL FOR RESOURCES, LATENCY")
        yield db


def asked(db: sm.Connection, text: str) -> list[dict[str, object]]:
    table = db.execute(text)
    assert isinstance(table, Table)
    return table.dicts()


def told(db: sm.Connection, text: str) -> Report:
    report = db.execute(text)
    assert isinstance(report, Report)
    return report


def test_rows_are_the_ranking_that_the_library_makes_of_these_models(db: sm.Connection) -> None:
    rows = asked(db, f"SELECT FUSIONS * {OF} LIMIT 100 USING samples = {ITEMS}")
    expected = candidates(in_blocks("digits"), samples=samples("digits", ITEMS), most=100)
    shown = [(row["shares"], row["flops"], row["params"]) for row in rows]
    assert shown == [(", ".join(c.shares), c.cost.flops, c.cost.params) for c in expected]
    assert [row["risk"] for row in rows] == pytest.approx([c.risk for c in expected], abs=1e-3)
    whole = AbsGraph.original(in_blocks("digits"))
    for row in rows:
        assert row["flops_share"] == pytest.approx(row["flops"] / whole.flops)  # type: ignore[operator]  # a number
        assert row["params_share"] == pytest.approx(row["params"] / whole.params)  # type: ignore[operator]  # a number
        assert 0 < row["flops_share"] < 1


@pytest.mark.slow
def test_the_same_question_has_the_same_answer_and_samples_follow_the_seed(
    db: sm.Connection,
) -> None:
    text = f"SELECT FUSIONS * {OF} LIMIT 50 USING samples = 64, seed ="
    one, again, other = (asked(db, f"{text} {seed}") for seed in (3, 3, 4))
    assert one == again
    assert [row["risk"] for row in one] != [row["risk"] for row in other]


def test_a_pool_stands_for_its_models_in_its_order(db: sm.Connection) -> None:
    names = ", ".join(model.name for model in db.catalog.models(db.catalog.pool("digits").ids))
    pool = asked(db, "SELECT FUSIONS * OF POOL digits USING samples = 64")
    assert pool == asked(db, f"SELECT FUSIONS * OF {names} USING samples = 64")


def test_unknown_latency_is_null_and_the_note_says_what_measures_it(db: sm.Connection) -> None:
    table = db.execute(f"SELECT FUSIONS latency, basis {OF}")
    assert isinstance(table, Table)
    assert set(table.rows) == {(None, "FLOPs")}
    assert any("ANALYZE digit0, digit1, digit2 FOR LATENCY" in note for note in table.notes)
    assert any("from 120 samples of 'images'" in note for note in table.notes)


def test_limits_on_latency_are_held_against_predictions_for_the_device(
    timed: sm.Connection,
) -> None:
    rows = asked(timed, f"SELECT FUSIONS * {OF} ON latency < 60% LIMIT 5000")
    free = asked(timed, f"SELECT FUSIONS * {OF} LIMIT 5000")
    expected = [row for row in free if row["latency_share"] < 0.6]  # type: ignore[operator]  # a number
    assert [row["shares"] for row in rows] == [row["shares"] for row in expected]
    assert 0 < len(rows) < len(free)
    assert {row["basis"] for row in rows} == {"operator table"}
    assert {row["feasible"] for row in rows} == {"yes"}
    assert all(row["speedup"] == pytest.approx(1 / row["latency_share"]) for row in rows)  # type: ignore[operator]  # a number


def test_what_the_models_cost_together_is_said_the_same_everywhere(db: sm.Connection) -> None:
    def memory(lines: tuple[str, ...]) -> str:
        (line,) = [line for line in lines if "memory" in line and "after the other" in line]
        return line.split("memory ")[1].split(",")[0]

    table = db.execute(f"SELECT FUSIONS {OF}")
    assert isinstance(table, Table)
    assert memory(table.notes) == memory(told(db, f"EXPLAIN SELECT FUSIONS {OF}").lines)


def test_without_data_risk_is_unknown_and_says_so(tmp_path: Path) -> None:
    with filled(tmp_path, data=False) as db:
        table = db.execute(f"SELECT FUSIONS risk, accuracy_drop, flops_share {OF}")
        assert isinstance(table, Table)
        assert {row[:2] for row in table.rows} == {(None, None)}
        assert any("without samples" in note for note in table.notes)
        assert any("no dataset is registered" in note for note in table.notes)
        none = db.execute(f"SELECT FUSIONS {OF} WHERE accuracy_drop < 1%")
        assert isinstance(none, Table)
        assert len(none) == 0
        assert any("no accuracy_drop" in note for note in none.notes)


def test_models_that_cannot_be_fused_are_refused_with_what_differs(db: sm.Connection) -> None:
    for verb in ("", "EXPLAIN "):
        with pytest.raises(AnalysisError, match=r"wide takes .*and digit0 takes"):
            db.execute(f"{verb}SELECT FUSIONS OF digit0, wide")
    with pytest.raises(BinderError, match="two models or more"):
        db.execute("SELECT FUSIONS OF digit0")
    with pytest.raises(SommelierError, match="nothing"):
        db.execute(f"SELECT FUSIONS {OF} USING dataset = 'nothing'")


def test_explain_counts_the_pairs_without_running_a_model(db: sm.Connection) -> None:
    report = told(db, f"EXPLAIN SELECT FUSIONS {OF} ON flops < 50% AND params < 90% OF digit0")
    assert sum(pair["ways"] for pair in report.data["pairs"]) == 63  # algorithms.md F.2
    assert [model["blocks"] for model in report.data["models"]] == [
        len(model.blocks) for model in in_blocks("digits").values()
    ]
    whole = AbsGraph.original(in_blocks("digits")).flops
    (on,) = [stage for stage in report.data["plan"] if stage["stage"] == "on"]
    assert on["detail"][0].startswith("flops < 50% of the models together = ")
    assert report.data["models"][0]["flops"] < whole
    assert not any(line.startswith("rows") for line in report.lines)


def test_explain_analyze_ranks_and_counts(db: sm.Connection) -> None:
    report = told(db, f"EXPLAIN (ANALYZE, FORMAT json) SELECT FUSIONS {OF} LIMIT 7")
    assert report.data["rows"] == 7
    assert report.data["timing_ms"] > 0
    assert "".join(report.lines).startswith("{")


def test_a_ranking_is_stopped_soon_after_it_is_cancelled(db: sm.Connection) -> None:
    begun = threading.Event()

    def cancel() -> None:
        begun.wait(60)
        db.cancel()

    def report(phase: str, _done: int, _total: int | None, _current: str | None) -> None:
        assert phase == "ranking fusions"
        begun.set()

    stopper = threading.Thread(target=cancel)
    stopper.start()
    start = time.monotonic()
    with pytest.raises(CancelledError):
        db.execute(f"SELECT FUSIONS {OF}", progress=report)
    stopper.join()
    assert time.monotonic() - start < 20
    assert asked(db, f"SELECT FUSIONS fusion {OF} LIMIT 1") == [{"fusion": 1}]


def test_a_reader_of_a_snapshot_may_ask(db: sm.Connection) -> None:
    with sm.connect(db.path, read_only=True) as reader:
        rows = asked(reader, f"SELECT FUSIONS fusion, shares {OF} LIMIT 3")
    assert [row["fusion"] for row in rows] == [1, 2, 3]


def test_a_search_that_found_nothing_is_explained(tmp_path: Path) -> None:
    with filled(tmp_path) as db:
        with pytest.raises(AnalysisError):
            db.execute(
                "CREATE MODEL none AS FUSION OF digit0, digit1 ON flops < 0.1% USING steps = 1"
            )
        report = told(db, "EXPLAIN FUSION none")
        assert report.data["state"] == "none found"
        assert report.data["reason"]
        assert any("ON flops < 0.1%" in line for line in report.lines)
        assert "none" in db.names("fusion")


def test_columns_and_options_are_offered(db: sm.Connection) -> None:
    assert {"shares", "accuracy_drop", "latency_share"} <= set(db.names("fusion_column"))
    assert {"samples", "candidates"} <= set(db.names("fusions_option"))
    assert {"budget", "seed"} <= set(db.names("fusion_option"))
