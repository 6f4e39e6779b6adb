"""Columns of numbers: exact box queries, contexts, provenance, unknown values."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sommelier.errors import UnknownNameError
from sommelier.storage.resource_index import ColumnKey, MetricContext, ResourceIndex
from tests.storage.index_factories import (
    DECLARED,
    ESTIMATED,
    MEASURED,
    Shelf,
    add_models,
    number,
)

METRICS = ("memory", "flops", "latency", "params")


@pytest.fixture
def shelf(tmp_path: Path):
    shelf = Shelf(tmp_path)
    yield shelf
    shelf.catalog.close()


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """300 models; each of four metrics is unknown for about a fifth of them."""
    shelf = Shelf(tmp_path_factory.mktemp("wide"))
    ids = add_models(shelf.catalog, 300)
    rng = np.random.default_rng(0)
    table = np.where(rng.random((300, 4)) < 0.2, np.nan, rng.lognormal(3, 2, (300, 4)))
    shelf.catalog.add_measurements(
        number(model_id, metric, value, device="cpu" if metric == "latency" else None)
        for model_id, row in zip(ids, table, strict=True)
        for metric, value in zip(METRICS, row, strict=True)
        if not np.isnan(value)
    )
    yield shelf.resources, table
    shelf.catalog.close()


@given(
    st.dictionaries(st.sampled_from(range(4)), st.floats(0, 1, width=32), min_size=1),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_box_queries_equal_brute_force(wide, quantiles):
    resources, table = wide
    bounds = {m: float(np.nanquantile(table[:, m], q)) for m, q in quantiles.items()}
    mask, unknown = resources.below({ColumnKey(METRICS[m]): b for m, b in bounds.items()})
    expected = [
        i for i in range(len(table))
        if all(not np.isnan(table[i, m]) and table[i, m] <= b for m, b in bounds.items())
    ]  # fmt: skip
    assert np.flatnonzero(mask).tolist() == expected
    assert unknown == sum(any(np.isnan(row[m]) for m in bounds) for row in table)


def test_rows_are_models_in_order_of_insertion(shelf):
    ids = add_models(shelf.catalog, 5)
    shelf.resources.refresh()
    assert shelf.resources.ids.tolist() == ids
    assert shelf.resources.row(ids[3]) == 3
    assert shelf.resources.rows([ids[4], "sha256:none", ids[0]]).tolist() == [4, -1, 0]
    with pytest.raises(UnknownNameError, match="sha256:none"):
        shelf.resources.row("sha256:none")


def test_an_unknown_number_is_nan_and_never_below_a_bound(shelf):
    ids = add_models(shelf.catalog, 2)
    shelf.catalog.add_measurements([number(ids[1], "memory", 5.0)])
    view = shelf.resources.column(ColumnKey("memory"))
    assert np.isnan(view.values[0])
    assert view.provenance.tolist() == [-1, 0]
    mask, unknown = shelf.resources.below({ColumnKey("memory"): np.inf})
    assert (mask.tolist(), unknown) == ([False, True], 1)


def test_a_metric_nobody_measured_is_a_column_of_nan(shelf):
    add_models(shelf.catalog, 3)
    assert np.isnan(shelf.resources.column(ColumnKey("energy")).values).all()
    assert shelf.resources.contexts("energy") == []


def test_an_unknown_metric_is_an_error(shelf):
    with pytest.raises(UnknownNameError, match="memry"):
        shelf.resources.column(ColumnKey("memry"))


def test_the_best_provenance_is_shown_and_others_can_be_asked_for(shelf):
    (model_id,) = add_models(shelf.catalog, 1)
    shelf.catalog.add_measurements(
        [
            number(model_id, "memory", 1.0, provenance=DECLARED),
            number(model_id, "memory", 3.0, provenance=MEASURED, low=2.5, high=3.5),
            number(model_id, "memory", 2.0, provenance=ESTIMATED),
        ]
    )
    view = shelf.resources.column(ColumnKey("memory"))
    assert (view.values[0], view.provenance[0], view.low[0], view.high[0]) == (3.0, 0, 2.5, 3.5)
    declared = shelf.resources.column(ColumnKey("memory", provenance=DECLARED))
    assert (declared.values[0], declared.provenance[0]) == (1.0, 2)
    assert np.isnan(declared.low[0])


def test_a_column_never_mixes_devices(shelf):
    ids = add_models(shelf.catalog, 3)
    shelf.catalog.add_measurements(
        [number(i, "latency", 10.0, device="cpu", percentile=50) for i in ids[:2]]
        + [number(i, "latency", 1.0, device="gpu", percentile=50) for i in ids[2:]]
    )
    assert np.array_equal(
        shelf.resources.column(ColumnKey("latency")).values, [10, 10, np.nan], equal_nan=True
    )
    assert np.array_equal(
        shelf.resources.column(ColumnKey("latency", device="gpu")).values,
        [np.nan, np.nan, 1],
        equal_nan=True,
    )
    assert np.isnan(shelf.resources.column(ColumnKey("latency", device="tpu")).values).all()


def test_latency_means_the_median_unless_a_percentile_is_asked_for(shelf):
    ids = add_models(shelf.catalog, 2)
    shelf.catalog.add_measurements(
        [
            number(ids[0], "latency", v, device="cpu", percentile=p)
            for p, v in ((50, 1.0), (99, 9.0))
        ]
        + [number(ids[1], "latency", 5.0, device="cpu")]
    )
    assert shelf.resources.column(ColumnKey("latency")).values.tolist() == [1.0, 5.0]
    p99 = shelf.resources.column(ColumnKey("latency", percentile=99)).values
    assert np.array_equal(p99, [9.0, np.nan], equal_nan=True)


def test_memory_at_two_batch_sizes_makes_two_columns_and_unstated_batches_fit_both(shelf):
    ids = add_models(shelf.catalog, 4)
    shelf.catalog.add_measurements(
        [number(i, "memory", 1.0, batch=1) for i in ids[:2]]
        + [number(i, "memory", 8.0, batch=8) for i in ids[1:3]]
        + [number(ids[3], "memory", 5.0, provenance=DECLARED)]
    )
    view = shelf.resources.column(ColumnKey("memory"))
    assert np.array_equal(view.values, [1, 1, np.nan, 5], equal_nan=True)
    assert (view.context.batch, view.context.count) == (1, 3)
    eight = shelf.resources.column(ColumnKey("memory", batch=8)).values
    assert np.array_equal(eight, [np.nan, 8, 8, np.nan], equal_nan=True)


def test_contexts_list_what_exists_the_most_common_first(shelf):
    ids = add_models(shelf.catalog, 3)
    shelf.catalog.add_measurements(
        [number(i, "accuracy", 0.5, dataset="cifar10") for i in ids]
        + [
            number(ids[0], "accuracy", 0.7, dataset="imagenet", provenance=p)
            for p in (MEASURED, DECLARED)
        ]
    )
    assert shelf.resources.contexts("accuracy") == [
        MetricContext(None, None, None, "cifar10", 3),
        MetricContext(None, None, None, "imagenet", 1),
    ]


def test_columns_are_cached_until_the_catalog_changes(shelf):
    ids = add_models(shelf.catalog, 2)
    shelf.catalog.add_measurements([number(ids[0], "memory", 1.0)])
    first = shelf.resources.column(ColumnKey("memory"))
    assert shelf.resources.column(ColumnKey("memory")) is first
    assert shelf.resources.refresh() is False
    shelf.catalog.add_measurements([number(ids[1], "memory", 2.0)])
    assert shelf.resources.column(ColumnKey("memory")).values.tolist() == [1.0, 2.0]
    shelf.catalog.drop_model(ids[0])
    assert shelf.resources.column(ColumnKey("memory")).values.tolist() == [2.0]
    assert shelf.resources.ids.tolist() == [ids[1]]


def test_a_column_cannot_be_changed_by_its_reader(shelf):
    add_models(shelf.catalog, 1)
    with pytest.raises(ValueError, match="read-only"):
        shelf.resources.column(ColumnKey("memory")).values[0] = 1.0


def test_an_empty_catalog_has_empty_columns(shelf):
    assert len(ResourceIndex(shelf.catalog).column(ColumnKey("memory")).values) == 0
