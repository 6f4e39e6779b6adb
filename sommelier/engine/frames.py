"""Columns of an answer as the frames of other libraries: pandas, pyarrow, polars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import numpy as np

from sommelier.errors import MissingDependencyError
from sommelier.units import BASE_UNITS, Dimension

Array = np.ndarray[Any, np.dtype[Any]]

_WHOLE = (Dimension.COUNT, Dimension.BYTES, Dimension.FLOPS)


def pandas_frame(names: Sequence[str], arrays: Sequence[Array]) -> Any:
    """A pandas DataFrame of these arrays, each of its own type."""
    import pandas as pd

    series = {i: pd.Series(array, dtype=array.dtype) for i, array in enumerate(arrays)}
    frame = pd.DataFrame(series)  # pandas would make text of objects, and NaN of None
    frame.columns = list(names)  # SQL may give two one name
    return frame


def arrow_table(columns: Mapping[str, Any], dimensions: Mapping[str, Dimension | None]) -> Any:
    """A pyarrow Table of values by column; the metadata `unit` of a field is its base unit.

    columns : float64 arrays with NaN for what is unknown, whose memory the table shares, or Python
    objects with None. Types do not depend on what is known: a measure is a double, text a string.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise MissingDependencyError(
            "pyarrow is not installed", hint="pip install 'sommelier-db[arrow]'"
        ) from error
    arrays, fields = [], []
    for name, values in columns.items():
        dimension = dimensions.get(name)
        array = _arrow_array(pyarrow, values, dimension)
        unit = BASE_UNITS.get(dimension) if dimension else None
        arrays.append(array)
        fields.append(pyarrow.field(name, array.type, metadata={"unit": unit} if unit else None))
    return pyarrow.table(arrays, schema=pyarrow.schema(fields))


def _arrow_array(pyarrow: Any, values: Any, dimension: Dimension | None) -> Any:
    if isinstance(values, np.ndarray) and values.dtype == np.float64:
        unknown = np.isnan(values)
        known = None
        if unknown.any():
            known = pyarrow.py_buffer(np.packbits(~unknown, bitorder="little"))
        memory = pyarrow.py_buffer(np.ascontiguousarray(values))
        return pyarrow.Array.from_buffers(pyarrow.float64(), len(values), [known, memory])
    objects = [value.item() if isinstance(value, np.generic) else value for value in values]
    seen = [value for value in objects if value is not None]
    if not seen:
        return pyarrow.array(objects, pyarrow.float64() if dimension else pyarrow.string())
    words = all(isinstance(value, list | tuple) and not any(value) for value in seen)
    return pyarrow.array(objects, pyarrow.list_(pyarrow.string()) if words else None)


def polars_frame(columns: Mapping[str, Any], dimensions: Mapping[str, Dimension | None]) -> Any:
    """A polars DataFrame of values by column, as `arrow_table`, whose memory it shares."""
    try:
        polars = import_module("polars")
    except ImportError as error:
        raise MissingDependencyError(
            "polars is not installed", hint="pip install 'sommelier-db[polars]'"
        ) from error
    return polars.from_arrow(arrow_table(columns, dimensions))


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
