"""Catalogs with models, numbers and sketches for the tests of the indexes; all of them real."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from sommelier.records import (
    LabelSpace,
    Measurement,
    ModelRecord,
    OutputSketch,
    ProbeSet,
    Provenance,
)
from sommelier.storage.catalog import Catalog
from sommelier.storage.resource_index import ResourceIndex
from sommelier.storage.semantic_index import SemanticIndex
from sommelier.storage.sketches import SketchStore

MEASURED, ESTIMATED, DECLARED = Provenance


def add_models(catalog: Catalog, count: int, *, start: int = 0) -> list[str]:
    """Ids of `count` new models named m<start>, m<start+1>, ..."""
    records = [
        ModelRecord(id=f"sha256:{number:064x}", name=f"m{number}", version="1", source="test")
        for number in range(start, start + count)
    ]
    catalog.add_models_bulk(records)
    return [record.id for record in records]


def number(model_id: str, metric: str, value: float, **context: object) -> Measurement:
    """A measurement; measured by 'test' unless the context says otherwise."""
    context = {"provenance": MEASURED, "method": "test", **context}
    return Measurement(model_id=model_id, metric=metric, value=value, **context)


def probe_set(name: str, samples: int, **fields: object) -> ProbeSet:
    defaults = {
        "dataset_id": None, "seed": 0, "synthetic": False, "labels": None, "label_space_id": None,
    }  # fmt: skip
    return ProbeSet(id=f"probes-{name}", name=name, samples=samples, **{**defaults, **fields})


def sketch(model_id: str, probes: ProbeSet, answers: ArrayLike, **fields: object) -> OutputSketch:
    """Class ids, -1 for no answer, as a sketch; vectors when `answers` has two axes."""
    answers = np.asarray(answers)
    if answers.dtype.kind == "f":
        data, kind, width = answers.astype(np.float32), "vectors", answers.shape[1]
    else:
        data, kind, width = answers.astype(np.int64).astype(np.uint32), "labels", 1
    defaults = {"exact": True, "label_space_id": None, "classes": None, "failures": 0}
    return OutputSketch(
        model_id=model_id,
        probe_set_id=probes.id,
        kind=kind,
        answers=data.tobytes(),
        width=width,
        **{**defaults, **fields},
    )


def label_space(name: str, labels: Sequence[str]) -> LabelSpace:
    return LabelSpace(id=f"labels-{name}", name=name, labels=tuple(labels))


class Shelf:
    """A catalog, its sketches and its indexes in a temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.catalog = Catalog.open(folder / "models.sommelier")
        self.sketches = SketchStore(folder / "models.sommelier.d" / "sketches", self.catalog)
        self.resources = ResourceIndex(self.catalog)
        self.semantics = SemanticIndex(self.catalog, self.sketches, self.resources)

    def answer(
        self, model_ids: Sequence[str], probes: ProbeSet, answers: ArrayLike, **fields: object
    ) -> None:
        """Store one row of `answers` per model."""
        self.sketches.add_many(
            sketch(model_id, probes, row, **fields)
            for model_id, row in zip(model_ids, np.asarray(answers), strict=True)
        )
