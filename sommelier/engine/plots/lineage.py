"""What was made of what: models in columns, parents left of what came of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sommelier.engine.plots.layers import places
from sommelier.engine.plots.picture import (
    FAINT,
    INK,
    KINDS,
    RED,
    Plot,
    bare,
    blank,
    clipped,
    legend,
    nothing,
    plural,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_KNOWN = {"built": "-", "verified": "-", "evidence": (0, (5, 2)), "declared": (0, (1, 2))}
_HINT = (
    "ANALYZE a, b FOR SEGMENTS compares weights; fusions, hybrids and students are"
    " known when they are made"
)
_WIDE, _TALL = 0.66, 0.56
_LETTERS = 27


@dataclass(frozen=True, slots=True)
class Origin:
    """That `model` comes from `parent`. known : built, verified, evidence or declared."""

    model: str
    parent: str
    relation: str
    known: str


@dataclass(frozen=True, slots=True)
class Family:
    """What is drawn. model : in the middle of it, None for all. about : a model in a word or two,
    by name. left_out : sentences about what is not drawn."""

    origins: Sequence[Origin]
    model: str | None = None
    about: dict[str, str] | None = None
    left_out: tuple[str, ...] = ()


def lineage(family: Family) -> Plot:
    """The graph; colours are relations, dashes what only evidence or a declaration says."""
    if not family.origins:
        return _empty(family)
    names = list(dict.fromkeys(n for o in family.origins for n in (o.parent, o.model)))
    at = places(names, [(o.parent, o.model) for o in family.origins])
    columns = Counter(column for column, _ in at.values())
    deepest = max(columns, default=0)
    wide = max(7.0, 2.7 * (deepest + 1) + 2.0)
    tall = max(3.0, 0.62 * max(columns.values(), default=1) + 1.6)
    under = f"{plural(len(names), 'model')}, each right of what it was made of"
    figure = blank(_title(family), [under], family.left_out, size=(wide, tall))
    axes = bare(figure)
    relations = list(dict.fromkeys(o.relation for o in family.origins))
    colours = {relation: KINDS[i % len(KINDS)] for i, relation in enumerate(relations)}
    for origin in family.origins:
        _arrow(axes, at[origin.parent], at[origin.model], origin, colours[origin.relation])
    for name in names:
        _node(axes, at[name], name, family)
    _key(axes, family, colours)
    rows = [row for _, row in at.values()] or [0.0]
    axes.set_xlim(-0.5, deepest + 0.5)
    axes.set_ylim(max(rows) + 0.7, min(rows) - 0.7)
    legend(figure, axes)
    return Plot(figure, _told(family, names))


def _title(family: Family) -> str:
    return "Where models come from" if family.model is None else f"Lineage of {family.model}"


def _empty(family: Family) -> Plot:
    whose = "any model" if family.model is None else family.model
    figure = blank(_title(family), (), family.left_out, size=(8.2, 2.6))
    nothing(
        figure,
        f"Nothing to draw: it is not known that {whose} comes from another or became one",
        _HINT,
    )
    return Plot(figure, f"lineage: nothing is known of {whose}")


def _node(axes: Axes, at: tuple[int, float], name: str, family: Family) -> None:
    from matplotlib.patches import Rectangle

    x, y = at
    marked = name == family.model
    axes.add_patch(
        Rectangle(
            (x - _WIDE / 2, y - _TALL / 2), _WIDE, _TALL, facecolor="white",
            edgecolor=RED if marked else FAINT, linewidth=2.0 if marked else 1.2, zorder=3,
        )
    )  # fmt: skip
    lines = [clipped(name, _LETTERS)]
    if about := (family.about or {}).get(name):
        lines.append(clipped(about, _LETTERS))
    axes.text(x, y, "\n".join(lines), ha="center", va="center", fontsize=7.5, color=INK, zorder=4)


def _arrow(
    axes: Axes, start: tuple[int, float], stop: tuple[int, float], origin: Origin, colour: str
) -> None:
    back = stop[0] <= start[0]
    half = _WIDE / 2
    tail, head = (start[0] + half, start[1]), (stop[0] - half, stop[1])
    if back:  # of a circle, or of two of one column
        tail, head = (start[0], start[1] + _TALL / 2), (stop[0], stop[1] - _TALL / 2)
    axes.annotate(
        "", xy=head, xytext=tail, zorder=2,
        arrowprops={
            "arrowstyle": "-|>", "color": colour, "linewidth": 1.5, "shrinkA": 0, "shrinkB": 0,
            "linestyle": _KNOWN.get(origin.known, "-"),
            "connectionstyle": "arc3,rad=0.25" if back else "arc3,rad=0",
        },
    )  # fmt: skip


def _key(axes: Axes, family: Family, colours: dict[str, str]) -> None:
    for relation, colour in colours.items():
        count = sum(origin.relation == relation for origin in family.origins)
        axes.plot([], [], color=colour, linewidth=2, label=f"{relation}, {count}")
    for known in dict.fromkeys(origin.known for origin in family.origins):
        axes.plot([], [], color=INK, linewidth=1.2, linestyle=_KNOWN.get(known, "-"),
                  label=f"known: {known}")  # fmt: skip


def _told(family: Family, names: Sequence[str]) -> str:
    told = f"lineage of {plural(len(names), 'model')}"
    shown = [f"{o.model} {o.relation} {o.parent}" for o in family.origins[:12]]
    return "; ".join([told, *shown])
