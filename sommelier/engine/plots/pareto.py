"""The Pareto front: models by two numbers, those that no other beats, and the answer among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.engine.ordering import pareto_front
from sommelier.engine.plots.naming import name_points
from sommelier.engine.plots.picture import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    RED,
    Plot,
    blank,
    clipped,
    legend,
    measured_axis,
    nothing,
    panel,
    plural,
    unit_text,
    wrapped,
)
from sommelier.units import Dimension

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMED = 20  # models whose names are written
FEW = 12  # models of which all are named, where names find room
_LEAST, _MOST = 20.0, 260.0  # areas of marks, points squared
_STAR = 170.0  # area of a reference's star
_RING = 60.0  # how much more the mark of an answer takes
_LINE = 0.19  # inches of a line of the legend


@dataclass(frozen=True, slots=True)
class Axis:
    """A number by which models are told apart. values : (n,) in base units, NaN = unknown."""

    name: str
    dimension: Dimension | None
    values: NDArray[np.float64]
    more_is_better: bool = False

    @property
    def costs(self) -> NDArray[np.float64]:
        """The values such that less is better."""
        return -self.values if self.more_is_better else self.values

    @property
    def label(self) -> str:
        return f"{self.name} ({'more' if self.more_is_better else 'less'} is better)"


@dataclass(frozen=True, slots=True)
class Models:
    """What is drawn. names : of all (n,). answer : places of those a question answers, () for none
    in particular; answer_is : what the legend calls them, None: as many answers. references :
    places of those it compared with; aside : of these, those that are drawn for comparison only and
    are not among the models. others : what one is called that is no answer. about : what was asked,
    in words. notes : of which measurements the numbers are.
    """

    names: Sequence[str]
    x: Axis
    y: Axis
    size: Axis | None = None
    answer: Sequence[int] = ()
    references: Sequence[int] = ()
    aside: Sequence[int] = ()
    answer_is: str | None = None
    others: str = "other model"
    about: str = ""
    notes: tuple[str, ...] = ()

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which models have both numbers."""
        return np.asarray(np.isfinite(self.x.values) & np.isfinite(self.y.values))

    @property
    def drawn(self) -> list[int]:
        """Their places, without those that are aside."""
        return [int(i) for i in np.flatnonzero(self.known) if i not in set(self.aside)]

    @property
    def front(self) -> list[int]:
        """Places of the models that no other beats, by rising x."""
        known = np.array(self.drawn, dtype=np.int64)
        costs = np.stack([axis.costs[known] for axis in (self.x, self.y)], axis=1)
        best = known[pareto_front(costs)] if len(known) else known
        return [
            int(place) for place in best[np.lexsort((self.y.values[best], self.x.values[best]))]
        ]


def pareto(models: Models) -> Plot:
    """The models as points, the front as a line, the answer and what it was compared with marked
    and named."""
    if not models.drawn:
        return _empty(models)
    known, front = models.drawn, models.front
    answer = [place for place in models.answer if models.known[place]]
    named, unnamed = _named([*answer, *_compared(models)], front)
    every = list(dict.fromkeys((*known, *_compared(models))))
    figure, hidden = _figure(models, every if len(every) <= FEW else named, unnamed)
    if hidden and len(every) <= FEW:
        figure, hidden = _figure(models, named, unnamed)
    if hidden:
        figure, _ = _figure(models, named, unnamed, numbered=True)
    return Plot(figure, _told(models, known, front, answer))


def _empty(models: Models) -> Plot:
    """No axes where no model has a place on them."""
    wanted = " and ".join(dict.fromkeys((models.x.name, models.y.name)))
    count = len(models.names) - len(models.aside)
    what = f"of {plural(count, 'model')} none has a known {wanted}"
    todo = "ANALYZE ALL measures resources, latency and accuracy; SHOW METRICS lists all numbers"
    if not count:
        what, todo = "there is no model", "IMPORT MODELS FROM folder './models/*.onnx'"
        if models.about:
            what, todo = (
                "the question has no answer",
                "EXPLAIN ANALYZE of it tells what is in the way",
            )
    about = [models.about] if models.about else []
    figure = blank(_subject(models), about, _notes(models, 0), size=(8.4, 3.0))
    nothing(figure, f"Nothing to draw: {what}", todo)
    return Plot(figure, f"{_subject(models)}: nothing to draw, {what}")


