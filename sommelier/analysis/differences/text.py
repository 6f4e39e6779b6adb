"""Reports of this package as small tables for people."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sommelier.analysis.differences.disagreements import Disagreements
from sommelier.analysis.differences.layers import short_name
from sommelier.analysis.differences.lineage import LineageEvidence
from sommelier.analysis.differences.report import LayerError, LayerReport, Unaligned
from sommelier.analysis.differences.weight_pairs import WeightPair
from sommelier.units import Dimension, format_value

LAYERS = 18  # rows of layers in a table
GAPPED = 11  # of more layers: as many shown, with a line for the others between each two
EXAMPLES = 4
INHERITED = 1.5  # growth of the error below which a layer mostly hands on what it read
NAMED = 4  # unaligned layers named
Row = tuple[str, ...]


def layer_table(found: LayerReport) -> str:
    """The report as at most 40 lines."""
    one, other = found.names
    total = len(found.layers)
    lines = [
        f"{one} <- {other}: {total} layers aligned, on {found.samples} samples",
        f"weights: {'; '.join([found.lineage.relation, *found.lineage.reasons])}",
        _verdict(found),
        "",
        *(_layers(found) if found.related else []),
        *_unaligned(found),
    ]
    if found.growth() and found.related:
        grown = ", ".join(f"{short_name(x.reference)} (+{x.added:.2g})" for x in found.growth())
        lines += [f"error grows most in: {grown}"]
    lines += _answers(found)
    return "\n".join([*lines, *(f"note: {note}" for note in found.notes)])


def disagreement_table(found: Disagreements) -> str:
    """The rows as a table, one sample a line."""
    share = percent(found.total / found.samples) if found.samples else "none"
    head = f"{found.total} of {found.samples} samples answered differently ({share})"
    return "\n".join([head, *_examples(found, len(found.rows))])


def lineage_table(found: LineageEvidence) -> str:
    """The evidence as at most 40 lines."""
    one, other = found.names
    shown = sorted(found.layers, key=lambda pair: -pair.size)[:LAYERS]
    kept = {id(pair) for pair in shown}
    rows = [_weights(pair) for pair in found.layers if id(pair) in kept]
    header = ("weight", "shape", "cosine", "distance", "unrelated", "in half a step", "zeros")
    rest = len(found.layers) - len(rows)
    lines = [
        f"{other} against {one}: {found.relation}",
        *found.reasons,
        "",
        *table(header, rows, left=2),
        *([f".. {rest} smaller ones more"] if rest else []),
        *(f"note: {note}" for note in found.notes),
    ]
    declared = ", ".join(f"{key} = {value}" for key, value in found.declared.items())
    return "\n".join([*lines, *([f"declared, not verified: {declared}"] if declared else [])])


def _weights(pair: WeightPair) -> Row:
    within = "" if pair.within is None else percent(pair.within)
    zeros = f"{pair.zeros[0]:.0%} | {pair.zeros[1]:.0%}"
    shape = "x".join(map(str, pair.shape))
    return (
        short_name(pair.reference), shape, f"{pair.cosine:.4f}", f"{pair.distance:.2g}",
        f"{pair.typical:.2g}", within, zeros,
    )  # fmt: skip


def percent(value: float) -> str:
    return format_value(value, Dimension.FRACTION)


def table(header: Row, rows: Sequence[Row], *, left: int = 1) -> list[str]:
    """Aligned columns, the first `left` to the left; nothing without rows."""
    if not rows:
        return []
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    return [
        "  ".join(
            cell.ljust(w) if i < left else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in (header, *rows)
    ]


def _verdict(found: LayerReport) -> str:
    if not found.layers:
        return "no layer of one is certainly a layer of the other"
    if not found.related:
        return (
            "the same operators, other activations: the models were trained separately, and errors "
            "of layers say nothing"
        )
    first = found.first_divergence
    if first is None:
        worst = max(layer.error_max for layer in found.layers)
        return f"no layer diverges beyond the tolerance (largest relative error {worst:.2g})"
    inherited = first.growth is not None and first.growth < INHERITED
    return (
        f"first divergence: {short_name(first.reference)} ({first.kind}), median error "
        f"{first.error:.2g}, tolerance {first.tolerance:.2g}, {percent(first.beyond)} of samples "
        f"beyond{'; most of it comes from the layers before' if inherited else ''}"
    )


def _layers(found: LayerReport) -> list[str]:
    rows: list[Row] = []
    shown = _chosen(found)
    for before, place in zip([-1, *shown], shown, strict=False):
        if place - before == 2:  # a line that says so would be as long as the layer
            rows.append(_row(place - 1, found.layers[place - 1], False))
        elif place - before > 2:
            rows.append(("", f".. {place - before - 1} more", *[""] * 7))
        rows.append(_row(place, found.layers[place], found.layers[place] == found.first_divergence))
    if shown and shown[-1] < len(found.layers) - 1:
        rows.append(("", f".. {len(found.layers) - 1 - shown[-1]} more", *[""] * 7))
    header = ("", "layer", "operators", "error", "max", "cosine", "growth", "tolerance", "beyond")
    return table(header, rows, left=3)


def _row(place: int, layer: LayerError, diverges: bool) -> Row:
    kinds = layer.kind
    if layer.candidate_kind != layer.kind:
        kinds = f"{layer.kind} | {layer.candidate_kind}"
    growth = "" if layer.growth is None else f"x{layer.growth:.2g}"
    return (
        f"{'>' if diverges else ' '}{place + 1}", short_name(layer.reference), kinds,
        f"{layer.error:.2g}", f"{layer.error_max:.2g}", f"{layer.cosine:.4f}", growth,
        f"{layer.tolerance:.2g}", percent(layer.beyond),
    )  # fmt: skip


def _chosen(found: LayerReport) -> list[int]:
    """Positions of the layers a table has room for: the ends, the divergence, the growth."""
    layers = found.layers
    if len(layers) <= LAYERS:
        return list(range(len(layers)))
    wanted = [0, len(layers) - 1]
    if found.first_divergence is not None:
        k = layers.index(found.first_divergence)
        wanted += [k, k - 1, k + 1]
    wanted += [layers.index(layer) for layer in found.growth(4)]
    spread = [round(k * (len(layers) - 1) / (LAYERS - 1)) for k in range(LAYERS)]
    kept = dict.fromkeys(k for k in [*wanted, *spread] if 0 <= k < len(layers))
    return sorted(list(kept)[:GAPPED])


def _unaligned(found: LayerReport) -> list[str]:
    lines = []
    sides: tuple[tuple[str, tuple[Unaligned, ...]], ...] = (
        (found.names[0], found.only_reference),
        (found.names[1], found.only_candidate),
    )
    for name, layers in sides:
        if layers:
            shown = ", ".join(f"{short_name(x.name)} ({x.kind})" for x in layers[:NAMED])
            more = f" and {len(layers) - NAMED} more" if len(layers) > NAMED else ""
            lines.append(f"not aligned, only in {name}: {shown}{more}")
    return lines


def _answers(found: LayerReport) -> list[str]:
    answers = found.answers
    if answers is None:
        return []
    low, high = 1 - answers.agreement.high, 1 - answers.agreement.low
    changed = answers.samples - answers.agreements
    line = (
        f"answers: {changed} of {answers.samples} samples change "
        f"({percent(1 - answers.agreement.value)}, {percent(answers.confidence)} interval "
        f"{percent(low)} to {percent(high)})"
    )
    if answers.distance is not None:
        line += f", median relative distance {answers.distance:.2g}"
    return ["", line, *([] if found.examples is None else _examples(found.examples, EXAMPLES))]


def _examples(found: Disagreements, limit: int) -> list[str]:
    if not found.rows:
        return []
    one, other = found.names
    vectors = found.rows[0].distance is not None
    header: Row = ("sample", one, other)
    header += ("distance",) if vectors else ("truth", "margins", "certainty")
    rows = []
    for row in found.rows[:limit]:
        cells: Row = (str(row.index), row.reference, row.candidate)
        if row.distance is not None:
            cells += (f"{row.distance:.3g}",)
        else:
            cells += (
                row.truth or "", _two(row.reference_margin, row.candidate_margin),
                _two(row.reference_certainty, row.candidate_certainty, shares=True),
            )  # fmt: skip
        rows.append(cells)
    kept = [k for k in range(len(header)) if any(r[k] for r in rows)]
    return table(tuple(header[k] for k in kept), [tuple(r[k] for k in kept) for r in rows], left=3)


def _two(first: float | None, second: float | None, *, shares: bool = False) -> str:
    if first is None and second is None:
        return ""
    shown = []
    for value in (first, second):
        known = value is not None and not math.isnan(value)
        shown.append("?" if not known else f"{value:.0%}" if shares else f"{value:.3g}")
    return " | ".join(shown)
