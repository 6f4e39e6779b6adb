"""What a deployment promises its callers: how soon an answer comes, and for what share of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sommelier.errors import BinderError


@dataclass(frozen=True, slots=True)
class Sla:
    """`quantile` of all requests are answered within `latency_ms`, from sending to receiving.

    Raises BinderError if the bound is not positive or the quantile not in (0, 1].

    >>> Sla(50.0, quantile=0.99)
    Sla(latency_ms=50.0, quantile=0.99)
    """

    latency_ms: float
    quantile: float = 0.99

    def __post_init__(self) -> None:
        if not self.latency_ms > 0:
            raise BinderError(
                f"an SLA of {self.latency_ms:g} ms cannot be met", hint="write a time above 0 ms"
            )
        if not 0 < self.quantile <= 1:
            raise BinderError(
                f"an SLA at the quantile {self.quantile:g} has no meaning",
                hint="write a share above 0 and at most 1, as 0.99 for p99",
            )

    def budget_ms(self, input_ms: float = 0.0, output_ms: float | None = None) -> float:
        """Time left for waiting and inference once the network has had its share, in ms.

        input_ms : how long the request took to arrive. output_ms : how long the answer will take;
        unknown, it is assumed to take as long as the request (ModiPick, equation 1), which is too
        long where answers are smaller. Negative when the network alone takes longer than the SLA.

        >>> Sla(250.0).budget_ms(60.0)
        130.0
        """
        back = input_ms if output_ms is None else output_ms
        return self.latency_ms - input_ms - back

    def deadline_ms(
        self, arrived_ms: float, input_ms: float = 0.0, output_ms: float | None = None
    ) -> float:
        """The instant, on the clock of `arrived_ms`, at which the answer must leave the server."""
        return arrived_ms + self.budget_ms(input_ms, output_ms)

    def attainment(self, latencies_ms: Sequence[float]) -> float:
        """Share of latencies within the bound; NaN without any. A request that was not answered
        counts as late: pass inf or NaN for it."""
        if not latencies_ms:
            return math.nan
        return sum(1 for ms in latencies_ms if ms <= self.latency_ms) / len(latencies_ms)

    def met(self, latencies_ms: Sequence[float]) -> bool:
        """Whether the promised share was on time; False without any request."""
        return self.attainment(latencies_ms) >= self.quantile
