"""Names beside points, where they hide no point and no other name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from sommelier.engine.plots.picture import BACK, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SIZE = 8.0  # points of letters
_AWAY = 7.0  # points between the middle of a small mark and its name
_GAP = 3.0  # and between the rim of a large one and its name
_PLACES = (
    (1, 0, "left", "center"), (-1, 0, "right", "center"), (0, 1, "center", "bottom"),
    (0, -1, "center", "top"), (0.8, 0.8, "left", "bottom"), (-0.8, 0.8, "right", "bottom"),
    (0.8, -0.8, "left", "top"), (-0.8, -0.8, "right", "top"),
)  # fmt: skip
_STEP = 6.0  # pixels between the points of a line that names avoid
_RINGS = (1.0, 2.2, 3.6, 5.5)  # times as far, with a line to the point
_HIDES = 7.0  # what a name may not cost


@dataclass(frozen=True, slots=True)
class Crowd:
    """Names that were written. hidden : how many of them cover another, or leave the panel."""

    texts: Sequence[Any]
    hidden: int

    def remove(self) -> None:
        """Take the names away again."""
        for text in self.texts:
            text.remove()


def name_points(
    axes: Axes,
    named: Sequence[tuple[float, float, str]],
    others: Sequence[tuple[float, float]] = (),
    *,
    lines: Sequence[Sequence[tuple[float, float]]] = (),
    around: Sequence[float] = (),
) -> Crowd:
    """Write each name (x, y, name) where it covers least; the layout is settled first.

    others : points that have no name and should stay visible. lines : corners of what is drawn.
    around : radii of the marks that are named, in points; () for small ones.
    """
    axes.figure.draw_without_rendering()
    to_pixels = axes.transData.transform
    points = [*((x, y) for x, y, _ in named), *others]
    marks = [to_pixels(points)] if points else []
    marks += [_along(to_pixels(corners)) for corners in lines if len(corners) > 1]
    near = np.concatenate(marks) if marks else np.zeros((0, 2))
    crowd = Crowd([], 0)
    taken: list[Any] = []
    away = [max(_AWAY, radius + _GAP) for radius in around] or [_AWAY] * len(named)
    pairs = zip(named, away, strict=True)
    for one, far in sorted(pairs, key=lambda pair: (-pair[0][1], pair[0][0])):
        text, box, cost = _placed(axes, one, taken, near, far=far)
        crowd = Crowd([*crowd.texts, text], crowd.hidden + (cost >= _HIDES))
        taken.append(box)
    return crowd


def _placed(
    axes: Axes, named: tuple[float, float, str], taken: Sequence[Any], marks: Any, *,
    far: float,
) -> tuple[Any, Any, float]:  # fmt: skip
    """(the name where it hides least, its box, what it hides). far : points from its mark."""
    inside = axes.get_window_extent()
    best: tuple[Any, Any, float] | None = None
    for ring in _RINGS:
        for dx, dy, ha, va in _PLACES:
            away = dx * ring * far, dy * ring * far
            text = _note(axes, named, away, (ha, va), led=ring > 1)
            box = text.get_window_extent().padded(1.5)
            cost = _cost(box, taken, marks, inside) + (ring - 1.0) * 0.1
            if best is not None and best[2] <= cost:
                text.remove()
                continue
            if best is not None:
                best[0].remove()
            best = text, box, cost
        if best is not None and best[2] < 1:
            break
    assert best is not None, "there are places"
    return best


def _along(corners: Any) -> Any:
    """Points on a line every few pixels, (n, 2)."""
    parts = []
    for start, stop in pairwise(corners):
        count = max(2, int(np.hypot(*(stop - start)) / _STEP))
        parts.append(np.linspace(start, stop, count))
    return np.concatenate(parts)


def _note(
    axes: Axes, named: tuple[float, float, str], away: tuple[float, float], ends: tuple[str, str],
    *, led: bool,
) -> Any:  # fmt: skip
    """led : by a line from its point. A white rim keeps it readable over marks."""
    from matplotlib.patheffects import withStroke

    line = {"arrowstyle": "-", "color": "#888888", "linewidth": 0.6, "shrinkB": 3} if led else None
    text = axes.annotate(
        named[2], named[:2], xytext=away, textcoords="offset points", ha=ends[0], va=ends[1],
        fontsize=_SIZE, color=INK, arrowprops=line, zorder=6, annotation_clip=False,
        path_effects=[withStroke(linewidth=2.0, foreground=BACK)],
    )  # fmt: skip
    text.set_in_layout(False)
    return text


def _cost(box: Any, taken: Sequence[Any], marks: Any, inside: Any) -> float:
    """How much a name there would hide: other names weigh most, then leaving the panel."""
    names = sum(bool(box.overlaps(other)) for other in taken)
    x, y = marks[:, 0], marks[:, 1]
    points = int(((x > box.x0) & (x < box.x1) & (y > box.y0) & (y < box.y1)).sum())
    out: bool = not (inside.contains(box.x0, box.y0) and inside.contains(box.x1, box.y1))
    return float(10 * names + min(points, 6) + 7 * out)
