"""The agreement of models pair by pair, those that answer alike beside each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.confidence import clopper_pearson
from sommelier.engine.plots.picture import (
    INK,
    PALE_INK,
    SHADES,
    Plot,
    blank,
    clipped,
    panel,
    plural,
    unit_text,
)
from sommelier.units import Dimension

NUMBERED = 14  # models up to which each cell has its number
CONFIDENCE = 0.95
_UNKNOWN = "#F4F4F4"

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Agreements:
    """What is drawn, (n, n): row i is the reference, column j the candidate.

    shares : of equal answers, NaN where the two cannot be compared. samples : behind each, 0 where
    unknown. families : of the models, None where unknown. probes : names of the probe sets.
    estimated : whether some are estimates of projected outputs.
    """

    names: Sequence[str]
    shares: Floats
    samples: NDArray[np.int64]
    families: Sequence[str | None]
    probes: Sequence[str]
    estimated: bool = False


def agreement(found: Agreements, *, cluster: str = "likeness") -> Plot:
    """The matrix, ordered by likeness, or by family and within it by likeness."""
    order = ordered(found, cluster)
    shares = found.shares[np.ix_(order, order)]
    names = [found.names[i] for i in order]
    families = [found.families[i] for i in order] if cluster == "family" else None
    count = len(names)
    side = min(11.0, max(4.2, 0.55 * count + 1.0) if count <= NUMBERED else 0.17 * count + 3.2)
    figure = blank(
        f"Agreement of {plural(count, 'model')}", _under(found, cluster), _notes(found),
        size=(side + 3.0, side + 1.9),
    )  # fmt: skip
    axes = panel(figure)
    shade = _shades(figure, axes, shares)
    _name_axes(axes, names, families)
    if count <= NUMBERED:
        _write(axes, shares, shade)
    return Plot(figure, _told(names, shares))


def ordered(found: Agreements, cluster: str) -> list[int]:
    """Places of the models, such that those that answer alike are neighbours."""
    if cluster != "family":
        return _alike(found.shares, list(range(len(found.names))))
    families = sorted({family for family in found.families if family is not None})
    order: list[int] = []
    for family in (*families, None):
        inside = [i for i, own in enumerate(found.families) if own == family]
        order += _alike(found.shares, inside)
    return order


def _alike(shares: Floats, places: list[int]) -> list[int]:
    """Average linkage on the share of other answers; pairs that are unknown are far apart."""
    if len(places) < 3:
        return places
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    part = shares[np.ix_(places, places)]
    apart = 1.0 - np.nan_to_num((part + part.T) / 2, nan=0.0)
    np.fill_diagonal(apart, 0.0)
    leaves = leaves_list(linkage(squareform(apart, checks=False), "average", optimal_ordering=True))
    return [places[int(i)] for i in leaves]


# ---- parts


def _shades(figure: Any, axes: Any, shares: Floats) -> Any:
    """Colours of the cells, cividis from the least share to 1; those that are unknown crossed."""
    from matplotlib import colormaps
    from matplotlib.ticker import FuncFormatter

    off = shares[~np.eye(len(shares), dtype=bool)]
    known = off[np.isfinite(off)]
    low = float(np.floor(known.min() * 20) / 20) if len(known) else 0.0
    colours = colormaps[SHADES].with_extremes(bad=_UNKNOWN)
    image = axes.imshow(
        np.ma.masked_invalid(shares), cmap=colours, vmin=min(low, 0.95), vmax=1.0, aspect="equal"
    )
    for i, j in np.argwhere(~np.isfinite(shares)):
        axes.plot([j - 0.3, j + 0.3], [i - 0.3, i + 0.3], color="#AAAAAA", linewidth=0.7)
        axes.plot([j - 0.3, j + 0.3], [i + 0.3, i - 0.3], color="#AAAAAA", linewidth=0.7)
    for i in range(len(shares)):
        axes.fill([i - 0.5, i + 0.5, i + 0.5, i - 0.5], [i - 0.5, i - 0.5, i + 0.5, i + 0.5],
                  color="white")  # fmt: skip
    bar = figure.colorbar(image, ax=axes, shrink=0.6, aspect=18, pad=0.02)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, length=2)
    bar.ax.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: unit_text(value, Dimension.FRACTION))
    )
    return image


def _name_axes(axes: Any, names: Sequence[str], families: Sequence[str | None] | None) -> None:
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    size = 8.0 if len(names) <= 40 else 6.0
    shown = [clipped(name) for name in names]
    axes.set_xticks(range(len(names)), shown, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), shown)
    axes.tick_params(labelsize=size, length=0)
    if families is None:
        return
    starts = [0, *(i + 1 for i, (a, b) in enumerate(pairwise(families)) if a != b), len(families)]
    for start, stop in pairwise(starts):
        middle = (start + stop - 1) / 2
        axes.text(
            len(names) - 0.35, middle, families[start] or "no family", va="center", ha="left",
            fontsize=size, color=PALE_INK, rotation=0, clip_on=False,
        )  # fmt: skip
        if start:
            axes.axhline(start - 0.5, color="white", linewidth=3)
            axes.axvline(start - 0.5, color="white", linewidth=3)


def _write(axes: Any, shares: Floats, image: Any) -> None:
    """Percents in the cells: black on light ones, white on dark ones."""
    for (i, j), share in np.ndenumerate(shares):
        if not np.isfinite(share) or i == j:
            continue
        red, green, blue, _ = image.cmap(image.norm(share))
        light = 0.299 * red + 0.587 * green + 0.114 * blue > 0.5
        axes.text(
            j, i, f"{100 * share:.1f}", ha="center", va="center", fontsize=7.5,
            color=INK if light else "white",
        )  # fmt: skip


# ---- words


def _under(found: Agreements, cluster: str) -> list[str]:
    where = " and ".join(f"'{name}'" for name in found.probes[:3]) or "no probes"
    counts = found.samples[found.samples > 0]
    many = "" if not len(counts) else f"{int(counts.min())} "
    if len(counts) and counts.min() != counts.max():
        many = f"{int(counts.min())} to {int(counts.max())} "
    how = "by family" if cluster == "family" else "those that answer alike are neighbours"
    lines = [f"percent of equal answers to {many}probes of {where}; {how}"]
    half = _widest(found)
    if half is not None:
        least = "estimates; " if found.estimated else ""
        lines.append(
            f"{least}each share, taken alone, is within {100 * half:.1f} points of the true one at"
            f" {CONFIDENCE:.0%} confidence"
        )
    return lines


def _widest(found: Agreements) -> float | None:
    """The largest distance of an interval's end from its share; None where none is known."""
    known = np.isfinite(found.shares) & (found.samples > 0)
    known &= ~np.eye(len(known), dtype=bool)
    if not known.any():
        return None
    shares, samples = found.shares[known], found.samples[known]
    low, high = clopper_pearson(np.round(shares * samples), samples, CONFIDENCE)
    return float(np.maximum(shares - low, high - shares).max())


def _notes(found: Agreements) -> list[str]:
    unknown = int((~np.isfinite(found.shares)).sum()) // 2
    if not unknown:
        return []
    return [f"crossed: {plural(unknown, 'pair')} without a value, not compared on common probes"]


def _told(names: Sequence[str], shares: Floats) -> str:
    known = [
        (float(shares[i, j]), i, j)
        for i in range(len(names)) for j in range(i) if np.isfinite(shares[i, j])
    ]  # fmt: skip
    told = f"agreement of {plural(len(names), 'model')}"
    for word, pick in (("most alike", max), ("least alike", min)):
        if known:
            share, i, j = pick(known)
            shown = unit_text(share, Dimension.FRACTION)
            told += f"; {word}: {names[j]} and {names[i]}, {shown}"
    return told
