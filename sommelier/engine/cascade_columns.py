"""The columns of SELECT CASCADES: what words mean there, and every pair's values by row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.engine.facts import ranks
from sommelier.engine.names import nearest, unknown
from sommelier.engine.plan import Condition, MetricColumn, TextColumn, TextMatch, Value
from sommelier.errors import BinderError, Span
from sommelier.grammar import nodes
from sommelier.records import TextPredicate
from sommelier.storage.resource_index import UNKNOWN, ColumnKey, ColumnView, MetricContext
from sommelier.units import Dimension

if TYPE_CHECKING:
    from sommelier.engine.facts import Facts
    from sommelier.engine.numbers import Binding, Wanted
    from sommelier.storage.catalog import Catalog

COSTS = ("flops", "memory")
"""What ON may limit; a percent of it is a share of the teacher's."""

SHARE = "_share"
CASCADE_NUMBERS: dict[str, Dimension] = {
    "threshold": Dimension.NUMBER,
    "answered": Dimension.FRACTION,
    "flops": Dimension.FLOPS,
    "flops_share": Dimension.FRACTION,
    "memory": Dimension.BYTES,
    "memory_share": Dimension.FRACTION,
    "accuracy_drop": Dimension.FRACTION,
    "disagreement": Dimension.FRACTION,
    "guaranteed": Dimension.FRACTION,
    "accuracy": Dimension.FRACTION,
    "student_accuracy": Dimension.FRACTION,
    "teacher_accuracy": Dimension.FRACTION,
    "student_flops": Dimension.FLOPS,
    "teacher_flops": Dimension.FLOPS,
}
CASCADE_TEXTS = ("student", "teacher", "score")
CASCADE_COLUMNS: tuple[str, ...] = ("student", "teacher", "score", *CASCADE_NUMBERS)
"""Every column, in the order of `*`."""

DEFAULT_COLUMNS: tuple[str, ...] = (
    *("student", "teacher", "flops_share", "answered", "score", "accuracy_drop", "disagreement"),
    *("guaranteed", "flops"),
)
"""Without a projection."""

_MODELS = ("student", "teacher")


class CascadeWords:
    """The words of SELECT CASCADES. costs : only those that ON takes."""

    listed = "student"

    def __init__(self, *, costs: bool = False) -> None:
        self._costs = costs

    def column(self, name: str) -> MetricColumn | TextColumn:
        """The column of CASCADE_COLUMNS with this name."""
        if name in CASCADE_TEXTS:
            return TextColumn(name)
        return MetricColumn(ColumnKey(name), CASCADE_NUMBERS[name])

    def text(self, node: nodes.Column, _binding: Binding) -> str | None:
        name = _known(node)
        if name in CASCADE_TEXTS and self._costs:
            raise no_cost(node)
        return name if name in CASCADE_TEXTS else None

    def number(self, node: nodes.Column, _binding: Binding, wanted: Wanted) -> Value:
        name = _known(node)
        if self._costs and name.removesuffix(SHARE) not in COSTS:
            raise no_cost(node)
        if wanted.context is not None:
            raise BinderError(
                f"'{name}' of a cascade has no context: leave out ON and AT",
                span=wanted.context.span or node.span,
                hint="USING dataset = 'name' chooses the samples",
            )
        found = self.column(name)
        if isinstance(found, TextColumn):
            raise BinderError(f"'{name}' is text, a number is expected here", span=node.span)
        return found

    def call(self, node: nodes.Call, _binding: Binding) -> Value:
        raise BinderError(
            f"cascades have no function '{node.function}'",
            span=node.span,
            hint=f"columns: {', '.join(CASCADE_COLUMNS)}",
        )

    def shown(self, name: str, _binding: Binding) -> TextColumn | None:
        return TextColumn(name) if name in CASCADE_TEXTS else None

    def match(
        self, column: str, operator: str, values: tuple[str, ...], source: nodes.Expression
    ) -> Condition:
        return TextMatch(TextPredicate(column, operator, values), source=source)

    def check_word(self, column: str, word: str, span: Span | None, binding: Binding) -> None:
        """A student or teacher that no model is called is a spelling mistake."""
        names = binding.scope.facts.model_names()
        if column in _MODELS and word not in names:
            raise unknown("model", word, names, span)

    def check_pattern(self, column: str, pattern: str, facts: Facts) -> None:
        facts.catalog.value_masks(TextPredicate(column, "regexp", (pattern,)), ("",))

    def limits(self, example: str) -> str:
        metric = example.split()[0]
        share = f"{metric}{SHARE} < 70%" if metric in COSTS else f"ON {example}"
        return f"a share of the teacher's stands in ON: {share.replace(SHARE, '')}"


def no_cost(node: nodes.Column) -> BinderError:
    """The error for a column that ON does not limit."""
    return BinderError(
        f"'{node.name.lower()}' is no cost: ON takes {', '.join(COSTS)}",
        span=node.span,
        hint="write ON flops < 70%: a percent is a share of the teacher's; other conditions"
        " stand in WHERE",
    )


def _known(node: nodes.Column) -> str:
    name = node.name.lower()
    if name in CASCADE_COLUMNS:
        return name
    raise BinderError(
        f"cascades have no column '{node.name}'",
        span=node.span,
        suggestions=nearest(node.name, CASCADE_COLUMNS),
        hint=f"columns: {', '.join(CASCADE_COLUMNS)}",
    )


class CascadeRows:
    """Every pair's values, in the order they were found: the Columns that conditions look at."""

    def __init__(
        self,
        texts: Mapping[str, list[str]],
        numbers: Mapping[str, NDArray[np.float64]],
        catalog: Catalog,
    ) -> None:
        """texts, numbers : of each of CASCADE_TEXTS and CASCADE_NUMBERS, one a row."""
        self._texts = texts
        self._numbers = numbers
        self._catalog = catalog

    @property
    def size(self) -> int:
        return len(self._texts["student"])

    def column(self, key: ColumnKey) -> ColumnView:
        """One of CASCADE_NUMBERS for every pair."""
        values = self._numbers[key.metric]
        missing = np.isnan(values)
        context = MetricContext(None, None, None, None, int((~missing).sum()))
        codes, band = np.full(self.size, UNKNOWN, np.int8), np.full(self.size, np.nan)
        return ColumnView(values, missing, codes, band, band, context)

    def similarity(self, model_id: str) -> NDArray[np.float64]:
        raise TypeError(f"cascades have no profile to compare with that of {model_id}")

    def text_mask(self, predicate: TextPredicate) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        found = self._catalog.value_masks(predicate, self._texts[predicate.column])
        masks = np.zeros((2, self.size), dtype=np.bool_)
        for mask, places in zip(masks, found, strict=True):
            mask[places] = True
        return masks[0], masks[1]

    def text(self, column: str) -> NDArray[Any]:
        """One of CASCADE_TEXTS for every pair."""
        array = np.empty(self.size, dtype=object)
        array[:] = self._texts[column]
        return array

    def rank(self, column: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Numbers that sort these rows as a column's text does."""
        return ranks(self.text(column)[rows])
