"""How long, how much and how many: limits of questions, and inference that goes on beside them."""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlencode

import psutil
import pytest

from sommelier.runtime.server.pages import LARGEST, Asked, Said
from sommelier.shell.explorer.desk import WAITING, DeskRules, QuestionDesk
from tests.runtime.server.asking import wait_until
from tests.shell.explorer.serving import SLOW_SQL, SOON_S, Serve

SLOWER_MS = 200.0  # than alone, at most: a question takes seconds


@contextmanager
def desk(database: Path, **rules: float) -> Iterator[QuestionDesk]:
    found = QuestionDesk(str(database), rules=DeskRules(**rules))  # type: ignore[arg-type]
    try:
        yield found
    finally:
        found.close()


def query(statement: str) -> Asked:
    return Asked("query", body=json.dumps({"statement": statement}).encode())


def told(said: Said) -> str:
    return str(json.loads(said.body)["error"]["message"])


def test_a_question_that_takes_too_long_ends_and_the_next_is_answered(database: Path) -> None:
    with desk(database, limit_s=3.0) as asking:
        began = time.monotonic()
        late = asking.ask(query(SLOW_SQL))
        next_one = asking.ask(query("SHOW MODELS"))
        said = late.result(SOON_S)
        assert said.status == 504
        assert "longer than 3 s" in told(said)
        assert time.monotonic() - began < 60
        assert next_one.result(SOON_S).status == 200
        page = asking.ask(Asked("", urlencode({"q": SLOW_SQL}))).result(SOON_S)
        assert page.status == 504
        assert b"longer than 3 s" in page.body
        assert b"<script" not in page.body


@pytest.mark.slow
def test_a_question_that_takes_too_much_memory_fails_alone(database: Path) -> None:
    with desk(database, limit_s=100.0) as asking:
        hungry = "SELECT list(repeat(a.range::VARCHAR, 1000)) FROM range(30000000) a"
        said = asking.ask(query(hungry)).result(SOON_S)
        assert said.status in (400, 500), said.body[:200]
        assert asking.process_id is None, "it would have no memory for another question"
        assert asking.ask(query("SHOW MODELS")).result(SOON_S).status == 200


def test_the_process_ends_when_nobody_asks_and_begins_again(database: Path) -> None:
    with desk(database, idle_s=1.0) as asking:
        assert asking.process_id is None, "before the first question"
        assert asking.ask(query("SHOW MODELS")).result(SOON_S).status == 200
        first = asking.process_id
        assert first is not None
        assert psutil.Process(first).nice() >= 10
        wait_until(lambda: not psutil.pid_exists(first), within_s=SOON_S)
        assert asking.ask(query("SHOW MODELS")).result(SOON_S).status == 200
        assert asking.process_id not in (None, first)


def test_a_process_that_was_killed_is_replaced(database: Path) -> None:
    with desk(database) as asking:
        asking.ask(query("SHOW MODELS")).result(SOON_S)
        psutil.Process(asking.process_id).kill()
        again = [asking.ask(query("SHOW MODELS")).result(SOON_S).status for _ in range(2)]
        assert again[-1] == 200


def test_only_so_many_wait_and_who_has_gone_is_not_answered(database: Path) -> None:
    with desk(database, limit_s=4.0, waiting=2) as asking:
        running = asking.ask(query(SLOW_SQL))
        wait_until(running.running, within_s=SOON_S)
        gone, waits = (asking.ask(query("SHOW MODELS")) for _ in range(2))
        refused = asking.ask(query("SHOW MODELS")).result(0)
        assert refused.status == 503
        assert refused.retry_after_s is not None
        assert gone.cancel()
        assert asking.ask(Asked("explorer.css")).result(0).status == 200, "no question"
        assert waits.result(SOON_S).status == 200
    ended = asking.ask(query("SHOW MODELS")).result(0)
    assert (ended.status, told(ended)) == (503, "the server ends")


def test_the_end_does_not_wait_for_a_question(database: Path) -> None:
    with desk(database, limit_s=60.0) as asking:
        running, waits = asking.ask(query(SLOW_SQL)), asking.ask(query("SHOW MODELS"))
        wait_until(lambda: asking.process_id is not None, within_s=SOON_S)
        began = time.monotonic()
        asking.close()
        assert time.monotonic() - began < 20
        assert running.result(SOON_S).status in (500, 503)
        assert waits.result(SOON_S).status == 503


def test_a_database_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "odd.sommelier").write_bytes(b"no database at all")
    for name in ("missing.sommelier", "odd.sommelier"):
        with desk(tmp_path / name) as asking:
            said = asking.ask(query("SHOW MODELS")).result(SOON_S)
            assert said.status == 503
            assert name in told(said)
    assert not (tmp_path / "missing.sommelier").exists()


def test_inference_goes_on_while_questions_are_answered(served: Serve) -> None:
    assert served.page().status == 200
    alone = _infer_while(served, lambda: len(_ms) < 50)
    with ThreadPoolExecutor(4) as threads:
        slow = threads.submit(served.query, SLOW_SQL)
        asked = [threads.submit(served.page, q="SELECT MODELS") for _ in range(3)]
        beside = _infer_while(served, lambda: not slow.done())
        assert slow.result().status == 504
        assert [one.result().status for one in asked] == [200] * 3
    assert len(beside) > 50
    assert statistics.median(beside) < statistics.median(alone) + SLOWER_MS
    assert max(beside) < 3_000, "a question takes ten seconds"


def test_a_question_that_is_too_long_is_refused_by_the_server_itself(served: Serve) -> None:
    assert served.query("SELECT 1 -- " + "x" * (LARGEST - 100)).status == 200
    heard = served.query("SELECT 1 -- " + "x" * LARGEST)
    assert heard.status == 413
    assert str(LARGEST) in heard.json["error"]["message"]
    assert served.page(q="SELECT 1 -- " + "x" * LARGEST).status == 414


def test_of_many_questions_at_once_those_beyond_the_limit_may_come_again_later(
    served: Serve,
) -> None:
    assert served.query("SELECT 1").status == 200
    with ThreadPoolExecutor(WAITING + 12) as threads:
        slow = threads.submit(served.query, SLOW_SQL)
        time.sleep(1.0)  # it takes ten seconds, and is to come first
        heard = [one.result() for one in [threads.submit(served.query, "SELECT 1")
                                          for _ in range(WAITING + 10)]]  # fmt: skip
        assert slow.result().status == 504
    refused = [one for one in heard if one.status == 503]
    assert refused, "more came than may wait"
    assert all(one.headers["retry-after"] == "5" for one in refused)
    assert len(heard) - len(refused) >= WAITING
    assert {one.status for one in heard} == {200, 503}


_ms: list[float] = []


def _infer_while(served: Serve, goes_on: Callable[[], bool]) -> list[float]:
    """What requests took, ms."""
    _ms.clear()
    while goes_on():
        began = time.perf_counter()
        assert served.infer().status == 200
        _ms.append((time.perf_counter() - began) * 1e3)
    return list(_ms)


def test_many_ask_at_once_and_each_has_its_own_answer(served: Serve) -> None:
    answers: dict[int, int] = {}

    def ask(number: int) -> None:
        heard = served.query(f"SELECT {number} AS n")
        answers[number] = heard.json["rows"][0][0] if heard.status == 200 else -heard.status

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(1, 13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON_S)
    assert answers == {number: number for number in range(1, 13)}
