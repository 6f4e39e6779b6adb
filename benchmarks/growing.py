"""Repositories of up to ten million models that grow as real ones do, written in chunks.

timm_families.json holds what timm's result tables and the ONNX model zoo say: how large families
are, how resources and accuracy vary between families and within one, the shares of tasks and
opsets. A repository of N models has 142 * sqrt(N / 1434) families, 142 and 1434 being timm's, with
sizes drawn from timm's: families become more, and larger. Answers are not in those tables: families
depart from a common base on 5 to 40 % of the probes, members from their family on up to 12 %.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.repositories import CLASSES, DATASET, DEVICE, PROBES, Repository
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

TABLE: dict[str, Any] = json.loads(Path(__file__).with_name("timm_families.json").read_text())
METRICS = ("params", "flops", "memory", "latency", "accuracy")
NO_LATENCY, NO_FLOPS = 0.2, 0.02  # shares of models without the number
DEPARTS = (0.05, 0.4)  # of a family from the base
STRAYS = 0.12  # of a member from its family, at most
STORED = 20_000  # models in one transaction
PROBE_SET = ProbeSet("probes", None, DATASET, PROBES, 0, False, None, None)
SPACE = LabelSpace("imagenet-1k", "imagenet-1k", tuple(f"class {i}" for i in range(CLASSES)))
_CONTEXTS: dict[str, dict[str, Any]] = {
    "latency": {"device": DEVICE, "batch": 1, "percentile": 50},
    "accuracy": {"dataset": DATASET},
    "memory": {"batch": 1},
}


@dataclass(slots=True)
class Growing:
    """A repository in columns; answers are made when they are stored.

    family : (n,) numbers. numbers : metric -> (n,) base units, NaN unknown. seconds : what storing
    took, by kind of thing, without making it.
    """

    seed: int
    family: NDArray[np.int64]
    numbers: dict[str, NDArray[np.float64]]
    tasks: NDArray[np.int64]
    opsets: NDArray[np.int64]
    seconds: dict[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.family)

    def name(self, row: int) -> str:
        return f"family{self.family[row]}_{row}"

    def id(self, row: int) -> str:
        return "sha256:" + hashlib.sha256(f"{self.seed}/{row}".encode()).hexdigest()

    def answers(self, start: int, stop: int) -> NDArray[np.uint16]:
        """(stop - start, PROBES) class ids; the same rows give the same answers."""
        rng = np.random.default_rng([self.seed, start, 1])
        base = np.random.default_rng([self.seed, 2]).integers(0, CLASSES, PROBES, dtype=np.uint16)
        families, member = np.unique(self.family[start:stop], return_inverse=True)
        rows = np.stack([self._home(int(family), base) for family in families])[member]
        shares = rng.uniform(0, STRAYS, (stop - start, 1)).astype(np.float32)
        departs = rng.random(rows.shape, dtype=np.float32) < shares
        rows[departs] = rng.integers(0, CLASSES, int(departs.sum()), dtype=np.uint16)
        return rows

    def _home(self, family: int, base: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """What the family answers: the base, but on its share of the probes."""
        rng = np.random.default_rng([self.seed, family, 3])
        departs = rng.random(PROBES) < rng.uniform(*DEPARTS)
        return np.where(departs, rng.integers(0, CLASSES, PROBES, dtype=np.uint16), base)

    def as_repository(self, answers: NDArray[np.uint16]) -> Repository:
        """The same as query_latency's questions take it. answers : (n, PROBES), maybe a map."""
        rows = range(len(self))
        return Repository(
            names=[self.name(row) for row in rows],
            ids=[self.id(row) for row in rows],
            families=[],
            numbers=self.numbers,
            answers=answers,
        )


