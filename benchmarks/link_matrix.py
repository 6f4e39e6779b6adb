"""Every model of a group predicted from every other: the MLink paper's Table 3, with intervals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations

import numpy as np
from numpy.typing import NDArray

from benchmarks.link_tasks import Floats, Group
from benchmarks.report import table
from sommelier.analysis.links import Score, Split, skill, split
from sommelier.analysis.links.ensemble import LinkEnsemble
from sommelier.analysis.links.fitting import FittedLink, LinkOptions, fit_links
from sommelier.analysis.links.heads import Head
from sommelier.analysis.links.scoring import answer_range, performance
from sommelier.analysis.links.screening import Screen, screen

ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Pair:
    """One link of a group. screen : what was said of it before it was trained, which it was even
    where the screen would have refused it."""

    group: str
    source: str
    target: str
    screen: Screen
    fitted: FittedLink

    @property
    def performance(self) -> float:
        """On held-out samples."""
        assert self.fitted.score is not None
        return self.fitted.score.performance

    @property
    def state(self) -> str:
        """What a user is told of it."""
        return self.fitted.state if self.screen.linkable else "not linkable"


@dataclass(frozen=True, slots=True)
class Row:
    """All links to one target, and their ensemble.

    below : of so many subsets of sources, those whose ensemble does worse on held-out samples than
    the best of its sources. fresh : ensemble of all minus best source, in performance, where
    neither was chosen on the samples.
    """

    target: str
    pairs: tuple[Pair, ...]
    ensemble: Score | None
    constant: Score
    below: int
    subsets: int
    fresh: float

    @property
    def predicted(self) -> dict[str, Floats]:
        """Natural answers to all samples, of the links that the screen lets pass."""
        return _passed(self.pairs)


def studied(group: Group, seed: int) -> list[Row]:
    """The rows of the group's matrix."""
    return [_row(group, target, seed) for target in group.answers]


def matrix(group: Group, rows: Sequence[Row], seconds: float) -> str:
    """Targets down, sources across: held-out performance and its 95 % interval, in percent."""
    names = [*group.answers]
    cells = []
    for row in rows:
        by_source = {pair.source: _cell(pair) for pair in row.pairs}
        together = row.ensemble
        gain = skill(together.performance, row.constant.performance) if together else 0.0
        cells.append([
            f"{row.target} ({row.constant.metric})", *(by_source.get(name, "") for name in names),
            _interval(together) if together else "", f"{100 * row.constant.performance:.1f}",
            f"{gain:.2f}",
        ])  # fmt: skip
    fitted = rows[0].pairs[0].fitted
    title = (
        f"{group.name}: target down, source across, %; links learned from {fitted.training} samples"
        f", chosen on {fitted.validation}, judged on {fitted.held_out} ({seconds:.0f} s)\n"
        "u : useless (no better than the constant, beyond chance); - : not linkable, by the screen"
    )
    return table(title, ("target", *names, "ensemble", "constant", "skill"), cells)


def pairs_of(rows: Iterable[Row]) -> list[Pair]:
    """All links of some rows."""
    return [pair for row in rows for pair in row.pairs]


def copies(group: Group, rows: Sequence[Row], seed: int) -> Iterator[tuple[Pair, float, float]]:
    """(link, performance of the source's answers as they are, standard errors by which that is
    better) for sources that answer as many classes as the target."""
    held = split(len(group), seed).held_out
    for pair in pairs_of(rows):
        source, target = group.answers[pair.source], group.answers[pair.target]
        if source.format.width != target.format.width or target.format.kind != "classes":
            continue
        score, wanted = pair.fitted.score, target.values[held].argmax(axis=1)
        assert score is not None
        right = source.values[held].argmax(axis=1) == wanted
        gains = right - score.per_sample
        error = max(gains.std() / np.sqrt(len(gains)), ROUNDING)
        yield pair, float(right.mean()), float(gains.mean() / error)


