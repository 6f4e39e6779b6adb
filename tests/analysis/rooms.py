"""A database with models in it, as IMPORT leaves it: what tests of ANALYZE start from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from sommelier.analysis.datasets import register
from sommelier.analysis.inspection import inspect
from sommelier.analysis.jobs import AnalysisOptions, AnalysisPlan, plan_analysis
from sommelier.analysis.workers import JobSummary, Rooms, run_job
from sommelier.records import Dataset, Job, ModelRecord
from sommelier.storage.artifacts import ArtifactStore
from sommelier.storage.catalog import Catalog
from sommelier.storage.sketches import SketchStore
from sommelier.storage.tasks import TaskQueue


@contextmanager
def open_rooms(folder: Path) -> Iterator[Rooms]:
    with Catalog.open(folder / "models.sommelier") as catalog:
        yield Rooms(
            catalog,
            ArtifactStore(catalog.directory / "artifacts"),
            SketchStore(catalog.directory / "sketches", catalog),
            TaskQueue(catalog),
        )


def add_model(rooms: Rooms, path: Path, **declared: Any) -> ModelRecord:
    """The record of a model file, named after it; `declared` as in a model card."""
    found = inspect(path, {"name": path.stem, **declared})
    record = replace(found.record, artifact=rooms.artifacts.put(path))
    return rooms.catalog.add_model(record, label_space=found.label_space).record


def add_dataset(rooms: Rooms, path: Path, name: str, **options: Any) -> Dataset:
    return register(rooms.catalog, path, options, name)


def plan(rooms: Rooms, *aspects: str, **options: Any) -> AnalysisPlan:
    """The plan for all models of the catalog."""
    return plan_analysis(rooms.catalog, rooms.catalog.models(), aspects, AnalysisOptions(**options))


def run(rooms: Rooms, found: AnalysisPlan, **callbacks: Any) -> tuple[Job, JobSummary]:
    """The finished job and its summary."""
    job = rooms.queue.start_job("ANALYZE", found.tasks)
    quiet = {"progress": lambda *_: None, "cancelled": lambda: False}
    summary = run_job(rooms, job, found, **(quiet | callbacks))
    return rooms.queue.job(job.id), summary
