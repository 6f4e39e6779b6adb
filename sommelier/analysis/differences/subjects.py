"""A model under comparison: its file, its normal form, and the feeds that the samples become.

Inputs are an array of items, turned into what the model takes as everywhere in this package, or
ready-made model inputs by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis import datasets
from sommelier.analysis.inspection import describe
from sommelier.analysis.model_inputs import FeedPlan, feeds, plan_feeds
from sommelier.analysis.probes import Probes, dataset_probes
from sommelier.errors import AnalysisError, DatasetError, RejectedModelError
from sommelier.records import LabelSpace, ModelRecord, Preprocessing, TensorSpec

if TYPE_CHECKING:
    from onnx import ModelProto

    from sommelier.analysis.datasets import LoadedDataset

Array = NDArray[Any]
Given = Array | Mapping[str, Array]
CHANNELS_LAST = Preprocessing((("layout", {"order": "NHWC"}),), assumed=True)


@dataclass(frozen=True, slots=True)
class Subject:
    """One side of a comparison. items : None where model inputs were given by name."""

    name: str
    path: Path
    record: ModelRecord
    label_space: LabelSpace | None
    samples: int
    plan: FeedPlan | None
    items: LoadedDataset | None
    arrays: Mapping[str, Array]

    @property
    def fixed_batch(self) -> int | None:
        """Samples a run must hold; None where the file leaves it open."""
        if self.plan is not None:
            return max(1, self.plan.batch) if self.plan.fixed else None
        sizes = [s.shape[0] for s in self.record.inputs if s.shape]
        return next((d for d in sizes if isinstance(d, int)), None)

    def feeds(self, samples: int, batch: int) -> Iterator[tuple[dict[str, Array], int]]:
        """(feed, samples in it) over the first `samples`."""
        batch = self.fixed_batch or batch
        if self.plan is not None and self.items is not None:
            plan = self.plan if self.plan.fixed else _with_batch(self.plan, batch)
            yield from feeds(self.record.inputs, plan, self._probes(samples), self.items)
            return
        for start in range(0, samples, batch):
            chosen = np.arange(start, min(start + batch, samples))
            padded = np.pad(chosen, (0, batch - len(chosen) if self.fixed_batch else 0), "edge")
            yield {name: array[padded] for name, array in self.arrays.items()}, len(chosen)

    def _probes(self, samples: int) -> Probes:
        assert self.items is not None
        return dataset_probes(self.items, samples=samples, sampling="first")


def subject(
    model: Path | str | ModelProto,
    inputs: Given,
    name: str,
    folder: str,
    preprocessing: Preprocessing | None = None,
) -> Subject:
    """The model with feeds for the inputs. folder : where a model in memory is written to.

    Raises AnalysisError for a file that is no model, and for inputs it does not take.
    """
    path = Path(model) if isinstance(model, (str, Path)) else _written(model, folder, name)
    title = path.stem if isinstance(model, (str, Path)) else name
    try:
        record, space = describe(path)
    except RejectedModelError as error:
        raise AnalysisError(f"'{title}' cannot be compared: {error.message}") from error
    if isinstance(inputs, Mapping):
        arrays = {key: np.asarray(value) for key, value in inputs.items()}
        count = _check_named(title, record.inputs, arrays)
        return Subject(title, path, record, space, count, None, None, arrays)
    try:
        items = datasets.in_memory(np.asarray(inputs))
        plan = _plan(record.inputs, preprocessing, items.item(0))
    except (AnalysisError, DatasetError) as error:
        raise AnalysisError(f"'{title}' does not take these inputs: {error.message}") from error
    return Subject(title, path, record, space, len(items), plan, items, {})


def _plan(inputs: tuple[TensorSpec, ...], declared: Preprocessing | None, item: Any) -> FeedPlan:
    """What is declared, else what shapes suggest; pictures may have to be turned channels-last."""
    try:
        return plan_feeds(inputs, declared, item, 1)
    except AnalysisError:
        if declared is not None or np.ndim(item) != 3:
            raise
        try:
            return plan_feeds(inputs, CHANNELS_LAST, item, 1)
        except AnalysisError:
            pass
        raise


def _with_batch(plan: FeedPlan, batch: int) -> FeedPlan:
    return FeedPlan(plan.primary, plan.preprocessing, batch, plan.fixed)


def _check_named(title: str, wanted: tuple[TensorSpec, ...], arrays: Mapping[str, Array]) -> int:
    names = [spec.name for spec in wanted]
    if set(names) != set(arrays):
        raise AnalysisError(
            f"the inputs of '{title}' are {', '.join(names)}; given were {', '.join(arrays)}"
        )
    lengths = {array.shape[0] if array.ndim else 0 for array in arrays.values()}
    if len(lengths) != 1 or 0 in lengths:
        raise AnalysisError(f"the inputs of '{title}' differ in their number of samples")
    for spec in wanted:
        shape = arrays[spec.name].shape
        fits = spec.shape is None or (
            len(spec.shape) == len(shape)
            and all(not isinstance(d, int) or d == size
                    for d, size in zip(spec.shape[1:], shape[1:], strict=True))
        )  # fmt: skip
        if not fits:
            raise AnalysisError(f"input {spec} of '{title}' does not take samples of {shape[1:]}")
    return lengths.pop()


def _written(model: ModelProto, folder: str, name: str) -> Path:
    import onnx

    path = Path(folder) / f"{name}.onnx"
    large = model.ByteSize() > 2**30
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    onnx.save(copy, str(path), save_as_external_data=large)
    return path
