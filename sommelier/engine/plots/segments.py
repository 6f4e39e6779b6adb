"""Two models' operators side by side, with the segments they have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sommelier.engine.plots.picture import (
    FAINT,
    INK,
    PALE_INK,
    SHADES,
    Plot,
    bare,
    blank,
    clipped,
    plural,
    unit_text,
)
from sommelier.units import Dimension

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMED = 70  # operators of a model up to which each has its name
_LEFT, _RIGHT, _HALF = 0.0, 1.0, 0.16
_UNKNOWN = "#EFEFEF"

Span = tuple[int, int]  # first and last operator


@dataclass(frozen=True, slots=True)
class Exchange:
    """A segment. host, donor : places of its operators. changed : share of the host's answers that
    change with the donor's weights, None where unknown; basis : how that is known."""

    name: str
    host: Span
    donor: Span
    identical: bool
    changed: float | None
    basis: str


@dataclass(frozen=True, slots=True)
class Aligned:
    """What is drawn. operators : types of each model's, in order. exchanges : common segments.
    interfaces : how many exchanges of other operators there are, which are not drawn."""

    names: tuple[str, str]
    operators: tuple[Sequence[str], Sequence[str]]
    exchanges: Sequence[Exchange]
    samples: int = 0
    interfaces: int = 0
    lost: int = 0


def segments(found: Aligned) -> Plot:
    """The host on the left, the donor on the right, a band for each common segment."""
    longest = max(map(len, found.operators))
    named = longest <= NAMED
    figure = blank(
        f"Common segments: {found.names[0]} and {found.names[1]}", _under(found), _notes(found),
        size=(8.6, min(12.0, 2.2 + (0.125 if named else 0.05) * longest)),
    )  # fmt: skip
    axes = bare(figure)
    for x, name, operators in zip((_LEFT, _RIGHT), found.names, found.operators, strict=True):
        _column(axes, x, operators, named)
        axes.text(x, -1.2, clipped(name, 34), ha="center", va="bottom", fontsize=9, color=INK)
    shade = _shade()
    for exchange in found.exchanges:
        _band(axes, exchange, shade)
    axes.set_xlim(-0.55, 1.55)
    axes.set_ylim(longest + 0.5, -3.0)
    _bar(figure, axes, shade)
    return Plot(figure, _told(found))


def _column(axes: Axes, x: float, operators: Sequence[str], named: bool) -> None:
    """A box for each operator, from the input down."""
    from matplotlib.collections import PatchCollection
    from matplotlib.patches import Rectangle

    boxes = [Rectangle((x - _HALF, y), 2 * _HALF, 1.0) for y in range(len(operators))]
    axes.add_collection(
        PatchCollection(boxes, facecolor="white", edgecolor=FAINT, linewidth=0.5, zorder=2)
    )
    if not named:
        return
    side, ends = (-1, "right") if x == _LEFT else (1, "left")
    for y, op in enumerate(operators):
        axes.text(x + side * (_HALF + 0.02), y + 0.5, clipped(op, 20), ha=ends, va="center",
                  fontsize=6, color=PALE_INK)  # fmt: skip


def _band(axes: Axes, exchange: Exchange, shade: Any) -> None:
    (a, b), (c, d) = exchange.host, exchange.donor
    changed = 0.0 if exchange.identical else exchange.changed
    colour = _UNKNOWN if changed is None else shade.to_rgba(changed)
    for x, first, last in ((_LEFT, a, b), (_RIGHT, c, d)):
        axes.fill([x - _HALF, x + _HALF, x + _HALF, x - _HALF], [first, first, last + 1, last + 1],
                  color=colour, edgecolor="white", linewidth=1.0, zorder=3, alpha=0.95)  # fmt: skip
    axes.fill(
        [_LEFT + _HALF, _RIGHT - _HALF, _RIGHT - _HALF, _LEFT + _HALF], [a, c, d + 1, b + 1],
        color=colour, alpha=0.45, linewidth=0, zorder=1, gid=f"band {exchange.name}",
        hatch="////" if changed is None else None,
    )  # fmt: skip
    axes.text(
        0.5, (a + b + c + d + 2) / 4, f"{exchange.name}: {_words(exchange)}", ha="center",
        va="center", fontsize=7.5, color=INK, zorder=5,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1.2, "alpha": 0.85},
    )  # fmt: skip


def _words(exchange: Exchange) -> str:
    if exchange.identical:
        return "identical weights"
    if exchange.changed is None:
        return "change unknown"
    return f"{unit_text(exchange.changed, Dimension.FRACTION)} {exchange.basis}"


def _shade() -> Any:
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    return ScalarMappable(Normalize(0.0, 1.0), cmap=SHADES)


def _bar(figure: Figure, axes: Axes, shade: Any) -> None:
    from matplotlib.ticker import FuncFormatter

    bar = figure.colorbar(shade, ax=axes, shrink=0.5, aspect=22, pad=0.01)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, length=2)
    bar.set_label("answers of the host that change", fontsize=8, color=PALE_INK)
    bar.ax.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: unit_text(value, Dimension.FRACTION))
    )


def _under(found: Aligned) -> list[str]:
    covered = [sum(b - a + 1 for a, b in spans) for spans in _spans(found)]
    shares = [f"{k} of {len(ops)}" for k, ops in zip(covered, found.operators, strict=True)]
    line = f"{plural(len(found.exchanges), 'segment')} of {' and '.join(shares)} operators"
    many = f", on {plural(found.samples, 'sample')}" if found.samples else ""
    meaning = (
        f"colour: share of {found.names[0]}'s answers that change with {found.names[1]}'s part"
    )
    return [line, meaning + many]


def _spans(found: Aligned) -> tuple[list[Span], list[Span]]:
    return [e.host for e in found.exchanges], [e.donor for e in found.exchanges]


def _notes(found: Aligned) -> list[str]:
    told = []
    unknown = sum(e.changed is None and not e.identical for e in found.exchanges)
    if unknown:
        told.append(f"hatched: the change is unknown of {plural(unknown, 'segment')}")
    if found.interfaces:
        told.append(
            f"not drawn: {plural(found.interfaces, 'exchange')} for other operators between equal"
            f" shapes (SHOW SEGMENTS OF {found.names[0]}, {found.names[1]})"
        )
    if found.lost:
        told.append(f"not drawn: {plural(found.lost, 'segment')} not found in the files again")
    return told


def _told(found: Aligned) -> str:
    shown = [f"{exchange.name} {_words(exchange)}" for exchange in found.exchanges]
    return "; ".join([f"segments of {found.names[0]} and {found.names[1]}", *shown])
