"""When requests come, and what the network adds: workloads to replay through a deployment."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sommelier.errors import BinderError, UnknownNameError

Floats = NDArray[np.float64]

BURST_PERIOD = 300.0  # runtime.md 6, burst-v1, in units of the reference model's service time S
BURST_LENGTH = 60.0
BURST_SLA = 5.0
BURST_SEED = 7
PERIODS = 20
BASE_RATE, BURST_RATE = 0.4, 2.5  # requests per S
TRACES = ("burst-v1", "poisson", "constant")

_MEAN_RATE = BASE_RATE + (BURST_RATE - BASE_RATE) * BURST_LENGTH / BURST_PERIOD


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests in the order they reach the server.

    arrived_ms : (n,), not decreasing. input_ms, output_ms : (n,) how long a request travelled to
    the server and its answer travels back.
    """

    name: str
    arrived_ms: Floats
    input_ms: Floats
    output_ms: Floats

    def __len__(self) -> int:
        return len(self.arrived_ms)


@dataclass(frozen=True, slots=True)
class Network:
    """Transfer times with a mean and a deviation, in ms.

    kind : lognormal, or normal cut off at 1 ms (its moments are then a little larger).
    output_share : what an answer takes of the time of a request of its own draw; None, exactly as
    long as its own request took.
    """

    mean_ms: float
    std_ms: float
    kind: str = "lognormal"
    output_share: float | None = None

    def draw(self, n: int, rng: np.random.Generator) -> Floats:
        """n independent times."""
        if self.std_ms == 0:
            return np.full(n, self.mean_ms)
        if self.kind == "normal":
            return np.maximum(rng.normal(self.mean_ms, self.std_ms, n), 1.0)
        return lognormal(self.mean_ms, self.std_ms, n, rng)

    def over(self, trace: Trace, *, seed: int = 0) -> Trace:
        """The trace if its instants are those of sending."""
        rng = np.random.default_rng(seed)
        there = self.draw(len(trace), rng)
        back = there
        if self.output_share is not None:
            back = self.output_share * self.draw(len(trace), rng)
        arrived = trace.arrived_ms + there
        order = np.argsort(arrived, kind="stable")
        return replace(
            trace, arrived_ms=arrived[order], input_ms=there[order], output_ms=back[order]
        )


def given(arrived_ms: ArrayLike, *, name: str = "given") -> Trace:
    """A trace from instants, in any order. Raises BinderError if one is not finite."""
    arrived = np.sort(np.asarray(arrived_ms, np.float64).ravel())
    if not np.isfinite(arrived).all():
        raise BinderError("a trace holds instants that are not numbers", hint="leave them out")
    none = np.zeros(len(arrived))
    return Trace(name, arrived, none, none)


def constant(n: int, interval_ms: float) -> Trace:
    """One request every `interval_ms`."""
    return given(np.arange(n) * interval_ms, name="constant")


def poisson(n: int, mean_interval_ms: float, *, seed: int = 0) -> Trace:
    """Independent exponential intervals."""
    rng = np.random.default_rng(seed)
    return given(np.cumsum(rng.exponential(mean_interval_ms, n)), name="poisson")


def burst_v1(
    reference_ms: float,
    *,
    periods: int = PERIODS,
    base: float = BASE_RATE,
    burst: float = BURST_RATE,
    seed: int = BURST_SEED,
) -> Trace:
    """Calm and bursts by turns, in units of the service time S of the reference model.

    Poisson with `base` requests per S, and `burst` in the last 60 S of every 300 S: a mean load of
    .82 of one reference model. Source: runtime.md 6.
    """
    rng = np.random.default_rng(seed)
    pieces = []
    for period in range(periods):
        start, turn = period * BURST_PERIOD, BURST_PERIOD - BURST_LENGTH
        for begin, length, rate in ((start, turn, base), (start + turn, BURST_LENGTH, burst)):
            count = rng.poisson(rate * length)
            pieces.append(begin + np.sort(rng.random(count)) * length)
    return given(np.concatenate(pieces or [np.empty(0)]) * reference_ms, name="burst-v1")


def named(
    name: str, reference_ms: float, *, periods: int = PERIODS, seed: int = BURST_SEED
) -> Trace:
    """A trace by name, all with the mean load of burst-v1 and as long as `periods` of it.

    Raises UnknownNameError with the nearest names.
    """
    if name == "burst-v1":
        return burst_v1(reference_ms, periods=periods, seed=seed)
    n = math.ceil(periods * BURST_PERIOD * _MEAN_RATE)
    if name == "poisson":
        return poisson(n, reference_ms / _MEAN_RATE, seed=seed)
    if name == "constant":
        return constant(n, reference_ms / _MEAN_RATE)
    from sommelier.storage.naming import nearest  # needed only for a mistake

    raise UnknownNameError(
        f"there is no trace '{name}'",
        suggestions=nearest(name, TRACES),
        hint=f"there is {', '.join(TRACES)}",
    )


def lognormal(mean: float, std: float, n: int, rng: np.random.Generator) -> Floats:
    """n draws of a log-normal with this mean and deviation."""
    variance = math.log1p((std / mean) ** 2)
    return np.exp(rng.normal(math.log(mean) - variance / 2, math.sqrt(variance), n))
