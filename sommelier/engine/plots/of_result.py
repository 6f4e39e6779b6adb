"""`result.plot`: pictures of an answer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.engine.outputs import more_is_better
from sommelier.errors import BinderError
from sommelier.units import Dimension

if TYPE_CHECKING:
    from sommelier.engine.plots.pareto import Axis
    from sommelier.engine.plots.picture import Plot
    from sommelier.engine.result import Result


class ResultPlots:
    """Plots of one answer; each method returns a Plot, which a notebook shows."""

    def __init__(self, result: Result) -> None:
        self._result = result

    def pareto(self, x: str = "flops", y: str = "accuracy", size: str | None = None) -> Plot:
        """The models of the answer by two numbers, with the front of those that no other beats.

        x, y, size : columns of the answer, or what a SELECT MODELS may ask for, 'latency AT p99'.
        Raises BinderError for one that is no number, MissingDependencyError without matplotlib.
        """
        from sommelier.engine.plots.pareto import Models, pareto

        notes: dict[str, None] = {}
        across, up = axis(self._result, x, notes), axis(self._result, y, notes)
        by = None if size is None else axis(self._result, size, notes)
        return pareto(Models(names(self._result), across, up, by, notes=tuple(notes)))


def axis(result: Result, name: str, notes: dict[str, None]) -> Axis:
    """A number of each row of an answer, from its columns or else from the catalog; what there is
    to say of it is added to `notes`. Raises BinderError for text."""
    from sommelier.engine.plots.pareto import Axis

    info = next((column for column in result.columns if column.name == name), None)
    if info is None:
        info, known, told = result.actions.column(name)
        values = [known.get(str(id_)) for id_ in result.ids]
        notes.update(dict.fromkeys(told))
    else:
        values = list(result.column(name))
    numbers = _numbers(name, values, info.dimension)
    return Axis(info.name, info.dimension, numbers, more_is_better(info.name))


def names(result: Result) -> list[str]:
    """The name of each row."""
    if any(column.name == "name" for column in result.columns):
        return [str(name) for name in result.column("name")]
    known: Mapping[str, Any] = result.actions.column("name")[1]
    return [str(known[str(id_)]) for id_ in result.ids]


def _numbers(name: str, values: list[Any], dimension: Dimension | None) -> NDArray[np.float64]:
    if dimension is None and any(isinstance(value, str) for value in values):
        raise BinderError(
            f"'{name}' is text, a plot needs a number", hint="for example flops, memory, accuracy"
        )
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)
