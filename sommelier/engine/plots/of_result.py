"""`result.plot`: pictures of an answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
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
        """The models of the answer by two numbers, with the front of those that no other beats, and
        the reference beside them. Marked are the models that PICK or LIMIT kept, of all that they
        had to choose from; without either the first one, which `one()` gives.

        x, y, size : columns of the answer, or what a SELECT MODELS may ask for, 'latency AT p99'.
        Raises BinderError for one that is no number, MissingDependencyError without matplotlib.
        """
        from sommelier.engine.plots.pareto import Models, pareto

        shown = self._result.actions.offered() or self._result
        place = {str(id_): i for i, id_ in enumerate(shown.ids)}
        answer = [place[id_] for id_ in map(str, self._result.ids) if id_ in place]
        first = None
        if len(answer) == len(shown) and len(answer) > 1:
            first, answer = f"first of {len(answer)} answers", answer[:1]
        beside, own = _references(self._result, place)
        notes: dict[str, None] = {}
        across, up = _both(shown, beside, x, notes), _both(shown, beside, y, notes)
        by = None if size is None else _both(shown, beside, size, notes)
        aside = range(len(shown), len(shown) + len(beside.names))
        return pareto(Models(
            [*names(shown), *beside.names], across, up, by, answer, references=[*own, *aside],
            aside=aside, answer_is=first, others="other answer" if first else "other candidate",
            about=" ".join((self._result.text or "").split()), notes=tuple(notes),
        ))  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Beside:
    """References that are no rows of the answer. rows : of `result`, where they are."""

    names: tuple[str, ...] = ()
    rows: tuple[int, ...] = ()
    result: Result | None = None


def _references(result: Result, place: Mapping[str, int]) -> tuple[_Beside, list[int]]:
    """(references that the answer leaves out, the places of those that it has)."""
    compared = result.actions.references()
    if compared is None:
        return _Beside(), []
    ids = [str(id_) for id_ in compared.result.ids]
    out = tuple(i for i, id_ in enumerate(ids) if id_ not in place)
    beside = _Beside(tuple(compared.names[i] for i in out), out, compared.result)
    return beside, [place[id_] for id_ in ids if id_ in place]


def _both(shown: Result, beside: _Beside, name: str, notes: dict[str, None]) -> Axis:
    """A number of each row of the answer and then of the references beside it; these answer as they
    do themselves where how alike models are is asked."""
    found = axis(shown, name, notes)
    if beside.result is None or not beside.rows:
        return found
    values = axis(beside.result, name, notes).values[list(beside.rows)]
    if name in ("equivalence", "agreement"):
        values = np.where(np.isnan(values), 1.0, values)
    return replace(found, values=np.concatenate([found.values, values]))


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
