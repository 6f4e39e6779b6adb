"""Columns of an answer as the frames of other libraries: pandas, pyarrow, polars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from sommelier.errors import MissingDependencyError
from sommelier.units import Dimension

Array = np.ndarray[Any, np.dtype[Any]]

_WHOLE = (Dimension.COUNT, Dimension.BYTES, Dimension.FLOPS)


def pandas_frame(names: Sequence[str], arrays: Sequence[Array]) -> Any:
    """A pandas DataFrame of these arrays, each of its own type."""
    import pandas as pd

    series = {i: pd.Series(array, dtype=array.dtype) for i, array in enumerate(arrays)}
    frame = pd.DataFrame(series)  # pandas would make text of objects, and NaN of None
    frame.columns = list(names)  # SQL may give two one name
    return frame


def arrow_table(columns: Mapping[str, Any]) -> Any:
    """A pyarrow Table of lists of Python objects by name."""
    try:
        import pyarrow
    except ImportError as error:
        raise MissingDependencyError(
            "pyarrow is not installed", hint="pip install 'sommelier-db[arrow]'"
        ) from error
    return pyarrow.table(columns)


def polars_frame(columns: Mapping[str, Any]) -> Any:
    """A polars DataFrame of lists of Python objects by name."""
    try:
        polars = import_module("polars")
    except ImportError as error:
        raise MissingDependencyError(
            "polars is not installed", hint="pip install polars"
        ) from error
    return polars.DataFrame(columns, strict=False)


def column_array(values: Sequence[object], dimension: Dimension | None) -> Array:
    """A column of a frame: amounts and numbers with unknown ones as floats, text as objects."""
    known = [value for value in values if value is not None]
    if all(isinstance(value, bool) for value in known) and len(known) == len(values) > 0:
        return np.array(values)
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in known)
    if numeric and (dimension is not None or known):
        whole = dimension is None and len(known) == len(values)
        return np.array(values, dtype=None if whole else np.float64)
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def as_python(value: Any, dimension: Dimension | None) -> Any:
    """A cell as a Python object: NaN is None, whole bytes, FLOPs and counts are int."""
    if isinstance(value, float):  # includes numpy.float64
        if value != value:
            return None
        if dimension in _WHOLE and value.is_integer():
            return int(value)
        return float(value)
    return value.item() if isinstance(value, np.generic) else value
