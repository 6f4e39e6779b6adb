"""Cascades in the catalog: kept as they were given, stale when a model answers otherwise."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from pathlib import Path

import pytest

from sommelier.cascade_records import (
    CascadeMember,
    CascadePlan,
    CascadePromise,
    CascadeStage,
    KeptCascade,
)
from sommelier.errors import UnknownNameError
from sommelier.records import Preprocessing
from sommelier.storage.catalog import Catalog
from sommelier.storage.versions import version_of
from tests.storage.catalog_factories import plain_model


def cascade(*ids: str, name: str = "quick", threshold: float = 0.25) -> KeptCascade:
    """A cascade of models that are called as their ids."""
    asked = [
        CascadeStage(
            id_, "margin", threshold, 1.5, 1e6, (-inf, 0.0, 0.5, 1.0), 400, '{"form": "logits"}'
        )
        for id_ in ids[:-1]
    ]
    plan = CascadePlan(
        (*asked, CascadeStage(ids[-1], flops=2e7)),
        CascadePromise("accuracy drop", 0.01, 0.95, 400),
        "proved on 400 samples",
    )
    members = tuple(
        CascadeMember(id_, answered=0.5, accuracy=None, ranking=(("margin", 0.1),)) for id_ in ids
    )
    return KeptCascade(
        name, plan, members, loss=-0.25, flops=1.1e7, flops_share=0.55, dataset="digits",
        probe_set_id="probes:1", seed=3, notes=("a note",), statement="CREATE CASCADE",
    )  # fmt: skip


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    opened = Catalog.open(tmp_path / "c.sommelier")
    for name in ("tiny", "small", "big"):
        opened.add_model(plain_model(name))
    return opened


def ids(catalog: Catalog, *names: str) -> list[str]:
    return [catalog.resolve(name).id for name in names]


def named(catalog: Catalog, *names: str, **fields: object) -> KeptCascade:
    """A cascade as the catalog gives it back: stages by name, with versions."""
    made = cascade(*ids(catalog, *names), **fields)  # type: ignore[arg-type]  # name, threshold
    stages = tuple(
        replace(stage, model=name) for stage, name in zip(made.plan.stages, names, strict=True)
    )
    members = tuple(
        replace(one, version=version_of(catalog.resolve(name)))
        for one, name in zip(made.members, names, strict=True)
    )
    return replace(made, plan=replace(made.plan, stages=stages), members=members)


def test_a_cascade_comes_back_as_it_was_kept(catalog: Catalog) -> None:
    kept = named(catalog, "tiny", "small", "big")
    catalog.add_cascade(kept)
    assert catalog.cascade("quick") == kept
    assert catalog.cascades() == [kept]
    assert catalog.cascade("quick").names == ("tiny", "small", "big")
    assert catalog.cascade("quick").created_at is not None


def test_versions_are_filled_in_and_nothing_promised_stays_nothing(catalog: Catalog) -> None:
    given = named(catalog, "tiny", "big", threshold=inf)
    bare = replace(
        given,
        plan=replace(given.plan, promise=None),
        members=tuple(replace(one, version="") for one in given.members),
    )
    catalog.add_cascade(bare)
    assert catalog.cascade("quick") == replace(given, plan=bare.plan)
    assert catalog.cascade("quick").plan.thresholds == (inf,)


def test_a_cascade_of_the_same_name_takes_its_place(catalog: Catalog) -> None:
    catalog.add_cascade(named(catalog, "tiny", "small", "big"))
    other = named(catalog, "tiny", "big", threshold=0.5)
    catalog.add_cascade(other)
    assert catalog.cascades() == [other]


def test_a_cascade_is_stale_once_a_model_has_changed_or_is_gone(catalog: Catalog) -> None:
    catalog.add_cascade(named(catalog, "tiny", "big"))
    assert catalog.cascade("quick").stale is None
    record = catalog.resolve("tiny")
    catalog.update_model(replace(record, preprocessing=Preprocessing((("scale", {"by": 2}),))))
    assert catalog.cascade("quick").stale == "the model 'tiny' has changed since"
    catalog.drop_model(ids(catalog, "big")[0])
    stale = catalog.cascade("quick").stale
    assert stale == "the model 'tiny' has changed since; the model 'big' is gone"
    assert catalog.sql("SELECT state FROM cascades").rows == [("stale",)]


def test_a_dropped_cascade_is_gone_and_names_are_told(catalog: Catalog) -> None:
    catalog.add_cascade(named(catalog, "tiny", "big"))
    catalog.drop_cascade("quick")
    assert catalog.cascades() == []
    assert catalog.sql("SELECT * FROM cascade_stages").rows == []
    catalog.add_cascade(named(catalog, "tiny", "big"))
    with pytest.raises(UnknownNameError, match="quikc") as raised:
        catalog.cascade("quikc")
    assert raised.value.suggestions == ("quick",)


def test_a_name_is_made_of_the_models_in_turn(catalog: Catalog) -> None:
    asked = ids(catalog, "tiny", "small", "big")
    assert catalog.new_cascade_name(asked) == "tiny_to_small_to_big"
    other = named(catalog, "tiny", "big", name="tiny_to_small_to_big")
    catalog.add_cascade(other)
    assert catalog.new_cascade_name(asked) == "tiny_to_small_to_big_2"
    catalog.add_cascade(named(catalog, "tiny", "small", "big", name="tiny_to_small_to_big"))
    assert catalog.new_cascade_name(asked) == "tiny_to_small_to_big"
