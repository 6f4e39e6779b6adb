"""The search for a fusion, step by step: what was lost and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from sommelier.engine.plots.picture import BLUE, GREEN, ORANGE, RED, measured_axis
from sommelier.units import Dimension

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sommelier.fusion_records import FusedModel, FusionStep

_KINDS = ((True, BLUE, "measured, accepted"), (False, "white", "measured, not accepted"))


def became(found: FusedModel, steps: Sequence[FusionStep]) -> FusionStep | None:
    """The last step that was trained and costs what the model costs, which is exact; or None."""
    if found.model_id is None or found.flops is None:
        return None
    same = [s for s in steps if s.flops == found.flops and s.drop_measured is not None]
    return same[-1] if same else None


def draw_drops(axes: Axes, found: FusedModel, steps: Sequence[FusionStep]) -> None:
    """The largest drop of all tasks in each step, as predicted and as measured."""
    measured = [(s.step, s.drop_measured, s) for s in steps if s.drop_measured is not None]
    predicted = [(s.step, s.drop_predicted) for s in steps if s.drop_predicted is not None]
    limit = found.drop_threshold
    values = [drop for _, drop, _ in measured] + [drop for _, drop in predicted] + [limit or 0.0]
    measured_axis(axes, "y", "largest drop of a task", Dimension.FRACTION, values)
    if predicted:
        axes.scatter(
            *zip(*predicted, strict=True), marker="x", s=34, color=ORANGE, label="predicted",
            gid="predicted",
        )  # fmt: skip
    for kept, face, word in _KINDS:
        some = [(step, drop) for step, drop, of in measured if bool(of.accepted) is kept]
        if some:
            axes.scatter(
                *zip(*some, strict=True), s=34, color=face, edgecolor=BLUE, label=word, zorder=3,
                gid=word,
            )  # fmt: skip
    if limit is not None:
        axes.axhline(limit, color=GREEN, linestyle=(0, (5, 3)), linewidth=1.2, label="allowed")
    chosen = became(found, steps)
    if chosen is not None and chosen.drop_measured is not None:
        _mark(axes, chosen.step, chosen.drop_measured, "became the model")
    _steps_axis(axes, steps)


def draw_costs(axes: Axes, found: FusedModel, steps: Sequence[FusionStep]) -> None:
    """The latency of each step, or its FLOPs where no latency is known."""
    timed = [(s, s.latency_ms) for s in steps if s.latency_ms is not None]
    counted = [(s, s.flops) for s in steps if s.flops is not None]
    known, dimension, word = timed, Dimension.TIME, "latency, estimated"
    if not timed:
        known, dimension, word = counted, Dimension.FLOPS, "FLOPs"
    measured_axis(axes, "y", word, dimension, [cost for _, cost in known])
    for kept, face, _ in _KINDS:
        some = [(step.step, cost) for step, cost in known if bool(step.accepted) is kept]
        if some:
            axes.scatter(*zip(*some, strict=True), s=34, color=face, edgecolor=BLUE, zorder=3)
    chosen = became(found, steps)
    for step, cost in known:
        if step is chosen:
            _mark(axes, step.step, cost, None)
    _steps_axis(axes, steps)


def _steps_axis(axes: Axes, steps: Sequence[FusionStep]) -> None:
    from matplotlib.ticker import MaxNLocator

    taken = [step.step for step in steps]
    measured_axis(axes, "x", "step of the search", None, [float(step) for step in taken])
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    axes.margins(0.06, 0.16)
    axes.set_xlim(min(taken) - 0.5, max(taken) + 0.5)


def _mark(axes: Axes, step: int, value: float, label: str | None) -> None:
    """A ring around the step that became the model."""
    axes.scatter(
        [step], [value], s=150, facecolor="none", edgecolor=RED, linewidth=1.8, zorder=4,
        label=label, gid="chosen",
    )  # fmt: skip
