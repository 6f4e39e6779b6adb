"""How far does one database go? Repositories of 10^3 to 10^6 models, and metadata of more.

Each size is a real database in a folder of its own, filled with a repository that grows as timm's
tables say real ones do (benchmarks/growing.py). Told for each: how fast models are stored, how long
a fresh process takes to its first answers, what the indexes take in memory (scale_memory.py), what
one more model costs, and p50 and p99 of
  resource  bounds on memory, FLOPs and latency, the ten smallest
  semantic  the ten most similar above an equivalence, best first
  combined  both, relative to the reference: Sommelier's figure 6
  pareto    the front of memory and accuracy below a bound
  cold      a semantic question about a reference that was never asked about before
warm but for the last, parse to rows, beside hand-written SQL over one plain DuckDB table and numpy
over the same columns; these are given every reference's agreements and the smallest count that the
confidence asks for. `processor`: the median of what all threads of a system used, for machines that
do other things too. `recall` is 1 only if every answer is the same as theirs; cold questions are
compared with a scan of all answers. Growth exponents: the slope of log time over log N.

With --peers MLflow's search beside them at 10^4 and 10^5 (scale_mlflow.py).
Figures: combined_p50_ms, sql_p50_ms (of the combined question) at the largest N, index_mb_100k (nan
without that size), recall, exponents, and every p50 with its size in the name.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import query_latency as asked_before
from benchmarks.growing import PROBE_SET, grow, measurements, record, sketch, store
from benchmarks.query_latency import TOP, Columns, Figures, PlainTable, Question, System
from benchmarks.report import Cell, arguments, finish, table
from benchmarks.scale_fronts import Fronts, front_questions
from benchmarks.scale_memory import measured
from sommelier.confidence import smallest_count
from sommelier.connection import Connection, connect

KINDS = ("resource", "semantic", "combined")
COLD = 12  # references asked about for the first time
ADDED = 5  # models that arrive one at a time
TRACED = 100_000  # memory to the byte up to here; resident memory of the process everywhere
PAPER_MB = 77.0  # both indexes of 100 000 models: Sommelier, section 7
Rows = list[list[Cell]]


class Size:
    """One repository, stored, and everything that is asked of it."""

    def __init__(self, count: int, folder: Path, options: argparse.Namespace) -> None:
        self.label = label(count)
        self.repeats: int = options.repeats
        self.rng = np.random.default_rng(options.seed)
        self.path = folder / f"{self.label}.sommelier"
        self.growing = grow(count, options.seed)
        self.figures: Figures = {}
        self.rows: Rows = []

    def run(self, *, answers: bool = True) -> None:
        """Fill the table's rows and the figures."""
        self._store(answers)
        seconds = self.growing.seconds
        self.figures[f"ingest_per_s_{self.label}"] = len(self.growing) / sum(seconds.values())
        with connect(self.path) as db:
            columns, plain = self._columns(db)
            try:
                kinds = KINDS if answers else KINDS[:1]
                self._remember(db, columns, kinds)
                for kind in kinds:
                    self._ask(kind, db, columns, plain)
                self._ask_fronts(db, plain)
                if answers:
                    self._ask_cold(db, columns)
                    self._add(db, columns)
            finally:
                plain.close()

    def _store(self, answers: bool) -> None:
        """Fill the database; one that an earlier run kept is used as it is."""
        told = self.path.with_suffix(".seconds.json")
        if told.exists():
            self.growing.seconds.update(json.loads(told.read_text()))
            return
        with connect(self.path) as db:
            store(self.growing, db, answers=answers)
        told.write_text(json.dumps(self.growing.seconds))

    def _columns(self, db: Connection) -> tuple[Columns, PlainTable]:
        """What hand-written answers are made from."""
        if self.growing.seconds["answers"]:
            answers = db.sketches.matrix(PROBE_SET.id, "labels")[: len(self.growing)]
        else:
            answers = np.zeros((len(self.growing), 1), dtype=np.uint16)
        columns = Columns(self.growing.as_repository(answers), self.rng)
        return columns, PlainTable(columns)

    def _remember(self, db: Connection, columns: Columns, kinds: Sequence[str]) -> None:
        """Times and memory of fresh processes that ask one question of each kind."""
        asked = [
            asked_before.questions(columns, kind, 1, np.random.default_rng(1))[0].text
            for kind in kinds
        ]
        db.catalog.publish()
        found = measured(self.path, asked, trace=False)
        if len(self.growing) <= TRACED:
            found["private_mb"] = measured(self.path, asked, trace=True)["private_mb"]
            found["index_mb"] = found["private_mb"] + found["mapped_mb"]
        self.figures |= {f"{name}_{self.label}": value for name, value in found.items()}

    def _ask(self, kind: str, db: Connection, columns: Columns, plain: PlainTable) -> None:
        asked = asked_before.questions(columns, kind, self.repeats, self.rng)
        ours = asked_before.sommelier(db)
        systems = [ours, System("sql", plain.ask), System("numpy", columns.scan)]
        recall, given = asked_before.check(systems, asked[: max(8, self.repeats // 4)])
        self._time(kind, systems, asked, recall, given)

    def _ask_fronts(self, db: Connection, plain: PlainTable) -> None:
        fronts = Fronts(self.growing.numbers, plain)
        asked = front_questions(self.growing.numbers["memory"], self.repeats, self.rng)
        systems = [
            asked_before.sommelier(db),
            System("sql", fronts.sql),
            System("numpy", fronts.scan),
        ]
        recall, given = asked_before.check(systems, asked[: max(4, self.repeats // 4)])
        self._time("pareto", systems, asked, recall, given)

    def _time(
        self,
        kind: str,
        systems: list[System],
        asked: list[Question],
        recall: float,
        given: float,
    ) -> None:
        taken = times_of(systems, asked)
        for system, times in zip(systems, taken, strict=True):
            p50, p99 = (float(np.percentile(times[0], p)) for p in (50, 99))
            cpu = float(np.median(times[1]))
            self.rows.append([f"{self.label} {kind}", system.name, p50, p99, cpu, given, recall])
            name = kind if system.name == "sommelier" else f"{kind}_{system.name}"
            self.figures[f"{name}_p50_ms_{self.label}"] = p50
            self.figures[f"{name}_p99_ms_{self.label}"] = p99
            self.figures[f"{name}_cpu_ms_{self.label}"] = cpu
        self.figures["recall"] = min(self.figures.get("recall", 1.0), recall)

    def _ask_cold(self, db: Connection, columns: Columns) -> None:
        """References that nobody asked about; each answer compared with a scan of everything."""
        taken, common, total = [], 0, 0
        chosen = self.rng.choice(len(self.growing), COLD, replace=False)
        for row in chosen.tolist():
            threshold = round(float(self.rng.uniform(80, 95)), 2)
            text = f"SELECT MODELS name CORR {self.growing.name(row)} >= {threshold}% LIMIT {TOP}"
            begun, worked = time.perf_counter(), time.process_time()
            ours = {name for (name,) in db.query(text).fetchall()}
            taken.append((time.perf_counter() - begun, time.process_time() - worked))
            truth = set(columns.scan(_cold_question(columns, row, threshold)))
            common, total = common + len(ours & truth), total + len(ours | truth)
        recall = common / total if total else 1.0
        times = np.array(taken).T * 1e3
        p50, p99 = (float(np.percentile(times[0], p)) for p in (50, 99))
        cpu, given = float(np.median(times[1])), total / COLD
        self.rows.append([f"{self.label} cold", "sommelier", p50, p99, cpu, given, recall])
        self.figures[f"cold_p50_ms_{self.label}"] = p50
        self.figures[f"cold_cpu_ms_{self.label}"] = cpu
        self.figures["recall"] = min(self.figures.get("recall", 1.0), recall)

    def _add(self, db: Connection, columns: Columns) -> None:
        """One more model at a time, and the next question about it and all others."""
        asked = asked_before.questions(columns, "combined", ADDED, self.rng)
        more = grow(ADDED, self.growing.seed + 1)
        stored, answered, arrived = [], [], []
        for row, question in enumerate(asked):
            answers = more.answers(row, row + 1)[0]
            begun = time.perf_counter()
            with db.catalog.transaction():
                added = replace(record(more, row), name=f"arrival_{row}")
                arrived.append(db.catalog.add_model(added).record.id)
                db.catalog.add_measurements(measurements(more, range(row, row + 1)))
                db.sketches.add(sketch(more, row, answers))
            stored.append((time.perf_counter() - begun) * 1e3)
            begun = time.perf_counter()
            db.query(question.text).fetchall()
            answered.append((time.perf_counter() - begun) * 1e3)
        for model_id in arrived:  # a database that is kept is as it was
            db.catalog.drop_model(model_id)
        self.figures[f"add_one_ms_{self.label}"] = float(np.median(stored))
        self.figures[f"next_question_ms_{self.label}"] = float(np.median(answered))


def times_of(systems: list[System], asked: list[Question]) -> NDArray[np.float64]:
    """(systems, 2, questions) milliseconds: on the clock, and of the processor in all threads.

    Systems take turns of 20 questions, so that what else the machine does hits all alike.
    """
    times = np.empty((len(systems), 2, len(asked)))
    for first in range(0, len(asked), asked_before.TURN):
        for row, system in enumerate(systems):
            for number in range(first, min(first + asked_before.TURN, len(asked))):
                begun, worked = time.perf_counter(), time.process_time()
                system.ask(asked[number])
                times[row, 0, number] = time.perf_counter() - begun
                times[row, 1, number] = time.process_time() - worked
    return times * 1e3


def _cold_question(columns: Columns, row: int, threshold: float) -> Question:
    """The question in numbers, its reference's agreements counted now in the last place."""
    answers = columns.repository.answers
    columns.agreements = np.concatenate(
        [
            columns.agreements[: asked_before.REFERENCES],
            [asked_before.agreements(answers, answers[row])],
        ]
    )
    columns.references = np.append(columns.references[: asked_before.REFERENCES], row)
    least = smallest_count(
        PROBE_SET.samples, threshold / 100, asked_before.ALPHA / (len(columns.names) - 1)
    )
    return Question("", np.inf, np.inf, np.inf, asked_before.REFERENCES, least)


def label(count: int) -> str:
    """
    >>> label(100_000), label(2_500), label(1_000_000)
    ('100k', '2.5k', '1m')
    """
    return f"{count / 1e6:g}m" if count >= 1e6 else f"{count / 1e3:g}k"


def exponents(sizes: Sequence[int], figures: Figures) -> Figures:
    """The slope of log time over log N of every kind of question, by least squares."""
    found = {}
    for kind in (*KINDS, "pareto", "cold"):
        for clock in ("p50", "cpu"):
            known = [n for n in sizes if f"{kind}_{clock}_ms_{label(n)}" in figures]
            if len(known) > 1:
                times = [figures[f"{kind}_{clock}_ms_{label(n)}"] for n in known]
                slope = float(np.polyfit(np.log(known), np.log(times), 1)[0])
                found[f"{kind}_{clock}_exponent"] = slope
    return found


def costs(sizes: Sequence[int], figures: Figures) -> str:
    """The table of what is not a question."""
    names = {
        "stored/s": "ingest_per_s", "open s": "open_s", "first answers s": "build_s",
        "private MB": "private_mb", "mapped MB": "mapped_mb", "process MB": "anonymous_mb",
        "answers MB": "answers_mb", "add one ms": "add_one_ms", "then ask ms": "next_question_ms",
    }  # fmt: skip
    rows: Rows = [
        [label(n), *(figures.get(f"{name}_{label(n)}", "-") for name in names.values())]
        for n in sizes
    ]
    return table("storing, opening, memory, and one more model", ("models", *names), rows)


def main() -> None:
    parser = arguments("latency, memory and cost of arrivals as a repository grows")
    parser.add_argument("--sizes", help="numbers of models, with commas between them")
    parser.add_argument("--metadata", type=int, default=0, help="one more size, without answers")
    parser.add_argument("--repeats", type=int, help="questions a kind")
    parser.add_argument("--peers", action="store_true", help="MLflow beside, at 10k and 100k")
    parser.add_argument("--folder", type=Path, help="where databases are made (10 GB for 10^6)")
    parser.add_argument("--keep", action="store_true", help="keep them there, or use those kept")
    options = parser.parse_args()
    sizes = [1_000, 10_000] if options.quick else [1_000, 10_000, 100_000, 1_000_000]
    if options.sizes:
        sizes = [int(float(size)) for size in options.sizes.split(",")]
    options.repeats = options.repeats or (40 if options.quick else 200)
    figures: Figures = {"recall": 1.0}
    rows: Rows = []
    for size in [*sizes, *([options.metadata] if options.metadata else [])]:
        with contextlib.ExitStack() as stack:
            folder = options.folder
            if not options.keep:
                folder = stack.enter_context(tempfile.TemporaryDirectory(dir=options.folder))
            one = Size(size, Path(folder), options)
            one.run(answers=size in sizes)
        rows += one.rows
        figures |= one.figures | {"recall": min(figures["recall"], one.figures["recall"])}
    report(sizes, options, rows, figures)


def report(sizes: Sequence[int], options: argparse.Namespace, rows: Rows, figures: Figures) -> None:
    """Print the tables and the figures."""
    if options.peers:
        from benchmarks.scale_mlflow import beside

        more, found = beside([n for n in sizes if n in (10_000, 100_000)], options.seed)
        rows, figures = rows + more, figures | found
    header = ("question", "system", "p50 ms", "p99 ms", "processor ms", "answers", "recall")
    print(table(f"{options.repeats} questions a kind, warm, parse to rows", header, rows))
    every = [*sizes, *([options.metadata] if options.metadata else [])]
    print(costs(every, figures))
    if not options.metadata:
        print("10m models: not run; --metadata 10000000 stores and asks about metadata alone")
    figures |= exponents(sizes, figures)
    last = label(sizes[-1])
    figures |= {
        "combined_p50_ms": figures[f"combined_p50_ms_{last}"],
        "sql_p50_ms": figures[f"combined_sql_p50_ms_{last}"],
    }
    figures.setdefault("index_mb_100k", np.nan)
    figures["index_per_paper"] = figures["index_mb_100k"] / PAPER_MB
    finish(figures, options.json)


if __name__ == "__main__":
    main()
