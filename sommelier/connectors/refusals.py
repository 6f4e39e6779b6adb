"""What a Rejection says: the error's message together with what to do about it."""

from __future__ import annotations

from sommelier.errors import SommelierError


def reason(error: SommelierError) -> str:
    """The message of an error, and its hint in parentheses where there is one.

    >>> reason(SommelierError("'o/n' is gated"))
    "'o/n' is gated"
    >>> reason(SommelierError("'o/n' is gated", hint="accept its terms"))
    "'o/n' is gated (accept its terms)"
    """
    return f"{error.message} ({error.hint})" if error.hint else error.message
