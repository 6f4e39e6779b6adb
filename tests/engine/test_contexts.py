"""Devices, datasets, percentiles and batches: which one a metric of the answer is that of."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sommelier.engine.session import Session
from sommelier.errors import BinderError
from sommelier.grammar import nodes
from sommelier.grammar.parser import parse
from sommelier.records import Measurement, Provenance
from tests.engine.conftest import SPECIMENS, Ask, asker


def test_the_dataset_of_the_condition_is_that_of_the_column(ask: Ask) -> None:
    shown = ask("SELECT MODELS name, accuracy WHERE accuracy >= 80% ON 'cifar10'")
    assert shown.fetchall() == [("resnet50", 0.9)]


def test_the_device_of_the_condition_is_that_of_column_order_and_pick(ask: Ask) -> None:
    rows = "SELECT MODELS name, latency ON latency < 50 ms ON 'cpu'"
    assert ask(f"{rows} ORDER BY latency").fetchall() == [
        ("resnet18", 12.0), ("resnet34", 22.0), ("resnet50", 30.0)
    ]  # fmt: skip
    assert ask(f"{rows} PICK FASTEST").fetchall() == [("resnet18", 12.0)]
    assert ask(f"{rows} PICK MIN(latency)").fetchall() == [("resnet18", 12.0)]


def test_the_percentile_of_the_condition_is_that_of_the_column(ask: Ask) -> None:
    rows = ask("SELECT MODELS name, latency ON latency BETWEEN 40 ms AND 60 ms AT p99 ON 'cpu'")
    assert sorted(rows.fetchall()) == [("resnet34", 50.0), ("resnet50", 45.0)]


@pytest.mark.parametrize(
    "condition",
    ["latency < 50 ms ON 'cpu' AND latency < 9 ms ON 'cuda:0'",
     "latency < 50 ms ON 'cpu' AND latency IS NOT NULL"],
)  # fmt: skip
def test_conditions_that_disagree_settle_nothing(ask: Ask, condition: str) -> None:
    with pytest.raises(BinderError, match="latency on which device"):
        ask(f"SELECT MODELS name, latency ON {condition}")


def test_conditions_with_different_percentiles_still_agree_about_the_device(ask: Ask) -> None:
    rows = ask(
        "SELECT MODELS name, latency "
        "ON latency < 50 ms ON 'cpu' AND latency < 50 ms AT p99 ON 'cpu'"
    )
    assert rows.fetchall() == [("resnet50", 30.0)]


def test_using_wins_over_the_condition(ask: Ask) -> None:
    rows = ask(
        "SELECT MODELS name, latency ON latency < 40 ms ON 'cpu' USING device = 'cuda:0'"
    ).fetchall()
    assert ("resnet50", 3.0) in rows


def test_the_condition_of_an_outer_query_is_not_that_of_an_inner_one(ask: Ask) -> None:
    with pytest.raises(BinderError, match="latency on which device"):
        ask(
            "SELECT MODELS name FROM (SELECT MODELS name, latency) "
            "ON latency < 50 ms ON 'cpu' PICK FASTEST"
        )


def projected(*items: nodes.Projection) -> nodes.Select:
    select = parse("SELECT MODELS name FROM (SELECT MODELS WHERE name = 'resnet50')")
    assert isinstance(select, nodes.Select)
    return replace(select, projection=items)


def shown(
    expression: str, context: nodes.Context | None, alias: str | None = None
) -> nodes.Projection:
    select = parse(f"SELECT MODELS {expression}")
    assert isinstance(select, nodes.Select)
    return nodes.Projection(select.projection[0].expression, alias, context)


CIFAR, CPU, SLOWEST = nodes.Context("cifar10"), nodes.Context("cpu"), nodes.Context("cpu", 99)


def test_a_column_has_a_context_of_its_own(shelf: Session) -> None:
    result = shelf.run(
        projected(
            shown("accuracy", nodes.Context("imagenet")),
            shown("accuracy", CIFAR),
            shown("accuracy", CIFAR, "cifar"),
            shown("latency", SLOWEST),
            shown("params / latency", CPU, "rate"),
        )
    )
    names = [column.name for column in result.columns]
    assert names == [
        "accuracy ON 'imagenet'", "accuracy ON 'cifar10'", "cifar", "latency", "rate"
    ]  # fmt: skip
    assert result.fetchall() == [(0.76, 0.9, 0.9, 45.0, pytest.approx(25e6 / 30))]


@pytest.mark.parametrize(
    ("expression", "context", "message"),
    [("params", CPU, "does not depend on a device"), ("name", CPU, "does not depend on a device"),
     ("accuracy", nodes.Context("imagenet", 99), "has no percentiles")],
)  # fmt: skip
def test_a_context_that_nothing_has_is_refused(
    shelf: Session, expression: str, context: nodes.Context, message: str
) -> None:
    with pytest.raises(BinderError, match=message):
        shelf.run(projected(shown(expression, context)))


def test_the_order_has_a_context_of_its_own(shelf: Session) -> None:
    select = parse("SELECT MODELS name WHERE family = 'resnet' AND name != 'resnet18'")
    assert isinstance(select, nodes.Select)
    item = nodes.OrderItem(nodes.Column("latency"), context=SLOWEST)
    names = [name for (name,) in shelf.run(replace(select, order_by=(item,))).fetchall()]
    assert names == ["resnet50", "resnet34", "resnet101"]


# ---- batches


def at_batch(session: Session, place: int, batch: int, value: float, how: Provenance) -> None:
    model = SPECIMENS[place].id
    session.catalog.add_measurements(
        [Measurement(model, "latency", value, how, "table", device="gpu", batch=batch)]
    )


def notes(session: Session, query: str) -> tuple[str, ...]:
    return asker(session)(f"SELECT MODELS name, latency {query}").notes


def test_the_batch_behind_a_latency_is_said_and_so_is_who_is_known_at_another(
    own_shelf: Session,
) -> None:
    for place, batch in ((0, 1024), (1, 1024), (2, 768), (3, 512)):
        at_batch(own_shelf, place, batch, 1.0, Provenance.DECLARED)
    found = notes(own_shelf, "ON latency < 5 ms ON 'gpu'")
    assert found[0] == (
        "latency on 'gpu' is that at batch 1024, the batch with most models; "
        "also 512, 768 (USING batch = n)"
    )
    assert found[1] == (
        "2 models skipped: their latency ON 'gpu' is known at batch 512, 768, "
        "not at 1024 (USING batch = n)"
    )
    assert found[2].startswith("6 models skipped: no latency ON 'gpu' known")


def test_a_batch_that_was_asked_for_is_not_explained(own_shelf: Session) -> None:
    at_batch(own_shelf, 0, 1024, 1.0, Provenance.DECLARED)
    at_batch(own_shelf, 1, 768, 1.0, Provenance.DECLARED)
    found = notes(own_shelf, "ON latency < 5 ms ON 'gpu' USING batch = 768")
    assert found[0] == (
        "1 model skipped: its latency ON 'gpu' is known at batch 1024, not at 768 (USING batch = n)"
    )


def test_batch_1_measured_here_goes_before_what_others_declare(own_shelf: Session) -> None:
    for place in (0, 1, 2):
        at_batch(own_shelf, place, 1024, 1.0, Provenance.DECLARED)
    at_batch(own_shelf, 0, 1, 7.0, Provenance.MEASURED)
    found = asker(own_shelf)("SELECT MODELS name, latency ON latency < 9 ms ON 'gpu'")
    assert found.fetchall() == [("resnet50", 7.0)]
    assert found.notes[0] == (
        "latency on 'gpu' is that at batch 1, which was measured; also 1024 (USING batch = n)"
    )


def test_a_batch_that_was_only_estimated_does_not_go_first(own_shelf: Session) -> None:
    for place in (0, 1, 2):
        at_batch(own_shelf, place, 1024, 1.0, Provenance.DECLARED)
    at_batch(own_shelf, 0, 1, 7.0, Provenance.ESTIMATED)
    found = asker(own_shelf)("SELECT MODELS name, latency ON latency < 9 ms ON 'gpu'")
    assert len(found) == 3
