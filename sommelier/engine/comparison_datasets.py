"""One reference against others on several datasets: what that says of a dataset not seen yet.

The dataset is the sample here, however many probes it has. `minimum` is proved and holds with
confidence K / (K + 1), so that a question at a higher one is undecidable, not false; `prediction`
is right if the rates are normal. Source: algorithms.md A.4; analysis/bounds/across_datasets.py.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from sommelier.engine.bound_methods import METHODS
from sommelier.engine.comparison import Comparison
from sommelier.engine.comparison_parts import (
    Floats,
    Interval,
    Mask,
    Rows,
    asked_end,
    compare,
    row_places,
)
from sommelier.engine.plan import CorrBound

if TYPE_CHECKING:
    from sommelier.storage.candidates import Candidates

_ROUNDING = 1e-9  # relative; 19 sets are enough for 95 %


class Across:
    """The models that reached CORR and answered every dataset as the reference did.

    rates : (models, datasets) observed agreements.
    """

    def __init__(self, found: tuple[Candidates, ...], reached: Mask, rule: str) -> None:
        common = found[0].rows[reached[found[0].rows]]
        for one in found[1:]:
            common = common[one.ranking.positions(common) >= 0]
        self.rows = common
        self.method = METHODS[rule]
        self.count = len(common)
        self.exact = all(one.exact for one in found)
        self.labels = found[0].labels
        self.probe_set_id: str | None = None  # of several
        at = [one.ranking.positions(common) for one in found]
        agreements = [one.agreements[a] for one, a in zip(found, at, strict=True)]
        self._samples = sum(one.samples for one in found)
        self._positional = np.any(
            [one.positional[a] for one, a in zip(found, at, strict=True)], axis=0
        )
        self.rates = np.stack(
            [k / max(1, one.samples) for k, one in zip(agreements, found, strict=True)], axis=1
        )

    @property
    def datasets(self) -> int:
        return int(self.rates.shape[1])

    def passing(self, bounds: tuple[CorrBound, ...], tests: float, *, possible: bool) -> Rows:
        """The rows that meet every bound, best mean first."""
        at = np.argsort(-self.rates.mean(axis=1), kind="stable")
        for bound in bounds:
            alpha = 0.05 if bound.confidence is None else (1 - bound.confidence) / tests
            interval = self.interval_at(at, alpha)
            at = at[compare(asked_end(bound, interval, possible), bound.operator, bound.threshold)]
        return self.rows[at]

    def positions(self, rows: Rows, size: int) -> Rows:
        """Where `rows` stand here, -1 where they do not."""
        return row_places(self.rows, size)[rows]

    def is_positional(self, rows: Rows) -> Mask:
        return np.isin(rows, self.rows[self._positional])

    def interval_at(self, at: Rows, alpha: float) -> Interval:
        """Bounds of the agreement on a new dataset, each at level alpha; lower NaN if undecidable.

        agreement : the mean over datasets. samples : probes of all of them.
        """
        rates = self.rates[at]
        mean = rates.mean(axis=1)
        if self.method.name == "prediction":
            half = self._reach(rates, alpha)
            low, high = np.clip(mean - half, 0.0, 1.0), np.clip(mean + half, 0.0, 1.0)
        elif self.decides(alpha):
            low, high = rates.min(axis=1), rates.max(axis=1)
        else:
            low, high = np.full(len(at), np.nan), np.ones(len(at))
        return Interval(low, high, mean, np.full(len(at), float(self._samples)))

    def decides(self, alpha: float) -> bool:
        """Whether there are enough datasets for a statement at this level."""
        return self.method.name == "prediction" or self.datasets >= sets_needed(alpha)

    def undecidable(self, bound: CorrBound, tests: float, _of: str = "") -> str | None:
        """Why no row can pass, and what would change it; None where rows can."""
        if bound.confidence is None or self.decides((1 - bound.confidence) / tests):
            return None
        needed = sets_needed((1 - bound.confidence) / tests)
        own = self.datasets / (self.datasets + 1)
        return (
            f"{self.datasets} datasets speak of a new one with {own * 100:.3g}% confidence: "
            f"{bound.confidence * 100:g}% for {tests:g} comparisons needs {needed} (USING "
            f"confidence = {math.floor(own * 1000) / 10:g}%, correction = none decides, bound = "
            "prediction estimates)"
        )

    def _reach(self, rates: Floats, alpha: float) -> Floats:
        from scipy.special import stdtrit

        count = rates.shape[1]
        quantile = float(stdtrit(count - 1, 1 - alpha))
        return np.asarray(quantile * rates.std(axis=1, ddof=1) * math.sqrt(1 + 1 / count))


class DatasetComparison(Comparison):
    """The candidates of one reference on several datasets, as a single part."""

    def __init__(self, found: tuple[Candidates, ...], reached: Mask, rule: str) -> None:
        self.candidates = found[0]
        self.method = METHODS[rule]
        self.measured = ()
        self.streamed = ()
        self.transitive = ()
        self.across = Across(found, reached, rule)
        self.parts = (self.across,)
        self.count = self.across.count


def sets_needed(alpha: float) -> int:
    """How many datasets the minimum needs to be below a new one's rate but with risk alpha.

    >>> sets_needed(0.05), sets_needed(0.2)
    (19, 4)
    """
    return max(1, math.ceil((1 / alpha) * (1 - _ROUNDING) - 1))
