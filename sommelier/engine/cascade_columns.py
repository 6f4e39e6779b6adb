"""The columns of SELECT CASCADES: what words mean there, and every pair's values by row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sommelier.engine.listed_columns import ListedRows, ListedWords
from sommelier.engine.names import unknown
from sommelier.errors import BinderError, Span
from sommelier.grammar import nodes
from sommelier.units import Dimension

if TYPE_CHECKING:
    from sommelier.engine.numbers import Binding
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


class CascadeWords(ListedWords):
    """The words of SELECT CASCADES. costs : only those that ON takes."""

    kind, one = "cascades", "cascade"
    columns, default = CASCADE_COLUMNS, DEFAULT_COLUMNS
    texts, numbers = CASCADE_TEXTS, CASCADE_NUMBERS
    listed = "student"
    context_hint = "USING dataset = 'name' chooses the samples"

    def __init__(self, *, costs: bool = False) -> None:
        self._costs = costs

    def _check_clause(self, name: str, node: nodes.Column, _binding: Binding) -> None:
        if self._costs and name.removesuffix(SHARE) not in COSTS:
            raise no_cost(node)

    def check_word(self, column: str, word: str, span: Span | None, binding: Binding) -> None:
        """A student or teacher that no model is called is a spelling mistake."""
        names = binding.scope.facts.model_names()
        if column in _MODELS and word not in names:
            raise unknown("model", word, names, span)

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


class CascadeRows(ListedRows):
    """Every pair's values, in the order they were found."""

    kind = "cascades"

    def __init__(
        self,
        texts: Mapping[str, list[str]],
        numbers: Mapping[str, NDArray[np.float64]],
        catalog: Catalog,
    ) -> None:
        """texts, numbers : of each of CASCADE_TEXTS and CASCADE_NUMBERS, one a row."""
        super().__init__(catalog)
        self._texts = texts
        self._numbers = numbers

    @property
    def size(self) -> int:
        return len(self._texts["student"])

    def numbers(self, name: str) -> NDArray[np.float64]:
        return self._numbers[name]

    def texts(self, name: str) -> list[str]:
        return self._texts[name]
