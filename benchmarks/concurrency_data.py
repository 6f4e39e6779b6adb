"""What the clients of benchmarks.concurrency store, and what any answer about it may say.

Writer number w stores batches: three models with three numbers and their answers each, in one
transaction, one batch after the other. So whoever sees a model of a batch has to see all of it and
every batch before it. In other transactions it moves an amount between the two models of its
family `pair`, whose sum stays, and replaces the one model of its family `moving` by its successor.
What every model answers is known beforehand, so is which ones are most like the reference.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.confidence import smallest_count
from sommelier.connection import Connection
from sommelier.records import (
    LabelSpace,
    Measurement,
    ModelRecord,
    OutputKind,
    OutputSketch,
    ProbeSet,
    Provenance,
)

WRITERS = 2
IN_BATCH = 3
FIRST = 50  # batches of each writer that are there from the beginning
MOST = 200_000  # batches of a writer; nobody gets so far
PROBES, CLASSES = 1_000, 100
LEAST_ALIKE = 600  # probes on which every model answers as the reference
ALPHA = 0.05
BASE, PAIR, MOVING = 1_000.0, 1e9, 2e9  # parameters that batches, pairs and moving models begin at
FLOPS, MEMORY = 2, 4  # times the parameters
TAIL, TOP = 4, 20  # batches, models that questions ask for
SPACE = LabelSpace("labels-c", "hundred", tuple(f"class {i}" for i in range(CLASSES)))
PROBE_SET = ProbeSet("probes-c", None, "probes", PROBES, 0, False, None, None)
REFERENCE = "reference"
Rows = Sequence[Sequence[Any]]
Prefix = Sequence[int]
"""How many batches of each writer there are."""


def tail(writer: int) -> str:
    """The newest batches of a writer."""
    return (
        f"SELECT MODELS name, params, flops, memory WHERE family = 'batch{writer}'"
        f" ORDER BY params DESC LIMIT {TAIL * IN_BATCH}"
    )


SIMILAR = (
    f"SELECT MODELS name, agreement CORR {REFERENCE} >= 70% ORDER BY agreement DESC LIMIT {TOP}"
)
FIXED = f"SELECT MODELS name, agreement ON params < {BASE + FIRST:.0f} CORR {REFERENCE} >= 80%"
PAIRED = "SELECT MODELS name, family, params WHERE family LIKE 'pair%'"
MOVED = "SELECT MODELS name, family, params WHERE family LIKE 'moving%'"
COUNTED = (
    "SELECT family, count(*) AS models, sum(params) AS params FROM models"
    " WHERE family IS NOT NULL GROUP BY family ORDER BY family"
)


class Stock:
    """All models that there are or will be; equal seeds give equal models."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        rng = np.random.default_rng(seed)
        self.base = rng.integers(0, CLASSES, PROBES, dtype=np.uint32)
        size = (WRITERS, MOST, IN_BATCH)
        self.alike = rng.integers(LEAST_ALIKE, PROBES, size, endpoint=True)

    # ---- what is stored

    def prepare(self, db: Connection) -> None:
        """Fill an empty database with what is there from the beginning."""
        with db.catalog.transaction():
            db.catalog.add_label_space(SPACE)
            db.catalog.add_probe_set(PROBE_SET)
            reference = self._record(REFERENCE, None)
            db.catalog.add_model(reference)
            db.sketches.add(self._sketch(reference, PROBES))
            for writer in range(WRITERS):
                for half in ("left", "right"):
                    self._plain(db, f"{half}{writer}", f"pair{writer}", PAIR)
                self._plain(db, f"moving{writer}_0", f"moving{writer}", MOVING)
                self.store(db, writer, range(FIRST))

    def store(self, db: Connection, writer: int, batches: range) -> None:
        """Some batches, in one transaction."""
        places = [(batch, place) for batch in batches for place in range(IN_BATCH)]
        records = [self._record(f"m{writer}_{i}_{k}", f"batch{writer}") for i, k in places]
        with db.catalog.transaction():
            if len(batches) > 1:
                db.catalog.add_models_bulk(records)
            else:
                for record in records:
                    db.catalog.add_model(record)
            db.catalog.add_measurements(
                number
                for record, (batch, _) in zip(records, places, strict=True)
                for number in _numbers(record, BASE + batch)
            )
            db.sketches.add_many(
                self._sketch(record, int(self.alike[writer, batch, place]))
                for record, (batch, place) in zip(records, places, strict=True)
            )

    def pay(self, db: Connection, writer: int, step: int) -> None:
        """Move one more between the two of a pair."""
        with db.catalog.transaction():
            for half, amount in (("left", step), ("right", -step)):
                record = self._record(f"{half}{writer}", f"pair{writer}")
                db.catalog.add_measurements(_numbers(record, PAIR + amount))

    def move(self, db: Connection, writer: int, step: int) -> None:
        """Replace the moving model by its successor number `step`."""
        with db.catalog.transaction():
            db.catalog.drop_model(self._record(f"moving{writer}_{step - 1}", None).id)
            self._plain(db, f"moving{writer}_{step}", f"moving{writer}", MOVING + step)

    def _plain(self, db: Connection, name: str, family: str, params: float) -> None:
        record = self._record(name, family)
        db.catalog.add_model(record)
        db.catalog.add_measurements(_numbers(record, params))

    def _record(self, name: str, family: str | None) -> ModelRecord:
        digest = hashlib.sha256(f"{self.seed}/{name}".encode()).hexdigest()
        return ModelRecord(
            id=f"sha256:{digest}",
            name=name,
            version="1",
            source="benchmark",
            family=family,
            output_kind=OutputKind.CLASSIFICATION,
            label_space_id=SPACE.id,
        )

    def _sketch(self, record: ModelRecord, alike: int) -> OutputSketch:
        answers = self.base.copy()
        answers[alike:] = (answers[alike:] + 1) % CLASSES
        return OutputSketch(
            model_id=record.id,
            probe_set_id=PROBE_SET.id,
            kind="labels",
            answers=answers.tobytes(),
            width=1,
            exact=True,
            label_space_id=SPACE.id,
            classes=CLASSES,
        )

    # ---- what answers may say; each function answers what is wrong, in words

    def wrong_tail(self, writer: int, rows: Rows) -> tuple[list[str], int]:
        """Also how many batches of the writer the answer shows."""
        newest = int(max((row[1] for row in rows), default=BASE - 1) - BASE)
        expected = [
            (f"m{writer}_{batch}_{place}", BASE + batch, FLOPS * (BASE + batch),
             MEMORY * (BASE + batch))
            for batch in range(newest, newest - TAIL, -1)
            for place in range(IN_BATCH)
        ]  # fmt: skip
        found = sorted(map(tuple, rows), key=lambda row: (-row[1], row[0]))
        if found == expected:
            return [], newest + 1
        return [f"of writer {writer} {_difference(found, expected)}"], newest + 1

    def wrong_similar(self, rows: Rows, least: Prefix, most: Prefix) -> list[str]:
        """least, most : between which numbers of batches the catalog was when it was asked."""
        wrong = []
        for name, agreement in rows:
            if agreement is None or round(agreement * PROBES) != self._alike(name, most):
                wrong.append(f"{name} with the agreement {agreement}")
        shown = {name for name, _ in rows}
        last = min((agreement for _, agreement in rows if agreement is not None), default=0)
        for name, alike in self._best(least):
            if alike > round(last * PROBES) and name not in shown:
                wrong.append(f"{name}, which agrees on {alike} probes, is not among the best")
        return wrong if len(rows) == TOP else [*wrong, f"{len(rows)} rows instead of {TOP}"]

    def wrong_fixed(self, rows: Rows) -> list[str]:
        """The same few models whatever else there is."""
        needed = smallest_count(PROBES, 0.8, ALPHA / (WRITERS * FIRST * IN_BATCH))
        expected = {
            (name, alike) for name, alike in self._names([FIRST] * WRITERS) if alike >= needed
        }
        found = {(name, round(agreement * PROBES)) for name, agreement in rows}
        return [] if found == expected else [_difference(found, expected)]

    def all_alike(self, prefix: Prefix) -> dict[str, int]:
        """On how many probes each model of these batches answers as the reference."""
        return dict(self._names(prefix))

    def _alike(self, name: str, most: Prefix) -> int | None:
        words = name.removeprefix("m").split("_")
        if len(words) != 3 or not all(word.isdigit() for word in words):
            return None
        writer, batch, place = map(int, words)
        return int(self.alike[writer, batch, place]) if batch < most[writer] else None

    def _names(self, prefix: Prefix) -> Iterator[tuple[str, int]]:
        for writer, batches in enumerate(prefix):
            for batch, row in enumerate(self.alike[writer, :batches].tolist()):
                for place, alike in enumerate(row):
                    yield f"m{writer}_{batch}_{place}", alike

    def _best(self, prefix: Prefix) -> Iterator[tuple[str, int]]:
        """The most alike of these batches: the best of each writer are enough."""
        for writer, batches in enumerate(prefix):
            flat: NDArray[np.int64] = self.alike[writer, :batches].reshape(-1)
            for number in np.argsort(-flat, kind="stable")[:TOP].tolist():
                batch, place = divmod(number, IN_BATCH)
                yield f"m{writer}_{batch}_{place}", int(flat[number])


