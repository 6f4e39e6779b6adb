"""A small real catalog: ten models, their numbers in contexts, and answers to 1 000 probes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sommelier.engine.result import Report, Result, Table
from sommelier.engine.session import Session
from sommelier.grammar.parser import parse
from sommelier.records import (
    Device,
    LabelSpace,
    Measurement,
    ModelRecord,
    OutputSketch,
    ProbeSet,
    Provenance,
    ResourceProfile,
)
from sommelier.storage.catalog import Catalog
from sommelier.storage.sketches import SketchStore
from tests.engine.cascade_bench import CascadeBench, fill_cascades
from tests.engine.link_bench import LinkBench, fill_audio

PROBES = 1000
MEASURED, ESTIMATED, DECLARED = Provenance
LABELS = LabelSpace("labels-ten", "ten", tuple(f"class {i}" for i in range(10)))


@dataclass(frozen=True)
class Specimen:
    """A model of the catalog below; None is unknown. wrong : disagreements with resnet50."""

    name: str
    version: str = "1"
    task: str | None = "image-classification"
    family: str | None = "resnet"
    memory_mb: float | None = None
    gflops: float | None = None
    mparams: float | None = None
    accuracy: float | None = None
    wrong: int | None = None
    license: str | None = "MIT"
    tags: tuple[str, ...] = ()
    latency: tuple[tuple[str, int, float], ...] = ()  # device, percentile, ms

    @property
    def id(self) -> str:
        return f"sha256:{abs(hash_of(self.name + self.version)):064x}"


def hash_of(text: str) -> int:
    """A number for text, the same in every run."""
    return int.from_bytes(text.encode(), "big")


CPU_GPU = (("cpu", 50, 30.0), ("cpu", 99, 45.0), ("cuda:0", 50, 3.0))
SPECIMENS = (
    Specimen("resnet50", memory_mb=102, gflops=4.0, mparams=25, accuracy=0.76, wrong=0,
             latency=CPU_GPU),
    Specimen("resnet101", memory_mb=178, gflops=7.8, mparams=44, accuracy=0.77, wrong=20,
             latency=(("cpu", 50, 60.0), ("cpu", 99, 80.0), ("cuda:0", 50, 6.0))),
    Specimen("resnet34", memory_mb=81, gflops=3.6, mparams=21, accuracy=0.73, wrong=40,
             license="Apache-2.0", latency=(("cpu", 50, 22.0), ("cpu", 99, 50.0))),
    Specimen("resnet18", memory_mb=46, gflops=1.8, mparams=11, accuracy=0.69, wrong=90,
             latency=(("cpu", 50, 12.0),)),
    Specimen("resnet18", version="2", memory_mb=45, gflops=1.8, mparams=11, accuracy=0.70,
             wrong=80),
    Specimen("mobilenet_v2", family="mobilenet", memory_mb=14, gflops=0.6, mparams=3,
             accuracy=0.72, wrong=120, tags=("mobile", "edge"), license="Apache-2.0"),
    Specimen("vgg16", family="vgg", memory_mb=528, gflops=31, mparams=138, accuracy=0.71, wrong=150,
             license=None),
    Specimen("tinynet", family=None, gflops=0.1, mparams=1, wrong=300, tags=("mobile",)),
    Specimen("bert", task="ner", family="bert", memory_mb=440, gflops=22, mparams=110),
    Specimen("blank", task=None, family=None, license=None),
)  # fmt: skip


def record(specimen: Specimen) -> ModelRecord:
    return ModelRecord(
        id=specimen.id,
        name=specimen.name,
        version=specimen.version,
        source="table" if specimen.name == "bert" else "folder",
        task=specimen.task,
        family=specimen.family,
        license=specimen.license,
        tags=specimen.tags,
        label_space_id=LABELS.id if specimen.wrong is not None else None,
    )


def measurements(specimen: Specimen) -> Iterator[Measurement]:
    scales = (("memory", specimen.memory_mb, 1e6), ("flops", specimen.gflops, 1e9),
              ("params", specimen.mparams, 1e6))  # fmt: skip
    for metric, value, scale in scales:
        if value is not None:
            yield Measurement(specimen.id, metric, value * scale, ESTIMATED, "liveness")
    if specimen.accuracy is not None:
        yield Measurement(
            specimen.id, "accuracy", specimen.accuracy, MEASURED, "paired", dataset="imagenet"
        )
    for device, percentile, value in specimen.latency:
        yield Measurement(
            specimen.id, "latency", value, MEASURED, "onnxruntime", device=device, batch=1,
            percentile=percentile,
        )  # fmt: skip


def sketch(specimen: Specimen, probes: ProbeSet) -> OutputSketch:
    """The reference's answers with the first `wrong` ones moved to the next class."""
    answers = np.arange(PROBES) % 10
    answers[: specimen.wrong] = (answers[: specimen.wrong] + 1) % 10
    return OutputSketch(
        model_id=specimen.id,
        probe_set_id=probes.id,
        kind="labels",
        answers=answers.astype(np.uint32).tobytes(),
        width=1,
        exact=True,
        label_space_id=LABELS.id,
        classes=10,
    )


