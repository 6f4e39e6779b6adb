"""An index may tell whether what it is made of has changed, or only something else has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sommelier.errors import StorageError
from sommelier.records import LabelSpace, ProbeSet, ResourceProfile
from sommelier.storage.catalog import Catalog
from sommelier.storage.database import GROUPS
from tests.storage.catalog_factories import number, plain_model

A = plain_model("a", version="1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "m.sommelier"


@pytest.mark.parametrize(
    ("change", "groups"),
    [
        (lambda c: c.update_model(replace(A, tags=("x",))), set()),
        (lambda c: c.set_setting("a", "b"), set()),
        (lambda c: c.save_pool("p", [A.id], "SELECT MODELS"), set()),
        (lambda c: c.add_model(plain_model("b")), {"models"}),
        (lambda c: c.add_models_bulk([plain_model(str(i), version="1") for i in range(60)]),
         {"models"}),
        (lambda c: c.add_measurements([number(A.id, "params", 1)]), {"measurements"}),
        (lambda c: c.add_profile(ResourceProfile(A.id, b"12345678")), {"profiles"}),
        (lambda c: c.add_probe_set(ProbeSet("p", None, "p", 1, 0, True, None, None)), {"sketches"}),
        (lambda c: c.add_label_space(LabelSpace("l", "l", ("x",))), {"labels"}),
        (lambda c: c.add_label_map("l", "m", {"x": "y"}), {"labels"}),
        (lambda c: c.drop_model(A.id), {"models", "measurements", "profiles", "sketches"}),
    ],
)  # fmt: skip
def test_a_change_counts_for_what_it_changes(
    path: Path, change: Callable[[Catalog], object], groups: set[str]
) -> None:
    with Catalog.open(path) as catalog:
        catalog.add_model(A)
    with Catalog.open(path) as catalog:
        before = catalog.generation
        known = {group: catalog.generation_of(group) for group in GROUPS}
        assert all(generation <= before for generation in known.values())
        change(catalog)
        assert catalog.generation == before + 1
        assert {g for g in GROUPS if catalog.generation_of(g) == before + 1} == groups
        assert {g for g in GROUPS if catalog.generation_of(g) == known[g]} == set(GROUPS) - groups


def rename_to_a_taken_name(catalog: Catalog) -> None:
    first, second = (catalog.add_model(plain_model(name)).record for name in "xy")
    catalog.rename_model(first.id, second.name)


def test_a_change_that_is_undone_does_not_count(path: Path) -> None:
    with Catalog.open(path) as catalog:
        before = catalog.generation_of("models")
        with pytest.raises(StorageError, match="another model is called"), catalog.transaction():
            rename_to_a_taken_name(catalog)
        catalog.set_setting("a", "b")
        assert catalog.generation_of("models") == before
        with pytest.raises(ValueError, match="no group"):
            catalog.generation_of("wines")