def wrong_pairs(rows: Rows) -> list[str]:
    """Two models a family, and the sum that was there from the beginning."""
    return [
        f"{family}: {found}"
        for family, found in _families("pair", rows)
        if len(found) != 2 or None in found or sum(found) != 2 * PAIR
    ]


def wrong_moving(rows: Rows) -> tuple[list[str], list[float]]:
    """One model a family; also how far each has moved."""
    told = list(_families("moving", rows))
    wrong = [f"{family}: {found}" for family, found in told if len(found) != 1 or None in found]
    return wrong, [0.0 if wrong else found[0] for _, found in told]


def wrong_counts(rows: Rows) -> tuple[list[str], list[int]]:
    """Sums and counts of catalog SQL fit together; also how many batches of each writer it saw."""
    told = {family: (int(models), float(params)) for family, models, params in rows}
    wrong, seen = [], []
    for writer in range(WRITERS):
        models, _ = told.get(f"batch{writer}", (0, 0.0))
        batches = models // IN_BATCH
        seen.append(batches)
        expected = {
            f"batch{writer}": (
                IN_BATCH * batches,
                IN_BATCH * (batches * BASE + batches * (batches - 1) / 2),
            ),
            f"pair{writer}": (2, 2 * PAIR),
        }
        wrong += [
            f"{family}: {told.get(family)}, not {value}"
            for family, value in expected.items()
            if told.get(family) != value
        ]
        if told.get(f"moving{writer}", (0, 0.0))[0] != 1:
            wrong.append(f"moving{writer}: {told.get(f'moving{writer}')}")
    return wrong, seen


def _families(kind: str, rows: Rows) -> Iterator[tuple[str, list[Any]]]:
    for writer in range(WRITERS):
        family = f"{kind}{writer}"
        yield family, [params for _, named, params in rows if named == family]


def _numbers(record: ModelRecord, params: float) -> Iterator[Measurement]:
    for metric, times in (("params", 1), ("flops", FLOPS), ("memory", MEMORY)):
        yield Measurement(
            record.id, metric, times * params, Provenance.MEASURED, "benchmark",
            **({"batch": 1} if metric == "memory" else {}),
        )  # fmt: skip


def _difference(found: Iterable[object], expected: Iterable[object]) -> str:
    found, expected = set(found), set(expected)
    few = [sorted(map(str, part))[:3] for part in (expected - found, found - expected)]
    return f"missing {few[0]}, there {few[1]} ({len(found)} of {len(expected)} rows)"
