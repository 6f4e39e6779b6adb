"""What every bound answers with, and how its risk is divided over the two ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sommelier.confidence import Side
from sommelier.errors import AnalysisError

SIDES: tuple[Side, ...] = ("lower", "upper", "two")


@dataclass(frozen=True, slots=True)
class Interval:
    """Where the unknown number lies: low <= it <= high, in the unit of that number.

    confidence : the least probability that this holds. method : 'cp', 'betting', ... proved : a
    theorem gives that probability for every sample size, under the assumptions of docs/bounds.md;
    False for asymptotic methods and for the bootstrap. samples : how many it was made from
    (datasets, for a statement about a new dataset). NaN ends say that nothing is known.
    """

    low: float
    high: float
    confidence: float
    method: str
    proved: bool
    samples: int

    @property
    def status(self) -> Literal["certified", "estimated"]:
        return "certified" if self.proved else "estimated"

    @property
    def width(self) -> float:
        return self.high - self.low

    def contains(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True, slots=True)
class Risk:
    """The probability of being wrong that an interval may have, and the ends it is spent on."""

    alpha: float
    side: Side

    @property
    def end(self) -> float:
        """The risk of one end: half of alpha where both ends are asked for."""
        return self.alpha / 2 if self.side == "two" else self.alpha


def risk_of(confidence: float, side: Side = "two", *, candidates: int = 1) -> Risk:
    """The risk left by a confidence in (0, 1), divided by the number of candidates (Bonferroni)."""
    if not 0 < confidence < 1:
        raise AnalysisError(
            f"confidence {confidence:g} is not strictly between 0 and 1",
            hint="write for example .95",
        )
    if side not in SIDES:
        raise AnalysisError(f"there is no side {side!r}", hint=f"one of {', '.join(SIDES)}")
    if candidates < 1:
        raise AnalysisError(f"{candidates} candidates: at least one is bounded")
    return Risk((1.0 - confidence) / candidates, side)


def sided(
    low: float, high: float, side: Side, *, span: tuple[float, float] = (0.0, 1.0)
) -> tuple[float, float]:
    """The ends within `span`, and the end that was not asked for at the edge of it."""
    least, most = span
    return (
        least if side == "upper" else min(max(low, least), most),
        most if side == "lower" else max(min(high, most), least),
    )