def _compared(models: Models) -> list[int]:
    """Places of the references that are drawn."""
    return [place for place in models.references if models.known[place]]


def _figure(
    models: Models, named: Sequence[int], unnamed: int, *, numbered: bool = False
) -> tuple[Figure, int]:
    """(all that is drawn, how many names cover others). numbered : numbers stand at the points and
    their names in the legend."""
    known, front = models.drawn, models.front
    answer = [place for place in models.answer if models.known[place]]
    notes = _notes(models, unnamed)
    wide, tall = 8.4, 5.2
    if numbered:  # the legend is in the middle of what is above and below the notes
        below = sum(len(wrapped(note, wide)) for note in notes)
        tall = max(tall, _LINE * (len(named) + 4 + 2 * below))
    title = f"{_subject(models)} of {plural(len(known), 'model')}"
    figure = blank(title, [models.about] if models.about else [], notes, size=(wide, tall))
    axes = panel(figure)
    for which, axis in (("x", models.x), ("y", models.y)):
        drawn = axis.values[models.known].tolist()
        measured_axis(axes, which, axis.label, axis.dimension, drawn)
    axes.margins(0.08, 0.1)
    _draw(axes, models, known, front, answer)
    if numbered:
        _number(axes, models, named)
    legend(figure, axes, spacing=0.6 if models.size is None else 1.2)
    return figure, _name(axes, models, named, numbered=numbered)


def _draw(
    axes: Axes, models: Models, known: Sequence[int], front: Sequence[int], answer: Sequence[int]
) -> None:
    rest = [i for i in known if i not in set(answer)]
    what = plural(len(rest), models.others if answer else "model")
    if rest:
        _marks(axes, models, rest, gid="others", label=what, color=FAINT)
    if len(front):
        axes.plot(
            *zip(*_stairs(models, front), strict=True),
            color=BLUE, linewidth=1.4, zorder=2, label=f"Pareto front, {len(front)}", gid="front",
        )  # fmt: skip
        _marks(axes, models, front, gid="front models", color=BLUE, zorder=3)
    if answer:
        off = [i for i in answer if i not in set(front)]
        _marks(axes, models, off, gid="answers off the front", color=RED, zorder=3)
        _marks(
            axes, models, answer, gid="answer", wider=_RING, facecolor="none", edgecolor=RED,
            linewidth=1.8, zorder=4, label=models.answer_is or plural(len(answer), "answer"),
        )  # fmt: skip
    if compared := _compared(models):
        axes.scatter(
            models.x.values[compared], models.y.values[compared], marker="*", s=_STAR, color=GREEN,
            edgecolor="white", linewidth=0.6, zorder=5, gid="reference",
            label="reference" if len(compared) == 1 else f"{len(compared)} references",
        )  # fmt: skip
    if models.size is not None:
        _size_key(axes, models, models.size)


def _number(axes: Axes, models: Models, named: Sequence[int]) -> None:
    """Have the legend say which model a number is."""
    for number, place in enumerate(_by_x(models, named), start=1):
        axes.scatter(
            [], [], marker=f"${number}$", s=32 + 36 * (number > 9), color=INK, linewidth=0,
            label=clipped(models.names[place], 34),
        )  # fmt: skip


def _name(axes: Axes, models: Models, named: Sequence[int], *, numbered: bool) -> int:
    """Write names, or numbers, at their points; how many cover others."""
    x, y = models.x.values, models.y.values
    others = [(float(x[i]), float(y[i])) for i in models.drawn if i not in named]
    areas = _areas(models)
    areas[list(models.answer)] += _RING
    areas[list(models.references)] = np.maximum(areas[list(models.references)], _STAR)
    radii = np.sqrt(areas) / 2
    labels = [
        (float(x[i]), float(y[i]), str(number) if numbered else clipped(models.names[i]))
        for number, i in enumerate(_by_x(models, named), start=1)
    ]
    around = [float(radii[i]) for i in _by_x(models, named)]
    return name_points(
        axes, labels, others, lines=[_stairs(models, models.front)], around=around
    ).hidden


def _by_x(models: Models, named: Sequence[int]) -> list[int]:
    return sorted(named, key=lambda i: float(models.x.values[i]))


def _marks(
    axes: Axes, models: Models, places: Sequence[int], *, wider: float = 0.0, **look: Any
) -> None:
    """A point for each of these models."""
    look = {"edgecolor": "white", "linewidth": 0.5} | look
    areas = _areas(models)[list(places)] + wider
    axes.scatter(models.x.values[list(places)], models.y.values[list(places)], s=areas, **look)


