"""Many who ask while others ingest: eight clients and two writers on one database, checked.

    postgresql  ten processes, each with a connection of its own to a real PostgreSQL server
    duckdb      a process that ingests from two threads, eight that open the file's snapshots
    served      the same writer, eight thin clients of `sommelier serve` over POST /query

The server is private, from Debian's packages (tests/postgres_server.py; it waits for no disk), or
the one that SOMMELIER_TEST_POSTGRES names, where a database of its own is made.

inconsistent  answers that show half a transaction, a state that never was, one older than what was
              there for everybody before the question, or than what the same client saw before;
              and answers of two clients that differ although the catalog's version does not
lost_rows     models that were acknowledged and are missing at the end, or not as they were stored
errors        questions and changes that failed, whatever with, and processes that died

concurrency_data.py says what is asked and why a torn answer cannot pass. Times of the table are
milliseconds of a client; `ingest` is a transaction of three models with numbers and answers until
others can see it, `change` one that moves a number or replaces a model.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.concurrency_clients import (
    Asker,
    File,
    Server,
    Shared,
    Thin,
    Told,
    ask,
    in_process,
    ingest,
)
from benchmarks.concurrency_data import (
    BASE,
    FLOPS,
    IN_BATCH,
    MEMORY,
    PROBES,
    REFERENCE,
    WRITERS,
    Stock,
)
from benchmarks.report import Cell, arguments, conclude, table
from sommelier.connection import Connection, connect

READERS = 8
DATABASES = ("postgresql", "duckdb", "served")
SHOWN = 5  # mistakes of a kind that are told in full
CHANGES = ("ingest", "change", "open")  # times that are not those of questions
END_S = 120.0  # that processes may take to end


@dataclass(frozen=True, slots=True)
class Place:
    """A database. asked : what clients are given, where that is not `place`."""

    place: str
    folder: str | None
    asker: type[Asker]
    asked: str
    writers: Sequence[Sequence[int]]  # of each process that ingests


@dataclass(slots=True)
class Outcome:
    """What became of one database."""

    told: list[Told]
    seconds: float
    lost: int
    batches: int

    def times(self, *kinds: str) -> list[float]:
        return [ms for told in self.told for kind in kinds for ms in told.times.get(kind, [])]

    @property
    def questions(self) -> list[str]:
        found = {kind for told in self.told for kind in told.times}
        return sorted(found - {*CHANGES})

    @property
    def errors(self) -> list[str]:
        return [error for told in self.told for error in told.errors]

    @property
    def wrong(self) -> list[str]:
        found = [said for told in self.told for said in told.wrong]
        versions: dict[tuple[str, str], set[str]] = {}
        for told in self.told:
            for version, answers in told.answers.items():
                for text, said in answers.items():
                    versions.setdefault((version, text), set()).add(said)
        return found + [
            f"clients had {len(said)} answers of version {version} to {text}"
            for (version, text), said in versions.items()
            if len(said) > 1
        ]

    @property
    def compared(self) -> int:
        """Versions that more than one client was told of."""
        seen = Counter(version for told in self.told for version in told.answers)
        return sum(count > 1 for count in seen.values())


def run(place: Place, seconds: float, seed: int) -> Outcome:
    """Prepare the database, have it used for some seconds, and look what is in it."""
    stock = Stock(seed)
    context = multiprocessing.get_context("spawn")
    shared, out = Shared.of(context, len(place.writers) + READERS), context.Queue()
    works: list[tuple[Any, ...]] = [
        (ingest, out, place.place, place.folder, seed, writers, shared) for writers in place.writers
    ]
    works += [
        (ask, out, place.asker, place.asked, place.folder, seed, number, shared)
        for number in range(READERS)
    ]
    processes = [context.Process(target=in_process, args=work) for work in works]
    for process in processes:
        process.start()
    with contextlib.suppress(Exception):  # a process that did not come so far tells of it
        shared.ready.wait(END_S)
    begun = time.perf_counter()
    time.sleep(seconds)
    shared.stop.set()
    taken = time.perf_counter() - begun
    told = _collected(processes, out)
    with connect(place.place, folder=place.folder) as db:
        lost, wrong = missing(db, stock, list(shared.done), list(shared.begun))
    told[0].wrong += wrong
    return Outcome(told, taken, lost, sum(shared.done))


def _collected(processes: Sequence[Any], out: Any) -> list[Told]:
    """What each process tells; one that ended without a word made an error."""
    told: list[Told] = []
    until = time.monotonic() + END_S
    while len(told) < len(processes) and time.monotonic() < until:
        with contextlib.suppress(queue.Empty):
            told.append(out.get(timeout=1))
            continue
        if not any(process.is_alive() for process in processes):
            break
    for process in processes:
        process.join(1)
        if process.is_alive():
            process.kill()
    silent = len(processes) - len(told)
    return [*told, *(Told(errors=["a process died or did not end"]) for _ in range(silent))]


def missing(
    db: Connection, stock: Stock, done: list[int], begun: list[int]
) -> tuple[int, list[str]]:
    """(models that were acknowledged and are not there as they were stored, what else is wrong)."""
    rows = db.sql("SELECT name, params, flops, memory FROM models WHERE family LIKE 'batch%'").rows
    numbers = {name: tuple(row) for name, *row in rows}
    alike = {
        name: round(agreement * PROBES)
        for name, agreement in db.query(
            f"SELECT MODELS name, agreement CORR {REFERENCE} >= 1%"
        ).fetchall()
    }
    lost = 0
    for name, count in stock.all_alike(done).items():
        params = BASE + int(name.split("_")[1])
        stored = (params, FLOPS * params, MEMORY * params)
        lost += numbers.get(name) != stored or alike.get(name) != count
    wrong = []
    if len(rows) != len(numbers):
        wrong.append(f"{len(rows) - len(numbers)} models are there twice")
    if more := numbers.keys() - stock.all_alike(begun).keys():
        wrong.append(f"nobody stored {sorted(more)[:SHOWN]}")
    half = [batches for batches in _batches(numbers).values() if batches != IN_BATCH]
    return lost, [*wrong, *(f"a batch has {count} models" for count in half)]


def _batches(names: Any) -> Counter[str]:
    return Counter(name.rpartition("_")[0] for name in names)


# ---- the databases


@contextlib.contextmanager
def postgresql(folder: Path, seed: int) -> Iterator[Place]:
    from tests.postgres_server import VARIABLE, server

    with contextlib.ExitStack() as stack:
        url = os.environ.get(VARIABLE) or stack.enter_context(server())
        place = stack.enter_context(_fresh(url))
        files = str(folder / "files")
        with connect(place, folder=files) as db:
            Stock(seed).prepare(db)
        yield Place(place, files, Server, place, [[writer] for writer in range(WRITERS)])


@contextlib.contextmanager
def _fresh(url: str) -> Iterator[str]:
    """A new database of the server, dropped at the end."""
    import psycopg

    name = f"concurrency_{secrets.token_hex(4)}"
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE template0 ENCODING 'UTF8'".encode())
        try:
            yield f"{url.rpartition('/')[0]}/{name}"
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@contextlib.contextmanager
def duckdb(folder: Path, seed: int) -> Iterator[Place]:
    path = str(folder / "models.sommelier")
    with connect(path) as db:
        Stock(seed).prepare(db)
    yield Place(path, None, File, path, [list(range(WRITERS))])


@contextlib.contextmanager
def served(folder: Path, seed: int) -> Iterator[Place]:
    with duckdb(folder, seed) as place, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        command = [sys.executable, "-m", "sommelier", "serve", place.place, "--query", "--no-write"]
        log = folder / "serve.log"
        with log.open("wb") as said:
            process = subprocess.Popen([*command, "--port", str(port)], stdout=said, stderr=said)
        try:
            _wait(port, process, log)
            yield Place(place.place, None, Thin, f"http://127.0.0.1:{port}", place.writers)
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(30)
            process.kill()


def _wait(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + END_S
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError):
            Thin(Told(), f"http://127.0.0.1:{port}", None).ask("SHOW MODELS")
            return
        time.sleep(0.2)
    raise SystemExit(f"sommelier serve did not answer:\n{log.read_text()[-2000:]}")


KINDS: dict[str, Callable[[Path, int], contextlib.AbstractContextManager[Place]]] = {
    "postgresql": postgresql, "duckdb": duckdb, "served": served,
}  # fmt: skip


# ---- the report


def told_of(name: str, outcome: Outcome) -> tuple[list[list[Cell]], dict[str, float]]:
    """Rows of the table, and figures."""
    rows: list[list[Cell]] = []
    for kind in (*outcome.questions, *CHANGES):
        if times := outcome.times(kind):
            p50, p99 = (float(np.percentile(times, p)) for p in (50, 99))
            rows.append([f"{name} {kind}", len(times), p50, p99, max(times)])
    asked, stored = outcome.times(*outcome.questions), outcome.times("ingest")
    figures: dict[str, float] = {
        "queries_per_s": len(asked) / outcome.seconds,
        "ingests_per_s": len(stored) / outcome.seconds,
        "errors": len(outcome.errors),
        "inconsistent": len(outcome.wrong),
        "lost_rows": outcome.lost,
        "versions_compared": outcome.compared,
    }
    for kind, times in (("query", asked), ("ingest", stored)):
        for p in (50, 99):
            figures[f"{kind}_p{p}_ms"] = float(np.percentile(times, p)) if times else np.nan
    return rows, {f"{name}_{key}": value for key, value in figures.items()}


def main() -> None:
    parser = arguments("eight clients that ask and two that ingest, on each kind of database")
    parser.add_argument("--seconds", type=float, help="on each database (300; quick: 8)")
    parser.add_argument("--databases", default=",".join(DATABASES), help="with commas between")
    options = parser.parse_args()
    seconds = options.seconds or (8.0 if options.quick else 300.0)
    chosen = options.databases.split(",")
    if unknown := set(chosen) - KINDS.keys():
        parser.error(f"no such database: {', '.join(sorted(unknown))}; there are {list(KINDS)}")
    rows: list[list[Cell]] = []
    figures: dict[str, float] = {}
    for name in chosen:
        with tempfile.TemporaryDirectory() as folder, KINDS[name](Path(folder), options.seed) as at:
            outcome = run(at, seconds, options.seed)
        more, found = told_of(name, outcome)
        rows, figures = rows + more, figures | found
        print(f"{name}: {outcome.batches} batches, {found[f'{name}_queries_per_s']:.1f} queries/s")
        for what, told in (("error", outcome.errors), ("inconsistent", outcome.wrong)):
            for said in told[:SHOWN]:
                print(f"{name} {what}: {said}")
    title = f"{READERS} clients ask, {WRITERS} ingest, {seconds:g} s on each database"
    print(table(title, ("what", "times", "p50 ms", "p99 ms", "most"), rows))
    totals = {
        total: sum(figures[f"{name}_{total}"] for name in chosen)
        for total in ("errors", "lost_rows", "inconsistent")
    }
    missed = [f"{total} = {count:g}, not 0" for total, count in totals.items() if count]
    conclude(totals | figures, options.json, missed=missed)


if __name__ == "__main__":
    main()
