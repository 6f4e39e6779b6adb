"""The processes of benchmarks.concurrency: those that ingest, and three kinds that ask.

A client of a server keeps its connection; a reader of a file opens it anew for every round of
questions, for it keeps the moment at which it was opened; a thin client knows nothing but HTTP.
Every answer is checked where it arrives (concurrency_data.py), and what it said is remembered by
the version of the catalog, so that clients can be compared afterwards.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import random
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from benchmarks.concurrency_data import (
    COUNTED,
    FIRST,
    FIXED,
    MOVED,
    PAIRED,
    SIMILAR,
    WRITERS,
    Rows,
    Stock,
    tail,
    wrong_counts,
    wrong_moving,
    wrong_pairs,
)

LABELS = {
    **{tail(writer): "newest" for writer in range(WRITERS)},
    SIMILAR: "similar", FIXED: "fixed", PAIRED: "pairs", MOVED: "moving", COUNTED: "sql",
}  # fmt: skip
START_S = 120.0  # that all processes may take until they are ready


@dataclass(slots=True)
class Shared:
    """What all processes see. begun, done : of each writer, how many batches it has begun and how
    many are there for everybody to see."""

    begun: Any
    done: Any
    ready: Any
    stop: Any

    @classmethod
    def of(cls, context: Any, processes: int) -> Shared:
        first = [FIRST] * WRITERS
        return cls(
            begun=context.Array("q", first, lock=True),
            done=context.Array("q", first, lock=True),
            ready=context.Barrier(processes + 1),
            stop=context.Event(),
        )


@dataclass(slots=True)
class Told:
    """What one process has to say. times : kind -> milliseconds. answers : version -> question ->
    what was answered, in short."""

    times: dict[str, list[float]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    answers: dict[str, dict[str, str]] = field(default_factory=dict)

    @contextlib.contextmanager
    def timed(self, kind: str) -> Iterator[None]:
        begun = time.perf_counter()
        yield
        self.times.setdefault(kind, []).append((time.perf_counter() - begun) * 1e3)


def in_process(work: Callable[..., None], out: Any, *arguments: Any) -> None:
    """Do the work of a process and tell what came of it, whatever that is."""
    told = Told()
    try:
        work(told, *arguments)
    except BaseException:
        told.errors.append(traceback.format_exc(limit=-4))
    out.put(told)


# ---- those that ingest


def ingest(
    told: Told, place: str, folder: str | None, seed: int, writers: Sequence[int], shared: Shared
) -> None:
    """A process with a connection and a thread for each writer."""
    from sommelier.connection import connect

    with connect(place, folder=folder) as db:
        stock = Stock(seed)
        for writer in writers:  # what the first change imports is not to be timed
            stock.pay(db, writer, 0)
        db.catalog.publish()
        shared.ready.wait(START_S)
        threads = [
            threading.Thread(target=_guarded, args=(told, db, stock, writer, shared))
            for writer in writers
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def _guarded(told: Told, db: Any, stock: Stock, writer: int, shared: Shared) -> None:
    """Ingest until it is enough; a writer that fails is told of and ends."""
    try:
        batch = FIRST
        while not shared.stop.is_set():
            step = batch - FIRST + 1
            shared.begun[writer] = batch + 1
            with told.timed("ingest"):
                stock.store(db, writer, range(batch, batch + 1))
                db.catalog.publish()  # as every statement does at its end
            shared.done[writer] = batch + 1
            batch += 1
            with told.timed("change"):
                change = stock.pay if step % 2 else stock.move
                change(db, writer, (step + 1) // 2)
                db.catalog.publish()
    except BaseException:
        told.errors.append(traceback.format_exc(limit=-4))


# ---- those that ask


class Asker(ABC):
    """Asks one database."""

    own_sql = True  # catalog SQL sees the moment that `moment` promises

    @abstractmethod
    def moment(self) -> contextlib.AbstractContextManager[str | None]:
        """All that is asked inside is about one state: its version. None: that is not promised."""

    @abstractmethod
    def ask(self, text: str) -> Rows: ...

    @abstractmethod
    def close(self) -> None:
        """Let go of what is held."""


class Server(Asker):
    """A connection to a server's catalog; every other round is of one moment."""

    own_sql = False  # it has a connection of its own

    def __init__(self, _told: Told, place: str, folder: str | None) -> None:
        from sommelier.connection import connect

        self._db = connect(place, folder=folder)
        self._rounds = 0

    @contextlib.contextmanager
    def moment(self) -> Iterator[str | None]:
        self._rounds += 1
        if self._rounds % 2:
            yield None
            return
        with self._db.catalog.steady():
            yield self._db.catalog.version

    def ask(self, text: str) -> Rows:
        return self._db.sql(text).rows if text == COUNTED else self._db.query(text).fetchall()

    def close(self) -> None:
        self._db.close()


