"""A deployment under its SLA: how long models take, who answers, what was late or refused."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sommelier.confidence import clopper_pearson
from sommelier.engine.plots.picture import (
    BLUE,
    FAINT,
    GREEN,
    INK,
    ORANGE,
    PALE_INK,
    RED,
    Plot,
    blank,
    clipped,
    measured_axis,
    panel,
    plural,
    unit_text,
)
from sommelier.units import Dimension

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CONFIDENCE = 0.95
_QUANTILES = (
    ("p50_ms", "p50", "o", BLUE),
    ("p90_ms", "p90", "s", ORANGE),
    ("p99_ms", "p99", "D", RED),
)


@dataclass(frozen=True, slots=True)
class ModelServed:
    """One model. Times of one execution of one sample in ms, None where it had none here.
    planned_ms : what it is planned by until then, None where nobody measured it. answered :
    requests."""

    name: str
    answered: int
    p50_ms: float | None = None
    p90_ms: float | None = None
    p99_ms: float | None = None
    planned_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Served:
    """What is drawn. since : of when the counts are. promised, late, unanswered : None where it
    does not run here; unanswered : by why, 'refused 429', 'failed', how many."""

    name: str
    promise: str
    since: str
    models: Sequence[ModelServed]
    sla_ms: float | None = None
    quantile: float = 1.0
    promised: int | None = None
    late: int | None = None
    unanswered: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def deployment(served: Served) -> Plot:
    """Latency and share of answers by model above; below, where it runs here, the SLA and what was
    not answered."""
    total = sum(model.answered for model in served.models)
    tall = 0.34 * max(3, len(served.models)) + 1.0
    runs = served.promised is not None
    figure = blank(
        f"Deployment {served.name}: {plural(total, 'answer')}",
        [f"promised: {served.promise or 'nothing'}", served.since], _notes(served),
        size=(10.0, tall + (3.6 if runs else 1.8)),
    )  # fmt: skip
    figure.get_layout_engine().set(w_pad=0.16)
    grid = figure.add_gridspec(1 + runs, 2, height_ratios=[tall, 1.4][: 1 + runs])
    first = panel(figure, grid[0, 0])
    _latency(first, served)
    _shares(panel(figure, grid[0, 1]), served, total)
    if runs:
        _attained(panel(figure, grid[1, 0]), served)
        _unanswered(panel(figure, grid[1, 1]), served)
    handles, labels = first.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False, fontsize=8)
    return Plot(figure, _told(served, total))


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [clipped(name, 24) for name in names])
    axes.set_ylim(max(len(names), 2) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontsize=9, color=PALE_INK)


def _latency(axes: Axes, served: Served) -> None:
    values = [] if served.sla_ms is None else [served.sla_ms]
    for attribute, label, marker, colour in _QUANTILES:
        known = [
            (value, place)
            for place, model in enumerate(served.models)
            if (value := getattr(model, attribute)) is not None and math.isfinite(value)
        ]
        values += [value for value, _ in known]
        if known:
            axes.scatter(*zip(*known, strict=True), marker=marker, s=38, color=colour, label=label,
                         zorder=3, gid=label)  # fmt: skip
    planned = [(m.planned_ms, place) for place, m in enumerate(served.models) if _is_planned(m)]
    values += [value for value, _ in planned if value is not None]
    if planned:
        axes.scatter(*zip(*planned, strict=True), marker="o", s=38, facecolor="none",
                     edgecolor=PALE_INK, label="planned", zorder=3, gid="planned")  # fmt: skip
    if served.sla_ms is not None:
        axes.axvline(served.sla_ms, color=GREEN, linestyle=(0, (5, 3)), linewidth=1.4, label="SLA")
    _rows(axes, [model.name for model in served.models])
    measured_axis(axes, "x", "", Dimension.TIME, values)
    if axes.get_xscale() == "linear":
        axes.set_xlim(left=0)
    _title(axes, "time of one execution")


def _shares(axes: Axes, served: Served, total: int) -> None:
    _title(axes, "share of answers")
    _rows(axes, [model.name for model in served.models])
    axes.tick_params(labelleft=False)
    shares = [model.answered / total if total else 0.0 for model in served.models]
    measured_axis(axes, "x", "", Dimension.FRACTION, [0.0, 1.0])
    axes.barh(range(len(shares)), shares, height=0.55, color=BLUE)
    for place, model in enumerate(served.models):
        axes.text(shares[place], place, f" {model.answered}", va="center", fontsize=8, color=INK)
    axes.set_xlim(0, 1.12)


def attained(served: Served) -> tuple[float, float, float] | None:
    """(share answered in time, low, high) of what had a deadline; None where nothing is known."""
    if not served.promised or served.late is None:
        return None
    kept = served.promised - served.late
    low, high = clopper_pearson(kept, served.promised, CONFIDENCE)
    return kept / served.promised, float(low), float(high)


def _attained(axes: Axes, served: Served) -> None:
    found = attained(served)
    _title(axes, "answered in time, of what had a deadline")
    measured_axis(axes, "x", "", Dimension.FRACTION, [0.0, 1.0])
    axes.set_xlim(0, 1.12)
    axes.set_ylim(-0.6, 0.6)
    axes.set_yticks([])
    axes.grid(visible=False, axis="y")
    if found is None:
        axes.set_axis_off()
        _unknown(axes, "nothing had a deadline")
        return
    share, low, high = found
    axes.barh([0], [1.0], height=0.5, color="#EEEEEE")
    axes.barh([0], [share], height=0.5, color=BLUE, gid="attained")
    axes.errorbar([share], [0], xerr=[[share - low], [high - share]], color=INK, capsize=4)
    text = f"{unit_text(share, Dimension.FRACTION)} of {served.promised}"
    axes.text(0.03, 0, text, va="center", fontsize=9, color="white", fontweight="bold")
    if served.quantile < 1:
        axes.axvline(served.quantile, color=GREEN, linestyle=(0, (5, 3)), linewidth=1.4)


def _unanswered(axes: Axes, served: Served) -> None:
    from matplotlib.ticker import MaxNLocator

    _title(axes, "requests without an answer")
    names = list(served.unanswered)
    if not any(served.unanswered.values()):
        axes.set_axis_off()
        _unknown(axes, "none")
        return
    _rows(axes, names)
    counts = [served.unanswered[name] for name in names]
    axes.barh(range(len(names)), counts, height=0.55, color=RED)
    for place, count in enumerate(counts):
        axes.text(count, place, f" {count}", va="center", fontsize=8, color=INK)
    measured_axis(axes, "x", "", Dimension.COUNT, [0.0, *map(float, counts)])  # bars begin at 0
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.set_xlim(0, max(counts) * 1.15)


def _unknown(axes: Axes, text: str) -> None:
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=9,
              color=FAINT if text == "none" else PALE_INK)  # fmt: skip


def _is_planned(model: ModelServed) -> bool:
    return model.p50_ms is None and model.planned_ms is not None


def _notes(served: Served) -> list[str]:
    told = []
    if planned := [model.name for model in served.models if _is_planned(model)]:
        told.append(
            f"no execution of one sample was timed here yet: {', '.join(planned)}; drawn hollow is"
            " the mean that ANALYZE measured, by which requests are planned until then"
        )
    unknown = [m.name for m in served.models if m.p50_ms is None and m.planned_ms is None]
    if unknown:
        told.append(
            f"no time is known: {', '.join(unknown)}; requests that it answers are timed, and"
            " ANALYZE ... FOR LATENCY measures it without any"
        )
    if attained(served) is not None:
        told.append(f"interval of the share in time: {CONFIDENCE:.0%}; dashed: what is promised")
    if served.promised is None:
        told.append("what was late or refused is known where it runs")
    return [*told, *served.notes]


def _told(served: Served, total: int) -> str:
    told = f"deployment {served.name}: {plural(total, 'answer')}"
    for model in served.models:
        p99 = "unknown" if model.p99_ms is None else unit_text(model.p99_ms, Dimension.TIME)
        told += f"; {model.name} {model.answered}, p99 {p99}"
    found = attained(served)
    return told + ("" if found is None else f"; in time {unit_text(found[0], Dimension.FRACTION)}")
