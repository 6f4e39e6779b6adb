"""That no torn answer passes the checks of benchmarks.concurrency, and every whole one does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import sommelier as sm
from benchmarks.concurrency import missing
from benchmarks.concurrency_clients import Checks, Told
from benchmarks.concurrency_data import COUNTED, FIRST, FIXED, MOVED, PAIRED, SIMILAR, Stock, tail

STOCK = Stock(3)
PREFIX = [FIRST + 1, FIRST]


class Counters:
    """What processes share, in one."""

    def __init__(self, begun: list[int]) -> None:
        self.begun = self.done = begun


@pytest.fixture(scope="module")
def db() -> Iterator[sm.Connection]:
    with sm.connect(":memory:") as db:
        STOCK.prepare(db)
        STOCK.store(db, 0, range(FIRST, FIRST + 1))
        STOCK.pay(db, 0, 2)
        STOCK.move(db, 1, 1)
        yield db


def answers(db: sm.Connection) -> dict[str, Any]:
    asked = (tail(0), tail(1), SIMILAR, FIXED, PAIRED, MOVED)
    return {text: db.query(text).fetchall() for text in asked} | {COUNTED: db.sql(COUNTED).rows}


def wrong(found: dict[str, Any], version: str | None = "1-x", least: Any = PREFIX) -> list[str]:
    told = Told()
    checks = Checks(told, STOCK, Counters(PREFIX))  # type: ignore[arg-type]
    checks.check(found, version, least, sql=True)
    return told.wrong


def test_a_whole_answer_passes(db: sm.Connection) -> None:
    assert wrong(answers(db)) == wrong(answers(db), None) == []
    assert missing(db, STOCK, PREFIX, PREFIX) == (0, [])


@pytest.mark.parametrize("text", [tail(0), SIMILAR, FIXED, PAIRED, MOVED, COUNTED])
def test_an_answer_without_one_of_its_rows_does_not(db: sm.Connection, text: str) -> None:
    found = answers(db)
    assert wrong(found | {text: list(found[text])[1:]})


def test_numbers_of_half_a_transaction_do_not(db: sm.Connection) -> None:
    found = answers(db)
    (name, params, flops, memory), *others = found[tail(0)]
    assert wrong(found | {tail(0): [(name, params, flops, None), *others]})
    assert wrong(found | {tail(0): [(name, params, flops + 1, memory), *others]})
    (name, family, params), *others = found[PAIRED]
    assert wrong(found | {PAIRED: [(name, family, params + 1), *others]})
    assert wrong(found | {MOVED: [*found[MOVED], found[MOVED][0]]})
    (name, agreement), *others = found[SIMILAR]
    assert wrong(found | {SIMILAR: [(name, agreement - 0.001), *others]})


def test_an_answer_older_than_what_was_there_does_not(db: sm.Connection) -> None:
    assert any("batches, not" in said for said in wrong(answers(db), least=[FIRST + 2, FIRST]))
    told = Told()
    checks = Checks(told, STOCK, Counters([FIRST + 9] * 2))  # type: ignore[arg-type]
    checks._seen = [FIRST + 2, FIRST]
    checks.check(answers(db), None, [FIRST] * 2, sql=True)
    assert told.wrong


def test_two_answers_of_one_version_do_not(db: sm.Connection) -> None:
    told, found = Told(), answers(db)
    checks = Checks(told, STOCK, Counters(PREFIX))  # type: ignore[arg-type]
    checks.check(found, "1-x", PREFIX, sql=True)
    checks.check(found | {FIXED: list(reversed(found[FIXED]))}, "1-x", PREFIX, sql=True)
    assert any("two answers of one version" in said for said in told.wrong)


def test_a_lost_row_is_counted() -> None:
    with sm.connect(":memory:") as db:
        STOCK.prepare(db)
        db.catalog.drop_model(STOCK._record("m1_7_2", None).id)
        lost, more = missing(db, STOCK, [FIRST] * 2, [FIRST] * 2)
    assert (lost, more) == (1, ["a batch has 2 models"])
