"""When a model was made, as it is shown: the day alone, where its source states no time of it."""

from __future__ import annotations

from datetime import datetime

_NO_TIME = " 00:00:00"


def moment(value: datetime | None) -> str | None:
    """A moment to the second, or a day.

    >>> moment(datetime(2025, 3, 4, 5, 6, 7)), moment(datetime(2025, 3, 4)), moment(None)
    ('2025-03-04 05:06:07', '2025-03-04', None)
    """
    return None if value is None else day_or_time(f"{value:%Y-%m-%d %H:%M:%S}")


def day_or_time(text: str) -> str:
    """The same of one that is written to the second."""
    return text.removesuffix(_NO_TIME)