def fill(catalog: Catalog, sketches: SketchStore) -> None:
    """Everything the tests of this room ask about."""
    truth = (np.arange(PROBES) % 10).astype(np.int32).tobytes()
    probes = ProbeSet("probes-photos", None, "photos", PROBES, 0, False, truth, LABELS.id)
    with catalog.transaction():
        for specimen in SPECIMENS:
            catalog.add_model(
                record(specimen), label_space=LABELS if specimen.wrong is not None else None
            )
            catalog.add_measurements(measurements(specimen))
        catalog.add_measurements(
            [Measurement(SPECIMENS[0].id, "accuracy", 0.9, DECLARED, "card", dataset="cifar10")]
        )
        catalog.add_probe_set(probes)
        catalog.add_device(Device("jetson", 100e6, 4e11, None))
        catalog.add_device(Device("mystery", None, None, None))
        catalog.set_task_reference("image-classification", SPECIMENS[0].id)
        catalog.save_pool("edge", [SPECIMENS[4].id, SPECIMENS[5].id], "SELECT MODELS")
        catalog.save_view("small", "SELECT MODELS ON params < 20M")
        for place, specimen in enumerate(SPECIMENS[:3]):
            vector = np.array([1.0, place, 0.0, 2.0])
            catalog.add_profile(ResourceProfile(specimen.id, (vector / vector.sum()).tobytes()))
    for specimen in SPECIMENS:
        if specimen.wrong is not None:
            sketches.add(sketch(specimen, probes))


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    """A session over the filled catalog; tests that change it use `own_shelf`."""
    yield from _opened(tmp_path_factory.mktemp("shelf"))


@pytest.fixture
def own_shelf(tmp_path: Path) -> Iterator[Session]:
    """A session that a test may change."""
    yield from _opened(tmp_path)


def _opened(folder: Path) -> Iterator[Session]:
    with Catalog.open(folder / "models.sommelier") as catalog:
        sketches = SketchStore(folder / "models.sommelier.d" / "sketches", catalog)
        fill(catalog, sketches)
        yield Session.open(catalog, sketches)


Ask = Callable[..., Any]


def asker(session: Session) -> Ask:
    def ask(text: str, parameters: Any = None) -> Result | Table | Report:
        return session.answer(parse(text), parameters, text=text)

    return ask


@pytest.fixture(scope="session")
def ask(shelf: Session) -> Ask:
    """ask(text, parameters) -> the answer over the shared catalog."""
    return asker(shelf)


# ---- a catalog that a test fills with models whose answers it chooses

SAMPLES = 400
TRUTH = np.arange(SAMPLES) % 5


@dataclass
class Bench:
    """An empty catalog to put models and answers into."""

    catalog: Catalog
    sketches: SketchStore
    ask: Ask

    def probes(self, name: str, **fields: object) -> ProbeSet:
        defaults = {
            "dataset_id": "data", "samples": SAMPLES, "synthetic": False, "labels": None, "seed": 0,
        }  # fmt: skip
        probe_set = ProbeSet(
            id=f"probes-{name}", name=name, label_space_id=None, **{**defaults, **fields}
        )
        self.catalog.add_probe_set(probe_set)
        return probe_set

    def model(self, name: str, wrong: int, *probe_sets: ProbeSet, labels: str | None = None) -> str:
        """A model that answers `wrong` of the samples differently from TRUTH, on each probe set."""
        record = ModelRecord(id=f"sha256:{name}", name=name, version="1", source="test")
        self.catalog.add_model(record)
        for probe_set in probe_sets:
            self.answer(record.id, probe_set, wrong, labels=labels)
        return record.id

    def answer(
        self, model_id: str, probe_set: ProbeSet, wrong: int, *, labels: str | None = None
    ) -> None:
        """The model's answers to a probe set, `wrong` of them others than TRUTH."""
        samples = np.arange(probe_set.samples)
        answers = ((samples + (samples < wrong)) % 5).astype(np.uint32).tobytes()
        self.sketches.add(
            OutputSketch(model_id, probe_set.id, "labels", answers, 1, True, labels, 5)
        )


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with _opened_bench(tmp_path) as bench:
        yield bench


@pytest.fixture
def ladder(bench: Bench) -> Bench:
    """Models 0, 4, 8 ... 36 answers away from the reference."""
    return _with_ladder(bench)


@pytest.fixture(scope="session")
def shared_ladder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """The same, for tests that only ask."""
    with _opened_bench(tmp_path_factory.mktemp("ladder")) as bench:
        yield _with_ladder(bench)


def _with_ladder(bench: Bench) -> Bench:
    probes = bench.probes("photos")
    for step in range(10):
        bench.model(f"m{step}", 4 * step, probes)
    return bench


@contextmanager
def _opened_bench(folder: Path) -> Iterator[Bench]:
    with Catalog.open(folder / "models.sommelier") as catalog:
        sketches = SketchStore(folder / "models.sommelier.d" / "sketches", catalog)
        yield Bench(catalog, sketches, asker(Session.open(catalog, sketches)))


@pytest.fixture
def links(tmp_path: Path) -> Iterator[LinkBench]:
    """An empty catalog to put models and links into."""
    with Catalog.open(tmp_path / "models.sommelier") as catalog:
        sketches = SketchStore(tmp_path / "models.sommelier.d" / "sketches", catalog)
        yield LinkBench(catalog, sketches, asker(Session.open(catalog, sketches)))


@pytest.fixture(scope="session")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LinkBench]:
    """Models with links of every state; tests that change it use `links`."""
    folder = tmp_path_factory.mktemp("audio")
    with Catalog.open(folder / "models.sommelier") as catalog:
        sketches = SketchStore(folder / "models.sommelier.d" / "sketches", catalog)
        bench = LinkBench(catalog, sketches, asker(Session.open(catalog, sketches)))
        fill_audio(bench)
        yield bench


@pytest.fixture(scope="session")
def stairs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CascadeBench]:
    """Models of one task with cascades and deployments of every state."""
    folder = tmp_path_factory.mktemp("stairs")
    with Catalog.open(folder / "models.sommelier") as catalog:
        sketches = SketchStore(folder / "models.sommelier.d" / "sketches", catalog)
        bench = CascadeBench(Session.open(catalog, sketches))
        fill_cascades(bench)
        yield bench