class File(Asker):
    """A file that another process writes, opened for every round."""

    def __init__(self, told: Told, place: str, _folder: str | None) -> None:
        self._told = told
        self._place = place
        self._db: Any = None

    @contextlib.contextmanager
    def moment(self) -> Iterator[str | None]:
        from sommelier.connection import connect

        with self._told.timed("open"):
            self._db = connect(self._place, read_only=True)
        with self._db:
            yield self._db.catalog.version

    def ask(self, text: str) -> Rows:
        return self._db.sql(text).rows if text == COUNTED else self._db.query(text).fetchall()

    def close(self) -> None:
        """It is closed after each round."""


class Thin(Asker):
    """POST /query of a server that reads the file."""

    own_sql = False

    def __init__(self, _told: Told, place: str, _folder: str | None) -> None:
        address = urlsplit(place)
        self._http = http.client.HTTPConnection(str(address.hostname), address.port, timeout=60)

    @contextlib.contextmanager
    def moment(self) -> Iterator[str | None]:
        yield None

    def ask(self, text: str) -> Rows:
        body = json.dumps({"statement": text})
        self._http.request("POST", "/query", body, {"Content-Type": "application/json"})
        answer = self._http.getresponse()
        said = json.loads(answer.read())
        if answer.status != http.client.OK:
            raise OSError(f"{answer.status}: {said}")
        rows: Rows = said["rows"]
        return rows

    def close(self) -> None:
        self._http.close()


class Checks:
    """What one client has seen so far, and what that says about what it may see next."""

    def __init__(self, told: Told, stock: Stock, shared: Shared) -> None:
        self._told, self._stock, self._shared = told, stock, shared
        self._seen = [FIRST] * WRITERS
        self._moved: list[float] = []

    def check(
        self, answers: dict[str, Rows], version: str | None, least: Sequence[int], *, sql: bool
    ) -> None:
        """answers : of one round. least : batches that were there before. sql : whether catalog SQL
        saw the same state as the others."""
        wrong: list[str] = []
        most = list(self._shared.begun)
        newest = []
        for writer in range(WRITERS):
            more, batches = self._stock.wrong_tail(writer, answers[tail(writer)])
            wrong += more
            newest.append(batches)
        self._between(wrong, "newest", newest, least, most)
        between = (newest, newest) if version else (least, most)
        wrong += [f"similar: {w}" for w in self._stock.wrong_similar(answers[SIMILAR], *between)]
        wrong += [f"fixed: {said}" for said in self._stock.wrong_fixed(answers[FIXED])]
        wrong += wrong_pairs(answers[PAIRED])
        more, moved = wrong_moving(answers[MOVED])
        wrong += more
        if any(now < before for now, before in zip(moved, self._moved, strict=False)):
            wrong.append(f"moving: {moved} after {self._moved}")
        self._moved = moved
        more, counted = wrong_counts(answers[COUNTED])
        wrong += more
        self._between(wrong, "sql", counted, least, most)
        if version and sql and counted != newest:
            wrong.append(f"sql counts {counted} batches, and there are {newest} in {version}")
        self._seen = [max(pair) for pair in zip(newest, self._seen, strict=True)]
        self._told.wrong += [f"{said} [version {version}]" for said in wrong]
        if version:
            kept = self._told.answers.setdefault(version, {})
            for text, rows in answers.items():
                if sql or text != COUNTED:
                    self._keep(kept, text, rows)

    def _between(
        self, wrong: list[str], what: str, found: list[int], least: Sequence[int], most: list[int]
    ) -> None:
        for low, before, now, high in zip(least, self._seen, found, most, strict=True):
            if not max(low, before) <= now <= high:
                wrong.append(f"{what}: {now} batches, not {low} (before {before}) to {high}")

    def _keep(self, kept: dict[str, str], text: str, rows: Rows) -> None:
        said = hashlib.sha256(repr([tuple(row) for row in rows]).encode()).hexdigest()[:12]
        if kept.setdefault(text, said) != said:
            self._told.wrong.append(f"one client had two answers of one version to {text}")


def ask(
    told: Told, kind: type[Asker], place: str, folder: str | None, seed: int, number: int,
    shared: Shared,
) -> None:  # fmt: skip
    """A client that asks round after round, each question once in an order of its own."""
    stock, order = Stock(seed), random.Random(seed + number)
    asker, checks = kind(told, place, folder), Checks(told, stock, shared)
    texts = list(LABELS)
    with asker.moment():  # what the first questions import is not to be timed
        for text in texts:
            asker.ask(text)
    told.times.clear()
    shared.ready.wait(START_S)
    while not shared.stop.is_set():
        order.shuffle(texts)
        answers: dict[str, Rows] = {}
        least = list(shared.done)
        try:
            with asker.moment() as version:
                for text in texts:
                    with told.timed(LABELS[text]):
                        answers[text] = asker.ask(text)
        except Exception:
            told.errors.append(traceback.format_exc(limit=-4))
            continue
        checks.check(answers, version, least, sql=asker.own_sql)
    asker.close()