def grow(count: int, seed: int) -> Growing:
    """A repository of `count` models."""
    rng = np.random.default_rng(seed)
    families = max(2, round(len(TABLE["family_sizes"]) * (count / TABLE["models"]) ** 0.5))
    sizes = rng.choice(np.array(TABLE["family_sizes"], dtype=np.float64), families)
    family = rng.choice(families, count, p=sizes / sizes.sum())
    centres = rng.multivariate_normal(TABLE["between_mean"], TABLE["between_covariance"], families)
    strays = rng.multivariate_normal(np.zeros(5), TABLE["within_covariance"], count)
    logs = centres[family] + strays
    params, flops, activations, latency = np.exp(logs[:, :4]).T
    accuracy = np.clip(logs[:, 4], 0.1, 0.95)
    flops[rng.random(count) < NO_FLOPS] = np.nan
    latency[rng.random(count) < NO_LATENCY] = np.nan
    accuracy[rng.random(count) >= TABLE["accuracy_known"]] = np.nan
    columns = np.round(params), flops, 4 * np.round(params) + activations, latency, accuracy
    return Growing(
        seed=seed,
        family=family,
        numbers=dict(zip(METRICS, columns, strict=True)),
        tasks=_drawn(rng, TABLE["tasks"], count),
        opsets=_drawn(rng, TABLE["opsets"], count),
    )


def store(growing: Growing, db: Connection, *, answers: bool = True) -> None:
    """Put the models into an empty database, as if imported and analysed; `seconds` is filled."""
    with db.catalog.transaction():
        db.catalog.add_label_space(SPACE)
        db.catalog.add_probe_set(PROBE_SET)
    spent = dict.fromkeys(("models", "measurements", "answers"), 0.0)
    for start in range(0, len(growing), STORED):
        rows = range(start, min(start + STORED, len(growing)))
        records = [record(growing, row) for row in rows]
        numbers = list(measurements(growing, rows))
        begun = time.perf_counter()
        db.catalog.add_models_bulk(records)
        added = time.perf_counter()
        db.catalog.add_measurements(numbers)
        spent["models"] += added - begun
        spent["measurements"] += time.perf_counter() - added
        if answers:
            sketches = list(_sketches(growing, rows))
            begun = time.perf_counter()
            db.sketches.add_many(sketches)
            spent["answers"] += time.perf_counter() - begun
    growing.seconds.update(spent)


def record(growing: Growing, row: int) -> ModelRecord:
    """A model's metadata."""
    return ModelRecord(
        id=growing.id(row),
        name=growing.name(row),
        version="1",
        source="table",
        task=list(TABLE["tasks"])[growing.tasks[row]].lower(),
        family=f"family{growing.family[row]}",
        license="apache-2.0" if row % 3 else "mit",
        format="onnx",
        output_kind=OutputKind.CLASSIFICATION,
        label_space_id=SPACE.id,
        opset=int(list(TABLE["opsets"])[growing.opsets[row]]),
    )


def measurements(growing: Growing, rows: range) -> Iterator[Measurement]:
    """The known numbers of some models."""
    ids = [growing.id(row) for row in rows]
    for metric, values in growing.numbers.items():
        context = _CONTEXTS.get(metric, {})
        part = values[rows.start : rows.stop].tolist()
        for model_id, value in zip(ids, part, strict=True):
            if value == value:  # known
                yield Measurement(
                    model_id, metric, value, Provenance.MEASURED, "generated", **context
                )


def sketch(growing: Growing, row: int, answers: NDArray[np.uint16]) -> OutputSketch:
    """What a model answered, to be kept. answers : (PROBES,)"""
    return OutputSketch(
        model_id=growing.id(row),
        probe_set_id=PROBE_SET.id,
        kind="labels",
        answers=answers.astype(np.uint32).tobytes(),
        width=1,
        exact=True,
        label_space_id=SPACE.id,
        classes=CLASSES,
    )


def _sketches(growing: Growing, rows: range) -> Iterator[OutputSketch]:
    for row, answers in zip(rows, growing.answers(rows.start, rows.stop), strict=True):
        yield sketch(growing, row, answers)


def _drawn(rng: np.random.Generator, counts: dict[str, int], size: int) -> NDArray[np.int64]:
    """Numbers of words, as often as they were counted."""
    shares = np.array(list(counts.values()), dtype=np.float64)
    return np.asarray(rng.choice(len(shares), size, p=shares / shares.sum()), dtype=np.int64)
