"""Which model predicts which: models in a circle, an arrow a link, as wide as it is good."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sommelier.engine.plots.picture import (
    BLUE,
    INK,
    ORANGE,
    Plot,
    bare,
    blank,
    clipped,
    legend,
    nothing,
    plural,
    unit_text,
)
from sommelier.units import Dimension

if TYPE_CHECKING:
    from matplotlib.axes import Axes

NUMBERED = 24  # links whose quality is written
Ends = tuple[tuple[float, float], tuple[float, float]]

_HINT = "ANALYZE ALL FOR LINKS tries which models predict which; SHOW LINKS lists what was tried"
_THIN, _THICK = 0.6, 5.5  # points


@dataclass(frozen=True, slots=True)
class Link:
    """That the answers of `sources` predict those of `target`. quality, low, high : in [0, 1], of
    the target's own answers on samples held out; None where unknown. proved : the interval is."""

    name: str
    sources: tuple[str, ...]
    target: str
    quality: float | None
    low: float | None = None
    high: float | None = None
    proved: bool = False


@dataclass(frozen=True, slots=True)
class Links:
    """What is drawn. left_out : sentences about links that are not."""

    links: Sequence[Link]
    left_out: tuple[str, ...] = ()


def links(found: Links) -> Plot:
    """The graph: an arrow from each source to what it predicts."""
    if not found.links:
        figure = blank("Which model predicts which", (), _notes(found), size=(8.2, 2.6))
        nothing(figure, "Nothing to draw: no link is in use", _HINT)
        return Plot(figure, "links: nothing to draw, no link is in use")
    names = sorted({n for link in found.links for n in (*link.sources, link.target)})
    side = max(5.0, min(10.0, 3.0 + 0.35 * len(names)))
    at = _circle(names)
    lowest = min((y for _, y in at.values()), default=-1.0)  # a triangle is not as tall as a circle
    tall = side * (2.5 - 1.0 - lowest) / 2.5
    figure = blank(
        f"{plural(len(found.links), 'link')} between {plural(len(names), 'model')}",
        _under(found), _notes(found), size=(side + 3.2, tall + 0.9),
    )  # fmt: skip
    axes = bare(figure)
    axes.set_aspect("equal")
    low = min((link.quality for link in found.links if link.quality is not None), default=0.0)
    for link in found.links:
        for source in link.sources:
            numbered = len(found.links) <= NUMBERED
            _arrow(axes, (at[source], at[link.target]), link, low, numbered=numbered)
    for name in names:
        x, y = at[name]
        axes.scatter([x], [y], s=60, color=INK, zorder=5)
        axes.text(
            1.07 * x, 1.07 * y, clipped(name, 24), fontsize=8, color=INK, zorder=6,
            ha="left" if x > 0.1 else "right" if x < -0.1 else "center",
            va="bottom" if y > 0.3 else "top" if y < -0.3 else "center",
        )  # fmt: skip
    _key(axes, found, low)
    axes.set_xlim(-1.75, 1.75)
    axes.set_ylim(lowest - 0.25, 1.25)
    legend(figure, axes, spacing=0.9)
    return Plot(figure, _told(found))


def _circle(names: Sequence[str]) -> dict[str, tuple[float, float]]:
    angles = [math.pi / 2 - 2 * math.pi * i / max(1, len(names)) for i in range(len(names))]
    return {n: (math.cos(a), math.sin(a)) for n, a in zip(names, angles, strict=True)}


def width_of(quality: float | None, low: float) -> float:
    """Points, from the worst link drawn to a perfect one; the thinnest where nothing is known."""
    if quality is None or low >= 1:
        return _THIN if quality is None else _THICK
    return _THIN + (_THICK - _THIN) * (quality - low) / (1 - low)


def _arrow(axes: Axes, ends: Ends, link: Link, low: float, *, numbered: bool) -> None:
    start, stop = ends
    known = link.quality is not None
    colour = BLUE if len(link.sources) == 1 else ORANGE
    axes.annotate(
        "", xy=stop, xytext=start, zorder=2,
        arrowprops={
            "arrowstyle": "-|>,head_width=0.3,head_length=0.6", "color": colour, "alpha": 0.75,
            "linewidth": width_of(link.quality, low), "shrinkA": 7, "shrinkB": 8,
            "linestyle": "-" if known else (0, (1, 2)), "connectionstyle": "arc3,rad=0.16",
        },
    )  # fmt: skip
    if numbered and link.quality is not None:
        (x0, y0), (x1, y1) = start, stop
        # beside the arrow's own bend, nearer to its head
        x, y = x0 + 0.62 * (x1 - x0), y0 + 0.62 * (y1 - y0)
        x, y = x + 0.085 * (y1 - y0), y - 0.085 * (x1 - x0)
        axes.text(
            x, y, f"{100 * link.quality:.0f}", fontsize=7, color=INK, ha="center", va="center",
            zorder=4, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.9},
        )  # fmt: skip


def _key(axes: Axes, found: Links, low: float) -> None:
    for quality in dict.fromkeys((round(low, 2), round((1 + low) / 2, 2), 1.0)):
        axes.plot([], [], color=BLUE, alpha=0.75, linewidth=width_of(quality, low),
                  label=f"predicts {unit_text(quality, Dimension.FRACTION)}")  # fmt: skip
    if any(len(link.sources) > 1 for link in found.links):
        axes.plot([], [], color=ORANGE, linewidth=2, label="one of several sources")
    if any(link.quality is None for link in found.links):
        axes.plot([], [], color=BLUE, linestyle=(0, (1, 2)), label="quality unknown")


def _under(found: Links) -> list[str]:
    lines = ["numbers: percent of the target's own answers that are predicted, on held-out samples"]
    halves = [
        max(link.high - link.quality, link.quality - link.low)
        for link in found.links
        if link.quality is not None and link.low is not None and link.high is not None
    ]
    if halves:
        proved = sum(link.proved for link in found.links)
        lines.append(
            f"intervals reach at most {100 * max(halves):.1f} points from them;"
            f" {proved} of {len(found.links)} are proved"
        )
    return lines


def _notes(found: Links) -> list[str]:
    unknown = sum(link.quality is None for link in found.links)
    told = [f"quality unknown: {plural(unknown, 'link')}"] if unknown else []
    return [*told, *found.left_out]


def _told(found: Links) -> str:
    best = sorted((k.quality, k.name, k) for k in found.links if k.quality is not None)[::-1]
    shown = [
        f"{', '.join(link.sources)} predicts {link.target},"
        f" {unit_text(quality, Dimension.FRACTION)}"
        for quality, _, link in best[:8]
    ]
    return "; ".join([plural(len(found.links), "link"), *shown])
