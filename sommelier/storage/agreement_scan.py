"""One model's answers against a matrix of answers: the numpy core of the semantic index.

Pure functions over arrays; memory stays flat because matrices are read in chunks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

VECTOR_TOLERANCE = (
    0.05  # relative L2 up to which two outputs are interchangeable: algorithms.md A.2
)
CHUNK_BYTES = 8 << 20


def agreement_counts(
    reference: NDArray[np.integer[Any]],
    matrix: NDArray[np.integer[Any]],
    rows: NDArray[np.int64] | None = None,
    table: NDArray[np.uint32] | None = None,
) -> NDArray[np.int32]:
    """On how many samples each row of `matrix` gives the reference's answer.

    reference : (samples,) in the row's own class ids, label_translation.NO_PARTNER where it has no
    answer. matrix : (n, samples) unsigned; its two largest values are NO_PARTNER and NO_ANSWER.
    rows : which rows to look at, all when None. table : label_translation.row_lookup, when the
    rows are to be translated into the reference's ids. 0.1 s for 100 000 rows of 2 048 uint16.
    """
    wanted = _narrowed(reference, matrix.dtype if table is None else table.dtype)
    return _over_rows(matrix, rows, lambda block: _count(_translated(block, table) == wanted))


def interchangeable_counts(
    reference: NDArray[np.float32],
    matrix: NDArray[np.float32],
    rows: NDArray[np.int64] | None = None,
) -> NDArray[np.int32]:
    """On how many samples each row's vector lies within VECTOR_TOLERANCE of the reference's.

    reference : (samples, width); matrix : (n, samples, width). The distance is L2 relative to the
    reference's norm, so it is asymmetric; a NaN on either side agrees with nothing.
    """
    wanted = reference.astype(np.float64)
    limit = VECTOR_TOLERANCE * np.sqrt(np.einsum("sw,sw->s", wanted, wanted))

    def count(block: NDArray[np.float32]) -> NDArray[np.int32]:
        difference = block - wanted
        distance = np.sqrt(np.einsum("nsw,nsw->ns", difference, difference))
        return _count(distance <= limit)

    return _over_rows(matrix, rows, count)


def paired_counts(
    correct: NDArray[np.bool_],
    truth: NDArray[np.integer[Any]],
    matrix: NDArray[np.integer[Any]],
    rows: NDArray[np.int64] | None = None,
    table: NDArray[np.uint32] | None = None,
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """(samples only the reference has right, samples only the row has right), per row.

    correct : (samples,) where the reference is right. truth : (samples,), NO_PARTNER where
    unknown. table : label_translation.row_lookup from the row's class ids to those of `truth`.
    """
    wanted = _narrowed(truth, matrix.dtype if table is None else table.dtype)

    def count(block: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
        right = _translated(block, table) == wanted
        both = _count(right & correct)
        return np.stack([np.count_nonzero(correct) - both, _count(right) - both], axis=1)

    counts = _over_rows(matrix, rows, count)
    return counts[:, 0], counts[:, 1]


def _narrowed(answers: NDArray[np.integer[Any]], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Answers in the matrix's type; what does not fit becomes a number that no row holds."""
    return np.asarray(np.minimum(answers, np.iinfo(dtype).max - 1), dtype=dtype)


def _translated(block: NDArray[Any], table: NDArray[np.uint32] | None) -> NDArray[Any]:
    """The block's class ids looked up; ids beyond the table take its last entry."""
    if table is None:
        return block
    if len(table) > np.iinfo(block.dtype).max + 1:  # classes that such rows cannot hold
        table = np.append(table[: np.iinfo(block.dtype).max], table[-1])
    return np.asarray(table[np.minimum(block, len(table) - 1)])


def _count(agree: NDArray[np.bool_]) -> NDArray[np.int32]:
    """True values per row."""
    return np.asarray(np.count_nonzero(agree, axis=1), dtype=np.int32)


def _over_rows(
    matrix: NDArray[Any],
    rows: NDArray[np.int64] | None,
    count: Callable[[NDArray[Any]], NDArray[np.int32]],
) -> NDArray[np.int32]:
    blocks = [count(block) for block in _blocks(matrix, rows)]
    return np.concatenate(blocks) if blocks else count(matrix[:0])


def _blocks(matrix: NDArray[Any], rows: NDArray[np.int64] | None) -> Iterator[NDArray[Any]]:
    """Chunks of the wanted rows; runs of neighbouring rows are views, others are copied."""
    row_bytes = max(1, matrix.itemsize * int(np.prod(matrix.shape[1:])))
    step = max(1, CHUNK_BYTES // row_bytes)
    total = len(matrix) if rows is None else len(rows)
    for start in range(0, total, step):
        stop = min(start + step, total)
        if rows is None:
            yield matrix[start:stop]
        elif rows[stop - 1] - rows[start] == stop - start - 1 and _increasing(rows[start:stop]):
            yield matrix[rows[start] : rows[stop - 1] + 1]
        else:
            yield matrix[rows[start:stop]]


def _increasing(rows: NDArray[np.int64]) -> bool:
    return bool((np.diff(rows) == 1).all())
