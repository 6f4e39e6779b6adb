"""Which model makes room for another one: the one that costs least to miss, per byte.

The price of a model's absence is loading it again as often as it is asked for; per byte, because
memory is what is short. This is GreedyDual-Size-Frequency (Cherkasova 1998) with a measured rate in
place of its ageing counter, so that the reason can be told in requests a second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MB = 1e6
MEMORY_S = 60.0  # how long a request counts towards a model's rate (an exponential's constant)


@dataclass(slots=True)
class UseRate:
    """How often something is used; recent uses count more."""

    weight: float = 0.0
    at_s: float = -math.inf

    def used(self, now_s: float, times: int = 1) -> None:
        self.weight = self._faded(now_s) + times
        self.at_s = now_s

    def per_s(self, now_s: float) -> float:
        """Uses a second; of a steady rate its value in the long run."""
        return self._faded(now_s) / MEMORY_S

    def _faded(self, now_s: float) -> float:
        return self.weight * math.exp(min(0.0, (self.at_s - now_s) / MEMORY_S))


@dataclass(frozen=True, slots=True)
class Candidate:
    """A loaded model that may go. host_bytes, device_bytes : what that frees."""

    name: str
    host_bytes: int
    device_bytes: int
    uses_per_s: float
    reload_ms: float

    @property
    def price(self) -> float:
        """ms of loading a second that its absence would cost, per MB it holds."""
        size = max(1, self.host_bytes + self.device_bytes)
        return self.uses_per_s * self.reload_ms / (size / MB)

    @property
    def reason(self) -> str:
        """The price in words."""
        size = (self.host_bytes + self.device_bytes) / MB
        return (
            f"{self.uses_per_s:.3g} requests/s that would wait {self.reload_ms:.3g} ms, "
            f"for {size:.3g} MB"
        )


def to_evict(
    candidates: Sequence[Candidate], host_bytes: int, device_bytes: int = 0
) -> tuple[Candidate, ...] | None:
    """Candidates that free this much, the cheapest first; () if nothing is needed, None if all of
    them are too little.

    The cheapest are taken until there is enough; then those that are not needed after all stay, the
    dearest of them first. So none of the answer could be spared.
    """
    taken: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (c.price, c.name)):
        if _enough(taken, host_bytes, device_bytes):
            break
        if (host_bytes > 0 and candidate.host_bytes) or (
            device_bytes > 0 and candidate.device_bytes
        ):
            taken.append(candidate)
    if not _enough(taken, host_bytes, device_bytes):
        return None
    for candidate in reversed(taken.copy()):
        rest = [other for other in taken if other is not candidate]
        if _enough(rest, host_bytes, device_bytes):
            taken = rest
    return tuple(taken)


def _enough(taken: Sequence[Candidate], host_bytes: int, device_bytes: int) -> bool:
    return (
        sum(c.host_bytes for c in taken) >= host_bytes
        and sum(c.device_bytes for c in taken) >= device_bytes
    )
