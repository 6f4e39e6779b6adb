"""Why models were skipped: for each unknown number, how many, and what would make it known."""

from __future__ import annotations

from dataclasses import replace

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
from sommelier.engine.scope import listed
from sommelier.engine.wording import name_of, value_text
from sommelier.engine.world import World
from sommelier.metrics import METRICS
from sommelier.storage.resource_index import PER_BATCH

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
                notes += _notes(leaf, rows, world)
    return list(dict.fromkeys(notes))


def _notes(leaf: object, rows: NDArray[np.int64], world: World) -> list[str]:
    if isinstance(leaf, Constant):
        if leaf.value == leaf.value:
            return []
        return [f"{leaf.origin or 'a bound'} is unknown, so nothing can be compared with it"]
    if not isinstance(leaf, MetricColumn | Similarity):
        return []
    unknown = rows[np.isnan(numbers(leaf, Block(world, rows)))]
    if not len(unknown):
        return []
    if isinstance(leaf, Similarity):
        what = f"{value_text(leaf)} is unknown, no resource profile"
        return [f"{models(len(unknown))} skipped: {what}"]
    notes, nowhere = _other_batches(leaf, unknown, world)
    if nowhere:
        notes.append(f"{models(nowhere)} skipped: no {name_of(leaf.key)} known{_remedy(leaf)}")
    return notes


def _other_batches(
    column: MetricColumn, unknown: NDArray[np.int64], world: World
) -> tuple[list[str], int]:
    """(a note on those of `unknown` that are known at another batch, how many are not)."""
    key = column.key
    if key.metric not in PER_BATCH:
        return [], len(unknown)
    batch = world.column(key).context.batch
    found = world.facts.batches(key)
    places = {b: np.isin(unknown, rows) for b, rows in found.items() if b != batch}
    at = [b for b, mask in places.items() if mask.any()]
    if not at:
        return [], len(unknown)
    count = int(np.count_nonzero(np.logical_or.reduce([places[b] for b in at])))
    name = name_of(replace(key, batch=None))
    its = "its" if count == 1 else "their"
    note = f"{models(count)} skipped: {its} {name} is known at batch {listed(at)}"
    return [f"{note}, not at {batch} (USING batch = n)"], len(unknown) - count


def measured_by(metric: str) -> str | None:
    """The aspect of ANALYZE that makes a metric known; None where there is none.

    >>> measured_by("memory"), measured_by("energy")
    ('RESOURCES', None)
    """
    return _MEASURED_BY.get(metric) or ("RESOURCES" if metric in _PROFILED else None)


def _remedy(column: MetricColumn) -> str:
    metric = column.key.metric
    aspect = measured_by(metric)
    if aspect is None:
        return ""
    context = METRICS[metric].context
    name = column.key.dataset if "dataset" in context else None
    using = f" USING dataset = '{name}'" if name else ""
    return f" (run ANALYZE ALL FOR {aspect}{using})"


def models(count: int) -> str:
    """
    >>> models(1), models(12)
    ('1 model', '12 models')
    """
    return "1 model" if count == 1 else f"{count} models"
