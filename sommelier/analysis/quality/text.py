"""A comparison as a small table for people: figures, breakdown, confusions, examples, doubts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from sommelier.analysis.quality.comparison import PairComparison, QualityPair
from sommelier.analysis.quality.estimates import Estimate
from sommelier.units import Dimension, format_value

GROUPS = 10
Row = tuple[str, ...]


def _percent(value: float) -> str:
    return format_value(value, Dimension.FRACTION)


def _points(value: float) -> str:
    return f"{value * 100:+.2f} pp"


def _plain(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:.4g}"


def _signed(value: float) -> str:
    return "unknown" if math.isnan(value) else f"{value:+.4g}"


def comparison_table(found: PairComparison) -> str:
    """The comparison as lines of text."""
    one, other = found.names
    share = _percent(found.confidence)
    blocks = [
        [f"{one} <- {other}: {found.samples} samples, intervals at confidence {share}"],
        [] if found.interface is None else [f"types: {found.interface}"],
        _table(("measure", "value", "interval", "method"), _figures(found)),
        _parts(found),
        _groups(found),
        _table(
            (f"{one} says", f"{other} says", "samples"),
            [(c.reference, c.candidate, str(c.count)) for c in found.confusions],
        ),
        _table(
            ("sample", one, other, "loss"),
            [(str(e.sample), e.reference, e.candidate, f"{e.loss:.3g}") for e in found.examples],
        ),
        _notes(found),
    ]
    return "\n\n".join("\n".join(block) for block in blocks if block)


def _figures(found: PairComparison) -> list[Row]:
    rows = [_row(f"agreement ({found.predicate})", found.agreement)]
    if found.loss is not None:
        rows.append(_row(f"mean loss ({found.measure})", found.loss))
    if found.overlap is not None:
        rows.append(("overlap of the five best", _percent(found.overlap), "", ""))
    if found.distance is not None:
        rows.append(("median relative L2", f"{found.distance:.4g}", "", ""))
    if found.cosine is not None:
        rows.append(("median cosine", f"{found.cosine:.4f}", "", ""))
    for pair in found.qualities:
        rows += _quality(pair, found.names)
    return rows


def _quality(pair: QualityPair, names: tuple[str, str]) -> list[Row]:
    shown = _percent if pair.difference.certified else _plain  # means of terms are shares
    return [
        _row(f"{pair.name} of {names[0]}", pair.reference, shown),
        _row(f"{pair.name} of {names[1]}", pair.candidate, shown),
        _row("  difference", pair.difference, _points if pair.difference.certified else _signed),
    ]


def _parts(found: PairComparison) -> list[str]:
    rows = [
        (name, *_row("", part.agreement)[1:3], f"{part.loss.value:.4g}" if part.loss else "")
        for name, part in found.parts.items()
    ]
    return _table(("output", "agreement", "interval", "mean loss"), rows)


def _groups(found: PairComparison) -> list[str]:
    rows = [
        (g.group, str(g.samples), _percent(g.mean), _interval(g.low, g.high))
        for g in found.groups[:GROUPS]
    ]
    count = len(found.groups)
    title = "group" if count <= GROUPS else f"group (worst {GROUPS} of {count})"
    return _table((title, "samples", "mean loss", f"interval (all {count} at once)"), rows)


def _notes(found: PairComparison) -> list[str]:
    notes = list(found.notes)
    if found.interface is not None:
        notes = [*found.interface.notes, *notes]
    if not found.exact:
        notes.append("distances are of projected outputs: estimates")
    if found.labels == "positional" and found.interface is None:
        notes.append("labels are unverified: classes are matched by their numbers")
    if found.label_order is not None:
        notes.append(str(found.label_order))
    if any(not pair.difference.certified for pair in found.qualities):
        notes.append("bootstrap intervals are estimates, not bounds")
    return [f"note: {note}" for note in dict.fromkeys(notes)]


def _row(title: str, found: Estimate, shown: Callable[[float], str] = _percent) -> Row:
    return title, shown(found.value), _interval(found.low, found.high, shown), found.method


def _interval(low: float, high: float, shown: Callable[[float], str] = _percent) -> str:
    return f"[{shown(low)}, {shown(high)}]"


def _table(header: Row, rows: Sequence[Row]) -> list[str]:
    """Aligned columns, the first to the left and numbers to the right; nothing without rows."""
    if not rows:
        return []
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    return ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip()
            for row in (header, tuple("-" * w for w in widths), *rows)]  # fmt: skip
