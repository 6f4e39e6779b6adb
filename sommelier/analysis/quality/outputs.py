"""Models with several outputs: each compared by its own measure, and all of them together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sommelier.analysis.quality.measure import Figure, Floats, Mask, Measure
from sommelier.errors import AnalysisError


@dataclass(frozen=True, slots=True)
class Outputs:
    """The largest loss of the outputs; interchangeable where every output is.

    parts : measure by output name. answers, truth : answers by output name; truth may lack outputs
    that nobody labelled. The largest of pseudometrics is a pseudometric.
    """

    parts: Mapping[str, Measure]

    @property
    def name(self) -> str:
        return "largest loss of the outputs"

    @property
    def predicate(self) -> str:
        return "; ".join(f"{name}: {part.predicate}" for name, part in self.parts.items())

    @property
    def symmetric(self) -> bool:
        return all(part.symmetric for part in self.parts.values())

    @property
    def pseudometric(self) -> bool:
        return all(part.pseudometric for part in self.parts.values())

    def losses(self, reference: Mapping[str, Any], candidate: Mapping[str, Any]) -> Floats:
        self._check(reference, candidate)
        found = [part.losses(reference[n], candidate[n]) for n, part in self.parts.items()]
        return np.asarray(np.max(found, axis=0), dtype=np.float64)

    def interchangeable(self, reference: Mapping[str, Any], candidate: Mapping[str, Any]) -> Mask:
        self._check(reference, candidate)
        found = [part.interchangeable(reference[n], candidate[n]) for n, part in self.parts.items()]
        return np.asarray(np.all(found, axis=0), dtype=np.bool_)

    def quality(self, answers: Mapping[str, Any], truth: Mapping[str, Any]) -> tuple[Figure, ...]:
        return tuple(
            figure
            for name, part in self.parts.items()
            if name in truth
            for figure in part.quality(answers[name], truth[name])
        )

    def describe(self, answer: Mapping[str, Any]) -> str:
        return "; ".join(f"{n} {part.describe(answer[n])}" for n, part in self.parts.items())

    def _check(self, *sides: Mapping[str, Any]) -> None:
        for side in sides:
            missing = [name for name in self.parts if name not in side]
            if missing:
                raise AnalysisError(
                    f"output '{missing[0]}' has no answers (there are: {', '.join(side)})"
                )
