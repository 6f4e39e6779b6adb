"""Indexes that are kept up to date against indexes that read everything now."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sommelier.records import Provenance
from sommelier.storage import resource_index, rosters
from sommelier.storage.resource_index import ColumnKey, ResourceIndex
from sommelier.storage.semantic_index import SemanticIndex
from tests.storage.index_factories import Shelf, add_models, number, probe_set

KEYS = (
    ColumnKey("memory"),
    ColumnKey("memory", batch=8),
    ColumnKey("latency"),
    ColumnKey("latency", device="gpu", percentile=99),
    ColumnKey("accuracy", provenance=Provenance.MEASURED),
    ColumnKey("accuracy", dataset="b"),
    ColumnKey("flops"),
)
PROBES = (probe_set("p", 12), probe_set("q", 9))
STEPS = ("model", "number", "answers", "drop", "setting", "both", "undone", "rename")


class Growing:
    """A shelf whose indexes are asked after every change."""

    def __init__(self, shelf: Shelf, rng: np.random.Generator) -> None:
        self.shelf, self.rng = shelf, rng
        self.made = 0
        for probes in PROBES:
            shelf.catalog.add_probe_set(probes)

    @property
    def ids(self) -> list[str]:
        return self.shelf.catalog.model_ids().tolist()

    def step(self, kind: str) -> None:
        """One change of the catalog."""
        rng, catalog = self.rng, self.shelf.catalog
        if kind == "undone":
            with pytest.raises(RuntimeError):
                self.undone()
        if kind in ("model", "both") or not self.ids:
            self.made += 1
            add_models(catalog, 1, start=self.made)
        chosen = str(rng.choice(self.ids[-1:] if kind == "both" else self.ids))
        if kind in ("number", "both"):
            catalog.add_measurements(self.numbers(chosen))
        if kind in ("answers", "both"):
            probes = PROBES[int(rng.integers(2))]
            classes = int(rng.integers(3, 5))
            table = rng.integers(-1, classes, (1, probes.samples))
            self.shelf.answer([chosen], probes, table, classes=classes)
        if kind == "drop":
            catalog.drop_model(chosen)
        if kind == "rename":
            self.made += 1
            catalog.rename_model(chosen, f"renamed{self.made}")
        if kind == "setting":
            catalog.set_setting("confidence", "0.9")

    def undone(self) -> None:
        """A change that is taken back."""
        with self.shelf.catalog.transaction():
            self.step("both")
            raise RuntimeError

    def numbers(self, model_id: str) -> list[object]:
        """Some numbers in contexts of all kinds."""
        rng = self.rng
        source = {"provenance": list(Provenance)[int(rng.integers(3))]}
        value = float(rng.integers(1, 9))
        made = (
            number(model_id, "memory", value, batch=int(rng.choice([1, 8])), **source),
            number(model_id, "memory", value, low=value - 1, high=value + 1, **source),
            number(model_id, "latency", value, device=str(rng.choice(["cpu", "gpu"])),
                   batch=int(rng.choice([1, 8])), percentile=int(rng.choice([50, 99]))),
            number(model_id, "accuracy", value / 10, dataset=str(rng.choice(["a", "b"])), **source),
            number(model_id, "flops", value),
        )  # fmt: skip
        return [m for m in made if rng.random() < 0.5]

    def check(self) -> None:
        """The indexes answer as new ones do."""
        shelf = self.shelf
        resources = ResourceIndex(shelf.catalog)
        fresh = SemanticIndex(shelf.catalog, shelf.sketches, resources)
        for key in KEYS:
            kept, new = shelf.resources.column(key), resources.column(key)
            assert kept.context == new.context
            for name in ("values", "unknown", "provenance", "low", "high"):
                pair = getattr(kept, name), getattr(new, name)
                assert np.array_equal(*pair, equal_nan=name in ("values", "low", "high")), name
            assert shelf.resources.contexts(key.metric) == resources.contexts(key.metric)
            for batch, rows in resources.batches(key).items():
                assert shelf.resources.batches(key)[batch].tolist() == rows.tolist()
        for column in ("name", "task", "version"):
            told = shelf.resources.texts.words(column)
            assert told.objects().tolist() == shelf.catalog.text_columns([column])[column]
            assert len(told) == len(shelf.resources.ids)
        for model_id in self.ids:
            kept, new = (index.candidates(model_id) for index in (shelf.semantics, fresh))
            assert kept.incomparable == new.incomparable
            assert [
                (p.probe_set_id, p.rows.tolist(), p.agreements.tolist()) for p in kept.parts
            ] == [(p.probe_set_id, p.rows.tolist(), p.agreements.tolist()) for p in new.parts]


@pytest.mark.slow
@given(seed=st.integers(0, 2**32 - 1), steps=st.lists(st.sampled_from(STEPS), max_size=9))
@settings(max_examples=25, deadline=None)
def test_after_any_changes_kept_indexes_answer_as_new_ones(
    tmp_path_factory, seed: int, steps: list[str]
) -> None:
    shelf = Shelf(tmp_path_factory.mktemp("shelf"))
    growing = Growing(shelf, np.random.default_rng(seed))
    for kind in ("both", "both", "both", *steps):
        growing.step(kind)
        growing.check()
    shelf.catalog.close()


def test_a_model_that_arrives_is_read_alone(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    shelf = Shelf(tmp_path)
    growing = Growing(shelf, np.random.default_rng(0))
    ids = add_models(shelf.catalog, 30, start=100)
    shelf.catalog.add_measurements([number(i, "memory", 1.0) for i in ids])
    shelf.answer(ids, PROBES[0], np.zeros((30, 12), dtype=int), classes=3)
    growing.check()
    for module in (resource_index, rosters):
        assert module.FEW > 1
    monkeypatch.setattr(resource_index, "select", None)  # what a column is made anew with
    monkeypatch.setattr(shelf.catalog, "sketch_columns", None)
    more = add_models(shelf.catalog, 1, start=200)
    shelf.catalog.add_measurements([number(more[0], "memory", 2.0)])
    shelf.answer(more, PROBES[0], np.zeros((1, 12), dtype=int), classes=3)
    assert shelf.resources.column(ColumnKey("memory")).values.tolist() == [1.0] * 30 + [2.0]
    assert len(shelf.semantics.candidates(ids[0])) == 31
    shelf.catalog.close()
