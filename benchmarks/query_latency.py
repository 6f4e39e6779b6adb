"""How long is a question, from its text to its rows, and how far from what a person could write?

Generated repositories of 1 000, 10 000 and 100 000 models (benchmarks/repositories.py) in a real
database. Three kinds of questions, warm, each with other numbers than the one before:
  resource  bounds on memory, FLOPs and latency, the ten smallest
  semantic  the ten most similar above an equivalence, best first
  combined  both, relative to the reference: Sommelier's figure 6
beside (a) a hand-written DuckDB query over one plain table that holds every reference's agreements
as columns, and is told the smallest agreement count that the confidence asks for, and (b) a scan of
the same columns with numpy. `recall` is the share of (a)'s answers that Sommelier gives too, and is
1 only if every answer of every question is the same.

The systems take turns of 20 questions. `mixed` is the combined question when they take turns of
one: DuckDB's threads and the scans then empty the processor's caches before every answer.

Figures: combined_p50_ms_100k, sql_p50_ms_100k, numpy_p50_ms_100k, recall, and the others alike.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np
from numpy.typing import NDArray

from benchmarks.report import arguments, finish, table
from benchmarks.repositories import DEVICE, PROBES, Repository, generate, store
from sommelier.analysis.confidence import smallest_count
from sommelier.connection import Connection

KINDS = ("resource", "semantic", "combined")
REFERENCES = 8
TOP = 10
TURN = 20  # questions that a system answers in a row
ALPHA = 0.05  # the language's default confidence is 95 %
LABELS = {1_000: "1k", 10_000: "10k", 100_000: "100k"}
Answer = list[str]
Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Question:
    """One question as text and numbers. Bounds are absolute; least : agreements, -1 = no CORR."""

    text: str
    memory: float
    flops: float
    latency: float
    reference: int
    least: int


@dataclass(frozen=True, slots=True)
class System:
    """Something that answers: names, best first."""

    name: str
    ask: Callable[[Question], Answer]


class Columns:
    """The repository as plain arrays, with the agreements of each reference precomputed."""

    def __init__(self, repository: Repository, rng: np.random.Generator) -> None:
        self.repository = repository
        numbers = repository.numbers
        self.memory, self.flops = numbers["memory"], numbers["flops"]
        self.latency = numbers["latency"]
        known = ~np.isnan(self.flops) & (self.memory > np.median(self.memory))
        self.references = rng.choice(np.flatnonzero(known), REFERENCES, replace=False)
        answers = repository.answers
        self.agreements = np.stack([agreements(answers, answers[row]) for row in self.references])
        self.names = np.array(repository.names, dtype=object)
        self.name_rank = np.argsort(np.argsort(self.names))

    def mask(self, question: Question) -> NDArray[np.bool_]:
        """The rows within the question's resource bounds, its reference left out."""
        mask = np.ones(len(self.memory), dtype=bool)
        if question.memory < np.inf:
            mask = (self.memory < question.memory) & (self.flops <= question.flops)
        if question.latency < np.inf:
            mask &= self.latency < question.latency
        if question.reference >= 0:
            mask[self.references[question.reference]] = False
        return mask

    def scan(self, question: Question) -> Answer:
        """The answer by comparing whole columns."""
        mask = self.mask(question)
        if question.least < 0:
            keys = [self.memory]
        else:
            agreements = self.agreements[question.reference]
            mask &= agreements >= question.least
            keys = [-agreements, self.memory]
        rows = np.flatnonzero(mask)
        if len(rows) > TOP:  # ties of the first key are all kept
            first = keys[0][rows]
            rows = rows[first <= np.partition(first, TOP - 1)[TOP - 1]]
        order = np.lexsort((self.name_rank[rows], *(key[rows] for key in reversed(keys))))
        names: Answer = self.names[rows[order[:TOP]]].tolist()
        return names


