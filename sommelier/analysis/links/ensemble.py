"""The ensemble of all links to one target, usable with any subset of their sources.

h_Aj of the MLink paper, which learns one weight a source with all sources at hand; here each subset
is stacked on its own in closed form, and stands back where one source alone or the best constant
answer does better on held-out samples. Source: algorithms.md E.2.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import chain, combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.links.formats import LinkAnswers
from sommelier.analysis.links.heads import (
    Head,
    HeadKind,
    constant_head,
    features_of,
    outputs_of,
    source_head,
)
from sommelier.analysis.links.scoring import (
    Score,
    answer_range,
    constant_answer,
    performance,
    score,
)
from sommelier.analysis.links.splits import Split, answered
from sommelier.analysis.links.stacking import (
    MAX_FEATURES,
    Stacking,
    Weighing,
    stacking,
    weighing,
)
from sommelier.errors import AnalysisError

Array = NDArray[Any]
Rows = NDArray[np.int64]

FEW = 11  # sources: exact search over 12 models looks at subsets in the thousands
STACKED_OF_FEW = 8  # the best sources are combined, in 247 ways; any other stands alone only
MOST_NUMBERS = 2**27  # 1 GB of answers as float64; larger ones are not combined
STACKED_OF_MANY = 6  # in 57 ways, so that 80 targets still take seconds


@dataclass(frozen=True, slots=True)
class Choice:
    """Which head a subset gets, and its held-out performance."""

    kind: HeadKind
    sources: tuple[str, ...]
    performance: float


class LinkEnsemble:
    """All links to one target: for each subset of their sources a head, and how good it is.

    sources : names of those with a link. stackable : those that are combined; where there are more
    than 8 (or, of 12 and more, 6) the best on validation samples. constant : held-out performance
    of the best constant answer. heads : how many different heads subsets can get, for which
    intervals are corrected when a subset is chosen by its performance.
    """

    def __init__(
        self,
        target: LinkAnswers,
        predicted: Mapping[str, Array],
        split: Split,
        *,
        confidence: float = 0.95,
        members: int | None = None,
        tried: int = 0,
    ) -> None:
        """target : all samples of the probe set. predicted : by source, what its link answers on
        the same samples, natural: float (n, width); for tokens ids (n, steps) or scores (n, steps,
        vocabulary). members : how many sources are combined at most. tried : links that were
        fitted, if `predicted` are those that did well on the held-out samples: intervals of the
        best are corrected for all. Samples the target has no answer to are left out, as they are
        where links are fitted.

        Raises AnalysisError for other numbers of samples, for too few answers and where no metric
        is defined, as for labels none of which occurs in the held-out samples.
        """
        _check(target, predicted)
        split = answered(target, split)
        self.format = target.format
        self.confidence = confidence
        self.sources = tuple(sorted(predicted))
        self._tries = max(tried, len(predicted))
        # of all samples nothing is kept: a thousand classes of 40 models are 12 GB of predictions
        self._held = {name: predicted[name][split.held_out] for name in self.sources}
        self._truth = target.values[split.held_out]
        numbers = target.format.kind == "numbers"
        self._scale = answer_range(target.values[split.train]) if numbers else None
        self._constant = constant_answer(target.format, target.values[split.train])
        self.constant = self._constant_performance()
        self._singles = {
            name: self._measured(source_head(self.format, name)) for name in self.sources
        }
        self.stackable = self._best_sources(target, predicted, split.validation, members)
        self._stacked = _products(target, {n: predicted[n] for n in self.stackable}, split)
        self._found: dict[tuple[str, ...], tuple[HeadKind, float] | None] = {}

    @property
    def heads(self) -> int:
        """The constant, each link that was tried, and each stackable subset of two or more."""
        m = len(self.stackable)
        return 1 + self._tries + (1 << m) - m - 1

    def single(self, source: str) -> float:
        """Held-out performance of one link alone, however it compares with the constant."""
        return self._singles[source]

    def performance(self, subset: Iterable[str]) -> float:
        """Held-out performance of `head(subset)`; remembered."""
        return self._choice(self._known(subset)).performance

    def used(self, subset: Iterable[str]) -> tuple[str, ...]:
        """The sources whose links `head(subset)` runs, sorted; none for the constant answer."""
        return self._choice(self._known(subset)).sources

    def ceiling(self) -> float:
        """The best performance of any subset. Cost: one fit for each stackable subset."""
        stacks = chain.from_iterable(
            combinations(self.stackable, size) for size in range(2, len(self.stackable) + 1)
        )
        return max([self.performance(()), self.performance(self.sources), *self._tops(stacks)])

    def head(self, subset: Iterable[str]) -> Head:
        """The head for the links from `subset`, on held-out samples never worse than any one of
        them nor than the constant answer; of equal ones that with the fewest links.

        Raises AnalysisError for a source without a link.
        """
        choice = self._choice(self._known(subset))
        if choice.kind == "constant":
            found = constant_head(self.format, self._constant)
        elif choice.kind == "best source":
            found = source_head(self.format, choice.sources[0])
        else:
            found = self.stack(choice.sources)
        return replace(found, scale=self._scale)

    def stack(self, subset: Iterable[str]) -> Head:
        """The closed-form combination of two links or more, however it compares with each.

        Raises AnalysisError for other sources than `stackable` ones.
        """
        names = self._known(subset)
        if len(names) < 2 or not set(names) <= set(self.stackable) or self._stacked is None:
            raise AnalysisError(
                f"no combination of {', '.join(names) or 'no sources'}",
                hint=f"two or more of {', '.join(self.stackable)} can be combined",
            )
        weighed, stacked = self._stacked
        if stacked is not None and stacked.width(names) < MAX_FEATURES:
            return Head(self.format, "ridge", names, *stacked.fit(names))
        return Head(self.format, "weights", names, weighed.fit(names), np.empty(0))

    def predict(self, head: Head, answers: Mapping[str, Array]) -> Array:
        """Natural answers of the target from those of the head's links; as calling the head."""
        return head(answers)

    def score(self, subset: Iterable[str], *, candidates: int | None = None) -> Score:
        """The held-out Score of `head(subset)`.

        candidates : how many heads the subset was chosen among; None: the |A| + 2 that `head` looks
        at (each source, their stack, the constant). Its interval holds for all of them at once.
        """
        names = self._known(subset)
        return score(
            self.format,
            self.head(names)(self._held, count=len(self._truth)),
            self._truth,
            confidence=self.confidence,
            candidates=len(names) + 2 if candidates is None else candidates,
            scale=self._scale,
        )

    def _constant_performance(self) -> float:
        found = self._measured(constant_head(self.format, self._constant))
        if not np.isfinite(found):
            raise AnalysisError(
                f"no label occurs in the {len(self._truth)} held-out samples, so that nothing can "
                "be said of a link",
                hint="give more samples",
            )
        return found

    def _choice(self, names: tuple[str, ...]) -> Choice:
        choice = Choice("constant", (), self.constant)
        for name in names:
            if self._singles[name] > choice.performance:
                choice = Choice("best source", (name,), self._singles[name])
        together = tuple(name for name in names if name in self.stackable)
        if together not in self._found:
            self._found[together] = self._tried(together)
        found = self._found[together]
        if found is not None and found[1] > choice.performance:
            choice = Choice(found[0], together, found[1])
        return choice

    def _tried(self, names: tuple[str, ...]) -> tuple[HeadKind, float] | None:
        if len(names) < 2 or self._stacked is None:
            return None
        head = self.stack(names)
        return head.kind, self._measured(head)

    def _tops(self, subsets: Iterable[tuple[str, ...]]) -> Iterable[float]:
        return (self.performance(subset) for subset in subsets)

    def _measured(self, head: Head) -> float:
        answers = head(self._held, count=len(self._truth))
        return performance(self.format, answers, self._truth, scale=self._scale)

    def _best_sources(
        self, target: LinkAnswers, predicted: Mapping[str, Array], rows: Rows, members: int | None
    ) -> tuple[str, ...]:
        most = members
        if most is None:
            most = STACKED_OF_FEW if len(self.sources) <= FEW else STACKED_OF_MANY
        if len(self.sources) <= most:
            return self.sources
        worth = {
            name: performance(
                self.format, source_head(self.format, name)({name: predicted[name][rows]}),
                target.values[rows], scale=self._scale,
            )
            for name in self.sources
        }  # fmt: skip
        best = sorted(self.sources, key=lambda name: (-np.nan_to_num(worth[name]), name))
        return tuple(sorted(best[:most]))

    def _known(self, subset: Iterable[str]) -> tuple[str, ...]:
        names = tuple(sorted(set(subset)))
        unknown = [name for name in names if name not in self._held]
        if unknown:
            raise AnalysisError(
                f"there is no link from {', '.join(unknown)}",
                hint=f"there are links from {', '.join(self.sources) or 'no model'}",
            )
        return names


