"""What a request may wish of a deployment besides an answer: looked at before it waits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from operator import index
from typing import Any

from sommelier.errors import InputError


def wished_deadline(value: Any) -> float:
    """A deadline in ms from now on, also a past or an endless one. Raises InputError."""
    number = _number(value)
    if math.isnan(number):
        raise InputError(
            f"the deadline is no number: {_told(value)}",
            hint="give deadline_ms in ms from now on, 50 say, or leave it",
        )
    return number


def wished_priority(value: Any) -> int:
    """A whole number; smaller is served first. Raises InputError."""
    try:
        return index(value)
    except TypeError:
        raise InputError(
            f"the priority {_told(value)} is no whole number",
            hint="0 is usual, smaller is served first: -1, say",
        ) from None


def wished_accuracy(value: Any) -> float:
    """An accuracy in [0, 1]. Raises InputError."""
    number = _number(value)
    if not 0 <= number <= 1:
        hint = "give a fraction from 0 to 1"
        if 1 < number <= 100:
            hint += f": {number:g} % is {number / 100:g}"
        raise InputError(f"min_accuracy cannot be {_told(value)}", hint=hint)
    return number


def wished_outputs(value: Any) -> tuple[str, ...]:
    """Names of outputs. Raises InputError."""
    names = [None] if isinstance(value, str) or not isinstance(value, Sequence) else value
    if not all(isinstance(name, str) for name in names):
        raise InputError(
            f"outputs cannot be {_told(value)}", hint="give a list of names, or leave it for all"
        )
    return tuple(names)


def count_of_items(given: Any) -> int:
    """How many raw items there are. Raises InputError for what is neither an array nor a list of
    arrays or bytes, and for none."""
    if hasattr(given, "dtype"):
        known = len(given.shape) > 0
    else:
        known = isinstance(given, Sequence) and all(
            isinstance(item, bytes) or hasattr(item, "dtype") for item in given
        )
    if not known:
        raise InputError(
            f"inputs cannot be {_told(given)}",
            hint="give tensors by name, {'x': array}, or items: an array (n, ...), "
            "or a list of arrays or bytes",
        )
    if len(given) == 0:
        raise InputError("no items are given")
    return len(given)


def _number(value: Any) -> float:
    """NaN for what is no number."""
    if isinstance(value, bool) or not isinstance(value, Real):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def _told(value: Any) -> str:
    told = repr(value)
    return told if len(told) <= 40 else f"{told[:37]}..."
