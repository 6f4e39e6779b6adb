"""What decides a search, and so the id under which it is found again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

import sommelier as sm
from sommelier.analysis.fusion_data import DataOptions
from sommelier.analysis.fusion_plans import FusionOptions, plan_fusion
from tests.fusion_models import write_nets, write_samples


@pytest.fixture(scope="module")
def db(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sm.Connection]:
    folder = tmp_path_factory.mktemp("plans")
    (folder / "nets").mkdir()
    write_nets(folder / "nets")
    write_samples(folder / "samples.npz", samples=50)
    with sm.connect(folder / "models.sommelier") as db:
        db.execute(f"IMPORT MODELS FROM folder '{folder / 'nets'}'")
        db.register_dataset("digits", folder / "samples.npz", x="x", y="digit")
        yield db


def id_of(db: sm.Connection, options: FusionOptions, replaced: str | None = None) -> str:
    models = [db.catalog.resolve(name) for name in ("digit_net", "speaker_net")]
    old = None if replaced is None else db.catalog.resolve(replaced)
    return plan_fusion(db.catalog, models, options, name="both", replaced=old).fusion.id


def test_more_of_a_budget_goes_on_with_the_same_search(db: sm.Connection) -> None:
    usual = id_of(db, FusionOptions())
    for change in ({"budget_s": 3600.0}, {"epochs": 9}, {"time_limit_s": 60.0}):
        assert id_of(db, replace(FusionOptions(), **change)) == usual


@pytest.mark.parametrize(
    "change",
    [
        {"threads": 2},
        {"tolerance": 0.02},
        {"method": "random"},
        {"upper_end": True},
        {"data": DataOptions(seed=1)},
    ],
)
def test_what_the_steps_depend_on_makes_another_search(
    db: sm.Connection, change: dict[str, object]
) -> None:
    usual = FusionOptions()
    assert id_of(db, replace(usual, **change)) != id_of(db, usual)


def test_the_search_for_a_replacement_leaves_what_is_known_of_the_model_it_replaces(
    db: sm.Connection,
) -> None:
    assert id_of(db, FusionOptions(), replaced="accent_net") != id_of(db, FusionOptions())
