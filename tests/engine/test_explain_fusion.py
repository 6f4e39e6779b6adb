"""EXPLAIN FUSION tells what the catalog keeps: of fusions found, running, failed, and stale."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from sommelier.analysis.fusion import AbsGraph, NodeId, Pair, as_json, drawn
from sommelier.engine.result import Report, Table
from sommelier.engine.session import Session
from sommelier.errors import BinderError, ParserError, UnknownNameError
from sommelier.fusion_records import FusedModel, FusionStep
from sommelier.grammar.parser import parse
from sommelier.records import Preprocessing
from sommelier.storage.catalog import Catalog
from sommelier.storage.sketches import SketchStore
from tests.analysis.fusion.models import in_blocks
from tests.storage.test_fusions import A, M, a_fusion, a_task, fill

OPTIONS = {
    "method": "auto", "labels": "digits, -", "upper_end": True, "device": "cpu", "samples": 1300,
    "probe_set_id": "probes:1", "epochs": None,
    "limits": [
        {"metric": "latency", "most": 0.6, "absolute": False, "of": None, "strict": True},
        {"metric": "memory", "most": 2e6, "absolute": True, "of": None, "strict": False},
        {"metric": "flops", "most": 0.8, "absolute": False, "of": "a", "strict": True},
    ],
}  # fmt: skip


def found_fusion(**given: Any) -> FusedModel:
    graph = AbsGraph.original(in_blocks("digits")).mutate(Pair(NodeId(0, 2), NodeId(1, 3)))
    tasks = (
        a_task("a", drop=-0.002, drop_low=-0.01, drop_high=0.004, baseline=0.982),
        a_task("b", metric="agreement", baseline=1.0, proved=False),
    )
    filled: dict[str, Any] = {
        "tasks": tasks, "model_id": M.id, "method": "search", "graph": as_json(graph),
        "options": json.dumps(OPTIONS), "drop_threshold": 0.01, "confidence": 0.95,
        "dataset": "fsdd", "training": 700, "selection": 200, "held_out": 400, "seed": 7,
        "budget_ms": 1.2e6, "elapsed_ms": 9e4, "evaluations": 12, "device": "cpu", "params": 1e5,
        "flops": 4e6, "memory": 3e6, "latency_ms": 1.2, "base_params": 3e5, "base_flops": 1.2e7,
        "base_memory": 9e6, "base_latency_ms": 3.0, "job_id": 3,
    }  # fmt: skip
    return a_fusion(**{**filled, **given})


class Shelf:
    """A session over a catalog with fusions."""

    def __init__(self, catalog: Catalog, folder: Path) -> None:
        self.catalog = catalog
        self.session = Session.open(catalog, SketchStore(folder, catalog))

    def ask(self, text: str, parameters: Any = None) -> Any:
        return self.session.answer(parse(text), parameters)

    def told(self, name: str = "m") -> Report:
        report = self.ask(f"EXPLAIN FUSION {name}")
        assert isinstance(report, Report)
        return report


@pytest.fixture
def shelf(tmp_path: Path) -> Iterator[Shelf]:
    with Catalog.open(":memory:") as catalog:
        yield Shelf(fill(catalog), tmp_path)


def test_what_is_shared_is_drawn_as_the_library_draws_it(shelf: Shelf) -> None:
    fusion = found_fusion()
    shelf.catalog.add_fusion(fusion)
    told = shelf.told()
    assert fusion.graph is not None
    tree = drawn(fusion.graph).splitlines()
    start = told.lines.index(f"  {tree[0]}")
    assert [line[2:] for line in told.lines[start : start + len(tree)]] == tree
    assert told.data["graph"] == json.loads(fusion.graph)


def test_drops_are_told_with_intervals_measure_and_whether_they_are_proved(shelf: Shelf) -> None:
    shelf.catalog.add_fusion(found_fusion())
    told = str(shelf.told())
    lines = [" ".join(line.split()) for line in told.splitlines()]
    assert "a accuracy 98.2% -0.2% [-1%, 0.4%], proved 400" in lines
    assert "b agreement 100% 1% [-1%, 3%], an estimate 400" in lines
    assert "each interval holds for its task at 95% confidence" in told
    assert "each task may lose 1%" in told
    assert "agreement is with the model's own answers" in told


def test_costs_stand_beside_those_of_the_models_with_the_device(shelf: Shelf) -> None:
    shelf.catalog.add_fusion(found_fusion())
    (line,) = [line for line in shelf.told().lines if line.startswith("latency")]
    assert " ".join(line.split()) == "latency on 'cpu' 1.2 ms 3 ms 40%, 2.5x as fast"
    (memory,) = [line for line in shelf.told().lines if line.startswith("memory")]
    assert " ".join(memory.split()) == "memory 3 MB 9 MB 33.33%"


def test_data_budget_seed_and_stated_options_are_told(shelf: Shelf) -> None:
    shelf.catalog.add_fusion(found_fusion())
    lines = shelf.told().lines
    assert (
        "data      'fsdd': 700 samples trained on, 200 chosen by, 400 others measured on" in lines
    )
    assert (
        "search    12 candidates trained, 1.5 min of 20 min, seed 7, job 3, labels digits, -,"
        " upper_end true, ON latency < 60% AND memory <= 2 MB AND flops < 80% OF a" in lines
    )


def test_a_long_trace_is_its_last_accepted_steps_and_a_count_of_the_others(shelf: Shelf) -> None:
    fusion = found_fusion()
    shelf.catalog.add_fusion(fusion)
    steps = [
        FusionStep(
            i, "trained" if i % 2 else "filtered", pair=f"pair {i}", epochs=8 * (i % 2),
            drop_measured=0.004 if i % 2 else None, accepted=i % 4 == 1, elapsed_ms=1e3 * i,
        )
        for i in range(60)
    ]  # fmt: skip
    shelf.catalog.add_fusion_steps(fusion.id, steps)
    report = shelf.told()
    shown = [line for line in report.lines if "pair " in line]
    assert [int(line.split()[0]) for line in shown] == list(range(21, 60, 4))
    assert all("trained, 8 epochs" in line and "0.4%" in line for line in shown)
    assert "5 steps were accepted before these" in report.lines
    assert "not accepted: 30 filtered, 15 trained" in report.lines
    assert "all 60 steps: SELECT * FROM fusion_trace WHERE fusion = 'm'" in report.lines
    assert [FusionStep(**step) for step in report.data["steps"]] == steps
    rows = shelf.ask("SELECT * FROM fusion_trace WHERE fusion = 'm'")
    assert len(rows) == 60


@pytest.mark.parametrize(("method", "told"), [("search", True), ("merged weights", False)])
def test_a_model_of_a_search_that_accepted_no_step_is_explained(
    shelf: Shelf, method: str, told: bool
) -> None:
    fusion = found_fusion(method=method)
    shelf.catalog.add_fusion(fusion)
    shelf.catalog.add_fusion_steps(fusion.id, [FusionStep(0, "trained", accepted=False)])
    (line,) = [line for line in shelf.told().lines if line.startswith("the one step was not")]
    assert line.startswith("the one step was not accepted")
    assert ("came nearest" in line) is told


def test_data_are_the_record_in_base_units(shelf: Shelf) -> None:
    shelf.catalog.add_fusion(found_fusion())
    kept, data = shelf.catalog.fusion("m"), shelf.told().data
    left_out = {"graph", "options", "created_at", "steps"}
    assert {k: v for k, v in data.items() if k not in left_out} == {
        k: v for k, v in asdict(kept).items() if k not in left_out
    }
    assert data["options"] == OPTIONS
    written = shelf.ask("EXPLAIN (FORMAT json) FUSION m")
    assert json.loads("\n".join(written.lines)) == json.loads(json.dumps(data))
    with pytest.raises(ParserError, match="there is nothing to run"):
        shelf.ask("EXPLAIN (ANALYZE) FUSION m")
    with pytest.raises(BinderError, match="unknown option 'seed'"):
        shelf.ask("EXPLAIN (seed = 1) FUSION m")


@pytest.mark.parametrize(
    ("state", "reason", "sentence"),
    [
        ("searching", None, "SHOW JOBS tells how far it is"),
        ("interrupted", "the process was killed", "the same statement goes on"),
        ("cancelled", None, "the same statement goes on"),
        ("none found", "nothing is within 0%", "reason    nothing is within 0%"),
        ("failed", "the disk is full", "reason    the disk is full"),
    ],
)
def test_searches_that_led_to_no_model_are_told_too(
    shelf: Shelf, state: str, reason: str | None, sentence: str
) -> None:
    blank = replace(a_task("a"), metric=None, baseline=None, drop=None, drop_low=None,
                    drop_high=None, samples=0)  # fmt: skip
    other = replace(blank, model_id=a_task("b").model_id, name="b", version=a_task("b").version)
    shelf.catalog.add_fusion(a_fusion("x", state=state, reason=reason, tasks=(blank, other)))
    told = str(shelf.told("x"))
    assert f"state     {state}" in told
    assert sentence in told
    assert "what the tasks lose is not known" in told
    assert "NULL" not in told
    assert "models together" not in told


def test_a_stale_fusion_says_why_its_figures_are_of_another_model(shelf: Shelf) -> None:
    shelf.catalog.add_fusion(found_fusion())
    changed = Preprocessing((("to_float", {"scale": 255.0}),))
    shelf.catalog.update_model(replace(A, preprocessing=changed))
    told = str(shelf.told())
    assert "state     stale: the model 'a' has changed since" in told
    assert "measured against another model" in told


@pytest.mark.parametrize(
    ("method", "promise"),
    [
        ("search", "were trained"),
        ("merged weights", "nothing was trained"),
        ("equal layers", "the same answers in less memory"),
    ],
)
def test_every_method_says_what_it_promises(shelf: Shelf, method: str, promise: str) -> None:
    shelf.catalog.add_fusion(found_fusion(method=method, graph=None))
    told = str(shelf.told())
    assert f"method    {method}: " in told
    assert promise in " ".join(told.split())


def test_names_parameters_and_ids_find_a_fusion(shelf: Shelf) -> None:
    shelf.catalog.add_fusion(found_fusion())
    plain = shelf.told().lines
    assert shelf.ask("EXPLAIN FUSION $m", {"m": "m"}).lines == plain
    assert shelf.ask('EXPLAIN FUSION "sha256:m"').lines == plain


def test_a_second_search_of_the_name_is_mentioned(shelf: Shelf) -> None:
    shelf.catalog.add_fusion(found_fusion())
    shelf.catalog.add_fusion(a_fusion("m", state="none found", reason="too slow", seed=9))
    report = shelf.told()
    assert report.data["model_id"] == M.id
    assert "note: another search of this name is 'none found': too slow" in report.lines


def test_wrong_names_are_refused_with_the_nearest(shelf: Shelf) -> None:
    shelf.catalog.add_fusion(found_fusion())
    shelf.catalog.add_fusion(a_fusion("audio", state="failed"))
    with pytest.raises(UnknownNameError, match="unknown fusion 'audoi'") as refused:
        shelf.told("audoi")
    assert "audio" in refused.value.suggestions
    with pytest.raises(UnknownNameError, match="a was not made by fusion"):
        shelf.told("a")


def test_describe_points_from_the_fused_model_to_its_fusion(shelf: Shelf) -> None:
    shelf.catalog.add_fusion(found_fusion())
    table = shelf.ask("DESCRIBE MODEL m")
    assert isinstance(table, Table)
    assert dict(table.rows)["fused from"] == "a, b (EXPLAIN FUSION m)"
    assert "fused from" not in dict(shelf.ask("DESCRIBE MODEL a").rows)
