"""Operator norms the rules ask for, computed together once all are known."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from sommelier.analysis.norms import Request, Window, many


@dataclass(slots=True, eq=False)
class NormRequest:
    """A certified upper bound of an operator norm; `value` once it is computed."""

    request: Request
    value: float = math.nan


class NormRequests:
    """Collects requests; `solve` computes them, equal ones once."""

    def __init__(self) -> None:
        self._waiting: list[NormRequest] = []

    def norm(self, weight: Any, window: Window | None = None) -> NormRequest:
        """The norm of a matrix (the largest of a batch), or of a convolution with its window."""
        asked = NormRequest(Request(weight, window))
        self._waiting.append(asked)
        return asked

    def solve(self, device: str) -> None:
        """Compute what is waiting."""
        found = many([asked.request for asked in self._waiting], device)
        for asked, norm in zip(self._waiting, found, strict=True):
            # an estimate from below would make the whole bound a guess
            asked.value = norm.value if norm.certified else math.inf
        self._waiting.clear()
