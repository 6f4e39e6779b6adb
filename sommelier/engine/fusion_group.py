"""The models that SELECT FUSIONS asks about, with what the catalog knows of their costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from sommelier.engine.model_group import group_of
from sommelier.engine.plan import ModelReference
from sommelier.engine.scope import Scope
from sommelier.errors import BinderError
from sommelier.fusion_records import FusionCost
from sommelier.grammar import nodes
from sommelier.storage.resource_index import ColumnKey

if TYPE_CHECKING:
    from sommelier.engine.session import Session

BATCH = 1  # fusions are predicted, and later measured, one sample at a time


@dataclass(frozen=True, slots=True)
class FusionGroup:
    """Two models or more. device : where their latencies are known; None where nowhere.

    alone : what each costs by the catalog, in their order; latency on `device` at batch 1.
    together : one after the other, None where it is unknown of one. Memory is that of all weights
    and of the activations of the model that needs most.
    """

    models: tuple[ModelReference, ...]
    device: str | None
    alone: tuple[FusionCost, ...]
    together: FusionCost

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(model.name for model in self.models)

    @property
    def latencies_ms(self) -> tuple[float, ...] | None:
        """Of each model; None where one is unknown."""
        found = [cost.latency_ms for cost in self.alone if cost.latency_ms is not None]
        return tuple(found) if len(found) == len(self.alone) else None


def fusion_group(statement: nodes.SelectFusions, session: Session, scope: Scope) -> FusionGroup:
    """The models of the question. Raises BinderError for fewer than two, or where the device would
    have to be guessed; UnknownNameError for names there are not."""
    models = group_of(statement, session, scope)
    if len(models) < 2:
        raise BinderError(
            f"a fusion is made of two models or more, and {models[0].name} is one",
            span=statement.models[0].span if statement.models else statement.span,
            hint="SELECT FUSIONS OF a, b, or OF POOL p with two models or more",
        )
    rows = scope.facts.resources.rows([model.id for model in models])
    device = _device(rows, scope, statement)
    costs = [_known(name, device, rows, scope) for name in ("flops", "params", "memory", "latency")]
    weights, peaks = (_known(name, device, rows, scope) for name in ("size", "activation_memory"))
    flops, params, _, latency = (_sum(values) for values in costs)
    memory = _sum(
        [_sum(weights), None if None in peaks else max(p for p in peaks if p is not None)]
    )
    return FusionGroup(
        models,
        device,
        tuple(FusionCost(*values) for values in zip(*costs, strict=True)),
        FusionCost(flops, params, memory, latency),
    )


def _sum(values: Sequence[float | None]) -> float | None:
    """None where one of them is unknown."""
    known = [value for value in values if value is not None]
    return math.fsum(known) if len(known) == len(values) else None


def _device(
    rows: np.ndarray[tuple[int], np.dtype[np.int64]], scope: Scope, statement: nodes.SelectFusions
) -> str | None:
    """The device that is named or SET, else the only one where all latencies are known."""
    if scope.options.device is not None:
        return scope.options.device
    known = [
        name
        for name in scope.facts.context_names("latency", "device")
        if None not in _known("latency", name, rows, scope)
    ]
    if len(known) > 1:
        listed = ", ".join(f"'{name}'" for name in known)
        raise BinderError(
            f"latency on which device? That of these models is known on {listed}",
            span=statement.span,
            hint=f"write USING device = '{known[0]}', or SET device = '{known[0]}'",
        )
    return known[0] if known else None


def _known(
    metric: str,
    device: str | None,
    rows: np.ndarray[tuple[int], np.dtype[np.int64]],
    scope: Scope,
) -> list[float | None]:
    """A metric of each model, None where it is unknown."""
    if metric == "latency" and device is None:
        return [None] * len(rows)
    key = ColumnKey(metric)
    if metric == "latency":
        key = ColumnKey(metric, device=device, batch=BATCH)
    values = scope.facts.resources.column(key).values[rows].tolist()
    return [None if math.isnan(value) else value for value in values]
