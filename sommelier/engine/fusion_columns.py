"""The columns of SELECT FUSIONS: what words mean there, and every candidate's values by row."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.engine.facts import ranks
from sommelier.engine.names import nearest
from sommelier.engine.plan import Condition, MetricColumn, TextColumn, TextMatch, Value
from sommelier.errors import BinderError, Span
from sommelier.grammar import nodes
from sommelier.records import TextPredicate
from sommelier.storage.resource_index import UNKNOWN, ColumnKey, ColumnView, MetricContext
from sommelier.units import Dimension

if TYPE_CHECKING:
    from sommelier.engine.facts import Facts
    from sommelier.engine.numbers import Binding, Wanted
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


class FusionWords:
    """The words of SELECT FUSIONS. device : which latencies are of; None where none is known."""

    listed = "shares"

    def __init__(self, device: str | None) -> None:
        self._device = device

    def column(self, name: str) -> MetricColumn | TextColumn:
        """The column of FUSION_COLUMNS with this name."""
        if name in FUSION_TEXTS:
            return TextColumn(name)
        return MetricColumn(ColumnKey(name), FUSION_NUMBERS[name])

    def text(self, node: nodes.Column, binding: Binding) -> str | None:
        name = _known(node)
        if name in FUSION_TEXTS and binding.clause == "on":
            raise _no_cost(node)
        return name if name in FUSION_TEXTS else None

    def number(self, node: nodes.Column, binding: Binding, wanted: Wanted) -> Value:
        name = _known(node)
        if binding.clause == "on" and name not in COSTS:
            raise _no_cost(node)
        if wanted.context is not None:
            self._check_context(name, wanted.context, node)
        found = self.column(name)
        if isinstance(found, TextColumn):
            raise BinderError(f"'{name}' is text, a number is expected here", span=node.span)
        return found

    def _check_context(self, name: str, context: nodes.Context, node: nodes.Column) -> None:
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

    def call(self, node: nodes.Call, _binding: Binding) -> Value:
        raise BinderError(
            f"fusions have no function '{node.function}'",
            span=node.span,
            hint=f"columns: {', '.join(FUSION_COLUMNS)}",
        )

    def shown(self, name: str, _binding: Binding) -> TextColumn | None:
        return TextColumn(name) if name in FUSION_TEXTS else None

    def match(
        self, column: str, operator: str, values: tuple[str, ...], source: nodes.Expression
    ) -> Condition:
        return TextMatch(TextPredicate(column, operator, values), source=source)

    def check_word(self, column: str, word: str, span: Span | None, binding: Binding) -> None:
        """Texts of fusions are sentences: any may be asked for."""

    def check_pattern(self, column: str, pattern: str, facts: Facts) -> None:
        facts.catalog.value_masks(TextPredicate(column, "regexp", (pattern,)), ("",))

    def limits(self, example: str) -> str:
        return f"bounds relative to the models stand in ON: ON {example.split(' OF ')[0]}"


def _known(node: nodes.Column) -> str:
    name = node.name.lower()
    if name in FUSION_COLUMNS:
        return name
    raise BinderError(
        f"fusions have no column '{node.name}'",
        span=node.span,
        suggestions=nearest(node.name, FUSION_COLUMNS),
        hint=f"columns: {', '.join(FUSION_COLUMNS)}",
    )


def _no_cost(node: nodes.Column) -> BinderError:
    name = node.name.lower()
    cost = name.removesuffix(_SHARE)
    hint = f"write ON {cost} < 60%: a percent is a share of what the models cost together"
    if cost not in COSTS:
        hint = "write WHERE accuracy_drop < 1%"
    return BinderError(
        f"'{name}' is no cost: ON takes {', '.join(COSTS)}", span=node.span, hint=hint
    )


class FusionRows:
    """Every candidate's values, the most promising first: the Columns that conditions look at.

    feasible : by row 'yes' or 'no', whether it keeps the limits of ON; None where that is unknown
    or nothing is limited.
    """

    def __init__(self, ranking: FusionRanking, catalog: Catalog) -> None:
        self.ranking = ranking
        self.feasible: list[str | None] = [None] * len(ranking.fusions)
        self._catalog = catalog
        self._columns: dict[str, ColumnView] = {}

    @property
    def size(self) -> int:
        return len(self.ranking.fusions)

    def column(self, key: ColumnKey) -> ColumnView:
        """One of FUSION_NUMBERS for every candidate."""
        if key.metric not in self._columns:
            values = self._numbers(key.metric)
            missing = np.isnan(values)
            context = MetricContext(None, None, None, None, int((~missing).sum()))
            codes, band = np.full(self.size, UNKNOWN, np.int8), np.full(self.size, np.nan)
            self._columns[key.metric] = ColumnView(values, missing, codes, band, band, context)
        return self._columns[key.metric]

    def _numbers(self, name: str) -> NDArray[np.float64]:
        found = self.ranking.fusions
        if name == "fusion":
            return np.arange(1, self.size + 1, dtype=np.float64)
        if name == "risk":
            return np.round(_floats([fusion.risk for fusion in found]), RISK_DIGITS)
        if name == "accuracy_drop":
            return _floats([fusion.drop for fusion in found])
        if name == "speedup":
            with np.errstate(divide="ignore", invalid="ignore"):
                speedup = 1 / self._numbers("latency" + _SHARE)
            return np.where(np.isfinite(speedup), speedup, np.nan)
        cost = name.removesuffix(_SHARE)
        values = _floats([cost_of(fusion.cost, cost) for fusion in found])
        if name == cost:
            return values
        whole = cost_of(self.ranking.together, cost)
        return values / whole if whole else np.full(self.size, np.nan)

    def similarity(self, model_id: str) -> NDArray[np.float64]:
        raise TypeError(f"fusions have no profile to compare with that of {model_id}")

    def text_mask(self, predicate: TextPredicate) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        found = self._catalog.value_masks(predicate, self.text(predicate.column).tolist())
        masks = np.zeros((2, self.size), dtype=np.bool_)
        for mask, places in zip(masks, found, strict=True):
            mask[places] = True
        return masks[0], masks[1]

    def text(self, column: str) -> NDArray[Any]:
        """One of FUSION_TEXTS for every candidate, None where unknown."""
        array = np.empty(self.size, dtype=object)
        if column == "shares":
            array[:] = self._shares
        else:
            array[:] = self.feasible if column == "feasible" else self.ranking.basis
        return array

    @cached_property
    def _shares(self) -> list[str]:
        return [", ".join(fusion.shares) for fusion in self.ranking.fusions]

    def rank(self, column: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Numbers that sort these rows as a column's text does; NaN where it is unknown."""
        return ranks(self.text(column)[rows])


def cost_of(cost: FusionCost, name: str) -> float | None:
    """One of COSTS, in base units; None where it is unknown."""
    value: float | None = getattr(cost, COSTS[name][0])
    return value


def _floats(values: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([np.nan if v is None else v for v in values], dtype=np.float64)
