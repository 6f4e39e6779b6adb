"""A fused model: the tree of blocks that its tasks share, and the search that found it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sommelier.engine.fusion_trace import TRAINED_ON
from sommelier.engine.plots.picture import (
    FAINT,
    INK,
    KINDS,
    PALE_INK,
    Plot,
    bare,
    blank,
    clipped,
    legend,
    panel,
    plural,
    unit_text,
)
from sommelier.engine.plots.trace import became, draw_costs, draw_drops
from sommelier.units import Dimension

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sommelier.analysis.fusion.drawing import Branch
    from sommelier.fusion_records import FusedModel, FusionStep, FusionTask

SHARED = "#E8E8E8"
_WIDE, _TALL = 0.84, 0.72  # of a box; columns and rows are 1 apart
_LETTER = 0.063  # inches


@dataclass(frozen=True, slots=True)
class FusionStory:
    """What is drawn. branches : of the tree, () where none was kept. steps : of the search."""

    fusion: FusedModel
    branches: Sequence[Branch]
    steps: Sequence[FusionStep]

    @property
    def chosen(self) -> FusionStep | None:
        """The step that became the model."""
        return became(self.fusion, self.steps)


def fusion(story: FusionStory) -> Plot:
    """The tree of blocks; drop and latency over the steps of the search below it."""
    tall = 0.75 * max(2, _leaves(story.branches)) if story.branches else 0.0
    search = 2.6 if story.steps else 0.0
    width = 12.5
    figure = blank(
        f"Fusion {story.fusion.name}: {_models(story)}", _under(story.fusion), _notes(story),
        size=(width, tall + search + 1.7),
    )  # fmt: skip
    parts = [part for part in (tall, search) if part] or [1.0]
    grid = figure.add_gridspec(len(parts), 2, height_ratios=parts)
    if story.branches:
        _tree(bare(figure, grid[0, :]), story, width - (1.9 if story.steps else 0.0))
    if story.steps:
        first = panel(figure, grid[-1, 0])
        draw_drops(first, story.fusion, story.steps)
        draw_costs(panel(figure, grid[-1, 1]), story.fusion, story.steps)
        legend(figure, first)
    return Plot(figure, _told(story))


# ---- the tree


def _tree(axes: Axes, story: FusionStory, width: float) -> None:
    """Runs of blocks from the input on the left to the answers on the right."""
    tasks = [task.name for task in story.fusion.tasks]
    colours = {name: KINDS[i % len(KINDS)] for i, name in enumerate(tasks)}
    rows = _rows(story.branches)
    deepest = max(branch.depth for branch in story.branches)
    letters = int(width * _WIDE / (deepest + 0.6) / _LETTER)
    roots = [rows[i] for i, branch in enumerate(story.branches) if branch.parent is None]
    ends = {i: (float(branch.depth), rows[i]) for i, branch in enumerate(story.branches)}
    start = (0.35, sum(roots) / len(roots))
    axes.text(*start, "input", ha="center", va="center", fontsize=8, color=PALE_INK)
    for i, branch in enumerate(story.branches):
        x, y = ends[i]
        from_x, from_y = start if branch.parent is None else ends[branch.parent]
        left = from_x + (0.12 if branch.parent is None else _WIDE / 2)
        right = x - _WIDE / 2
        middle = (left + right) / 2
        axes.plot([left, middle, middle, right], [from_y, from_y, y, y], color=FAINT, zorder=1,
                  linewidth=1.0 + 1.5 * len(branch.users), solid_joinstyle="round")  # fmt: skip
        edge = INK if branch.shared else colours.get(branch.owner, INK)
        _box(axes, (x, y), _words(branch, letters), SHARED if branch.shared else "white", edge)
    axes.set_xlim(0.15, deepest + 0.5)
    axes.set_ylim(max(rows.values()) + 0.5, -0.5)


def _box(axes: Axes, at: tuple[float, float], text: str, face: str, edge: str) -> None:
    from matplotlib.patches import Rectangle

    corner = at[0] - _WIDE / 2, at[1] - _TALL / 2
    axes.add_patch(
        Rectangle(corner, _WIDE, _TALL, facecolor=face, edgecolor=edge, linewidth=1.6, zorder=2)
    )
    axes.text(*at, text, ha="center", va="center", fontsize=7.3, color=INK, zorder=3)


def _words(branch: Branch, letters: int) -> str:
    """What a box says: for whom, whose blocks, and what they cost."""
    users = " and ".join(filter(None, [", ".join(branch.users[:-1]), branch.users[-1]]))
    if branch.shared and len(users) + 4 > letters:
        users = plural(len(branch.users), "model")
    blocks = f"{branch.owner} {branch.blocks}: {', '.join(branch.kinds)}"
    amounts = (
        f"{unit_text(branch.params, Dimension.COUNT)} params",
        unit_text(branch.flops, Dimension.FLOPS),
    )
    lines = (f"for {users}" if branch.shared else users, blocks, ", ".join(amounts))
    return "\n".join(clipped(line, letters) for line in lines)


def _rows(branches: Sequence[Branch]) -> dict[int, float]:
    """A row for each branch: leaves below each other, others in the middle of what reads them."""
    children: dict[int | None, list[int]] = {}
    for i, branch in enumerate(branches):
        children.setdefault(branch.parent, []).append(i)
    rows: dict[int, float] = {}
    free = 0.0
    for i in _leaves_first(children):
        below = children.get(i, [])
        if below:
            rows[i] = sum(rows[child] for child in below) / len(below)
        else:
            rows[i], free = free, free + 1.0
    return rows


def _leaves_first(children: dict[int | None, list[int]]) -> list[int]:
    order: list[int] = []

    def visit(node: int) -> None:
        for child in children.get(node, []):
            visit(child)
        order.append(node)

    for root in children.get(None, []):
        visit(root)
    return order


def _leaves(branches: Sequence[Branch]) -> int:
    parents = {branch.parent for branch in branches}
    return sum(i not in parents for i in range(len(branches)))


# ---- words


def _models(story: FusionStory) -> str:
    return clipped(", ".join(task.name for task in story.fusion.tasks), 60)


def _under(found: FusedModel) -> list[str]:
    line = f"{found.state}{f': {found.reason}' if found.reason else ''}"
    if found.stale is not None:
        line = f"stale: {found.stale}"
    own, base = found.latency_ms, found.base_latency_ms
    if own is not None and base is not None:
        times = unit_text(own, Dimension.TIME), unit_text(base, Dimension.TIME)
        line += f"; {times[0]}, the models one by one {times[1]}: {base / own:.3g}x as fast"
    drops = [text for text in map(_drop, found.tasks) if text]
    if not drops:
        return [line, "what the tasks lose is not known"]
    at = "" if found.confidence is None else f" at {found.confidence:.0%} confidence"
    proved = "proved" if all(task.proved for task in found.tasks) else "estimates"
    return [line, f"loses {', '.join(drops)}: intervals{at}, {proved}, on held-out samples"]


def _drop(task: FusionTask) -> str:
    if task.drop is None or task.drop_low is None or task.drop_high is None:
        return ""
    drop, low, high = (
        unit_text(value, Dimension.FRACTION) for value in (task.drop, task.drop_low, task.drop_high)
    )
    return f"{task.name} {drop} [{low}, {high}]"


def _notes(story: FusionStory) -> list[str]:
    told = []
    if not story.branches:
        told.append("what is shared was not kept: there is no tree to draw")
    elif any(branch.shared for branch in story.branches):
        told.append("grey: what several models share; lines as wide as models that read on")
    if story.steps:
        unmeasured = sum(step.drop_measured is None for step in story.steps)
        if unmeasured:
            told.append(
                f"no drop was measured in {plural(unmeasured, 'step')} of {len(story.steps)}"
            )
        told.append("drops of steps are on the samples that chose; those above on others")
        told += _verdicts(story)
        if story.fusion.model_id is not None and story.chosen is None:
            told.append("which step became the model is not known: none costs the same")
    return told


def _verdicts(story: FusionStory) -> list[str]:
    """Why a step below the line is not accepted, and one that is not accepted became the model."""
    most, chosen = story.fusion.drop_threshold, story.chosen
    refused = [s for s in story.steps if s.action == "trained" and not s.accepted]
    told = []
    if most is not None and any(
        step.drop_measured is not None and step.drop_measured <= most for step in refused
    ):
        told.append(
            "below the line and not accepted: it costs no less than the best before it, or loses"
            " more than a search allows itself, about half of the line"
        )
    if chosen in refused:
        told.append(TRAINED_ON)
    return told


def _told(story: FusionStory) -> str:
    chosen = story.chosen
    told = f"fusion {story.fusion.name} of {_models(story)}; {plural(len(story.branches), 'run')}"
    shared = sum(branch.shared for branch in story.branches)
    told += f" of blocks, {shared} shared; {plural(len(story.steps), 'step')}"
    return told + ("" if chosen is None else f", step {chosen.step} became the model")
