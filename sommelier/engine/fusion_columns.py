"""The columns of SELECT FUSIONS: what words mean there, and every candidate's values by row."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sommelier.engine.listed_columns import ListedRows, ListedWords, floats
from sommelier.errors import BinderError, Span
from sommelier.grammar import nodes
from sommelier.units import Dimension

if TYPE_CHECKING:
    from sommelier.engine.numbers import Binding
    from sommelier.fusion_records import FusionCost, FusionRanking
    from sommelier.storage.catalog import Catalog

COSTS: dict[str, tuple[str, Dimension]] = {
    "latency": ("latency_ms", Dimension.TIME),
    "flops": ("flops", Dimension.FLOPS),
    "memory": ("memory", Dimension.BYTES),
    "params": ("params", Dimension.COUNT),
}
"""What ON may limit: the field of a FusionCost and what it measures."""

RISK_DIGITS = 3  # after the point: it is an estimate that only ranks
_SHARE = "_share"  # of what the models cost together
FUSION_NUMBERS: dict[str, Dimension] = {
    "fusion": Dimension.COUNT,
    "speedup": Dimension.NUMBER,
    **{name: dimension for name, (_, dimension) in COSTS.items()},
    **{name + _SHARE: Dimension.FRACTION for name in COSTS},
    "accuracy_drop": Dimension.FRACTION,
    "risk": Dimension.NUMBER,
}
FUSION_TEXTS = ("shares", "feasible", "basis")

FUSION_COLUMNS: tuple[str, ...] = (
    *("fusion", "shares", "speedup", "latency", "latency_share", "flops", "flops_share"),
    *("memory", "memory_share", "params", "params_share", "accuracy_drop", "risk"),
    *("feasible", "basis"),
)
"""Every column, in the order of `*`."""

DEFAULT_COLUMNS: tuple[str, ...] = (
    *("fusion", "shares", "latency", "latency_share", "flops", "memory", "accuracy_drop", "risk"),
)
"""Without a projection."""


class FusionWords(ListedWords):
    """The words of SELECT FUSIONS. device : which latencies are of; None where none is known."""

    kind, one = "fusions", "fusion"
    columns, default = FUSION_COLUMNS, DEFAULT_COLUMNS
    texts, numbers = FUSION_TEXTS, FUSION_NUMBERS
    listed = "shares"

    def __init__(self, device: str | None) -> None:
        self._device = device

    def _check_clause(self, name: str, node: nodes.Column, binding: Binding) -> None:
        if binding.clause == "on" and name not in COSTS:
            raise _no_cost(node)

    def _check_context(self, name: str, node: nodes.Column, context: nodes.Context) -> None:
        span = context.span or node.span
        if name != "latency" or context.percentile not in (None, 50):
            raise BinderError(
                f"'{name}' of a fusion is predicted for one device, at the median: leave out AT",
                span=span,
                hint="USING device = 'cpu' chooses the device of all latencies",
            )
        if context.on not in (None, self._device):
            known = "nothing" if self._device is None else f"'{self._device}'"
            raise BinderError(
                f"latency of these fusions is predicted for {known}, not for '{context.on}'",
                span=span,
                hint=f"USING device = '{context.on}' chooses the device of all latencies",
            )

    def check_word(self, column: str, word: str, span: Span | None, binding: Binding) -> None:
        """Texts of fusions are sentences: any may be asked for."""

    def limits(self, example: str) -> str:
        return f"bounds relative to the models stand in ON: ON {example.split(' OF ')[0]}"


def _no_cost(node: nodes.Column) -> BinderError:
    name = node.name.lower()
    cost = name.removesuffix(_SHARE)
    hint = f"write ON {cost} < 60%: a percent is a share of what the models cost together"
    if cost not in COSTS:
        hint = "write WHERE accuracy_drop < 1%"
    return BinderError(
        f"'{name}' is no cost: ON takes {', '.join(COSTS)}", span=node.span, hint=hint
    )


class FusionRows(ListedRows):
    """Every candidate's values, the most promising first.

    feasible : by row 'yes' or 'no', whether it keeps the limits of ON; None where that is unknown
    or nothing is limited.
    """

    kind = "fusions"

    def __init__(self, ranking: FusionRanking, catalog: Catalog) -> None:
        super().__init__(catalog)
        self.ranking = ranking
        self.feasible: list[str | None] = [None] * len(ranking.fusions)

    @property
    def size(self) -> int:
        return len(self.ranking.fusions)

    def numbers(self, name: str) -> NDArray[np.float64]:
        found = self.ranking.fusions
        if name == "fusion":
            return np.arange(1, self.size + 1, dtype=np.float64)
        if name == "risk":
            return np.round(floats([fusion.risk for fusion in found]), RISK_DIGITS)
        if name == "accuracy_drop":
            return floats([fusion.drop for fusion in found])
        if name == "speedup":
            with np.errstate(divide="ignore", invalid="ignore"):
                speedup = 1 / self.numbers("latency" + _SHARE)
            return np.where(np.isfinite(speedup), speedup, np.nan)
        cost = name.removesuffix(_SHARE)
        values = floats([cost_of(fusion.cost, cost) for fusion in found])
        if name == cost:
            return values
        whole = cost_of(self.ranking.together, cost)
        return values / whole if whole else np.full(self.size, np.nan)

    def texts(self, name: str) -> Sequence[str | None]:
        if name == "shares":
            return self._shares
        return self.feasible if name == "feasible" else [self.ranking.basis] * self.size

    @cached_property
    def _shares(self) -> list[str]:
        return [", ".join(fusion.shares) for fusion in self.ranking.fusions]


def cost_of(cost: FusionCost, name: str) -> float | None:
    """One of COSTS, in base units; None where it is unknown."""
    value: float | None = getattr(cost, COSTS[name][0])
    return value
