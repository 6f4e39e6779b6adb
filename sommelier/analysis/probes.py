"""Probe sets: the inputs a group of models answers, so that any two of them can be compared.

A probe set is a sample of a registered dataset or, where no data fits, seeded synthetic inputs of
one signature. Its id is the hash of what decides the inputs; the inputs are made again from it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.datasets import LoadedDataset
from sommelier.errors import DatasetError
from sommelier.records import FIRST as FIRST
from sommelier.records import Dataset, ProbeSet, TensorSpec

SAMPLES = 2048  # algorithms.md C.3: 4 KB a model, agreement to +-1.2 points at 95 %
SYNTHETIC_SAMPLES = 512  # nothing to learn about real inputs here, so keep it cheap


@dataclass(frozen=True, slots=True)
class Probes:
    """A probe set with what makes its inputs again; small enough to be sent to a worker process.

    indices : int64 (samples,), positions in the dataset; None for synthetic inputs.
    classes : how many classes the dataset's labels have.
    """

    record: ProbeSet
    dataset: Dataset | None = None
    indices: NDArray[np.int64] | None = None
    classes: int | None = None

    @property
    def labels(self) -> NDArray[np.int32] | None:
        """True label ids in the dataset's label space, -1 where unknown; None if unlabelled."""
        if self.record.labels is None:
            return None
        return np.frombuffer(self.record.labels, dtype=np.int32)


def dataset_probes(
    dataset: LoadedDataset, *, samples: int | None = None, sampling: str = "random", seed: int = 0
) -> Probes:
    """A sample of a dataset: `samples` items (default 2 048, or all if there are fewer).

    sampling 'random' draws without replacement by `seed` and keeps the dataset's order; 'first'
    takes the first ones. Raises DatasetError for a sample larger than the dataset.
    """
    rows, seed = draw(
        len(dataset), f"dataset '{dataset.record.name}' has {len(dataset)} items",
        samples=samples, sampling=sampling, seed=seed,
    )  # fmt: skip
    return chosen_probes(dataset, rows, seed=seed)


def draw(
    size: int, described: str, *, samples: int | None, sampling: str, seed: int
) -> tuple[NDArray[np.int64], int]:
    """(ascending positions of a sample of `size` things, the seed they follow from or FIRST).

    described : the size in words, for the error. Options as in dataset_probes.
    """
    if sampling not in ("random", "first"):
        raise DatasetError(f"sampling = '{sampling}' is not known", hint="write random or first")
    wanted = min(SAMPLES, size) if samples is None else samples
    if not 1 <= wanted <= size:
        raise DatasetError(f"{described}, not {wanted}")
    seed = FIRST if sampling == "first" or wanted == size else seed
    return sample_indices(size, wanted, seed), seed


def chosen_probes(dataset: LoadedDataset, indices: NDArray[np.int64], *, seed: int) -> Probes:
    """The items at these positions, in this order.

    seed : FIRST unless they are a random sample. The same items are the same probe set however they
    were chosen, so what models answered is shared.
    """
    record, space = dataset.record, dataset.label_space
    labels = None if dataset.labels is None else dataset.labels[indices].astype(np.int32)
    follows = np.array_equal(sample_indices(len(dataset), len(indices), seed), indices)
    probe_set = ProbeSet(
        id=_hash("dataset", record.id, hashlib.sha256(indices.tobytes()).hexdigest()),
        dataset_id=record.id,
        name=record.name,
        samples=len(indices),
        seed=seed,
        synthetic=False,
        labels=None if labels is None else labels.tobytes(),
        label_space_id=space.id if space else None,
        indices=None if follows else indices.tobytes(),
    )
    return Probes(probe_set, record, indices, dataset.classes)


def same_probes(record: ProbeSet, dataset: Dataset | None) -> Probes:
    """The probes of a stored probe set; `dataset` is the one it was drawn from."""
    if record.synthetic or dataset is None:
        return Probes(record)
    if record.indices is not None:
        return Probes(record, dataset, np.frombuffer(record.indices, dtype=np.int64))
    return Probes(record, dataset, sample_indices(dataset.samples, record.samples, record.seed))


def synthetic_probes(
    inputs: Sequence[TensorSpec], *, samples: int | None = None, seed: int = 0
) -> Probes:
    """Seeded random inputs for one signature, marked synthetic: agreement on them says little
    about real data, and is never certified for it."""
    name = f"synthetic:{signature(inputs)}"
    count = SYNTHETIC_SAMPLES if samples is None else samples
    record = ProbeSet(
        id=_hash("synthetic", name, str(count), str(seed)),
        dataset_id=None,
        name=name,
        samples=count,
        seed=seed,
        synthetic=True,
        labels=None,
        label_space_id=None,
    )
    return Probes(record)


def signature(inputs: Sequence[TensorSpec]) -> str:
    """Types and shapes of the inputs without names; models of one signature share synthetic probes.

    >>> signature([TensorSpec("image", "float32", ("n", 3, 32, 32))])
    'float32[?,3,32,32]'

    A first axis of 1 counts as dynamic: it is the batch axis of a model exported for one input.
    """
    return ";".join(f"{spec.dtype}[{_dims(spec)}]" for spec in inputs)


def sample_indices(size: int, samples: int, seed: int) -> NDArray[np.int64]:
    """Ascending positions of the sample; the same for equal arguments on every machine."""
    if seed == FIRST:
        return np.arange(samples, dtype=np.int64)
    drawn = np.random.default_rng(seed).choice(size, size=samples, replace=False)
    return np.sort(drawn).astype(np.int64)


def synthetic_item(
    spec: TensorSpec, *, seed: int, sample: int, position: int
) -> NDArray[np.generic]:
    """One sample's value for the model's input number `position`, without the batch axis.

    Floats are standard normal, 8-bit integers uniform over their range, other integers small ids
    (0..15, which any embedding table has), booleans fair coins.
    """
    rng = np.random.default_rng([seed, sample, position])
    shape = synthetic_shape(spec)
    if spec.dtype.startswith("float"):
        return rng.standard_normal(shape).astype(spec.dtype)
    if spec.dtype in ("uint8", "int8"):
        limits = np.iinfo(spec.dtype)
        return rng.integers(limits.min, limits.max + 1, shape).astype(spec.dtype)
    if spec.dtype == "bool":
        return rng.random(shape) < 0.5
    if spec.dtype.startswith(("int", "uint")):
        return rng.integers(0, 16, shape).astype(spec.dtype)
    raise DatasetError(f"synthetic probes cannot be made for input {spec}")


def synthetic_shape(spec: TensorSpec) -> tuple[int, ...]:
    """The shape of one synthetic item; dynamic axes become 3 channels, 128 pixels or 16 steps."""
    dims = (spec.shape or ())[1:]
    if len(dims) == 3:
        channels_last = dims[2] in (1, 3) and dims[0] not in (1, 3)
        usual = (128, 128, 3) if channels_last else (3, 128, 128)
        return tuple(d if isinstance(d, int) else u for d, u in zip(dims, usual, strict=True))
    return tuple(dim if isinstance(dim, int) else 16 for dim in dims)


def _dims(spec: TensorSpec) -> str:
    if spec.shape is None:
        return "..."
    shown = [str(dim) if isinstance(dim, int) else "?" for dim in spec.shape]
    if len(shown) > 1 and shown[0] == "1":
        shown[0] = "?"
    return ",".join(shown)


def _hash(*parts: str) -> str:
    return f"probes:{hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]}"
