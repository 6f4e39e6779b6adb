"""Values in SQL text, for reading without bound parameters.

DuckDB binds a Python value by first asking whether it is one of pandas' missing values, which
imports pandas: 0.2 to 0.6 s before the first answer. So the few parameters of a question are put
into the text instead, here and nowhere else. A string travels as the hexadecimal digits of its
UTF-8: whatever is in it, no character of it is ever read as SQL.
"""

from __future__ import annotations

from collections.abc import Sequence

PLACEHOLDER = "?"


def bind(sql: str, values: Sequence[object]) -> str:
    """`sql` with each `?` replaced by a value: None, bool, int, str, or a list of str.

    >>> bind("SELECT * FROM t WHERE a = ? AND b < ?", ["x'", 3])
    "SELECT * FROM t WHERE a = decode(unhex('7827')) AND b < 3"

    Raises ValueError if there are more or fewer values than places.
    """
    pieces = sql.split(PLACEHOLDER)
    words = [literal(value) for value in values]
    return "".join(piece + word for piece, word in zip(pieces, [*words, ""], strict=True))


def literal(value: object) -> str:
    """A value as DuckDB reads it. Raises TypeError for kinds that questions do not use."""
    match value:
        case None:
            return "NULL"
        case bool():
            return "true" if value else "false"
        case int():
            return str(int(value))
        case str():
            return f"decode(unhex('{value.encode(errors='replace').hex()}'))"
        case list():
            return f"[{', '.join(literal(item) for item in value)}]"
    raise TypeError(f"a {type(value).__name__} cannot be a parameter of a question")
