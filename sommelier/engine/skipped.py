"""Why models were skipped: for each unknown number, how many, and what would make it known."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sommelier.engine.plan import (
    Condition,
    Constant,
    MetricColumn,
    Similarity,
    TextMatch,
    atoms,
    leaves,
    operands,
)
from sommelier.engine.predicates import Block, numbers
from sommelier.engine.wording import name_of, value_text
from sommelier.engine.world import World
from sommelier.metrics import METRICS

_MEASURED_BY = {"latency": "LATENCY", "throughput": "LATENCY", "measured_memory": "LATENCY",
                "accuracy": "ACCURACY", "top5_accuracy": "ACCURACY"}  # fmt: skip
_PROFILED = ("params", "size", "flops", "activation_memory", "memory", "layers")


def skipped_notes(condition: Condition, rows: NDArray[np.int64], world: World) -> list[str]:
    """One sentence per number or text that is unknown for some of `rows`."""
    notes: list[str] = []
    for atom in atoms(condition):
        if isinstance(atom, TextMatch):
            unknown = int(np.count_nonzero(world.text_mask(atom.predicate)[1][rows]))
            if unknown:
                notes.append(f"{models(unknown)} skipped: {atom.predicate.column} is unknown")
        for value in operands(atom):
            for leaf in leaves(value):
                note = _note(leaf, rows, world)
                if note:
                    notes.append(note)
    return list(dict.fromkeys(notes))


def _note(leaf: object, rows: NDArray[np.int64], world: World) -> str | None:
    if isinstance(leaf, Constant):
        if leaf.value == leaf.value:
            return None
        return f"{leaf.origin or 'a bound'} is unknown, so nothing can be compared with it"
    if not isinstance(leaf, MetricColumn | Similarity):
        return None
    unknown = int(np.count_nonzero(np.isnan(numbers(leaf, Block(world, rows)))))
    if not unknown:
        return None
    if isinstance(leaf, Similarity):
        return f"{models(unknown)} skipped: {value_text(leaf)} is unknown, no resource profile"
    return f"{models(unknown)} skipped: no {name_of(leaf.key)} known{_remedy(leaf)}"


def _remedy(column: MetricColumn) -> str:
    metric = column.key.metric
    if metric in _MEASURED_BY:
        aspect = _MEASURED_BY[metric]
        kind = METRICS[metric].context[0]
        name = column.key.device or column.key.dataset
        using = f" USING {kind} = '{name}'" if name and kind == "dataset" else ""
        return f" (run ANALYZE ALL FOR {aspect}{using})"
    return " (run ANALYZE ALL FOR RESOURCES)" if metric in _PROFILED else ""


def models(count: int) -> str:
    """
    >>> models(1), models(12)
    ('1 model', '12 models')
    """
    return "1 model" if count == 1 else f"{count} models"
