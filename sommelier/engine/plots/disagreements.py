"""Images that two models answer differently, with both answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sommelier.engine.plots.picture import (
    GREEN,
    INK,
    PALE_INK,
    RED,
    Plot,
    bare,
    blank,
    clipped,
    nothing,
)

if TYPE_CHECKING:
    from typing import Any

    from matplotlib.axes import Axes

COLUMNS = 5


@dataclass(frozen=True, slots=True)
class Differing:
    """One item. image : (h, w) or (h, w, c). right : the name of the model that is right, or
    'neither'; None where the truth is not known."""

    item: int
    image: NDArray[Any]
    answers: tuple[str, str]
    truth: str | None
    right: str | None


@dataclass(frozen=True, slots=True)
class Differences:
    """What is drawn, the surest first. notes : how many there are, of how many."""

    names: tuple[str, str]
    rows: Sequence[Differing]
    notes: tuple[str, ...] = ()


def disagreements(found: Differences) -> Plot:
    """A grid of images; an answer that is right is green, one that is wrong red."""
    one, other = found.names
    title = f"Where {one} and {other} differ"
    if not found.rows:
        figure = blank(title, found.notes, size=(6.0, 2.4))
        nothing(figure, "Nothing to draw: they answer every probe alike", "try another dataset")
        return Plot(figure, _told(found))
    columns = min(COLUMNS, len(found.rows))
    rows = -(-len(found.rows) // columns)
    marks = f"1: {one}, 2: {other}; ✓ right, ✗ wrong, without a mark the truth is not known"
    size = (max(6.0, 1.9 * columns + 0.4), 2.85 * rows + 1.1)
    figure = blank(title, [*found.notes, marks], size=size)
    figure.get_layout_engine().set(h_pad=0.09)
    for place in range(rows * columns):
        axes = bare(figure, rows, columns, place + 1)
        if place < len(found.rows):
            _picture(axes, found.rows[place], found.names)
    return Plot(figure, _told(found))


def _picture(axes: Axes, row: Differing, names: tuple[str, str]) -> None:
    image = shown(row.image)
    axes.imshow(image, cmap="gray" if image.ndim == 2 else None, interpolation="nearest")
    axes.set_title(f"item {row.item}", fontsize=8, color=PALE_INK, loc="left")
    for line, (answer, name) in enumerate(zip(row.answers, names, strict=True)):
        colour, mark = INK, ""
        if row.right is not None:
            colour, mark = (GREEN, " ✓") if row.right == name else (RED, " ✗")
        axes.text(
            0.0, -0.04 - 0.11 * line, f"{line + 1}: {clipped(answer, 20)}{mark}", fontsize=8,
            color=colour, transform=axes.transAxes, va="top",
        )  # fmt: skip
    truth = "truth unknown" if row.truth is None else f"truth: {clipped(row.truth, 20)}"
    axes.text(0.0, -0.26, truth, fontsize=8, color=PALE_INK, transform=axes.transAxes, va="top")


def shown(image: NDArray[Any]) -> NDArray[Any]:
    """An image as imshow takes it: channels last, one channel without its axis, floats in 0..1."""
    picture = np.asarray(image)
    if picture.ndim == 3 and picture.shape[0] in (1, 3) and picture.shape[2] not in (1, 3, 4):
        picture = np.moveaxis(picture, 0, 2)
    if picture.ndim == 3 and picture.shape[2] == 1:
        picture = picture[:, :, 0]
    if picture.dtype != np.uint8:
        values = picture.astype(np.float64)
        low, high = np.nanmin(values), np.nanmax(values)
        picture = (values - low) / (high - low) if high > low else np.zeros_like(values)
    return picture


def _told(found: Differences) -> str:
    shown_rows = [
        f"item {row.item}: {row.answers[0]} against {row.answers[1]}"
        + ("" if row.truth is None else f", truth {row.truth}")
        for row in found.rows
    ]
    return "; ".join([f"where {found.names[0]} and {found.names[1]} differ", *shown_rows])