def _check(target: LinkAnswers, predicted: Mapping[str, Array]) -> None:
    form = target.format
    shapes = [(form.steps,), (form.steps, form.width)] if form.kind == "tokens" else [(form.width,)]
    for name, values in predicted.items():
        if len(values) != len(target):
            raise AnalysisError(
                f"{len(values)} answers predicted from {name} for {len(target)} of the target"
            )
        if values.shape[1:] not in shapes:
            raise AnalysisError(
                f"answers predicted from {name} have shape {values.shape[1:]}, the target's "
                f"{' or '.join(map(str, shapes))}",
                hint="give natural answers of the target's format",
            )


def _products(
    target: LinkAnswers, predicted: Mapping[str, Array], split: Split
) -> tuple[Weighing, Stacking | None] | None:
    """What fits are made from; None where there is nothing to combine, where answers are too
    large, and for the mere ids of long sequences over a large vocabulary."""
    size = outputs_of(target.format)
    narrow = 2 * size < MAX_FEATURES
    ids = any(values.dtype.kind in "iu" for values in predicted.values())
    numbers = size * len(target) * (len(predicted) + 1)
    if len(predicted) < 2 or (ids and not narrow) or numbers > MOST_NUMBERS:
        return None
    rows = split.train, split.validation
    wanted = features_of(target.values, target.format)
    features = {name: features_of(values, target.format) for name, values in predicted.items()}
    weighed = weighing(features, wanted, rows)
    return weighed, stacking(features, wanted, target.format, rows) if narrow else None
