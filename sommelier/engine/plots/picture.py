"""What all plots have in common: the figure that is returned, its colours, titles and axes."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sommelier.errors import MissingDependencyError
from sommelier.units import Dimension, format_value

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito 2008: told apart with any colour vision; what matters has a shape of its own too.
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, YELLOW = "#CC79A7", "#56B4E9", "#F0E442"
KINDS = (BLUE, ORANGE, GREEN, PURPLE, SKY, RED, YELLOW)
INK, PALE_INK, RULE, FAINT, BACK = "#222222", "#666666", "#D9D9D9", "#BBBBBB", "#FFFFFF"

SHADES = "cividis"  # from little to much; read by any colour vision, and in grey
DPI = 110
LOG_FROM = 20.0  # largest / smallest value from which an axis is logarithmic
# of a decade, where the largest is less than so many times the smallest: more would run together
_LOG_TICKS = ((50.0, (1.0, 2.0, 5.0)), (1e3, (1.0, 3.0)), (math.inf, (1.0,)))
_TITLE, _TEXT, _SMALL = 12.0, 9.0, 8.0  # points
_WRAP = 13.5  # letters of small text an inch
_AMOUNTS = (Dimension.BYTES, Dimension.FLOPS, Dimension.TIME, Dimension.COUNT, Dimension.ENERGY)


@dataclass(frozen=True, slots=True, repr=False)
class Plot:
    """A drawn figure: a notebook shows it, `savefig` writes it, `figure` is matplotlib's own.

    told : what it says, in words, for who does not see it.
    """

    figure: Figure
    told: str

    @property
    def axes(self) -> list[Axes]:
        """The panels."""
        return list(self.figure.axes)

    def savefig(self, target: Any, **options: Any) -> None:
        """Write it to a path or binary file; the ending says how: png, svg, pdf."""
        self.figure.savefig(target, **options)

    def png(self) -> bytes:
        """The picture as PNG."""
        written = io.BytesIO()
        self.figure.savefig(written, format="png")
        return written.getvalue()

    def _repr_png_(self) -> bytes:
        return self.png()

    def __repr__(self) -> str:
        return f"<Plot {self.told}>"


def blank(
    title: str, under: Sequence[str] = (), notes: Sequence[str] = (), *,
    size: tuple[float, float] = (8.0, 5.0),
) -> Figure:  # fmt: skip
    """A figure without panels: its title, grey lines under it, and notes at its foot.

    size : inches. Raises MissingDependencyError where matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError(
            "drawing needs matplotlib", hint="pip install 'sommelier-db[plots]'"
        ) from error
    figure = Figure(figsize=size, dpi=DPI, layout="constrained", facecolor=BACK)
    FigureCanvasAgg(figure)
    lines = [part for line in under for part in wrapped(line, size[0])]
    figure.suptitle(
        "\n".join([title, *lines]), x=0.01, ha="left", fontsize=_TITLE, color=INK, alpha=0
    )  # takes the room; the texts below stand in it
    figure.text(
        0.01, 0.985, title, ha="left", va="top", fontsize=_TITLE, fontweight="bold", color=INK
    )
    below = 0.985 - 1.45 * _TITLE / 72 / size[1]
    figure.text(
        0.01, below, "\n".join(lines), ha="left", va="top", fontsize=_TEXT, color=PALE_INK,
        linespacing=1.3,
    )  # fmt: skip
    told = [part for note in notes for part in wrapped(note, size[0])]
    if told:
        figure.supxlabel("\n".join(told), x=0.01, ha="left", fontsize=_SMALL, color=PALE_INK)
    return figure


def panel(figure: Figure, *place: Any, **options: Any) -> Axes:
    """A panel with a light grid and no box around it."""
    axes = figure.add_subplot(*place, **options)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=_SMALL, length=3, color=FAINT)
    axes.grid(visible=True, color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    return axes


def bare(figure: Figure, *place: Any, **options: Any) -> Axes:
    """A panel without axes, for drawings."""
    axes = figure.add_subplot(*place, **options)
    axes.set_axis_off()
    return axes


def nothing(figure: Figure, what: str, todo: str) -> None:
    """In place of panels: that there is nothing to draw, and what would give something."""
    axes = bare(figure)
    axes.text(0.5, 0.55, what, transform=axes.transAxes, ha="center", va="bottom",
              fontsize=_TEXT + 2, color=INK, gid="nothing")  # fmt: skip
    axes.text(0.5, 0.45, "\n".join(wrapped(todo, figure.get_figwidth() * 0.8)),
              transform=axes.transAxes, ha="center", va="top", fontsize=_TEXT,
              color=PALE_INK)  # fmt: skip


def measured_axis(
    axes: Axes, which: str, label: str, dimension: Dimension | None, values: Sequence[float]
) -> None:
    """Ticks in units as people read them; logarithmic where amounts differ widely.

    which : 'x' or 'y'. values : what is drawn, in base units.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    axis = getattr(axes, f"{which}axis")
    known = [value for value in values if math.isfinite(value)]
    wide = bool(known) and min(known) > 0 and max(known) / min(known) >= LOG_FROM
    if wide and dimension in _AMOUNTS:
        getattr(axes, f"set_{which}scale")("log")
        ratio = max(known) / min(known)
        subs = next(subs for most, subs in _LOG_TICKS if ratio < most)
        axis.set_major_locator(LogLocator(subs=subs))
        axis.set_minor_formatter(NullFormatter())
    else:
        axis.set_major_locator(MaxNLocator(6))
    if dimension is not None:
        axis.set_major_formatter(FuncFormatter(lambda value, _: unit_text(value, dimension)))
    getattr(axes, f"set_{which}label")(label, fontsize=_TEXT, color=INK)


def unit_text(value: float, dimension: Dimension | None) -> str:
    """A value as people read it; '0' needs no unit but a percent sign.

    >>> unit_text(2.5e8, Dimension.BYTES), unit_text(0.9, Dimension.FRACTION)
    ('250 MB', '90%')
    """
    return format_value(float(value), dimension or Dimension.NUMBER)


def legend(
    figure: Figure, axes: Axes, *, where: str = "outside right center", spacing: float = 0.6
) -> None:
    """A legend beside the panels, of what was labelled. spacing : between its lines, in lines."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc=where, frameon=False, fontsize=_SMALL, labelspacing=spacing
        )


def wrapped(text: str, inches: float) -> list[str]:
    """The text in lines of small letters that such a width takes."""
    import textwrap

    return textwrap.wrap(text, max(20, int(inches * _WRAP))) or [""]


def plural(count: int, noun: str) -> str:
    """
    >>> plural(1, "model"), plural(1200, "model")
    ('1 model', '1 200 models')
    """
    number = f"{count:,}".replace(",", " ")
    return f"{number} {noun}" if count == 1 else f"{number} {noun}s"


def clipped(text: str, most: int = 28) -> str:
    """
    >>> clipped("a_very_long_name_of_a_model", 12)
    'a_very…model'
    """
    if len(text) <= most:
        return text
    return f"{text[: most - most // 2]}…{text[len(text) - most // 2 + 1 :]}"
