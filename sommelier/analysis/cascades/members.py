"""What is known of a model that may stand in a cascade: its answers and how sure it was of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.cascades.scores import as_logits, available, class_score
from sommelier.analysis.links.formats import AnswerFormat, natural
from sommelier.errors import AnalysisError

Array = NDArray[Any]
Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Member:
    """One model's answers to n inputs, the same for all models of a cascade.

    ids : the class it answers (n,), -1 where it answers none; the same numbers mean the same
    classes in all members. scores : how sure it was (n,), by name, higher is surer, NaN for no
    answer; none for a model that can only come last. flops : of one input, None when unknown.
    logits : (n, classes) or logarithms of probabilities, where a temperature may be fitted.
    """

    name: str
    ids: Indices
    scores: Mapping[str, Floats] = field(repr=False)
    flops: float | None = None
    logits: Floats | None = field(default=None, repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, chosen: Array) -> Member:
        """The same of some of the inputs."""
        scores = {name: values[chosen] for name, values in self.scores.items()}
        logits = None if self.logits is None else self.logits[chosen]
        return Member(self.name, self.ids[chosen], scores, self.flops, logits)

    def score(self, name: str, temperature: float = 1.0) -> Floats:
        """One of its scores (n,). Raises AnalysisError where it has no such score."""
        if temperature != 1.0 and self.logits is not None:
            return class_score(name, self.logits, temperature=temperature)
        if name not in self.scores:
            raise AnalysisError(
                f"{self.name} has no score '{name}'",
                hint=f"it has {', '.join(self.scores) or 'none'}",
            )
        return self.scores[name]


def member(name: str, raw: Array, format: AnswerFormat, *, flops: float | None = None) -> Member:
    """A member from the raw answers (n, ...) of a classifier, with every score that they have.

    Raises AnalysisError for answers that choose no class.
    """
    if format.kind != "classes":
        raise AnalysisError(f"{name} answers {format.kind}, not a class")
    found = natural(raw, format)
    ids = np.where(found.answered, np.nan_to_num(found.values).argmax(axis=1), -1).astype(np.int64)
    scored = available(format)
    if not scored:
        return Member(name, ids, {}, flops)
    logits = as_logits(raw, format)
    scores = {score: class_score(score, logits) for score in scored}
    return Member(name, ids, scores, flops, logits)


def top_margin(top_scores: Array) -> Floats:
    """Margin of the two best scores (n, 5) that the catalog keeps of each answer (n,).

    Of logits it ranks about as well as the margin of probabilities (algorithms.md G.1), and of
    probabilities it is that. NaN for fewer than two classes.
    """
    best = np.asarray(top_scores, dtype=np.float64)[:, :2]
    with np.errstate(invalid="ignore"):
        gap = best[:, 0] - best[:, 1]
    return np.where(np.isfinite(gap), gap, np.nan)


def checked(members: Sequence[Member]) -> int:
    """The number of inputs that two members or more answered. Raises AnalysisError otherwise."""
    sizes = {len(one) for one in members}
    if len(members) < 2 or len(sizes) != 1 or 0 in sizes:
        told = ", ".join(f"{one.name} {len(one)}" for one in members)
        raise AnalysisError(
            f"a cascade is made of two models or more that answered the same inputs: {told}"
        )
    return sizes.pop()
