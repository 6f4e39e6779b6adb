"""What the catalog knows for cascades, and what WITHIN and CONFIDENCE promise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sommelier.engine.numbers import Binding, bind_number
from sommelier.engine.plan import Constant
from sommelier.errors import BinderError
from sommelier.grammar import nodes
from sommelier.storage.resource_index import ColumnKey

if TYPE_CHECKING:
    from sommelier.engine.facts import Facts
    from sommelier.engine.scope import Scope
    from sommelier.records import ModelRecord

WITHIN = 0.01  # where nothing is said
_CLASSES = ("classification", "class_ids")


def known_flops(models: Sequence[ModelRecord], facts: Facts) -> list[float | None]:
    """FLOPs of each model for one input, None where they are unknown."""
    rows = facts.resources.rows([model.id for model in models])
    values = facts.column(ColumnKey("flops")).values[rows].tolist()
    return [None if math.isnan(value) else value for value in values]


def class_fault(model: ModelRecord) -> str | None:
    """Why a model cannot be one of a cascade, which needs one output that chooses a class."""
    if model.output_kind.value not in _CLASSES:
        return (
            f"{model.name} answers {model.output_kind.value}: "
            "the models of a cascade choose a class"
        )
    if len(model.outputs) > 1:
        names = ", ".join(spec.name for spec in model.outputs)
        return f"{model.name} has several outputs ({names}), a cascade needs one"
    return None


def risk_of(
    statement: nodes.CreateCascade | nodes.SelectCascades, scope: Scope
) -> tuple[float, float]:
    """(what may be lost, with what confidence), shares. Raises BinderError for impossible ones."""
    confidence = scope.options.confidence
    within = _share(statement.within, scope, "WITHIN", "1%") if statement.within else WITHIN
    if statement.confidence:
        confidence = _share(statement.confidence, scope, "CONFIDENCE", "95%")
    return within, confidence


def _share(
    node: nodes.Percent | nodes.Number | nodes.Parameter, scope: Scope, word: str, example: str
) -> float:
    value = bind_number(node, Binding(scope, "where"))
    assert isinstance(value, Constant), "a literal"
    if not 0 < value.value < 1:
        raise BinderError(
            f"{word} takes a share between 0% and 100%", span=node.span, hint=f"write {example}"
        )
    return value.value
