"""SQL's LIKE for what no database holds: names of statements, sources and hubs."""

from __future__ import annotations

import re


def like_pattern(like: str) -> re.Pattern[str]:
    """SQL's LIKE as a regular expression, ignoring case.

    >>> bool(like_pattern("res%").fullmatch("ResNet50"))
    True
    """
    parts = (".*" if c == "%" else "." if c == "_" else re.escape(c) for c in like)
    return re.compile("".join(parts), re.IGNORECASE | re.DOTALL)