def _stairs(models: Models, front: Sequence[int]) -> list[tuple[float, float]]:
    """The corners of the front: what can be had between two of its models, and no more."""
    corners: list[tuple[float, float]] = []
    for place in front:
        x, y = float(models.x.values[place]), float(models.y.values[place])
        if corners:
            before = corners[-1]
            corners.append((before[0], y) if models.x.more_is_better else (x, before[1]))
        corners.append((x, y))
    return corners


def _areas(models: Models) -> NDArray[np.float64]:
    """Areas of marks (n,), in proportion to the size; the least where it is unknown."""
    if models.size is None:
        return np.full(len(models.names), 34.0)
    values = np.where(np.isfinite(models.size.values), models.size.values, 0.0)
    most = _largest(models, models.size)
    return np.asarray(_LEAST + (_MOST - _LEAST) * values / most if most else values + _LEAST)


def _largest(models: Models, size: Axis) -> float:
    """Of the models that are drawn; 0 where none has a size."""
    return float(np.nan_to_num(size.values[models.known]).max(initial=0.0))


def _size_key(axes: Axes, models: Models, size: Axis) -> None:
    """Two marks in the legend that say what an area stands for."""
    most = _largest(models, size)
    if not most > 0:
        return
    for value in (most, most / 4):
        area = _LEAST + (_MOST - _LEAST) * value / most
        axes.scatter(
            [], [], s=area, color=FAINT, label=f"{size.name} {unit_text(value, size.dimension)}"
        )


def _named(answer: Sequence[int], front: Sequence[int]) -> tuple[list[int], int]:
    """(places to name: the answer and, where there is room, the front; how many are not)."""
    wanted = list(dict.fromkeys((*answer, *front)))
    if answer and len(wanted) > NAMED:
        wanted = list(answer)
    if len(wanted) <= NAMED:
        return wanted, 0
    spread = np.unique(np.linspace(0, len(wanted) - 1, NAMED).round().astype(int))
    return [wanted[i] for i in spread], len(wanted) - len(spread)


def _subject(models: Models) -> str:
    """
    >>> one, nothing = np.zeros(1), None
    >>> _subject(Models(["a"], Axis("flops", nothing, one), Axis("accuracy", nothing, one)))
    'Accuracy against flops'
    """
    return f"{models.y.name[:1].upper()}{models.y.name[1:]} against {models.x.name}"


def _notes(models: Models, unnamed: int) -> list[str]:
    told = list(models.notes)
    missing = int((~models.known).sum())
    if missing:
        parts = [
            f"{axis.name} of {int(np.isnan(axis.values).sum())}"
            for axis in (models.x, models.y)
            if np.isnan(axis.values).any()
        ]
        told.append(
            f"not drawn: {plural(missing, 'model')}; unknown is the {' and the '.join(parts)}"
        )
        for whose, places in (("answer", models.answer), ("references", models.references)):
            lost = [models.names[i] for i in places if not models.known[i]]
            if lost:
                more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
                shown = ", ".join(lost[:3]) + more
                told.append(f"of the {whose}, not drawn for the same reason: {shown}")
    if models.size is not None and (
        unsized := int(np.isnan(models.size.values[models.known]).sum())
    ):
        told.append(f"{models.size.name} unknown, drawn smallest: {plural(unsized, 'model')}")
    if unnamed:
        told.append(f"{plural(unnamed, 'model')} marked without a name")
    return told


def _told(models: Models, known: Sequence[int], front: Sequence[int], answer: Sequence[int]) -> str:
    def at(place: int) -> str:
        values = (unit_text(a.values[place], a.dimension) for a in (models.x, models.y))
        return f"{models.names[place]} ({', '.join(values)})"

    told = f"{_subject(models)} of {plural(len(known), 'model')}"
    told += f"; front: {', '.join(at(i) for i in front[:NAMED]) or 'none'}"
    if answer:
        what = models.answer_is or "answer"
        told += f"; {what}: {', '.join(at(i) for i in answer[:NAMED])}"
    if compared := _compared(models):
        told += f"; reference: {', '.join(at(i) for i in compared[:NAMED])}"
    missing = int((~models.known).sum())
    return told + (f"; {missing} without a value" if missing else "")
