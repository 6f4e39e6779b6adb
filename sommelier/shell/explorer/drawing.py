"""Points on two axes as SVG. Colours are those of the page, by class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from sommelier.shell.explorer.frame import model_address
from sommelier.shell.explorer.markup import Markup, joined, tag
from sommelier.shell.output import human
from sommelier.units import Dimension, format_value

if TYPE_CHECKING:
    from sommelier.shell.explorer.pareto import Axis

_WIDTH, _HEIGHT = 720, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 84, 24, 20, 58
_MANY = 20.0  # largest by smallest, from which on an axis is logarithmic
_TICKS = 6
_LETTER, _HIGH = 7.0, 14  # px of a label at 12 px
_LABELS = 40
_LONGEST = 24
_MARGIN = 0.06  # of an axis, at its ends
Box = tuple[float, float, float, float]  # left, top, width, height; px


@dataclass(frozen=True, slots=True)
class Point:
    """A model. x, y : in base units."""

    x: float
    y: float
    name: str
    model_id: str


@dataclass(frozen=True, slots=True)
class Scale:
    """Where a value lies. first, last : px."""

    low: float
    high: float
    first: float
    last: float
    logarithmic: bool

    def at(self, value: float) -> float:
        """px."""
        low, high, value = (self._turned(one) for one in (self.low, self.high, value))
        return round(self.first + (value - low) / (high - low) * (self.last - self.first), 1)

    def _turned(self, value: float) -> float:
        return math.log10(value) if self.logarithmic else value


def scale(values: Sequence[float], first: float, last: float, *, share: bool) -> Scale:
    """One that holds the values with some room. share : they are at most 1 and not below 0."""
    low, high = min(values), max(values)
    if low > 0 and high / low > _MANY:
        room = (high / low) ** _MARGIN
        return Scale(low / room, high * room, first, last, logarithmic=True)
    room = (high - low) * _MARGIN or abs(high) * _MARGIN or 1.0
    most = min(high + room, max(1.0, high)) if share and high < 1 else high + room
    least = max(0.0, low - room) if low >= 0 else low - room
    return Scale(least, most, first, last, logarithmic=False)


def ticks(found: Scale) -> list[float]:
    """Round values on an axis, some six of them.

    >>> ticks(Scale(0.0, 1.0, 0, 100, False))
    [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    >>> ticks(Scale(0.738, 0.848, 0, 100, False))
    [0.74, 0.76, 0.78, 0.8, 0.82, 0.84]
    >>> ticks(Scale(900.0, 2e6, 0, 100, True))
    [1000.0, 10000.0, 100000.0, 1000000.0]
    """
    if found.logarithmic:
        whole = range(math.ceil(math.log10(found.low)), math.floor(math.log10(found.high)) + 1)
        by = max(1, math.ceil(len(whole) / (_TICKS + 1)))
        decades = [10.0**power for power in whole if not power % by]
        if len(decades) > 2:
            return decades
        finer = [
            10.0**p * part for p in range(whole.start - 1, whole.stop + 1) for part in (1, 2, 5)
        ]
        return [value for value in finer if found.low <= value <= found.high]
    rough = (found.high - found.low) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * part for part in (1, 2, 5, 10) if power * part >= rough * 0.999)
    first, last = math.ceil(found.low / step), math.floor(found.high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def drawing(
    points: Sequence[Point], others: Sequence[Point], best: Sequence[int], axes: tuple[Axis, Axis]
) -> Markup:
    """The picture. best : places of the points that nothing beats."""
    every = [*points, *others]
    across = scale([p.x for p in every], _LEFT, _WIDTH - _RIGHT, share=_is_share(axes[0]))
    up = scale([p.y for p in every], _HEIGHT - _BOTTOM, _TOP, share=_is_share(axes[1]))
    on_front = set(best)
    along = [(across.at(points[place].x), up.at(points[place].y)) for place in best]
    line = _corners(along, less=axes[0].less)
    dots = [_dot(p, across, up, axes, best=i in on_front) for i, p in enumerate(points)]
    return tag(
        "svg",
        tag("title", f"{axes[1].name} by {axes[0].name}"),
        _across(across, axes[0]),
        _up(up, axes[1]),
        *(tag("circle", cx=across.at(p.x), cy=up.at(p.y), r=3, class_="other") for p in others),
        _line(line),
        *dots,
        *_labels(points, best, line, (across, up)),
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="group",
        aria_label=f"Plot of {axes[1].name} by {axes[0].name}",
    )


# ---- inside


def _is_share(axis: Axis) -> bool:
    return axis.column.dimension is Dimension.FRACTION


def _shown(value: float, axis: Axis) -> str:
    return format_value(value, axis.column.dimension or Dimension.NUMBER)


def _across(found: Scale, axis: Axis) -> Markup:
    bottom = _HEIGHT - _BOTTOM
    marks = [
        joined(
            tag("line", x1=x, x2=x, y1=_TOP, y2=bottom, class_="rule"),
            tag("text", _shown(value, axis), x=x, y=bottom + 18, text_anchor="middle"),
        )
        for value, x in ((value, found.at(value)) for value in ticks(found))
    ]
    name = f"{axis.name} · {'less' if axis.less else 'more'} is better"
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    words = tag("text", name, x=middle, y=_HEIGHT - 12, text_anchor="middle", class_="axis")
    return tag("g", *marks, words)


def _up(found: Scale, axis: Axis) -> Markup:
    marks = [
        joined(
            tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="rule"),
            tag("text", _shown(value, axis), x=_LEFT - 8, y=y + 4, text_anchor="end"),
        )
        for value, y in ((value, found.at(value)) for value in ticks(found))
    ]
    name = f"{axis.name} · {'less' if axis.less else 'more'} is better"
    middle = (_TOP + _HEIGHT - _BOTTOM) / 2
    turned = f"translate(16 {middle}) rotate(-90)"
    words = tag("text", name, transform=turned, text_anchor="middle", class_="axis")
    return tag("g", *marks, words)


def _corners(places: Sequence[tuple[float, float]], *, less: bool) -> list[tuple[float, float]]:
    """The line of what can be had, px: of two on the front, what the better-placed one allows.

    >>> _corners([(0, 9), (5, 3)], less=True)
    [(0, 9), (5, 9), (5, 3)]
    """
    found: list[tuple[float, float]] = []
    for x, y in places:
        if found:
            before = found[-1]
            # at this cost nothing more is had until the next one is paid for
            found.append((x, before[1]) if less else (before[0], y))
        found.append((x, y))
    return found


def _line(corners: Sequence[tuple[float, float]]) -> Markup:
    path = "L".join(f"{x} {y}" for x, y in corners)
    return tag("path", d=f"M{path}", class_="front", aria_hidden="true")


def _dot(point: Point, across: Scale, up: Scale, axes: tuple[Axis, Axis], *, best: bool) -> Markup:
    told = ", ".join(
        f"{axis.name} {human(value, axis.column.dimension)}"
        for axis, value in zip(axes, (point.x, point.y), strict=True)
    )
    said = f"{point.name}: {told}" + (" (front)" if best else "")
    circle = tag(
        "circle",
        tag("title", said),
        cx=across.at(point.x),
        cy=up.at(point.y),
        r=6 if best else 5,
        class_="best" if best else "answer",
    )
    return tag("a", circle, href=model_address(point.model_id), aria_label=said)


def _labels(
    points: Sequence[Point],
    best: Sequence[int],
    line: Sequence[tuple[float, float]],
    scales: tuple[Scale, Scale],
) -> list[Markup]:
    """Names beside points, those of the front first, where nothing is in the way."""
    across, up = scales
    taken = [(across.at(p.x) - 5, up.at(p.y) - 5, 10.0, 10.0) for p in points]
    taken += [_around(one, other) for one, other in pairwise(line)]
    on_front = set(best)
    order = [*best, *(i for i in range(len(points)) if i not in on_front)][:_LABELS]
    found = []
    for point in (points[place] for place in order):
        name = point.name if len(point.name) <= _LONGEST else point.name[: _LONGEST - 1] + "…"
        width = len(name) * _LETTER
        for left, top in _spots(across.at(point.x), up.at(point.y), width):
            box = (left, top, width, float(_HIGH))
            if _fits(box) and not any(_meet(box, other) for other in taken):
                taken.append(box)
                place = {"x": left, "y": round(top + 11, 1)}
                found.append(tag("text", name, **place, class_="label", aria_hidden="true"))
                break
    return found


def _around(one: tuple[float, float], other: tuple[float, float]) -> Box:
    """What a piece of the line takes."""
    left, top = min(one[0], other[0]), min(one[1], other[1])
    return left, top - 1, abs(one[0] - other[0]) + 1, abs(one[1] - other[1]) + 2


def _spots(x: float, y: float, width: float) -> list[tuple[float, float]]:
    right, left = round(x + 9, 1), round(x - 9 - width, 1)
    middle = round(x - width / 2, 1)
    return [(right, y - 16), (right, y + 1), (left, y - 16), (left, y + 1), (middle, y - 22),
            (middle, y + 8)]  # fmt: skip


def _fits(box: Box) -> bool:
    left, top, width, height = box
    inside = left > _LEFT and left + width < _WIDTH
    return inside and top > 2 and top + height < _HEIGHT - _BOTTOM


def _meet(one: Box, other: Box) -> bool:
    return (
        one[0] < other[0] + other[2]
        and other[0] < one[0] + one[2]
        and one[1] < other[1] + other[3]
        and other[1] < one[1] + one[3]
    )