def _row(group: Group, name: str, seed: int) -> Row:
    target, options = group.answers[name], LinkOptions(seed=seed, screen=False)
    sources = {other: found for other, found in group.answers.items() if other != name}
    rows = split(len(target), seed)
    screens = {
        other: screen(found, target, rows.train, seed=seed) for other, found in sources.items()
    }
    links = fit_links(sources, target, options)
    pairs = tuple(Pair(group.name, other, name, screens[other], links[other]) for other in links)
    predicted = _passed(pairs)
    constant = pairs[0].fitted.constant
    if not predicted:
        return Row(name, pairs, None, constant, 0, 0, 0.0)
    ensemble = LinkEnsemble(target, predicted, rows)
    kept = [*_margins(group, name, ensemble, predicted, rows)]
    below = sum(margin < -ROUNDING for margin in kept)
    fresh = _fresh(group, name, predicted, rows)
    return Row(name, pairs, ensemble.score(predicted), constant, below, len(kept), fresh)


def _passed(pairs: Iterable[Pair]) -> dict[str, Floats]:
    return {
        pair.source: pair.fitted.predicted
        for pair in pairs
        if pair.screen.linkable and pair.fitted.predicted is not None
    }


def _margins(
    group: Group, name: str, ensemble: LinkEnsemble, predicted: Mapping[str, Floats],
    rows: Split,
) -> Iterator[float]:  # fmt: skip
    """For every subset of sources: its ensemble's held-out performance, computed anew from the
    answers of its head, less that of the best of its sources."""
    judge = Judge(group, name, predicted, rows, rows.held_out)
    for subset in subsets(predicted):
        best = max(judge.single(source) for source in subset)
        yield judge.head(ensemble.head(subset)) - best


def _fresh(group: Group, name: str, predicted: Mapping[str, Floats], rows: Split) -> float:
    """Ensemble less best source, both chosen on one half of the held-out samples and judged on the
    other; the mean of both ways."""
    first, second = rows.held_out[::2], rows.held_out[1::2]
    found = []
    for chosen, judged in ((first, second), (second, first)):
        known = Split(rows.train, rows.validation, chosen)
        ensemble = LinkEnsemble(group.answers[name], predicted, known)
        best = max(predicted, key=ensemble.single)
        judge = Judge(group, name, predicted, rows, judged)
        found.append(judge.head(ensemble.head(predicted)) - judge.single(best))
    return float(np.mean(found))


class Judge:
    """Performance on some samples of answers predicted for one target."""

    def __init__(
        self, group: Group, name: str, predicted: Mapping[str, Floats], rows: Split,
        judged: NDArray[np.int64],
    ) -> None:  # fmt: skip
        target = group.answers[name]
        self._format, self._truth = target.format, target.values[judged]
        numbers = target.format.kind == "numbers"
        self._scale = answer_range(target.values[rows.train]) if numbers else None
        self._answers = {source: values[judged] for source, values in predicted.items()}

    def single(self, source: str) -> float:
        """Of one source's link."""
        return self._of(self._answers[source])

    def head(self, head: Head) -> float:
        """Of several links together."""
        return self._of(head(self._answers, count=len(self._truth)))

    def _of(self, answers: Floats) -> float:
        return performance(self._format, answers, self._truth, scale=self._scale)


def subsets(sources: Iterable[str]) -> list[tuple[str, ...]]:
    """All that are not empty."""
    names = [*sources]
    sizes = range(1, len(names) + 1)
    return [*chain.from_iterable(combinations(names, size) for size in sizes)]


def _cell(pair: Pair) -> str:
    mark = {"linked": "", "useless": " u", "not linkable": " -"}[pair.state]
    assert pair.fitted.score is not None
    return _interval(pair.fitted.score) + mark


def _interval(score: Score) -> str:
    return f"{100 * score.performance:.1f} [{100 * score.low:.0f}-{100 * score.high:.0f}]"
