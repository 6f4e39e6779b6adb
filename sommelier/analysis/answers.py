"""What a model answered, reduced to what comparisons need: class ids and top scores, or vectors.

Wide outputs are projected by a seeded balanced count sketch: every output lands in one of 256
buckets with a random sign. E|Sx|^2 = |x|^2 and Var <= 2/256 |x|^4, so a relative distance is off by
about 4 % (algorithms.md C.3), at a cost of one addition per output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.model_inputs import STATE_NAME
from sommelier.errors import AnalysisError
from sommelier.records import NO_ANSWER as NO_ANSWER
from sommelier.records import OutputKind

Array = NDArray[Any]
Result = TypeVar("Result", covariant=True)

TOP = 5
EXACT_WIDTH = 512  # outputs up to this size are kept as they are
PROJECTED_WIDTH = 256
PROJECTION_SEED = 20240817
KEEP_BYTES = 16 * 2**20
FLUSH_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class ModelAnswers:
    """One model's answers to a probe set.

    kind 'labels': answers uint32 (samples,), topk_ids uint32 and topk_scores float16 (samples, 5).
    kind 'vectors': answers float32 (samples, width). classes : number of classes, or of outputs
    before projection. outputs : the answers at full precision where they are at most 16 MB.
    """

    kind: str
    answers: Array
    exact: bool
    classes: int | None
    failures: int
    topk_ids: Array | None = None
    topk_scores: Array | None = None
    outputs: dict[str, Array] | None = None
    assumed_preprocessing: bool = False
    seconds: float = 0.0

    @property
    def width(self) -> int:
        return 1 if self.kind == "labels" else int(self.answers.shape[1])


class Collector(Protocol[Result]):
    """Takes the outputs of run after run; a run that is tried again gets a new collector."""

    def add(self, outputs: list[Any], count: int, *, single: bool) -> None:
        """The outputs of one run for its first `count` samples; single : of one sample."""

    def result(self) -> Result:
        """What was collected."""


class OutputCollector:
    """Keeps every output as it is, but for recurrent states, which are no answers."""

    def __init__(self, names: list[str]) -> None:
        self._parts: dict[str, list[Array]] = {n: [] for n in names if not STATE_NAME.search(n)}
        self._names = names

    def add(self, outputs: list[Any], count: int, *, single: bool) -> None:
        for name, value in zip(self._names, outputs, strict=True):
            if name in self._parts and isinstance(value, np.ndarray):
                batched = value if value.ndim and (len(value) == 1 or not single) else value[None]
                if len(batched) < count:
                    raise AnalysisError(
                        f"output '{name}' holds {len(batched)} of {count} inputs of a batch"
                    )
                self._parts[name].append(batched[:count])

    def result(self) -> dict[str, Array]:
        """(n, ...) by output name. Raises AnalysisError where shapes differ between inputs."""
        for name, parts in self._parts.items():
            sizes = {part.shape[1:] for part in parts}
            if len(sizes) > 1:
                shown = " and ".join(str(list(size)) for size in sorted(sizes)[:2])
                raise AnalysisError(
                    f"output '{name}' differs in shape from input to input ({shown}), so it cannot "
                    "be compared"
                )
        found = {name: np.concatenate(parts) for name, parts in self._parts.items() if parts}
        if not found:
            raise AnalysisError("the model gave no answers")
        return found


class AnswerCollector:
    """Takes the outputs of run after run and gives one ModelAnswers for all of them.

    keep_bytes : up to where answers are also kept at full precision.
    """

    def __init__(
        self, output_kind: OutputKind, names: list[str], *, keep_bytes: float = KEEP_BYTES
    ) -> None:
        self._kind = output_kind
        self._keep_bytes = keep_bytes
        self._names = names
        self._parts: list[Array] = []  # per run (n,), (n, classes) or (n, width)
        self._pending: list[Array] = []  # wide vectors that wait for projection
        self._kept: list[Array] | None = []
        self._kept_bytes = 0
        self._failures = 0
        self._size: int | None = None

    def add(self, outputs: list[Any], count: int, *, single: bool) -> None:
        """The outputs of one run for its first `count` samples.

        single : the run was for one sample, so a missing batch axis is no fault.
        """
        named = {
            name: np.asarray(value)
            for name, value in zip(self._names, outputs, strict=True)
            if isinstance(value, np.ndarray)
        }
        if self._kind in (OutputKind.CLASSIFICATION, OutputKind.CLASS_IDS):
            block = self._class_block(named, single)[:count]
        else:
            block = self._vector_block(named, single)[:count]
        if len(block) != count:
            raise AnalysisError(f"the model answered {len(block)} of {count} inputs of a batch")
        if self._size not in (None, block.shape[1]):
            raise AnalysisError(
                f"the outputs differ in size from input to input ({self._size} and "
                f"{block.shape[1]} numbers), so they cannot be compared"
            )
        self._size = block.shape[1]
        self._keep(block)
        self._take(block)

    def result(self) -> ModelAnswers:
        """All answers. Raises AnalysisError if every one of them is NaN."""
        self._flush()
        if not self._parts or self._size is None:
            raise AnalysisError("the model gave no answers")
        values = np.concatenate(self._parts)
        if self._failures == len(values):
            raise AnalysisError("every output is NaN")
        outputs = None if self._kept is None else {"outputs": np.concatenate(self._kept)}
        if self._kind in (OutputKind.CLASSIFICATION, OutputKind.CLASS_IDS):
            return self._labels(values, outputs)
        exact = self._size <= EXACT_WIDTH
        return ModelAnswers("vectors", values, exact, self._size, self._failures, outputs=outputs)

    def _labels(self, values: Array, outputs: dict[str, Array] | None) -> ModelAnswers:
        if self._size == 1:  # class ids without scores
            ids = values[:, 0].astype(np.int64)
            answers = np.where(ids < 0, NO_ANSWER, ids).astype(np.uint32)
            return ModelAnswers("labels", answers, True, None, self._failures, outputs=outputs)
        ids, scores = top_k(values)
        answers = np.where(np.isnan(values).any(axis=1), NO_ANSWER, ids[:, 0]).astype(np.uint32)
        return ModelAnswers(
            "labels", answers, True, self._size, self._failures, ids, scores, outputs
        )

    def _class_block(self, named: dict[str, Array], single: bool) -> Array:
        """(n, classes) scores, or (n, 1) class ids where the model gives no scores."""
        flat = {name: _squeezed(value, single) for name, value in named.items()}
        scores = [
            value
            for value in flat.values()
            if value.ndim == 2 and value.shape[1] >= 2 and value.dtype.kind in "fiu"
        ]
        if scores and self._kind is OutputKind.CLASSIFICATION:
            return scores[0].astype(np.float32)
        ids = [v for v in flat.values() if v.ndim and v.dtype.kind in "iu" and v.size == len(v)]
        if ids:
            return ids[0].reshape(-1, 1)
        found = ", ".join(f"{name} {list(value.shape)}" for name, value in named.items())
        raise AnalysisError(
            f"no output of this {self._kind.value} model holds class scores or ids ({found})"
        )

    def _vector_block(self, named: dict[str, Array], single: bool) -> Array:
        """All numeric outputs but recurrent states, flattened side by side, float32 (n, size)."""
        used = [
            _rows(value, single)
            for name, value in named.items()
            if value.dtype.kind in "fiub" and not STATE_NAME.search(name)
        ]
        if not used:
            raise AnalysisError("the model has no numeric output")
        lengths = {len(rows) for rows in used}
        rows = max(lengths)
        return np.concatenate([r for r in used if len(r) == rows], axis=1).astype(np.float32)

    def _take(self, block: Array) -> None:
        self._failures += int(np.isnan(block).any(axis=1).sum()) if block.dtype.kind == "f" else 0
        classes = self._kind in (OutputKind.CLASSIFICATION, OutputKind.CLASS_IDS)
        if classes or block.shape[1] <= EXACT_WIDTH:
            self._parts.append(block)
            return
        self._pending.append(block)
        if sum(part.nbytes for part in self._pending) >= FLUSH_BYTES:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            self._parts.append(project(np.concatenate(self._pending)))
            self._pending = []

    def _keep(self, block: Array) -> None:
        if self._kept is None:
            return
        self._kept_bytes += block.nbytes
        self._kept = [*self._kept, block] if self._kept_bytes <= self._keep_bytes else None


def top_k(scores: Array) -> tuple[Array, Array]:
    """(ids uint32 (n, 5), scores float16 (n, 5)), best first; equal scores in order of their ids.

    With fewer than 5 classes the rest is NO_ANSWER with score -inf.
    """
    count = min(TOP, scores.shape[1])
    order = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    best = np.take_along_axis(scores, order, axis=1)
    ids = np.full((len(scores), TOP), NO_ANSWER, dtype=np.uint32)
    values = np.full((len(scores), TOP), -np.inf, dtype=np.float16)
    ids[:, :count] = order
    limit = float(np.finfo(np.float16).max)
    values[:, :count] = np.clip(best, -limit, limit).astype(np.float16)
    return ids, values


def project(vectors: Array) -> NDArray[np.float32]:
    """(n, 256) balanced count sketches of (n, size) vectors; equal for equal `size` everywhere."""
    size = vectors.shape[1]
    rng = np.random.default_rng([PROJECTION_SEED, size])
    order = rng.permutation(size)
    signs = rng.integers(0, 2, size).astype(np.float32) * 2 - 1
    rows = -(-size // PROJECTED_WIDTH)
    padded = np.zeros((len(vectors), rows * PROJECTED_WIDTH), dtype=np.float32)
    padded[:, :size] = vectors[:, order] * signs
    buckets = padded.reshape(len(vectors), rows, PROJECTED_WIDTH)
    return np.asarray(buckets.sum(axis=1), dtype=np.float32)


def _squeezed(value: Array, single: bool) -> Array:
    """(n, classes) or (n,) where all further axes have length 1."""
    if single and value.ndim <= 1:
        return value.reshape(1, -1)
    kept = [side for axis, side in enumerate(value.shape) if axis == 0 or side != 1]
    return value.reshape(kept)


def _rows(value: Array, single: bool) -> Array:
    if single or value.ndim == 0:
        return value.reshape(1, -1)
    return value.reshape(len(value), -1)
