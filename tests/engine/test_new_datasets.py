"""USING datasets: a statement about a dataset not seen yet, by the minimum or the t-prediction."""

from __future__ import annotations

import numpy as np
import pytest

from sommelier.analysis.bounds import AcrossDatasets, across_datasets
from sommelier.records import ModelRecord
from tests.engine.conftest import SAMPLES, Bench

WRONG = {"close": (4, 8, 12, 20), "far": (40, 80, 60, 90), "steady": (20, 20, 20, 20)}
NAMES = [f"set{i}" for i in range(4)]
LIST = ", ".join(f"'{name}'" for name in NAMES)


@pytest.fixture
def worlds(bench: Bench) -> Bench:
    """A reference and three models that answered four datasets, and one that answered two."""
    sets = [bench.probes(name, dataset_id=name) for name in NAMES]
    bench.model("reference", 0, *sets)
    bench.model("halfway", 4, *sets[:2])
    for name, counts in WRONG.items():
        record = ModelRecord(id=f"sha256:{name}", name=name, version="1", source="test")
        bench.catalog.add_model(record)
        for probe_set, wrong in zip(sets, counts, strict=True):
            bench.answer(record.id, probe_set, wrong)
    return bench


def told(name: str, confidence: float = 0.95) -> AcrossDatasets:
    counts = [SAMPLES - wrong for wrong in WRONG[name]]
    return across_datasets(counts, [SAMPLES] * 4, confidence=confidence)


def ask(bench: Bench, columns: str, condition: str = "", more: str = "") -> list[tuple]:
    text = f"SELECT MODELS {columns} CORR reference {condition} USING datasets = [{LIST}]{more}"
    return bench.ask(text).fetchall()


def test_the_minimum_speaks_of_a_new_dataset_where_there_are_enough(worlds: Bench) -> None:
    rows = ask(worlds, "name, equivalence, agreement, probes, provenance, method", "",
               ", confidence = 80%, correction = none")  # fmt: skip
    assert [row[0] for row in rows] == ["close", "steady", "far"]
    for name, equivalence, agreement, probes, provenance, method in rows:
        assert equivalence == pytest.approx(told(name).minimum.low)
        assert agreement == pytest.approx(1 - np.mean(WRONG[name]) / SAMPLES)
        assert (probes, provenance, method) == (4 * SAMPLES, "measured", "minimum")


def test_the_prediction_is_the_librarys_and_called_an_estimate(worlds: Bench) -> None:
    rows = ask(worlds, "name, equivalence, provenance", "",
               ", bound = prediction, correction = none")  # fmt: skip
    for name, equivalence, provenance in rows:
        prediction = told(name).prediction
        assert prediction is not None
        assert equivalence == pytest.approx(max(0.0, prediction.low))
        assert provenance == "estimated"


@pytest.mark.parametrize("how", ["minimum", "prediction"])
@pytest.mark.parametrize("threshold", [60, 77, 77.5, 90, 95, 99])
def test_rows_pass_by_the_bound_they_show(worlds: Bench, how: str, threshold: float) -> None:
    using = f", bound = {how}, confidence = 80%, correction = none"
    shown = ask(worlds, "name, equivalence", "", using)
    passed = ask(worlds, "name", f"{threshold}%", using)
    expected = {name for name, lower in shown if lower >= threshold / 100 - 1e-12}
    assert {name for (name,) in passed} == expected


def test_a_model_without_answers_to_one_of_them_is_not_compared(worlds: Bench) -> None:
    text = f"SELECT MODELS CORR reference USING datasets = [{LIST}]"
    result = worlds.ask(text)
    assert "halfway" not in {m.name for m in result}
    assert any(note.startswith("1 model skipped") and LIST in note for note in result.notes)
    why = worlds.ask(f"EXPLAIN WHY halfway NOT IN ({text})")
    assert "set2" in repr(why)


def test_too_few_datasets_are_undecidable_in_words_and_not_false(worlds: Bench) -> None:
    query = f"SELECT MODELS name, equivalence CORR reference 50% USING datasets = [{LIST}]"
    result = worlds.ask(query)
    assert len(result) == 0
    (note,) = (n for n in result.notes if n.startswith("UNDECIDABLE"))
    # three candidates at 95 %: 1 / (K + 1) <= 0.05 / 3
    assert "4 datasets speak of a new one with 80% confidence" in note
    assert "95% for 3 comparisons needs 59" in note
    verdicts = worlds.ask(f"EXPLAIN WHY close NOT IN ({query})")
    assert "undecidable" in repr(verdicts)
    possible = worlds.ask(
        f"SELECT MODELS name, certainty, equivalence CORR reference 50% USING datasets = [{LIST}], "
        "certainty = possible"
    )
    assert {row[1:] for row in possible.fetchall()} == {("undecidable", None)}


def test_explain_and_footer_say_what_the_statement_is_about(worlds: Bench) -> None:
    text = f"SELECT MODELS CORR reference USING datasets = [{LIST}], confidence = 80%"
    assert any(
        f"about a new dataset like {LIST}" in line for line in worlds.ask(f"EXPLAIN {text}").lines
    )
    notes = worlds.ask(text).notes
    assert any(f"equivalence is about a new dataset, drawn like {LIST}" in note for note in notes)


def test_one_dataset_is_today_s_using_dataset(worlds: Bench) -> None:
    columns = "SELECT MODELS name, equivalence, probes, provenance CORR reference USING"
    custom = worlds.ask(f"{columns} generalization = custom, datasets = ['set1']").fetchall()
    assert custom == worlds.ask(f"{columns} dataset = 'set1'").fetchall()
    assert len(custom) == 4


def test_a_new_dataset_lies_below_the_minimum_as_often_as_stated() -> None:
    rng = np.random.default_rng(7)
    sets, draws = 9, 4000
    rates = rng.normal(0.9, 0.02, size=(draws, sets + 1))
    counts = rng.binomial(500, np.clip(rates, 0, 1))
    below = np.mean(counts[:, -1] < counts[:, :-1].min(axis=1))
    stated = 1 / (sets + 1)
    assert below <= stated + 3 * np.sqrt(stated * (1 - stated) / draws)
