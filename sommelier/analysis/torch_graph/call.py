"""One operator's operands and attributes, as a rule reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sommelier.errors import AnalysisError


@dataclass(frozen=True, slots=True)
class Call:
    """operands : None for an omitted one. opset : of the standard domain."""

    operands: Sequence[Tensor | None]
    attributes: Mapping[str, Any]
    opset: int

    @property
    def x(self) -> Tensor:
        """The first operand."""
        return self.operand(0)

    @property
    def given(self) -> list[Tensor]:
        """All operands that are there."""
        return [tensor for tensor in self.operands if tensor is not None]

    def operand(self, position: int) -> Tensor:
        found = self.optional(position)
        if found is None:
            raise AnalysisError(f"an operator lacks its operand number {position}")
        return found

    def optional(self, position: int) -> Tensor | None:
        return self.operands[position] if position < len(self.operands) else None

    def attribute(self, name: str, default: Any = None) -> Any:
        found = self.attributes.get(name)
        return default if found is None else found

    def integers(self, position: int, attribute: str = "") -> list[int] | None:
        """Numbers that are an operand in newer opsets and an attribute in older ones."""
        found = self.optional(position)
        if found is not None:
            return [int(value) for value in found.reshape(-1).tolist()]
        stated = self.attributes.get(attribute)
        return None if stated is None else [int(value) for value in stated]

    def number(self, position: int, attribute: str, default: float) -> float:
        """The same for one real number."""
        found = self.optional(position)
        if found is not None:
            return float(found.reshape(-1)[0])
        return float(self.attribute(attribute, default))

    def axes(self, position: int, rank: int) -> list[int] | None:
        """Axes counted from the front; None when none are stated."""
        found = self.integers(position, "axes")
        return None if found is None else [axis % rank for axis in found]


Rule = Callable[[Call], Tensor | Sequence[Tensor]]


def integers(values: Sequence[int]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.int64)
