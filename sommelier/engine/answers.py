"""What CORR says about the rows that passed it: equivalence, agreement, bound, provenance."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from sommelier.engine.bound_methods import CP, METHODS
from sommelier.engine.comparison import Comparison, Part
from sommelier.engine.comparison_datasets import Across
from sommelier.engine.comparison_parts import Interval, Measured, Streamed, Transitive
from sommelier.engine.plan import CorrPlan

Rows = NDArray[np.int64]
Floats = NDArray[np.float64]
Objects = NDArray[np.object_]

UNDECIDABLE = "undecidable"


@dataclass(slots=True)
class CorrAnswers:
    """Numbers and texts of CORR per row, computed for the rows that are asked for only.

    comparisons : one per reference. claims : K, how many there are. tests : by what alpha is
    divided for each: K by Bonferroni, 1 without correction, less than K stepwise. references :
    rows of the references themselves. certain : rows whose lower bound passes; None means all.
    passed : the rows that passed, best first, where one comparison decides the order.
    synthetic : probe sets that were made up, so that a bound holds for made-up inputs only.
    spectral : (size,) with BOUND spectral the generalization bound of every model, NaN if unknown.
    """

    corr: CorrPlan
    comparisons: tuple[Comparison, ...]
    size: int
    claims: int
    tests: float
    references: Rows
    certain: Rows | None = None
    passed: Rows | None = None
    synthetic: frozenset[str] = frozenset()
    spectral: Floats | None = None
    _kept: tuple[Rows, Interval, Rows] | None = field(default=None, repr=False)

    @property
    def alpha(self) -> float:
        """One-sided level of each bound."""
        return (1 - self.corr.confidence) / self.tests

    def number(self, name: str, rows: Rows) -> Floats:
        """A number of the answer per row; NaN where it is not known."""
        if name == "confidence":
            known = METHODS[self.corr.method].bounds
            return np.full(len(rows), self.corr.confidence if known else np.nan)
        if name == "bound" and self.spectral is not None:
            return self.spectral[rows]
        interval, _ = self._intervals(rows)
        if name == "equivalence":
            return interval.lower
        if name == "bound":
            return 1 - interval.lower
        return interval.agreement if name == "agreement" else interval.samples

    def upper(self, rows: Rows) -> Floats:
        """The one-sided upper bound of the agreement."""
        return self._intervals(rows)[0].upper

    def rank(self, rows: Rows) -> Floats:
        """Numbers that sort as equivalence does; cheaper when one probe set decides."""
        only = self.comparisons[0]
        if len(self.comparisons) > 1 or not only.simple:
            return self.number("equivalence", rows)
        counts = only.counts(rows, self.size)
        counts[among(rows, self.references)] = np.inf
        return counts

    def first(self, rows: Rows, keep: int) -> Rows:
        """`rows` cut to those that can be among the `keep` most equivalent; all if unsure.

        CORR leaves its rows best first, so that as long as nothing came between, the best few are
        a prefix and need no sorting.
        """
        if rows is not self.passed or keep >= len(rows):
            return rows
        return rows[: self.comparisons[0].head(keep)]

    def text(self, name: str, rows: Rows) -> Objects:
        """provenance, method, labels or certainty per row."""
        result = np.empty(len(rows), dtype=object)
        if name == "certainty":
            certain = np.ones(len(rows), dtype=bool)
            if self.certain is not None:
                certain = np.isin(rows, self.certain)
            result[:] = np.where(certain, "certain", "possible")
            for position in np.flatnonzero(~certain):
                if self._undecidable(int(rows[position])):
                    result[position] = UNDECIDABLE
            return result
        _, nearest = self._intervals(rows)
        identity = among(rows, self.references)
        for number, comparison in enumerate(self.comparisons):
            mine = np.flatnonzero(nearest == number)
            result[mine] = self._words(name, comparison, rows[mine])
        if name == "provenance" and self.spectral is not None:
            result[:] = [_spectral_word(value) for value in self.spectral[rows].tolist()]
        if name in ("provenance", "method"):
            result[identity] = "identity"
        return result

    def _undecidable(self, row: int) -> bool:
        """Whether no answers of a model could have been enough, however it is compared."""
        told = [c.undecidable(row, self.corr.bounds, self.tests) for c in self.comparisons]
        compared = [
            text is not None
            for text, c in zip(told, self.comparisons, strict=True)
            if row in c.rows
        ]
        return all(compared) if self.corr.quantifier == "any" else any(compared)

    def _words(self, name: str, comparison: Comparison, rows: Rows) -> Objects:
        """provenance, method or labels of rows compared with one reference, each of its part."""
        numbers = comparison.part_numbers(rows, self.size)
        words = np.empty(len(rows), dtype=object)
        for number, part in enumerate(comparison.parts):
            here = numbers == number
            words[here] = _word(name, part, self.synthetic)
            if name == "labels" and isinstance(part, (Measured, Across)):
                words[here & part.is_positional(rows)] = "positional"
        return words

    def _intervals(self, rows: Rows) -> tuple[Interval, Rows]:
        """(bounds per row, which reference gave them): the best for ANY, the worst for ALL."""
        if self._kept is not None and np.array_equal(self._kept[0], rows):
            return self._kept[1], self._kept[2]
        intervals = [c.interval(rows, self.alpha, self.size) for c in self.comparisons]
        chosen = np.zeros(len(rows), dtype=np.int64)
        interval = intervals[0]
        if len(intervals) > 1:
            lowers = np.stack([i.lower for i in intervals])  # (references, rows)
            if self.corr.quantifier == "any":
                chosen = np.argmax(np.where(np.isnan(lowers), -1.0, lowers), axis=0)
            else:
                chosen = np.argmin(np.where(np.isnan(lowers), 2.0, lowers), axis=0)
            interval = _chosen(intervals, chosen)
        for position in np.flatnonzero(among(rows, self.references)):
            interval.lower[position] = interval.upper[position] = 1.0
            interval.agreement[position] = 1.0
        self._kept = (rows.copy(), interval, chosen)
        return interval, chosen


def combined(found: list[Rows], quantifier: str) -> Rows:
    """The rows of every list for ALL, of any list otherwise."""
    rows = found[0]
    for other in found[1:]:
        rows = np.intersect1d(rows, other) if quantifier == "all" else np.union1d(rows, other)
    return rows


def among(rows: Rows, few: Rows) -> NDArray[np.bool_]:
    """Which rows are one of a few others."""
    return np.asarray((rows[:, None] == few[None, :]).any(axis=1))


def _chosen(intervals: list[Interval], chosen: Rows) -> Interval:
    at = np.arange(len(chosen))
    names = ("lower", "upper", "agreement", "samples")
    return Interval(*(np.stack([getattr(i, n) for i in intervals])[chosen, at] for n in names))


def _word(name: str, part: Part, synthetic: frozenset[str]) -> str | None:
    """The provenance, method or kind of labels of the rows of one part."""
    if isinstance(part, Transitive):
        return None if name == "labels" else "transitive"
    if isinstance(part, Across):
        return _dataset_word(name, part)
    if isinstance(part, Streamed):
        made_up = part.probe_set_id in synthetic
        words = {"method": "anytime", "provenance": "synthetic" if made_up else "measured"}
        return words.get(name)
    candidates = part.candidates
    if name == "labels":
        return candidates.labels and "named"
    if name == "method":
        return candidates.method if part.method is CP else part.method.name
    if part.method.bounds and not part.method.proved:
        return "estimated"
    if candidates.probe_set_id in synthetic:
        return "synthetic"
    if not candidates.exact:
        return "estimated"
    return "measured" if candidates.method == "sketch" else "transitive"


def _dataset_word(name: str, part: Across) -> str | None:
    """The same of rows compared on several datasets."""
    if name == "labels":
        return part.labels and "named"
    if name == "method":
        return part.method.name
    return "measured" if part.method.proved and part.exact else "estimated"


def _spectral_word(value: float) -> str | None:
    """What a generalization bound with unknown constants is worth."""
    return None if value != value else "vacuous" if value > 1 else "estimated"
