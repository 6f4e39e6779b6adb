"""One door to all bounds: what is bounded, how, on which sides, at which confidence.

| kind | observed | methods, the default first |
|---|---|---|
| proportion | k successes of n (agreement) | cp, betting, anytime, wilson, hoeffding, bernstein |
| mean | the values, in [0, 1] (graded losses) | betting, bernstein, hoeffding |
| difference | b, c of n (paired accuracies) | cp, betting, tango |

'auto' is a fixed choice: the narrowest of several valid intervals is not a valid interval.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from sommelier.analysis.bounds.anytime import anytime_limits
from sommelier.analysis.bounds.betting import betting_limits, shuffled
from sommelier.analysis.bounds.intervals import Interval, Risk, risk_of, sided
from sommelier.analysis.bounds.means import bernstein_limits, checked_values, hoeffding_limits
from sommelier.analysis.bounds.paired import paired_betting_limits, paired_cp_limits, tango_limits
from sommelier.analysis.bounds.proportions import (
    checked_counts,
    hypergeometric_limits,
    wilson_limits,
)
from sommelier.confidence import Side, lower_bound, upper_bound
from sommelier.errors import AnalysisError

Kind = Literal["proportion", "mean", "difference"]
MethodName = Literal[
    "auto", "cp", "betting", "anytime", "wilson", "hoeffding", "bernstein", "tango"
]
Limits = tuple[Any, Any]

ORDER_SEED = 0  # of the order in which samples are bet on


@dataclass(frozen=True, slots=True)
class Method:
    """How a kind of observation and a Risk become (low, high), and whether a theorem says so."""

    limits: Callable[..., Limits]
    proved: bool = True


def bound(
    kind: Kind,
    *observed: ArrayLike,
    confidence: float = 0.95,
    method: MethodName = "auto",
    side: Side = "two",
    candidates: int = 1,
    population: int | None = None,
) -> Interval:
    """The interval of a proportion (k, n), a mean (values) or a difference (b, c, n).

    side : 'lower' and 'upper' spend the whole risk on one end. candidates : the statement holds for
    all of that many at once (Bonferroni). population : size of the finite set that the n samples
    were drawn from without replacement; exact for proportions by 'cp'.
    Raises AnalysisError for impossible counts and for methods that do not fit the kind.
    """
    risk = risk_of(confidence, side, candidates=candidates)
    name, chosen = _method(kind, method, population)
    if population is None:
        low, high = chosen.limits(*observed, risk)
    else:
        low, high = chosen.limits(*observed, population, risk)
    span = (-1.0, 1.0) if kind == "difference" else (0.0, 1.0)
    ends = sided(float(low), float(high), side, span=span)
    count = len(np.asarray(observed[0])) if kind == "mean" else int(np.asarray(observed[-1]))
    return Interval(*ends, confidence, name, chosen.proved, count)


def methods(kind: Kind) -> tuple[str, ...]:
    """The methods for a kind, the one that 'auto' means first."""
    if kind not in METHODS:
        raise AnalysisError(
            f"there is no bound for a {kind!r}", hint=f"one of {', '.join(METHODS)}"
        )
    return tuple(METHODS[kind])


def _method(kind: Kind, method: str, population: int | None) -> tuple[str, Method]:
    known = methods(kind)
    name = known[0] if method == "auto" else method
    if name not in known:
        raise AnalysisError(
            f"method {method!r} does not bound a {kind}", hint=f"one of auto, {', '.join(known)}"
        )
    if population is None:
        return name, METHODS[kind][name]
    if (kind, name) != ("proportion", "cp"):
        raise AnalysisError(
            f"{name} does not know how to use that a {kind} is of a finite population",
            hint="use 'cp' for a proportion, or leave the population out: the bound stays valid",
        )
    return "hypergeometric", Method(_hypergeometric)


def _cp(k: ArrayLike, n: ArrayLike, risk: Risk) -> Limits:
    return lower_bound(k, n, risk.end), upper_bound(k, n, risk.end)


def _hypergeometric(k: ArrayLike, n: int, population: int, risk: Risk) -> Limits:
    return hypergeometric_limits(k, n, population, risk.end)


def _bet_on_counts(k: int, n: int, risk: Risk) -> Limits:
    checked_counts(k, n)
    return betting_limits(shuffled({1.0: k, 0.0: n - k}, seed=ORDER_SEED), risk.end)


def _anytime(k: ArrayLike, n: ArrayLike, risk: Risk) -> Limits:
    return anytime_limits(k, n, risk.alpha)  # both ends of a mixture hold together


def _hoeffding_counts(k: int, n: int, risk: Risk) -> Limits:
    checked_counts(k, n)
    return hoeffding_limits(k / n if n else 0.5, n, risk.end)


def _bernstein_counts(k: int, n: int, risk: Risk) -> Limits:
    checked_counts(k, n)
    rate = k / n if n else 0.5
    variance = rate * (1 - rate) * n / (n - 1) if n > 1 else 0.0
    return bernstein_limits(rate, variance, n, risk.end)


def _bet(values: ArrayLike, risk: Risk) -> Limits:
    return betting_limits(_row(values), risk.end, rng=np.random.default_rng(ORDER_SEED))


def _bernstein(values: ArrayLike, risk: Risk) -> Limits:
    row = _row(values)
    variance = row.var(ddof=1) if len(row) > 1 else 0.0
    return bernstein_limits(row.mean() if len(row) else 0.5, variance, len(row), risk.end)


def _hoeffding(values: ArrayLike, risk: Risk) -> Limits:
    row = _row(values)
    return hoeffding_limits(row.mean() if len(row) else 0.5, len(row), risk.end)


def _row(values: ArrayLike) -> Any:
    found = checked_values(values)
    if found.ndim != 1:
        raise AnalysisError(
            f"values of shape {found.shape} are several samples",
            hint="call betting_limits for rows",
        )
    return found


METHODS: Mapping[str, Mapping[str, Method]] = {
    "proportion": {
        "cp": Method(_cp),
        "betting": Method(_bet_on_counts, proved=False),
        "anytime": Method(_anytime),
        "wilson": Method(lambda k, n, risk: wilson_limits(k, n, risk.end), proved=False),
        "hoeffding": Method(_hoeffding_counts),
        "bernstein": Method(_bernstein_counts),
    },
    "mean": {
        "betting": Method(_bet),
        "bernstein": Method(_bernstein),
        "hoeffding": Method(_hoeffding),
    },
    "difference": {
        "cp": Method(lambda b, c, n, risk: paired_cp_limits(b, c, n, risk.end)),
        "betting": Method(
            lambda b, c, n, risk: paired_betting_limits(b, c, n, risk.end), proved=False
        ),
        "tango": Method(lambda b, c, n, risk: tango_limits(b, c, n, risk.end), proved=False),
    },
}
