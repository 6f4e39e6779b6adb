"""A histogram with logarithmic buckets: quantiles of latencies within 1 %, in little memory."""

from __future__ import annotations

import math

ACCURACY = 0.01  # relative error of a quantile
WINDOW = 10_000  # samples after which old ones begin to count half
SMALLEST_MS = 1e-6  # what is shorter is counted as this

_GROWTH = (1 + ACCURACY) / (1 - ACCURACY)
_PER_LOG = 1 / math.log(_GROWTH)


class LatencySketch:
    """Counts of samples by bucket; buckets grow by 2 %, so any quantile is within 1 % of a sample.

    Once WINDOW samples came, all counts are halved (and so after each further half window): a
    quantile follows the last ten thousand or so. Source: Masson et al. 2019 (DDSketch).
    """

    __slots__ = ("_buckets", "_squares", "_total", "count")

    def __init__(self) -> None:
        self._buckets: dict[int, float] = {}
        self._total = self._squares = 0.0
        self.count = 0.0

    def add(self, ms: float) -> None:
        """Count one sample. NaN is ignored."""
        if ms != ms:
            return
        bucket = math.ceil(math.log(max(ms, SMALLEST_MS)) * _PER_LOG)
        self._buckets[bucket] = self._buckets.get(bucket, 0.0) + 1.0
        self.count += 1.0
        self._total += ms
        self._squares += ms * ms
        if self.count >= WINDOW:
            self._age()

    @property
    def mean(self) -> float:
        """Mean of the samples that still count; NaN without any."""
        return self._total / self.count if self.count else math.nan

    @property
    def std(self) -> float:
        """Standard deviation of those samples; NaN without any."""
        if not self.count:
            return math.nan
        mean = self.mean
        return math.sqrt(max(self._squares / self.count - mean * mean, 0.0))

    def quantile(self, q: float) -> float:
        """The sample of rank ceil(q n), within 1 %; NaN without any. q in [0, 1].

        >>> sketch = LatencySketch()
        >>> for ms in range(1, 101):
        ...     sketch.add(ms)
        >>> 98 <= sketch.quantile(0.99) <= 100
        True
        """
        if not self.count:
            return math.nan
        wanted = q * self.count * (1 - 1e-12)  # sums of counts are not exact once they were halved
        passed = 0.0
        for bucket in sorted(self._buckets):
            passed += self._buckets[bucket]
            if passed >= wanted:
                break
        return 2 * _GROWTH**bucket / (1 + _GROWTH)  # relative error to both ends is the same

    def _age(self) -> None:
        self._buckets = {bucket: kept / 2 for bucket, kept in self._buckets.items() if kept > 0.1}
        left = sum(self._buckets.values())
        share = left / self.count  # buckets that hardly count are left out
        self._total, self._squares, self.count = self._total * share, self._squares * share, left