def agreements(answers: NDArray[np.uint16], one: NDArray[np.uint16]) -> NDArray[np.int64]:
    """On how many probes each row of `answers` (n, probes) says what `one` (probes,) says."""
    parts = np.array_split(answers, max(1, len(answers) // 2_000))
    return np.concatenate([np.count_nonzero(part == one, axis=1) for part in parts])


class PlainTable:
    """The columns in DuckDB, as a person would store them to ask these questions only."""

    def __init__(self, columns: Columns) -> None:
        self._connection = duckdb.connect()
        arrays = {
            "name": columns.names,
            "memory": columns.memory,
            "flops": columns.flops,
            "latency": columns.latency,
            **{f"agree{i}": column for i, column in enumerate(columns.agreements)},
        }
        self._connection.register("arrays", arrays)
        self._connection.execute(
            "CREATE TABLE models AS SELECT * REPLACE (nullif(flops, 'nan') AS flops,"
            " nullif(latency, 'nan') AS latency) FROM arrays"
        )
        self._connection.unregister("arrays")
        self.names = columns.names
        self._names = columns.names[columns.references].tolist()

    def ask(self, question: Question) -> Answer:
        """The answer of one hand-written query."""
        bounds: dict[str, float | str] = {}
        if question.memory < np.inf:
            bounds |= {"memory < ?": question.memory, "flops <= ?": question.flops}
        if question.latency < np.inf:
            bounds["latency < ?"] = question.latency
        order = "memory, name"
        if question.least >= 0:
            agree = f"agree{question.reference}"
            bounds[f"{agree} >= ?"] = question.least
            bounds["name <> ?"] = self._names[question.reference]
            order = f"{agree} DESC, {order}"
        found = self._connection.execute(
            f"SELECT name FROM models WHERE {' AND '.join(bounds)} ORDER BY {order} LIMIT {TOP}",
            list(bounds.values()),
        )
        return [name for (name,) in found.fetchall()]

    def add(self, name: str, column: NDArray[np.float64]) -> NDArray[np.object_]:
        """Add a column of numbers, NaN = NULL; the names in the order of its rows."""
        arrays = {"name": self.names, name: column}
        self._connection.register("arrays", arrays)
        self._connection.execute(
            f"CREATE OR REPLACE TABLE models AS SELECT m.*, nullif(a.{name}, 'nan') AS {name}"
            " FROM models m POSITIONAL JOIN arrays a"
        )
        self._connection.unregister("arrays")
        return self.names

    def rows(self, sql: str, values: Sequence[float]) -> Answer:
        """The first column of another hand-written query."""
        return [name for (name,) in self._connection.execute(sql, list(values)).fetchall()]

    def close(self) -> None:
        """Free the table."""
        self._connection.close()


def questions(columns: Columns, kind: str, count: int, rng: np.random.Generator) -> list[Question]:
    """`count` questions of a kind, no two with the same numbers."""
    make = {"resource": _resource, "semantic": _semantic, "combined": _combined}[kind]
    return [make(columns, i % REFERENCES, rng) for i in range(count)]


def _resource(columns: Columns, _: int, rng: np.random.Generator) -> Question:
    memory = round(float(np.quantile(columns.memory, rng.uniform(0.2, 0.8))) / 1e6, 3)
    flops = round(float(np.nanquantile(columns.flops, rng.uniform(0.2, 0.8))) / 1e9, 3)
    latency = round(float(np.nanquantile(columns.latency, rng.uniform(0.2, 0.8))), 3)
    text = (
        f"SELECT MODELS name, memory ON memory < {memory} MB AND flops <= {flops} GFLOPs"
        f" AND latency < {latency} ms ON '{DEVICE}' ORDER BY memory LIMIT {TOP}"
    )
    return Question(text, memory * 1e6, flops * 1e9, latency, -1, -1)


def _semantic(columns: Columns, reference: int, rng: np.random.Generator) -> Question:
    threshold = round(rng.uniform(80, 95), 2)
    name = columns.names[columns.references[reference]]
    text = f"SELECT MODELS name, equivalence CORR {name} >= {threshold}% LIMIT {TOP}"
    least = smallest_count(PROBES, threshold / 100, ALPHA / (len(columns.names) - 1))
    return Question(text, np.inf, np.inf, np.inf, reference, least)


def _combined(columns: Columns, reference: int, rng: np.random.Generator) -> Question:
    threshold, memory, flops = (round(rng.uniform(*r), 2) for r in ((80, 92), (60, 95), (40, 90)))
    row = columns.references[reference]
    text = (
        f"SELECT MODEL name, equivalence, memory CORR {columns.names[row]} >= {threshold}%"
        f" ON memory < {memory}% AND flops <= {flops}% PICK MOST SIMILAR TOP {TOP}"
    )
    bounds = Question(
        text,
        memory=memory / 100 * float(columns.memory[row]),
        flops=flops / 100 * float(columns.flops[row]),
        latency=np.inf,
        reference=reference,
        least=0,
    )
    compared = max(1, int(columns.mask(bounds).sum()))
    least = smallest_count(PROBES, threshold / 100, ALPHA / compared)
    return Question(text, bounds.memory, bounds.flops, np.inf, reference, least)


def sommelier(db: Connection) -> System:
    """Our own answer: text in, rows out."""
    return System("sommelier", lambda q: [row[0] for row in db.query(q.text).fetchall()])


def times_of(systems: list[System], asked: list[Question], turn: int) -> NDArray[np.float64]:
    """(systems, questions) milliseconds. Systems take turns of `turn` questions, so that what else
    the machine does hits all alike."""
    times = np.empty((len(systems), len(asked)))
    for first in range(0, len(asked), turn):
        for row, system in enumerate(systems):
            for number in range(first, min(first + turn, len(asked))):
                start = time.perf_counter()
                system.ask(asked[number])
                times[row, number] = (time.perf_counter() - start) * 1e3
    return times


def check(systems: list[System], asked: list[Question]) -> tuple[float, float]:
    """(common answers / all answers of Sommelier and SQL, mean answers), asking every question.

    Raises AssertionError if the two hand-written systems differ, for then neither is a judge.
    """
    common = total = given = 0
    for question in asked:
        ours, sql, scan = (system.ask(question) for system in systems)
        assert sql == scan, question
        common += len(set(ours) & set(sql))
        total += len(set(ours) | set(sql))
        given += len(sql)
    return (common / total if total else 1.0), given / len(asked)


def measure(count: int, seed: int, repeats: int) -> tuple[list[list[str | float]], Figures]:
    """The rows of the table and the figures for a repository of `count` models."""
    rng = np.random.default_rng(seed)
    repository = generate(count, seed)
    columns = Columns(repository, rng)
    plain = PlainTable(columns)
    rows: list[list[str | float]] = []
    figures: Figures = {}
    with tempfile.TemporaryDirectory() as folder:
        db = store(repository, Path(folder) / "models.sommelier")
        try:
            systems = [sommelier(db), System("sql", plain.ask), System("numpy", columns.scan)]
            for kind in KINDS:
                asked = questions(columns, kind, repeats, rng)
                recall, given = check(systems, asked[: max(REFERENCES, repeats // 4)])
                times = times_of(systems, asked, TURN)
                for system, taken in zip(systems, times, strict=True):
                    p50, p99 = (float(np.percentile(taken, p)) for p in (50, 99))
                    rows.append([f"{LABELS[count]} {kind}", system.name, p50, p99, given, recall])
                    name = _figure(system.name, kind)
                    figures[f"{name}_p50_ms_{LABELS[count]}"] = p50
                    figures[f"{name}_p99_ms_{LABELS[count]}"] = p99
                figures["recall"] = min(figures.get("recall", 1.0), recall)
            mixed = times_of(systems, asked, 1)[0]  # of the last kind, combined
            figures[f"mixed_p50_ms_{LABELS[count]}"] = float(np.median(mixed))
        finally:
            db.close()
            plain.close()
    return rows, figures


def _figure(system: str, kind: str) -> str:
    """combined (ours), sql and numpy (the combined question, too), else with both names."""
    if system == "sommelier":
        return kind
    return system if kind == "combined" else f"{system}_{kind}"


def main() -> None:
    parser = arguments("p50 and p99 of resource, semantic and combined questions, warm")
    options = parser.parse_args()
    sizes = [1_000, 10_000] if options.quick else [1_000, 10_000, 100_000]
    repeats = 100 if options.quick else 400
    rows: list[list[str | float]] = []
    figures: Figures = {"recall": 1.0}
    for size in sizes:
        more, found = measure(size, options.seed, repeats)
        rows += more
        figures |= found | {"recall": min(figures["recall"], found["recall"])}
    header = ("question", "system", "p50 ms", "p99 ms", "answers", "recall")
    print(table(f"{repeats} questions a kind, warm, parse to rows", header, rows))
    last = LABELS[sizes[-1]]
    figures["combined_per_sql"] = figures[f"combined_p50_ms_{last}"] / figures[f"sql_p50_ms_{last}"]
    finish(figures, options.json)


if __name__ == "__main__":
    main()
