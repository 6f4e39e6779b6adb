"""Facts about numbers in the catalog: contexts, provenance, and reading all of them at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from sommelier.errors import UnknownNameError
from sommelier.records import Provenance
from sommelier.storage.catalog import Catalog
from sommelier.storage.catalog_measurements import OperatorCost
from tests.storage.catalog_factories import number, plain_model


@pytest.fixture
def catalog() -> Iterator[Catalog]:
    with Catalog.open(":memory:") as opened:
        yield opened


def test_a_measurement_is_read_as_it_was_written(catalog: Catalog) -> None:
    model = catalog.add_model(plain_model("a")).record
    given = number(
        model.id, "latency", 1.25, provenance=Provenance.ESTIMATED, method="operator-table",
        device="cpu", batch=4, percentile=99, dataset="d", precision="int8", threads=2, low=1.0,
        high=1.5, count=30, source="results.csv", recorded_at=datetime(2024, 5, 17, 1, 2, 3, 4),
    )  # fmt: skip
    catalog.add_measurements([given])
    assert catalog.measurements(model.id) == [given]


def test_a_measurement_without_a_date_gets_the_present(catalog: Catalog) -> None:
    model = catalog.add_model(plain_model("a")).record
    catalog.add_measurements([number(model.id, "params", 1)])
    recorded = catalog.measurements(model.id)[0].recorded_at
    assert recorded is not None
    assert abs(recorded - datetime.now(UTC).replace(tzinfo=None)) < timedelta(minutes=1)


def test_one_number_is_kept_per_metric_context_provenance_and_method(catalog: Catalog) -> None:
    a = catalog.add_model(plain_model("a")).record.id
    kept = [
        number(a, "latency", 1, device="cpu", batch=1),
        number(a, "latency", 2, device="gpu", batch=1),
        number(a, "latency", 3, device="cpu", batch=8),
        number(a, "latency", 4, device="cpu", batch=1, provenance=Provenance.DECLARED),
        number(a, "latency", 5, device="cpu", batch=1, method="other"),
    ]
    catalog.add_measurements(kept)
    catalog.add_measurements(kept)
    assert sorted(m.value for m in catalog.measurements(a)) == [1, 2, 3, 4, 5]
    catalog.add_measurements([replace(kept[0], value=7, source="s"), replace(kept[0], value=8)])
    assert sorted(m.value for m in catalog.measurements(a)) == [2, 3, 4, 5, 8]


def test_a_number_of_an_unknown_model_is_refused_with_all_that_came_along(catalog: Catalog) -> None:
    a = catalog.add_model(plain_model("a")).record.id
    with pytest.raises(UnknownNameError):
        catalog.add_measurements([number(a, "params", 1), number("sha256:no", "params", 1)])
    assert catalog.measurements(a) == []
    catalog.add_measurements([number(a, "params", 2)])
    assert [m.value for m in catalog.measurements(a)] == [2]


def test_measurement_columns_hold_every_number_and_its_context(catalog: Catalog) -> None:
    ids = [catalog.add_model(plain_model(name)).record.id for name in "abc"]
    catalog.drop_model(ids[0])
    catalog.add_measurements(
        [
            number(ids[2], "params", 10, low=9.0),
            number(ids[1], "latency", 1.5, device="cpu", batch=2, percentile=50, precision="fp16"),
            number(ids[1], "accuracy", 0.5, dataset="d", provenance=Provenance.DECLARED),
        ]
    )
    columns = catalog.measurement_columns()
    order = np.argsort(columns["value"])
    assert columns["value"][order].tolist() == [0.5, 1.5, 10]
    assert columns["model_id"][order].tolist() == [ids[1], ids[1], ids[2]]
    assert columns["row"][order].tolist() == [0, 0, 1]
    assert columns["metric"][order].tolist() == ["accuracy", "latency", "params"]
    assert columns["device"][order].tolist() == [None, "cpu", None]
    assert columns["dataset"][order].tolist() == ["d", None, None]
    assert columns["precision"][order].tolist() == [None, "fp16", None]
    assert columns["provenance"][order].tolist() == ["declared", "measured", "measured"]
    assert columns["batch"][order].tolist() == [None, 2, None]
    assert columns["percentile"][order].tolist() == [None, 50, None]
    assert np.isnan(columns["low"][order][:2]).all()
    assert columns["low"][order][2] == 9
    assert np.isnan(columns["high"]).all()


def test_columns_of_an_empty_database_are_empty(catalog: Catalog) -> None:
    assert {len(column) for column in catalog.measurement_columns().values()} == {0}
    assert len(catalog.model_ids()) == 0


def test_operator_costs_are_kept_per_device(catalog: Catalog) -> None:
    catalog.add_operator_costs([("cpu", "Conv", 1.5, 3), OperatorCost("gpu", "Conv", 0.1, 9)])
    catalog.add_operator_costs([("cpu", "Conv", 2.5, 4)])
    assert catalog.operator_costs("cpu") == [("cpu", "Conv", 2.5, 4)]
    assert catalog.operator_costs("gpu")[0].milliseconds == 0.1
    assert catalog.operator_costs("tpu") == []
