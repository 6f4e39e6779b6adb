"""Numbers as numpy columns: how measurements reach DuckDB, and how all of them come back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.records import Measurement
from sommelier.storage.rows import now, utc

_MICROSECONDS = "datetime64[us]"


def measurement_arrays(
    found: Sequence[Measurement],
    *,
    numbers: Mapping[str, int],
    contexts: Sequence[int],
    sources: Sequence[int | None],
) -> dict[str, NDArray[Any]]:
    """The columns of measurements, NaN for NULL.

    numbers : models.number by id. contexts, sources : the ids of each measurement's.
    """
    moment = now()
    return {
        "model": np.fromiter((numbers[m.model_id] for m in found), np.int32, len(found)),
        "context": np.array(contexts, dtype=np.int32),
        "value": np.fromiter((m.value for m in found), np.float64, len(found)),
        "low": _nullable([m.low for m in found]),
        "high": _nullable([m.high for m in found]),
        "count": _nullable([m.count for m in found]),
        "source": _nullable(sources),
        "recorded_at": np.array([utc(m.recorded_at) or moment for m in found], dtype=_MICROSECONDS),
    }


def words_of(codes: NDArray[Any], words: Sequence[object]) -> NDArray[Any]:
    """words[codes] as an object array; the strings are shared, not copied."""
    shared: NDArray[Any] = _objects(words)[codes]
    return shared


def numbers_of(codes: NDArray[Any], words: Sequence[int | None]) -> np.ma.MaskedArray[Any, Any]:
    """words[codes] as a masked int64 array; None is masked."""
    values = np.array([0 if word is None else word for word in words], dtype=np.int64)
    absent = np.array([word is None for word in words], dtype=bool)
    return np.ma.MaskedArray(values[codes], mask=absent[codes])


def filled(column: NDArray[Any]) -> NDArray[np.float64]:
    """A fetched column as plain float64 with NaN for NULL."""
    return np.asarray(np.ma.filled(column.astype(np.float64), np.nan))


def _nullable(values: Sequence[float | None]) -> NDArray[np.float64]:
    """Numbers with NaN for NULL: DuckDB does not look at the mask of a masked array."""
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _objects(values: Sequence[object]) -> NDArray[Any]:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
