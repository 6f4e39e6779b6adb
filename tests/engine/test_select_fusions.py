"""SELECT FUSIONS against DuckDB's answers on the same rows, and what belongs to fusions alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import duckdb
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sommelier.engine.explain_fusions import explain_fusions
from sommelier.engine.fusion_columns import (
    COSTS,
    DEFAULT_COLUMNS,
    FUSION_COLUMNS,
    FUSION_NUMBERS,
    FUSION_TEXTS,
)
from sommelier.engine.parameters import as_parameters
from sommelier.engine.result import Table
from sommelier.engine.select_fusions import FusionsQuestion, bind_fusions, choose_fusions
from sommelier.engine.session import Session
from sommelier.errors import BinderError, UnknownNameError
from sommelier.fusion_records import FusionBlocks, FusionCost, FusionRanking, RankedFusion
from sommelier.grammar import nodes
from sommelier.grammar.parser import parse
from sommelier.storage.catalog import Catalog
from sommelier.storage.sketches import SketchStore
from tests.engine.link_bench import LinkBench

MODELS = ("digit_net", "speaker_net", "accent_net")
ALONE = (
    FusionCost(1.0e6, 2e4, 1.0e5, 0.020),
    FusionCost(9.5e5, 1.7e4, 1.1e5, 0.030),
    FusionCost(2.5e5, 5e3, 4.0e4, 0.010),
)
TOGETHER = FusionCost(2.2e6, 4.2e4, 2.5e5, 0.060)
OF = "OF digit_net, speaker_net, accent_net"
Written = tuple[str, str]  # a condition in our language, and in DuckDB's over the table `fusions`


def made_ranking(count: int = 60, *, known: float = 0.8) -> FusionRanking:
    """Fusions with costs drawn at random, some of their numbers unknown."""
    rng = np.random.default_rng(7)

    def maybe(value: float) -> float | None:
        return float(value) if rng.random() < known else None

    found = []
    for _ in range(count):
        guests = rng.choice(MODELS, size=2, replace=False)
        share = rng.uniform(0.2, 0.99, size=4)
        cost = FusionCost(
            2.2e6 * share[0], 4.2e4 * share[1], maybe(2.5e5 * share[2]), maybe(0.06 * share[3])
        )
        shares = tuple(f"{guest} {rng.integers(4)} reads accent_net 1" for guest in guests)
        risk = maybe(rng.integers(0, 300) / 1000)
        found.append(RankedFusion(shares, cost, rng.random(), risk, maybe(rng.uniform(-0.01, 0.1))))
    found.sort(key=lambda fusion: -fusion.promise)
    return FusionRanking(
        tuple(found), TOGETHER, ALONE, "operator table", 128, count, "fsdd", ("noted",)
    )


@dataclass
class FusionBench:
    """A catalog with the three models, and fusions of them that were ranked."""

    session: Session
    ranking: FusionRanking

    def bound(self, text: str, **parameters: Any) -> FusionsQuestion:
        statement = parse(text)
        assert isinstance(statement, nodes.SelectFusions)
        return bind_fusions(statement, self.session, as_parameters(parameters or None))

    def ask(self, text: str, **parameters: Any) -> Table:
        return choose_fusions(self.bound(text, **parameters), self.ranking)

    def table(self) -> duckdb.DuckDBPyConnection:
        """The same fusions as a table of DuckDB, computed on their own."""
        raw = duckdb.connect()
        columns = ", ".join(f"{name} DOUBLE" for name in FUSION_NUMBERS)
        raw.execute(f"CREATE TABLE fusions (shares VARCHAR, {columns})")
        for number, fusion in enumerate(self.ranking.fusions, 1):
            row: dict[str, Any] = {"shares": ", ".join(fusion.shares), "fusion": number}
            row |= {"risk": fusion.risk, "accuracy_drop": fusion.drop}
            for name, (field, _) in COSTS.items():
                value, whole = getattr(fusion.cost, field), getattr(TOGETHER, field)
                row[name] = value
                row[f"{name}_share"] = None if value is None else value / whole
            latency = fusion.cost.latency_ms
            row["speedup"] = None if latency is None else 1 / (latency / 0.06)
            marks = ", ".join("?" * len(row))
            raw.execute(f"INSERT INTO fusions ({', '.join(row)}) VALUES ({marks})", [*row.values()])
        return raw


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FusionBench]:
    folder = tmp_path_factory.mktemp("fusions")
    with Catalog.open(folder / "models.sommelier") as catalog:
        sketches = SketchStore(folder / "models.sommelier.d" / "sketches", catalog)
        models = LinkBench(catalog, sketches, ask=print)
        for name, cost in zip(MODELS, ALONE, strict=True):
            assert cost.latency_ms is not None
            models.model(
                name, flops=cost.flops or 0, params=cost.params or 0, memory=cost.memory or 0,
                latency=cost.latency_ms,
            )  # fmt: skip
        models.model("blank", memory=1e3)
        ids = [catalog.resolve(name).id for name in MODELS]
        catalog.save_pool("audio", ids, "SELECT MODELS")
        catalog.save_pool("lonely", ids[:1], "SELECT MODELS")
        yield FusionBench(Session.open(catalog, sketches), made_ranking())


SHARES = ("latency_share", "flops_share", "memory_share", "params_share", "accuracy_drop")
SIGNS = st.sampled_from(("<", "<=", ">", ">=", "=", "!="))
AMOUNTS = (("latency", "us", 1e-3, (12, 30, 50)), ("flops", "MFLOPs", 1e6, (0.5, 1, 2)),
           ("memory", "kB", 1e3, (50, 100, 200)), ("params", "K", 1e3, (10, 21, 40)))  # fmt: skip


def _where() -> st.SearchStrategy[Written]:
    shares = st.builds(
        lambda c, s, p: (f"{c} {s} {p}%", f"{c} {s} {p / 100!r}"),
        st.sampled_from(SHARES), SIGNS, st.sampled_from((1, 5, 40, 60, 90)),
    )  # fmt: skip
    plain = st.sampled_from(
        (
            "risk < 0.1", "speedup > 1.5", "fusion <= 20", "risk IS NULL", "accuracy_drop IS NULL",
            "shares LIKE '%digit_net 2%'", "shares NOT LIKE 'speaker%'", "shares IS NOT NULL",
            "latency_share - risk > 0.3", "fusion IN (1, 5, 9)",
        )
    ).map(lambda text: (text, text))  # fmt: skip
    return shares | plain | _amounts()


def _amounts() -> st.SearchStrategy[Written]:
    def written(amount: tuple[Any, ...], sign: str, place: int) -> Written:
        name, unit, factor, values = amount
        value = values[place % len(values)]
        return f"{name} {sign} {value} {unit}", f"{name} {sign} {value * factor!r}"

    return st.builds(written, st.sampled_from(AMOUNTS), SIGNS, st.integers(0, 9))


def _on() -> st.SearchStrategy[Written]:
    def relative(name: str, percent: int, place: int) -> Written:
        field = COSTS[name][0]
        if place == len(MODELS):
            limit = percent / 100 * getattr(TOGETHER, field)
            return f"{name} < {percent}%", f"{name} < {limit!r}"
        limit = percent / 100 * getattr(ALONE[place], field)
        return f"{name} < {percent}% OF {MODELS[place]}", f"{name} < {limit!r}"

    return _amounts() | st.builds(
        relative, st.sampled_from(sorted(COSTS)), st.sampled_from((40, 60, 90)), st.integers(0, 3)
    )


def _joined(part: st.SearchStrategy[Written]) -> st.SearchStrategy[Written]:
    both = st.builds(
        lambda word, a, b: tuple(f"({x} {word} {y})" for x, y in zip(a, b, strict=True)),
        st.sampled_from(("AND", "OR")), part, part,
    )  # fmt: skip
    return both | part.map(lambda a: tuple(f"NOT ({x})" for x in a))


WHERES = st.recursive(_where(), _joined, max_leaves=4)
LIMITS = st.recursive(_on(), _joined, max_leaves=4)


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(where=WHERES, on=LIMITS)
@pytest.mark.slow
def test_on_and_where_keep_the_fusions_that_duckdb_keeps(
    bench: FusionBench, where: Written, on: Written
) -> None:
    with bench.table() as raw:
        asked = f"SELECT fusion FROM fusions WHERE ({where[1]}) AND ({on[1]}) ORDER BY fusion"
        expected = [row[0] for row in raw.execute(asked).fetchall()]
    found = bench.ask(f"SELECT FUSIONS fusion {OF} ON {on[0]} WHERE {where[0]} LIMIT 1000")
    assert [row[0] for row in found.rows] == expected


@pytest.mark.parametrize("column", [*FUSION_NUMBERS, "shares"])
@pytest.mark.parametrize("direction", ["", "DESC", "DESC NULLS FIRST"])
def test_columns_and_their_order_are_those_of_the_fusions(
    bench: FusionBench, column: str, direction: str
) -> None:
    nulls = "" if "NULLS" in direction else "NULLS LAST"
    with bench.table() as raw:
        order = f"ORDER BY {column} {direction} {nulls}, fusion"
        expected = raw.execute(f"SELECT {column}, fusion FROM fusions {order}").fetchall()
    found = bench.ask(
        f"SELECT FUSIONS {column}, fusion {OF} ORDER BY {column} {direction} LIMIT 99"
    )
    assert [row[1] for row in found.rows] == [row[1] for row in expected]
    for ours, theirs in zip(found.rows, expected, strict=True):
        assert ours[0] == (theirs[0] if column == "shares" else pytest.approx(theirs[0]))


def test_every_column_is_a_text_or_a_number() -> None:
    assert set(FUSION_COLUMNS) == {*FUSION_TEXTS, *FUSION_NUMBERS}
    assert set(DEFAULT_COLUMNS) < set(FUSION_COLUMNS)


def test_without_an_order_the_most_promising_come_first_and_twenty_are_shown(
    bench: FusionBench,
) -> None:
    found = bench.ask(f"SELECT FUSIONS {OF}")
    assert [row[0] for row in found.rows] == list(range(1, 21))
    assert [column.name for column in found.columns] == list(DEFAULT_COLUMNS)
    assert "20 of 60 fusions: LIMIT n shows more" in found.notes
    every = bench.ask("SELECT FUSIONS * OF POOL audio LIMIT 5 OFFSET 58")
    assert [row[0] for row in every.rows] == [59, 60]
    assert [column.name for column in every.columns] == list(FUSION_COLUMNS)


def test_a_share_in_on_is_the_share_that_a_row_shows(bench: FusionBench) -> None:
    for name in COSTS:
        on = bench.ask(f"SELECT FUSIONS fusion {OF} ON {name} < 55% LIMIT 99")
        where = bench.ask(f"SELECT FUSIONS fusion {OF} WHERE {name}_share < 55% LIMIT 99")
        assert on.rows == where.rows != []


def test_rows_say_whether_they_keep_the_limits(bench: FusionBench) -> None:
    free = bench.ask(f"SELECT FUSIONS feasible {OF}")
    assert {row[0] for row in free.rows} == {None}
    kept = bench.ask(f"SELECT FUSIONS feasible, basis {OF} ON flops < 60%")
    assert set(kept.rows) == {("yes", "operator table")}
    either = bench.ask(f"SELECT DISTINCT FUSIONS feasible {OF} ON latency < 60% OR flops < 200%")
    assert either.rows == [("yes",)]


def test_what_breaks_on_or_cannot_be_judged_is_counted(bench: FusionBench) -> None:
    fusions = bench.ranking.fusions
    slow = sum(1 for f in fusions if f.cost.latency_ms and f.cost.latency_ms >= 0.036)
    unknown = sum(1 for f in fusions if f.cost.latency_ms is None)
    undecided = sum(
        1 for f in fusions if f.drop is None and f.cost.latency_ms and f.cost.latency_ms < 0.036
    )
    assert min(slow, unknown, undecided) > 1
    notes = bench.ask(f"SELECT FUSIONS {OF} ON latency < 60% WHERE accuracy_drop < 2%").notes
    limit = "ON latency < 60% of the models together = 36 us"
    assert f"{slow} of 60 fusions break {limit}" in notes
    assert any(note.startswith(f"{unknown} fusions have no latency: ANALYZE") for note in notes)
    assert any(note.startswith(f"{undecided} fusions have no accuracy_drop") for note in notes)
    assert "noted" in notes


def test_notes_say_that_numbers_are_estimates_and_what_they_rest_on(bench: FusionBench) -> None:
    told = "; ".join(bench.ask(f"SELECT FUSIONS {OF}").notes)
    assert "nothing was trained" in told
    assert "128 samples of 'fsdd'" in told
    assert "latency is an estimate for 'cpu' at batch 1" in told
    assert "latency 60 us, flops 2.2 MFLOPs, memory 250 kB, params 42K" in told
    assert f"fusion 1: {', '.join(bench.ranking.fusions[0].shares)}" in told


def test_unknown_latency_and_no_samples_are_told_and_are_never_zero(bench: FusionBench) -> None:
    fusions = tuple(
        replace(f, cost=replace(f.cost, latency_ms=None), risk=None, drop=None)
        for f in bench.ranking.fusions
    )
    blind = replace(
        bench.ranking, fusions=fusions, together=replace(TOGETHER, latency_ms=None),
        alone=tuple(replace(cost, latency_ms=None) for cost in ALONE), basis="FLOPs", samples=0,
    )  # fmt: skip
    found = choose_fusions(bench.bound(f"SELECT FUSIONS latency, speedup, risk {OF}"), blind)
    assert set(found.rows) == {(None, None, None)}
    told = "; ".join(found.notes)
    assert "latency is unknown, so FLOPs stand for it: ANALYZE digit_net, speaker_net" in told
    assert "without samples accuracy_drop and risk are unknown" in told
    none = choose_fusions(bench.bound(f"SELECT FUSIONS {OF} ON latency < 60%"), blind)
    assert not none.rows
    assert any(note.startswith("60 fusions have no latency") for note in none.notes)


def test_an_empty_answer_says_what_came_closest(bench: FusionBench) -> None:
    known = [f for f in bench.ranking.fusions if f.cost.latency_ms is not None]
    best = min(known, key=lambda f: f.cost.latency_ms or 1)
    place = bench.ranking.fusions.index(best) + 1
    found = bench.ask(f"SELECT FUSIONS {OF} ON latency < 10%")
    assert not found.rows
    (closest,) = [note for note in found.notes if note.startswith("closest")]
    assert closest.startswith(f"closest: fusion {place} (")
    percent = float(closest.rsplit("latency < ", 1)[1].rstrip("%"))
    assert (best.cost.latency_ms or 0) / 0.06 == pytest.approx(percent / 100, abs=2e-3)
    again = bench.ask(f"SELECT FUSIONS fusion {OF} ON latency < {percent}%")
    assert [row[0] for row in again.rows] == [place]


def test_parameters_stand_for_models_and_values(bench: FusionBench) -> None:
    asked = "SELECT FUSIONS fusion OF $one, speaker_net, accent_net WHERE risk < $risk LIMIT $n"
    found = bench.ask(asked, one="digit_net", risk=0.1, n=3)
    assert found.rows == bench.ask(f"SELECT FUSIONS fusion {OF} WHERE risk < 0.1 LIMIT 3").rows


@pytest.mark.parametrize(
    ("text", "message", "words"),
    [
        (f"SELECT FUSIONS latncy {OF}", "no column 'latncy'", "latncy"),
        (f"SELECT FUSIONS {OF} ON accuracy_drop < 1%", "is no cost", "accuracy_drop"),
        (f"SELECT FUSIONS {OF} ON latency_share < 60%", "is no cost", "latency_share"),
        (f"SELECT FUSIONS {OF} ON shares = 'a'", "is no cost", "shares"),
        (f"SELECT FUSIONS {OF} WHERE latency < 60%", "60% of what", "60%"),
        (f"SELECT FUSIONS {OF} WHERE latency < 5 MB", "time", "5 MB"),
        (f"SELECT FUSIONS {OF} ON latency < 30 us ON 'gpu'", "not for 'gpu'", "ON 'gpu'"),
        (f"SELECT FUSIONS {OF} ON latency < 30 us AT p99", "at the median", "AT p99"),
        (f"SELECT FUSIONS {OF} ON latency < 60% OF blank", "share of one of their models", None),
        (f"SELECT FUSIONS {OF} WHERE speed(1) > 2", "no function 'speed'", "speed(1)"),
        (f"SELECT FUSIONS {OF} WHERE shares REGEXP '('", "regular expression", "'('"),
        (f"SELECT FUSIONS {OF} USING samples = 0", "at least 1", "samples = 0"),
        (f"SELECT FUSIONS {OF} USING seed = -1", "at least 0", "seed = -1"),
        (f"SELECT FUSIONS {OF} USING budget = 3min", "unknown option 'budget'", "budget = 3min"),
        ("SELECT FUSIONS OF digit_net", "two models or more, and digit_net is one", "digit_net"),
        ("SELECT FUSIONS OF POOL lonely", "two models or more", None),
        ("SELECT FUSIONS OF digit_net, digit_net", "named twice", None),
    ],
)
def test_wrong_questions_are_refused_where_they_are_wrong(
    bench: FusionBench, text: str, message: str, words: str | None
) -> None:
    with pytest.raises(BinderError, match=message) as refused:
        bench.ask(text)
    if words is not None:
        span = refused.value.span
        assert span is not None
        assert text[span.start : span.end] == words


def test_the_second_of_equal_names_is_underlined(bench: FusionBench) -> None:
    text = "SELECT FUSIONS OF digit_net, accent_net, digit_net"
    with pytest.raises(BinderError) as refused:
        bench.ask(text)
    assert refused.value.span is not None
    assert refused.value.span.start == text.rindex("digit_net")


@pytest.mark.parametrize("of", ["digit_nett, accent_net", "POOL audoi"])
def test_names_that_do_not_exist_are_refused_with_the_nearest(bench: FusionBench, of: str) -> None:
    with pytest.raises(UnknownNameError) as refused:
        bench.ask(f"SELECT FUSIONS OF {of}")
    assert refused.value.suggestions[0] in ("digit_net", "audio")


def test_the_device_is_that_on_which_all_latencies_are_known(tmp_path: Any) -> None:
    with Catalog.open(":memory:") as catalog:
        models = LinkBench(catalog, SketchStore(tmp_path, catalog), ask=print)
        for name in MODELS:
            models.model(name, latency=0.02)
        only = FusionBench(Session.open(catalog, models.sketches), made_ranking())
        assert only.bound(f"SELECT FUSIONS {OF}").group.device == "cpu"
        extra = catalog.measurements(catalog.resolve("digit_net").id)[0]
        catalog.add_measurements([replace(extra, device="jetson")])
        assert only.bound(f"SELECT FUSIONS {OF}").group.device == "cpu"
        for name in MODELS[1:]:
            model_id = catalog.resolve(name).id
            catalog.add_measurements([replace(extra, device="jetson", model_id=model_id)])
        with pytest.raises(BinderError, match=r"on which device.*'cpu', 'jetson'"):
            only.bound(f"SELECT FUSIONS {OF}")
        group = only.bound(f"SELECT FUSIONS {OF} USING device = 'jetson'").group
        assert (group.device, group.latencies_ms) == ("jetson", (0.02,) * 3)
        with pytest.raises(UnknownNameError):
            only.bound(f"SELECT FUSIONS {OF} USING device = 'gpu'")


def test_explain_tells_models_pairs_data_and_limits_in_amounts(bench: FusionBench) -> None:
    question = bench.bound(
        f"SELECT FUSIONS fusion, risk {OF} ON latency < 50% AND memory < 90% OF digit_net"
        " WHERE accuracy_drop < 1% ORDER BY risk DESC LIMIT 3 OFFSET 2"
    )
    blocks = FusionBlocks((4, 5, 6), ((0, 1, 7), (1, 0, 1), (2, 2, 3)))
    report = explain_fusions(question, blocks, samples=64, dataset="fsdd", basis="operator table")
    told = {name: [] for name in ("models", "pairs", "data", "costs", "on", "where", "order")}
    for stage in report.data["plan"]:
        told[stage["stage"]] = stage["detail"]
    assert told["models"][0] == (
        "digit_net: 4 blocks, latency 20 us, flops 1 MFLOPs, memory 100 kB, params 20K"
    )
    assert told["pairs"] == [
        "7 ways for speaker_net to go on from features of digit_net",
        "3 ways to leave out blocks of accent_net",
        "1 way for digit_net to go on from features of speaker_net",
    ]
    assert "64 samples of 'fsdd'" in told["data"][0]
    assert told["on"] == [
        "latency < 50% of the models together = 30 us",
        "AND memory < 90% of digit_net = 90 kB",
    ]
    assert told["where"] == ["accuracy_drop < 1%"]
    assert told["order"] == ["risk DESC"]
    assert "limit    3 from row 3" in report.lines
