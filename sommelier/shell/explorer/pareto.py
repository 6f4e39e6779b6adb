"""The plot of an answer: two of its numbers, and which models nothing beats in both.

Drawn here as SVG, so it needs neither a script nor a library. Better is up or right to left: the
axes say which.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sommelier.engine.result import ColumnInfo, Result
from sommelier.errors import SommelierError
from sommelier.metrics import ANSWER_COLUMNS, METRICS
from sommelier.shell.explorer.drawing import Point, drawing
from sommelier.shell.explorer.markup import Markup, tag
from sommelier.shell.explorer.questions import Answer

if TYPE_CHECKING:
    from sommelier.connection import Connection

_OTHERS = 1000  # models that are drawn as a background
_NAMED = 6  # of the front, in words
_SAME = 1e-9


@dataclass(frozen=True, slots=True)
class Axis:
    """A column of the answer. less : smaller is better."""

    place: int
    column: ColumnInfo
    less: bool

    @property
    def name(self) -> str:
        return self.column.name


def section(db: Connection, found: Answer, text: str, given: Mapping[str, str]) -> Markup | None:
    """The plot, what it says in words, and the choice of its axes; None where there is none."""
    axes = axes_of(found)
    if not isinstance(found.outcome, Result) or len(axes) < 2:
        return None
    across, up = _chosen(axes, given)
    points = _points(found, across, up)
    if len(points) < 2:
        return None
    best = front([(point.x, point.y) for point in points], less=(across.less, up.less))
    others = _others(db, across, up, points)
    figure = tag(
        "figure",
        drawing(points, others, best, (across, up)),
        tag("figcaption", _words(points, best, others, (across, up))),
    )
    choice = _choice(axes, (across, up), text)
    return tag("section", tag("h2", "Trade-off"), figure, choice, class_="plot", id="plot")


def axes_of(found: Answer) -> list[Axis]:
    """Columns that can be drawn: numbers with a dimension, at least two of them known."""
    axes = []
    for place, column in enumerate(found.columns):
        known = [row[place] for row in found.rows if _is_number(row[place])]
        if column.dimension is not None and len(known) > 1:
            axes.append(Axis(place, column, _less_is_better(column.name)))
    return axes


def front(values: Sequence[tuple[float, float]], *, less: tuple[bool, bool]) -> list[int]:
    """Places of those that no other beats in both, from left to right; of equals all.

    >>> front([(1, 1), (2, 3), (3, 2), (3, 4)], less=(True, False))
    [0, 1, 3]
    """
    sides = [1.0 if one else -1.0 for one in less]
    turned = [(x * sides[0], y * sides[1]) for x, y in values]
    order = sorted(range(len(turned)), key=lambda place: turned[place])
    best: list[int] = []
    least = math.inf
    for place in order:
        if turned[place][1] < least or (best and turned[place] == turned[best[-1]]):
            best.append(place)
            least = turned[place][1]
    return sorted(best, key=lambda place: values[place])


# ---- inside


def _is_number(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)


def _less_is_better(name: str) -> bool:
    if name in METRICS:
        return METRICS[name].lower_is_better
    return name not in ANSWER_COLUMNS


def _chosen(axes: list[Axis], given: Mapping[str, str]) -> tuple[Axis, Axis]:
    """(across, up): those asked for, else a cost across and what is gained up."""
    by_name = {axis.name: axis for axis in axes}
    up = by_name.get(given.get("y", "")) or next((a for a in axes if not a.less), None)
    left = [axis for axis in axes if axis is not up]
    across = by_name.get(given.get("x", "")) or next((a for a in left if a.less), left[0])
    if up is None or up is across:
        up = next(axis for axis in axes if axis is not across)
    return across, up


def _points(found: Answer, across: Axis, up: Axis) -> list[Point]:
    names = [column.name for column in found.columns]
    named = names.index("name") if "name" in names else 0
    return [
        Point(float(row[across.place]), float(row[up.place]), str(row[named]), model_id)
        for row, model_id in zip(found.rows, found.ids, strict=True)
        if _is_number(row[across.place]) and _is_number(row[up.place])
    ]


def _others(db: Connection, across: Axis, up: Axis, points: list[Point]) -> list[Point]:
    """The other models of the database, where the two columns mean the same for them."""
    if across.name not in METRICS or up.name not in METRICS:
        return []
    asked = f"SELECT MODELS name, {across.name}, {up.name} LIMIT {_OTHERS}"
    try:
        result = db.execute(asked)
    except SommelierError:  # a context that has to be named, say
        return []
    assert isinstance(result, Result), "a SELECT MODELS"
    rows = result.rows_between(0, _OTHERS)
    known = {
        str(id_): Point(float(row[1]), float(row[2]), str(row[0]), str(id_))
        for id_, row in zip(result.ids, rows, strict=True)
        if _is_number(row[1]) and _is_number(row[2])
    }
    answered = {point.model_id: point for point in points}
    for model_id, point in answered.items():
        if model_id in known and not _is_same(known[model_id], point):
            return []  # the answer is of another device or dataset
    return [point for model_id, point in known.items() if model_id not in answered]


def _is_same(one: Point, other: Point) -> bool:
    return math.isclose(one.x, other.x, rel_tol=_SAME) and math.isclose(
        one.y, other.y, rel_tol=_SAME
    )


def _words(
    points: list[Point], best: list[int], others: list[Point], axes: tuple[Axis, Axis]
) -> str:
    """What the picture shows, for those who do not see it."""
    names = [points[place].name for place in best]
    listed = ", ".join(names[:_NAMED]) + (" …" if len(names) > _NAMED else "")
    sides = [f"{'less' if axis.less else 'more'} {axis.name}" for axis in axes]
    told = f"{len(points)} models. None has {sides[0]} and also {sides[1]} than any of: {listed}."
    return told + (f" Pale: {len(others)} others of the database." if others else "")


def _choice(axes: list[Axis], chosen: tuple[Axis, Axis], text: str) -> Markup | None:
    if len(axes) < 3:
        return None
    across, up = (
        tag(
            "label",
            f"{word} ",
            tag(
                "select",
                *(tag("option", a.name, value=a.name, selected=a is one) for a in axes),
                name=key,
            ),
        )
        for word, key, one in (("Across", "x", chosen[0]), ("Up", "y", chosen[1]))
    )
    hidden = tag("input", type="hidden", name="q", value=text)
    button = tag("button", "Draw", type="submit", class_="quiet")
    return tag("form", hidden, up, " ", across, " ", button, action="/#plot", method="get")
