"""Repositories of any size whose numbers are distributed as in real ones, in a real database."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sommelier.connection import Connection, connect
from sommelier.records import (
    LabelSpace,
    Measurement,
    ModelRecord,
    OutputKind,
    OutputSketch,
    ProbeSet,
    Provenance,
)

DEVICE = "cpu"
DATASET = "imagenet"
PROBES = 2_048
CLASSES = 1_000
FAMILIES = (
    "resnet", "efficientnet", "byobnet", "vit", "xcit", "regnet", "convnext", "mobilenetv3", "vgg",
    "cspnet", "swin", "densenet", "maxvit", "levit", "inception", "squeezenet",
)  # fmt: skip
CHUNK = 5_000

# Natural logarithms of (params, FLOPs, activation bytes, milliseconds) of the 1 434 models of
# timm's benchmark-infer-fp32-nchw-pt240-cpu-i9_10940x-dynamo.csv: their mean and covariance.
LOG_MEAN = (17.347, 23.417, 18.379, 3.496)
LOG_COVARIANCE = (
    (1.863, 2.328, 1.450, 1.511),
    (2.328, 3.420, 2.257, 2.132),
    (1.450, 2.257, 1.798, 1.535),
    (1.511, 2.132, 1.535, 1.540),
)
TIMM = "data/timm/benchmark-infer-fp32-nchw-pt240-cpu-i9_10940x-dynamo.csv"


@dataclass(frozen=True, slots=True)
class Repository:
    """Generated models, as columns: row i is the model `names[i]`.

    numbers : metric -> (n,) base units, NaN unknown. answers : (n, PROBES) uint16 class ids.
    """

    names: list[str]
    ids: list[str]
    families: list[str]
    numbers: dict[str, NDArray[np.float64]]
    answers: NDArray[np.uint16]


def generate(count: int, seed: int) -> Repository:
    """A repository of `count` models, log-normal in resources, answering like their families.

    The distribution is fitted to timm's table when SOMMELIER_ZOO is set, and LOG_MEAN otherwise.
    A fifth has no latency; one in fifty has no FLOPs.
    """
    rng = np.random.default_rng(seed)
    mean, covariance = _distribution()
    params, flops, activations, latency = np.exp(rng.multivariate_normal(mean, covariance, count)).T
    flops[rng.random(count) < 0.02] = np.nan
    latency[rng.random(count) < 0.2] = np.nan
    family = rng.integers(0, len(FAMILIES), count)
    return Repository(
        names=[f"{FAMILIES[f]}_{i}" for i, f in enumerate(family.tolist())],
        ids=[f"sha256:{i:064x}" for i in range(count)],
        families=[FAMILIES[f] for f in family.tolist()],
        numbers={
            "params": np.round(params),
            "flops": flops,
            "memory": 4 * np.round(params) + activations,
            "latency": latency,
            "accuracy": np.clip(rng.normal(0.81, 0.053, count), 0.1, 0.95),
        },
        answers=_answers(rng, family),
    )


def store(repository: Repository, path: Path) -> Connection:
    """The repository in a database at `path`, as if imported and analysed; the open connection."""
    db = connect(path)
    space = LabelSpace("imagenet-1k", "imagenet-1k", tuple(f"class {i}" for i in range(CLASSES)))
    probes = ProbeSet("probes", None, DATASET, PROBES, 0, False, None, None)
    with db.catalog.transaction():
        db.catalog.add_label_space(space)
        db.catalog.add_probe_set(probes)
        db.catalog.add_models_bulk(_record(repository, row) for row in range(len(repository.ids)))
        db.catalog.add_measurements(_measurements(repository))
    for start in range(0, len(repository.ids), CHUNK):
        db.sketches.add_many(
            OutputSketch(
                model_id=repository.ids[row],
                probe_set_id=probes.id,
                kind="labels",
                answers=repository.answers[row].astype(np.uint32).tobytes(),
                width=1,
                exact=True,
                label_space_id=space.id,
                classes=CLASSES,
            )
            for row in range(start, min(start + CHUNK, len(repository.ids)))
        )
    return db


def _distribution() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    zoo = os.environ.get("SOMMELIER_ZOO")
    file = Path(zoo) / TIMM if zoo else None
    if file is None or not file.exists():
        return np.array(LOG_MEAN), np.array(LOG_COVARIANCE)
    scales = {"param_count": 1e6, "infer_gmacs": 2e9, "infer_macts": 4e6, "infer_step_time": 1.0}
    with file.open() as stream:
        table = np.array(
            [
                [float(row[name].replace(",", "") or 0) * scale for name, scale in scales.items()]
                for row in csv.DictReader(stream)
            ]
        )
    logs = np.log(table[(table > 0).all(axis=1)])
    return logs.mean(axis=0), np.cov(logs.T)


def _answers(rng: np.random.Generator, family: NDArray[np.int64]) -> NDArray[np.uint16]:
    """(n, PROBES) answers: families depart from one base by up to 40 %, members by up to 12 %."""
    base = rng.integers(0, CLASSES, PROBES)
    answers = np.empty((len(family), PROBES), dtype=np.uint16)
    homes = np.empty((len(FAMILIES), PROBES), dtype=np.uint16)
    for home, share in zip(homes, np.linspace(0.0, 0.4, len(FAMILIES)), strict=True):
        home[:] = np.where(rng.random(PROBES) < share, rng.integers(0, CLASSES, PROBES), base)
    for start in range(0, len(family), CHUNK):
        part = family[start : start + CHUNK]
        shares = rng.uniform(0, 0.12, (len(part), 1)).astype(np.float32)
        departs = rng.random((len(part), PROBES), dtype=np.float32) < shares
        chunk = homes[part]
        chunk[departs] = rng.integers(0, CLASSES, int(departs.sum()), dtype=np.uint16)
        answers[start : start + CHUNK] = chunk
    return answers


def _record(repository: Repository, row: int) -> ModelRecord:
    return ModelRecord(
        id=repository.ids[row],
        name=repository.names[row],
        version="1",
        source="table",
        task="image-classification",
        family=repository.families[row],
        license="apache-2.0" if row % 3 else "mit",
        format="onnx",
        output_kind=OutputKind.CLASSIFICATION,
        label_space_id="imagenet-1k",
    )


def _measurements(repository: Repository) -> Iterator[Measurement]:
    contexts: dict[str, dict[str, object]] = {
        "latency": {"device": DEVICE, "batch": 1, "percentile": 50},
        "accuracy": {"dataset": DATASET},
        "memory": {"batch": 1},
    }
    for metric, values in repository.numbers.items():
        context = contexts.get(metric, {})
        for row, value in enumerate(values.tolist()):
            if value == value:  # known
                yield Measurement(
                    repository.ids[row], metric, value, Provenance.MEASURED, "generated", **context
                )
