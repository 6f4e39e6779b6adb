"""SHOW BOUNDS: each row against scipy and the library, and what it says it is about."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import beta, t

from sommelier.analysis.bounds import bound
from sommelier.errors import BinderError
from sommelier.records import LabelSpace, Measurement, ModelRecord, Provenance
from tests.engine.conftest import SAMPLES, TRUTH, Bench

FIVE = LabelSpace("five", "five", tuple("abcde"))


@pytest.fixture
def pair(bench: Bench) -> Bench:
    """a and b differ on 20 of 400 photos, whose truth a always tells, and on 3 of 100 digits."""
    bench.catalog.add_label_space(FIVE)
    truth = TRUTH.astype(np.int32).tobytes()
    photos = bench.probes("photos", labels=truth)
    photos = replace(photos, label_space_id="five")
    digits = bench.probes("digits", samples=100, dataset_id="digits")
    bench.model("a", 0, photos, digits, labels="five")
    bench.model("b", 20, photos, labels="five")
    return bench


def rows(bench: Bench, statement: str) -> dict[tuple[str, str], dict[str, object]]:
    return {(str(r["about"]), str(r["method"])): r for r in bench.ask(statement).dicts()}


def test_every_method_has_a_row_with_its_bound_and_what_it_is_worth(pair: Bench) -> None:
    found = rows(pair, "SHOW BOUNDS OF a, b")
    about = "agreement on inputs like 'photos'"
    for method in ("cp", "betting", "anytime", "hoeffding", "bernstein", "wilson"):
        row = found[about, method]
        one = bound("proportion", 380, SAMPLES, method=method, side="lower")
        assert row["lower"] == pytest.approx(one.low)
        assert (row["observed"], row["samples"], row["confidence"]) == (0.95, SAMPLES, 0.95)
        assert row["status"] == ("proved" if one.proved else "estimate")
    assert found[about, "cp"]["lower"] == pytest.approx(beta.ppf(0.05, 380, 21))


def test_one_dataset_says_nothing_of_a_new_one(pair: Bench) -> None:
    assert not any("new dataset" in about for about, _ in rows(pair, "SHOW BOUNDS OF a, b"))


def test_several_datasets_are_told_one_by_one_and_of_a_new_one(bench: Bench) -> None:
    names = [f"set{i}" for i in range(4)]
    sets = [bench.probes(name, dataset_id=name) for name in names]
    bench.model("a", 0, *sets)
    record = ModelRecord(id="sha256:b", name="b", version="1", source="test")
    bench.catalog.add_model(record)
    wrong = (4, 8, 20, 40)
    for probe_set, count in zip(sets, wrong, strict=True):
        bench.answer(record.id, probe_set, count)
    found = rows(bench, "SHOW BOUNDS OF a, b USING confidence = 90%")
    for name, count in zip(names, wrong, strict=True):
        lower = beta.ppf(0.1, SAMPLES - count, count + 1)
        row = found[f"agreement on inputs like '{name}'", "cp"]
        assert row["lower"] == pytest.approx(lower)
    about = "agreement on a new dataset, drawn like these 4"
    minimum, prediction = found[about, "minimum"], found[about, "prediction"]
    assert (minimum["lower"], minimum["confidence"], minimum["status"]) == (0.9, 0.8, "proved")
    rates = 1 - np.array(wrong) / SAMPLES
    low = rates.mean() - t.ppf(0.9, 3) * rates.std(ddof=1) * np.sqrt(1 + 1 / 4)
    assert prediction["lower"] == pytest.approx(low)
    assert (prediction["samples"], prediction["status"]) == (4, "estimate")


def test_accuracy_differences_are_two_sided_and_paired(pair: Bench) -> None:
    found = rows(pair, "SHOW BOUNDS OF a, b")
    about = "accuracy(a) - accuracy(b) on inputs like 'photos'"
    for method in ("betting", "cp", "tango"):
        row, one = found[about, method], bound("difference", 20, 0, SAMPLES, method=method)
        assert (row["lower"], row["upper"]) == pytest.approx((one.low, one.high))
        assert row["observed"] == 0.05
    assert found[about, "tango"]["status"] == "estimate"


def test_a_named_dataset_is_the_only_one(pair: Bench) -> None:
    with pytest.raises(BinderError, match="no comparable answers to common probes of 'digits'"):
        pair.ask("SHOW BOUNDS OF a, b USING dataset = 'digits'")
    assert len(pair.ask("SHOW BOUNDS OF a, b USING dataset = 'photos'")) == 9


def spectral(bench: Bench, model: str, value: float, metric: str = "spectral_bound") -> None:
    bench.catalog.add_measurements(
        [Measurement(model, metric, value, Provenance.ESTIMATED, "arora", dataset="photos")]
    )


def test_a_generalization_bound_over_one_is_printed_as_vacuous(pair: Bench) -> None:
    spectral(pair, "sha256:a", 151.0)
    spectral(pair, "sha256:b", 0.4)
    found = rows(pair, "SHOW BOUNDS OF a, b")
    worth = {
        about: (row["upper"], row["status"])
        for (about, method), row in found.items()
        if method == "spectral"
    }
    assert worth == {
        "error of a on inputs like 'photos'": (151.0, "vacuous"),
        "error of b on inputs like 'photos'": (0.4, "estimate"),
    }
    table = pair.ask("SHOW BOUNDS OF a, b")
    assert any("no proof" in note for note in table.notes)


def test_one_model_shows_what_its_generalization_bound_is_made_of(pair: Bench) -> None:
    with pytest.raises(BinderError, match="no generalization bound of a is known") as caught:
        pair.ask("SHOW BOUNDS OF a")
    assert "ANALYZE a FOR BOUNDS" in str(caught.value)
    spectral(pair, "sha256:a", 151.0)
    spectral(pair, "sha256:a", 0.1, "margin_loss")
    told = pair.ask("SHOW BOUNDS OF a").dicts()
    assert [(r["quantity"], r["value"], r["status"]) for r in told] == [
        ("spectral_bound", 151.0, "vacuous"),
        ("margin_loss", 0.1, "observed"),
    ]
