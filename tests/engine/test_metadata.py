"""The metadata columns WHERE knows beside names and tasks: opset, times, notes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from sommelier.engine.session import Session
from sommelier.errors import BinderError
from tests.engine.conftest import SPECIMENS, Ask, asker


@pytest.fixture
def dated(own_shelf: Session) -> Ask:
    """resnet50 has opset 9, resnet101 17, resnet34 11; the others state none."""
    for specimen, opset in zip(SPECIMENS, (9, 17, 11), strict=False):
        record = own_shelf.catalog.model(specimen.id)
        changed = replace(record, opset=opset, note=f"made for {opset}")
        own_shelf.catalog.update_model(changed)
    return asker(own_shelf)


@pytest.mark.parametrize(
    ("condition", "names"),
    [("opset >= 11", ["resnet101", "resnet34"]), ("9 < opset", ["resnet101", "resnet34"]),
     ("opset BETWEEN 9 AND 11", ["resnet34", "resnet50"]), ("opset = 9", ["resnet50"]),
     ("opset IN (9, 17)", ["resnet101", "resnet50"]), ("NOT opset < 17", ["resnet101"]),
     ("note LIKE '%17'", ["resnet101"])],
)  # fmt: skip
def test_opset_is_compared_as_a_number(dated: Ask, condition: str, names: list[str]) -> None:
    found = dated(f"SELECT MODELS name WHERE {condition} ORDER BY name")
    assert [name for (name,) in found.fetchall()] == names


def test_opset_is_shown_and_sorted_as_a_number(dated: Ask) -> None:
    rows = dated("SELECT MODELS name, opset WHERE opset IS NOT NULL ORDER BY opset").fetchall()
    assert rows == [("resnet50", 9), ("resnet34", 11), ("resnet101", 17)]


def test_opset_is_not_compared_with_words(dated: Ask) -> None:
    with pytest.raises(BinderError, match="'opset' is a number"):
        dated("SELECT MODELS WHERE opset = 'new'")


def test_when_a_model_was_added_is_asked_by_day(ask: Ask) -> None:
    today = datetime.now(UTC).strftime("%Y-%m")
    assert len(ask(f"SELECT MODELS name, added_at WHERE added_at = '{today}'")) == len(SPECIMENS)
    assert len(ask("SELECT MODELS WHERE added_at < '2020'")) == 0


def test_a_day_is_shown_without_a_time_that_nobody_stated(own_shelf: Session) -> None:
    for specimen, hour in zip(SPECIMENS, (0, 5), strict=False):
        record = own_shelf.catalog.model(specimen.id)
        own_shelf.catalog.update_model(replace(record, created=datetime(2025, 3, 4, hour)))
    days = ["2025-03-04", "2025-03-04 05:00:00"]
    ask = asker(own_shelf)
    found = ask("SELECT MODELS created WHERE created = '2025-03-04' ORDER BY created")
    assert [day for (day,) in found.fetchall()] == days
    for specimen, day in zip(SPECIMENS, days, strict=False):
        assert dict(ask(f"DESCRIBE {specimen.name}").rows)["created"] == day
        (version,) = ask(f"SHOW VERSIONS OF {specimen.name}").dicts()
        assert version["created"] == day


def test_an_unknown_column_is_answered_with_the_nearest_and_how_to_see_all(ask: Ask) -> None:
    with pytest.raises(BinderError) as caught:
        ask("SELECT MODELS WHERE opsett >= 11")
    assert caught.value.suggestions[0] == "opset"
    assert caught.value.hint is not None
    assert "SHOW METRICS" in caught.value.hint
    assert "SELECT MODELS *" in caught.value.hint
