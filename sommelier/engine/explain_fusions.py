"""EXPLAIN SELECT FUSIONS: what would be compared, on which data, every bound in real amounts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sommelier.engine import wording
from sommelier.engine.fusion_columns import COSTS, cost_of
from sommelier.engine.fusion_notes import BASES, amounts, latency_note
from sommelier.engine.plan import Condition, conjuncts
from sommelier.engine.result import Report, Table
from sommelier.engine.select_fusions import MOST_ROWS, FusionsQuestion

if TYPE_CHECKING:
    from sommelier.fusion_records import FusionBlocks, FusionCost

Stages = list[tuple[str, list[str]]]


def explain_fusions(
    question: FusionsQuestion,
    blocks: FusionBlocks,
    *,
    samples: int,
    dataset: str | None,
    basis: str,
    notes: Sequence[str] = (),
    found: tuple[Table, float] | None = None,
) -> Report:
    """The question before it is answered; its limits are shares of what the catalog knows.

    samples, dataset : what predictions would be made from, 0 and None for nothing. basis : as in
    FusionRanking. found : the answer and the milliseconds it took, of EXPLAIN ANALYZE.
    """
    stages = _stages(question, blocks, _data(samples, dataset), basis)
    told = [*notes, *question.binding.scope.notes]
    data: dict[str, Any] = {
        "plan": [{"stage": name, "detail": details} for name, details in stages],
        "models": _model_data(question, blocks),
        "pairs": _pair_data(question, blocks),
        "samples": samples,
        "dataset": dataset,
        "basis": basis,
        "device": question.group.device,
    }
    lines = [
        f"{name if place == 0 else '':<8} {detail}"
        for name, details in stages
        for place, detail in enumerate(details)
    ]
    if found is not None:
        table, took = found
        told += table.notes
        lines += [f"{'rows':<8} {len(table)}", f"{'time':<8} {took:.0f} ms"]
        data |= {"rows": len(table), "timing_ms": round(took, 4)}
    told = list(dict.fromkeys(told))
    return Report((*lines, *(f"note: {note}" for note in told)), {**data, "notes": told})


def _stages(question: FusionsQuestion, blocks: FusionBlocks, data: str, basis: str) -> Stages:
    """What is compared, then the clauses, each with its lines."""
    group = question.group
    stages: Stages = [
        ("models", _models(question, blocks)),
        ("pairs", _pairs(question, blocks)),
        ("data", [data]),
        ("costs", [f"{amounts(group.together)}, one after the other", _latency(question, basis)]),
    ]
    clauses = (("on", question.limits), ("where", question.where))
    stages += [(name, _conditions(part)) for name, part in clauses if part is not None]
    names = ", ".join(column.name for column in question.columns)
    if question.distinct:
        stages.append(("distinct", [names]))
    order = wording.order_text(question.order) if question.order else "the most promising first"
    most = MOST_ROWS if question.limit is None else question.limit
    since = f" from row {question.offset + 1}" if question.offset else ""
    return [*stages, ("order", [order]), ("limit", [f"{most}{since}"]), ("columns", [names])]


def _latency(question: FusionsQuestion, basis: str) -> str:
    """What the latencies of fusions will be, beside those of the models that stand above."""
    told = latency_note(question.group, basis)
    return told.replace("latency is", "latency of fusions will be") if basis in BASES else told


def _conditions(condition: Condition) -> list[str]:
    first, *others = (wording.condition_text(part) for part in conjuncts(condition))
    return [first, *(f"AND {part}" for part in others)]


def _models(question: FusionsQuestion, blocks: FusionBlocks) -> list[str]:
    group = question.group
    return [
        f"{name}: {count} blocks, {amounts(cost)}"
        for name, count, cost in zip(group.names, blocks.blocks, group.alone, strict=True)
    ]


def _pairs(question: FusionsQuestion, blocks: FusionBlocks) -> list[str]:
    """Which model's blocks could read what of another, those with most ways first."""
    names = question.group.names
    ranked = sorted(blocks.pairs, key=lambda pair: (-pair[2], pair))
    return [
        f"{count} {'way' if count == 1 else 'ways'} "
        + (
            f"to leave out blocks of {names[guest]}"
            if host == guest
            else f"for {names[guest]} to go on from features of {names[host]}"
        )
        for host, guest, count in ranked
    ] or ["none: no block of one model could read what a block of another one reads"]


def _data(samples: int, dataset: str | None) -> str:
    if not samples:
        return "none, so accuracy_drop and risk will be unknown"
    return f"{samples} samples of '{dataset}', on which features are compared; labels are not used"


def _model_data(question: FusionsQuestion, blocks: FusionBlocks) -> list[dict[str, Any]]:
    group = question.group
    return [
        {"model": name, "blocks": count, **_costs(cost)}
        for name, count, cost in zip(group.names, blocks.blocks, group.alone, strict=True)
    ]


def _costs(cost: FusionCost) -> dict[str, float | None]:
    return {name: cost_of(cost, name) for name in COSTS}


def _pair_data(question: FusionsQuestion, blocks: FusionBlocks) -> list[dict[str, Any]]:
    names = question.group.names
    return [{"host": names[a], "guest": names[b], "ways": n} for a, b, n in blocks.pairs]
