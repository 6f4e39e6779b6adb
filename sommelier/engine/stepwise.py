"""Holm and Benjamini-Hochberg as one number: how many claims share alpha once the data has spoken.

A p-value is the smallest alpha at which a row's lower bound reaches the threshold (for
Clopper-Pearson the exact binomial one), so that "p <= a" is "the bound at level a passes". Both
procedures reject what passes at one level that depends on how much passes there: with it every row
passes exactly when the bound that it shows does. Source: algorithms.md A.5; Holm 1979; Benjamini
and Hochberg 1995; Benjamini and Yekutieli 2001, 2005 (the bounds of selected rows).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Passing = Callable[[float], int]


def holm_tests(passing: Passing, claims: int) -> float:
    """By what alpha is divided: claims - R, with R rejected step by step.

    passing : how many rows pass when alpha is divided by that much; it never rises with it.
    """
    rejected = 0
    while rejected < claims:
        found = passing(claims - rejected)
        if found <= rejected:
            break
        rejected = found
    return float(max(1, claims - rejected))


def hochberg_tests(passing: Passing, claims: int, *, any_dependence: bool = False) -> float:
    """By what alpha is divided: claims / R, with R the most rows that pass at their own level.

    any_dependence : Benjamini-Yekutieli, dearer by 1 + 1/2 + ... + 1/claims. Cost: one call of
    `passing` for each time that fewer pass than the level before took for granted.
    """
    price = float(np.sum(1 / np.arange(1, claims + 1))) if any_dependence else 1.0
    rejected = claims
    while rejected > 0:
        found = passing(claims * price / rejected)
        if found >= rejected:
            break
        rejected = found
    return max(1, claims) * max(1.0, price) / max(1, rejected)
