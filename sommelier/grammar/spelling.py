"""How names, texts and numbers are written: read here by the parser, written by the formatter."""

from __future__ import annotations

import math
import re
from decimal import Decimal

from sommelier.grammar.vocabulary import RESERVED_COLUMNS, RESERVED_NAMES
from sommelier.units import SPELLINGS, Dimension

MODEL_FUNCTIONS = frozenset({"profile_similarity"})
"""Functions whose arguments are models: a bare word in them is a model's name."""

UNIT_NAMES = frozenset(
    unit
    for dimension, units in SPELLINGS.items()
    if dimension not in (Dimension.COUNT, Dimension.FRACTION)
    for unit in units
    if len(unit) > 1
)
"""Units that are never a column by themselves: `memory < GB` is a mistake."""

_SPACED_UNITS = frozenset(
    unit.lower()
    for dimension, units in SPELLINGS.items()
    if dimension is not Dimension.COUNT
    for unit in units
) - {"b"}  # 7B is seven billion as well as seven bytes
_IDENTIFIER = re.compile(r"[^\W\d]\w*")
_BARE_NAME = re.compile(r"[^\W\d][\w.]*(?:[-/:@][\w.]+)*")
_VERSION = re.compile(r"[\w.]+(?:[-/:][\w.]+)*")
_LARGEST_PLAIN = 10**15


# ---- reading


def unquoted(text: str) -> str:
    """The name or text behind its quotes, which are doubled where they are meant.

    >>> unquoted("'it''s'"), unquoted("resnet50")
    ("it's", 'resnet50')
    """
    if text[0] in "'\"":
        quote = text[0]
        end = text.rindex(quote)
        return text[1:end].replace(quote * 2, quote) + text[end + 1 :]
    return str(text)  # a plain str, not the token


def split_version(text: str) -> tuple[str, str | None]:
    """Name and version of a model as written.

    >>> split_version('google/net@2'), split_version("'net@2'"), split_version('"my net"@2')
    (('google/net', '2'), ('net@2', None), ('my net', '2'))
    """
    if text[0] == "'":
        return unquoted(text), None
    if text[0] == '"':
        end = text.rindex('"') + 1
        return unquoted(text[:end]), text[end + 1 :] or None
    name, at, version = text.rpartition("@")
    return (name, version) if at else (str(text), None)


def read_number(text: str) -> float:
    """Raises ValueError if it is too large for a float."""
    value = float(text)
    if math.isinf(value):
        raise ValueError(text)
    return value


def read_percent(text: str) -> float:
    """The fraction of `7%`, exactly the float nearest to it (7 / 100 is, 0.07 * 100 is not)."""
    match = _NUMERAL.match(text)
    assert match is not None, text  # the grammar's terminal begins with one
    mantissa, _, exponent = match.group().lower().partition("e")
    return read_number(f"{mantissa}e{int(exponent or 0) - 2}")


def read_quantity(text: str) -> tuple[float, str]:
    """Value and unit of `200 MB`."""
    number, unit = _NUMERAL.match(text), _UNIT.search(text)
    assert number is not None, text  # the grammar's terminal has this shape
    assert unit is not None, text
    return read_number(number.group()), unit.group()


_NUMERAL = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")
_UNIT = re.compile(r"[^\W\d]\w*\Z")


def is_bare_name(text: str) -> bool:
    """Whether the text is a model's name, perhaps with a version, that needs no quotes."""
    return _BARE_NAME.fullmatch(text) is not None


# ---- writing


def write_column(name: str) -> str:
    """A column, alias, function or option name, quoted where it must be."""
    if _IDENTIFIER.fullmatch(name) and name.upper() not in RESERVED_COLUMNS:
        return name
    return write_quoted(name)


def write_name(name: str) -> str:
    """The name of a pool, dataset, device, source, task or new model."""
    if _BARE_NAME.fullmatch(name) and name.upper() not in RESERVED_NAMES:
        return name
    return write_quoted(name)


def write_model(name: str, version: str | None) -> str:
    """A model's name with its version. Raises ValueError if the version cannot be written."""
    written = write_quoted(name) if "@" in name else write_name(name)
    if version is None:
        return written
    if not _VERSION.fullmatch(version):
        raise ValueError(f"version {version!r} of {name} cannot be written in a statement")
    return f"{written}@{version}"


def write_quoted(name: str) -> str:
    """Raises ValueError for an empty name."""
    if not name:
        raise ValueError("a name cannot be empty")
    return '"' + name.replace('"', '""') + '"'


def write_text(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def write_number(value: float) -> str:
    """The shortest text that reads back as this float.

    >>> write_number(200.0), write_number(0.5), write_number(1e300)
    ('200', '0.5', '1e+300')
    """
    if not math.isfinite(value):
        raise ValueError(f"{value} cannot be written in a statement")
    if value.is_integer() and abs(value) < _LARGEST_PLAIN:
        return str(int(value))
    return repr(value)


def write_percent(fraction: float) -> str:
    """
    >>> write_percent(0.07), write_percent(0.761)
    ('7%', '76.1%')
    """
    if not math.isfinite(fraction):
        raise ValueError(f"{fraction} cannot be written in a statement")
    text = f"{Decimal(repr(fraction)).scaleb(2):f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text) + "%"


def write_quantity(value: float, unit: str) -> str:
    """A unit that is not known is written close to its number, which keeps it a unit."""
    space = " " if unit.lower() in _SPACED_UNITS else ""
    return f"{write_number(value)}{space}{unit}"
