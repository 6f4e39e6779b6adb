"""A cascade's accuracy against what it computes, over its thresholds, with those that were kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sommelier.confidence import clopper_pearson
from sommelier.engine.plots.naming import name_points
from sommelier.engine.plots.picture import (
    BLUE,
    GREEN,
    INK,
    RED,
    Plot,
    blank,
    clipped,
    legend,
    measured_axis,
    panel,
    plural,
    unit_text,
)
from sommelier.units import Dimension

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Working:
    """A choice of thresholds: what an input costs on average, and how good the answers are, on the
    samples."""

    flops: float
    quality: float


@dataclass(frozen=True, slots=True)
class CascadeCurve:
    """What is drawn. quality : 'accuracy', or 'agreement' with the last model where no labels are.

    models : each alone, (name, what it costs and how good it is). curve : from the most cautious
    thresholds to the boldest. chosen : the kept ones. samples : behind each. kept_for : in words.
    at_most, confidence : of the promise, None without one; loss : what of.
    """

    name: str
    quality: str
    models: Sequence[tuple[str, Working]]
    curve: Sequence[Working]
    chosen: Working
    thresholds: str
    samples: int
    dataset: str
    loss: str | None = None
    at_most: float | None = None
    confidence: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def interval(self) -> tuple[float, float]:
        """Of the chosen one's quality, at CONFIDENCE."""
        right = round(self.chosen.quality * self.samples)
        low, high = clopper_pearson(right, self.samples, CONFIDENCE)
        return float(low), float(high)


def cascade(found: CascadeCurve) -> Plot:
    """The curve, each model alone, the thresholds that were kept and what was proved of them."""
    figure = blank(
        f"Cascade {found.name}: {found.quality} against FLOPs", _under(found), found.notes,
        size=(8.4, 5.2),
    )  # fmt: skip
    axes = panel(figure)
    drawn = [*found.curve, found.chosen, *(one for _, one in found.models)]
    measured_axis(
        axes, "x", "FLOPs of an input, on average (less is better)", Dimension.FLOPS,
        [one.flops for one in drawn],
    )  # fmt: skip
    wording = found.quality if found.quality == "accuracy" else f"agreement with {_last(found)}"
    measured_axis(
        axes, "y", f"{wording} (more is better)", Dimension.FRACTION, [one.quality for one in drawn]
    )
    axes.margins(0.1, 0.12)
    _draw(axes, found)
    legend(figure, axes)
    name_points(
        axes,
        [(one.flops, one.quality, clipped(name)) for name, one in found.models],
        [(found.chosen.flops, found.chosen.quality)],
        lines=[[(one.flops, one.quality) for one in found.curve]],
    )
    return Plot(figure, _told(found))


def _draw(axes: Axes, found: CascadeCurve) -> None:
    axes.plot(
        [one.flops for one in found.curve], [one.quality for one in found.curve], color=BLUE,
        linewidth=1.6, label=f"{plural(len(found.curve), 'choice')} of thresholds", gid="curve",
    )  # fmt: skip
    axes.scatter(
        [one.flops for _, one in found.models], [one.quality for _, one in found.models],
        marker="s", s=42, color=INK, zorder=4, label="a model alone", gid="models",
    )  # fmt: skip
    low, high = found.interval
    chosen = found.chosen
    axes.errorbar(
        [chosen.flops], [chosen.quality], [[chosen.quality - low], [high - chosen.quality]],
        color=RED, marker="D", markersize=5, capsize=5, linewidth=1.4, zorder=5, linestyle="none",
        label=f"kept, with its {CONFIDENCE:.0%} interval",
    )  # fmt: skip
    if found.at_most is not None:
        floor = _floor(found)
        axes.axhline(
            floor, color=GREEN, linestyle=(0, (5, 3)), linewidth=1.2, gid="promise",
            label=f"{_last(found)} less {unit_text(found.at_most, Dimension.FRACTION)}",
        )  # fmt: skip


def _last(found: CascadeCurve) -> str:
    return clipped(found.models[-1][0], 22)


def _floor(found: CascadeCurve) -> float:
    """What the last model reaches on the samples, less what may be lost."""
    return found.models[-1][1].quality - (found.at_most or 0.0)


def _under(found: CascadeCurve) -> list[str]:
    names = " → ".join(name for name, _ in found.models)
    lines = [f"{names}; on {plural(found.samples, 'sample')} of '{found.dataset}'"]
    lines.append(f"kept: {found.thresholds}")
    if found.at_most is not None and found.confidence is not None:
        lines.append(
            f"proved: {found.loss} of at most {unit_text(found.at_most, Dimension.FRACTION)} at"
            f" {unit_text(found.confidence, Dimension.FRACTION)} confidence; the rest are estimates"
        )
    else:
        lines.append("nothing was proved of it; all are estimates")
    return lines


def _told(found: CascadeCurve) -> str:
    low, high = (unit_text(end, Dimension.FRACTION) for end in found.interval)
    chosen = found.chosen
    return (
        f"cascade {found.name}: {found.quality} {unit_text(chosen.quality, Dimension.FRACTION)}"
        f" [{low}, {high}] at {unit_text(chosen.flops, Dimension.FLOPS)}; "
        + ", ".join(
            f"{name} alone {unit_text(one.quality, Dimension.FRACTION)} at"
            f" {unit_text(one.flops, Dimension.FLOPS)}"
            for name, one in found.models
        )
    )
