"""The columns of rows that are no models, those of SELECT LINKS, FUSIONS and CASCADES.

ListedWords says what words mean there, ListedRows holds the values; a kind of row adds its own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sommelier.engine.facts import ranks
from sommelier.engine.names import nearest
from sommelier.engine.plan import Condition, MetricColumn, TextColumn, TextMatch, Value
from sommelier.engine.predicates import Columns
from sommelier.engine.vocabulary import Vocabulary
from sommelier.errors import BinderError
from sommelier.grammar import nodes
from sommelier.records import TextPredicate
from sommelier.storage.resource_index import UNKNOWN, ColumnKey, ColumnView, MetricContext
from sommelier.units import Dimension

if TYPE_CHECKING:
    from sommelier.engine.facts import Facts
    from sommelier.engine.numbers import Binding, Wanted
    from sommelier.storage.catalog import Catalog

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


class ListedWords(Vocabulary):
    """Words that are columns of the rows, known by name; nothing else can be said of them.

    kind, one : what several rows and one of them are called. columns : every column, in the order
    of `*`; default : those shown without a projection. texts : the columns that are text; numbers :
    what the others measure. context_hint : what to write in place of ON and AT.
    """

    kind: ClassVar[str]
    one: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]
    default: ClassVar[tuple[str, ...]]
    texts: ClassVar[tuple[str, ...]]
    numbers: ClassVar[Mapping[str, Dimension]]
    listed: ClassVar[str]
    context_hint: ClassVar[str | None] = None

    def column(self, name: str) -> MetricColumn | TextColumn:
        """The column with this name, one of `columns`."""
        if name in self.texts:
            return TextColumn(name)
        return MetricColumn(ColumnKey(name), self.numbers[name])

    def text(self, node: nodes.Column, binding: Binding) -> str | None:
        name = self._known(node)
        if name not in self.texts:
            return None
        self._check_clause(name, node, binding)
        return name

    def number(self, node: nodes.Column, binding: Binding, wanted: Wanted) -> Value:
        name = self._known(node)
        self._check_clause(name, node, binding)
        if wanted.context is not None:
            self._check_context(name, node, wanted.context)
        found = self.column(name)
        if isinstance(found, TextColumn):
            raise BinderError(f"'{name}' is text, a number is expected here", span=node.span)
        return found

    def _known(self, node: nodes.Column) -> str:
        name = node.name.lower()
        if name in self.columns:
            return name
        raise BinderError(
            f"{self.kind} have no column '{node.name}'",
            span=node.span,
            suggestions=nearest(node.name, self.columns),
            hint=f"columns: {', '.join(self.columns)}",
        )

    def _check_clause(self, name: str, node: nodes.Column, binding: Binding) -> None:
        """Raises BinderError for a column that does not stand in the clause; here any does."""

    def _check_context(self, name: str, node: nodes.Column, context: nodes.Context) -> None:
        """Raises BinderError for an ON or AT that does not fit the column; here none does."""
        raise BinderError(
            f"'{name}' of a {self.one} has no context: leave out ON and AT",
            span=context.span or node.span,
            hint=self.context_hint,
        )

    def call(self, node: nodes.Call, _binding: Binding) -> Value:
        raise BinderError(
            f"{self.kind} have no function '{node.function}'",
            span=node.span,
            hint=f"columns: {', '.join(self.columns)}",
        )

    def shown(self, name: str, _binding: Binding) -> TextColumn | None:
        return TextColumn(name) if name in self.texts else None

    def match(
        self, column: str, operator: str, values: tuple[str, ...], source: nodes.Expression
    ) -> Condition:
        return TextMatch(TextPredicate(column, operator, values), source=source)

    def check_pattern(self, column: str, pattern: str, facts: Facts) -> None:
        facts.catalog.value_masks(TextPredicate(column, "regexp", (pattern,)), ("",))


class ListedRows(Columns):
    """The values of rows, in an order of their own.

    kind : what the rows are called.
    """

    kind: ClassVar[str]

    def __init__(self, catalog: Catalog) -> None:
        """catalog : its database compares texts."""
        self._catalog = catalog
        self._columns: dict[str, ColumnView] = {}

    @property
    @abstractmethod
    def size(self) -> int:
        """How many rows there are."""

    @abstractmethod
    def numbers(self, name: str) -> Floats:
        """A column of numbers, one a row; NaN where it is unknown."""

    @abstractmethod
    def texts(self, name: str) -> Sequence[str | None]:
        """A column of text, one a row; None where it is unknown."""

    def column(self, key: ColumnKey) -> ColumnView:
        """A column of numbers without an error band; it is worked out once."""
        if key.metric not in self._columns:
            values = self.numbers(key.metric)
            missing = np.isnan(values)
            context = MetricContext(None, None, None, None, int((~missing).sum()))
            codes, band = np.full(self.size, UNKNOWN, np.int8), np.full(self.size, np.nan)
            self._columns[key.metric] = ColumnView(values, missing, codes, band, band, context)
        return self._columns[key.metric]

    def similarity(self, model_id: str) -> Floats:
        """Raises TypeError: no question about these rows asks for it."""
        raise TypeError(f"{self.kind} have no profile to compare with that of {model_id}")

    def text_mask(self, predicate: TextPredicate) -> tuple[Mask, Mask]:
        """(rows for which the predicate is true, rows whose text is unknown)."""
        found = self._catalog.value_masks(predicate, self.texts(predicate.column))
        masks = np.zeros((2, self.size), dtype=np.bool_)
        for mask, places in zip(masks, found, strict=True):
            mask[places] = True
        return masks[0], masks[1]

    def text(self, column: str) -> NDArray[Any]:
        """A column of text as an array of objects, None where it is unknown."""
        array = np.empty(self.size, dtype=object)
        array[:] = self.texts(column)
        return array

    def rank(self, column: str, rows: NDArray[np.int64]) -> NDArray[Any]:
        """Numbers that sort these rows as the column's text does; NaN where it is unknown."""
        return ranks(self.text(column)[rows])


def floats(values: Sequence[float | None]) -> Floats:
    """Numbers as float64, NaN for None."""
    return np.array([np.nan if v is None else v for v in values], dtype=np.float64)
