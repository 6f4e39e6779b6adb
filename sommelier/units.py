"""Physical dimensions and their units: the only place that reads or prints a unit.

Inside the product everything is in base units: bytes, FLOPs, milliseconds, counts, joules,
events per second, fractions. MB is 10^6 bytes and MiB 2^20, as in DuckDB.
"""

from __future__ import annotations

import math
import re
from enum import Enum

from sommelier.errors import SommelierError


class Dimension(Enum):
    """What a number measures."""

    BYTES = "bytes"
    FLOPS = "flops"
    TIME = "time"
    COUNT = "count"
    ENERGY = "energy"
    RATE = "rate"
    FRACTION = "fraction"
    NUMBER = "number"


class UnitError(SommelierError):
    """A unit does not exist, or does not measure what it is compared with."""

    code = "unit"
    title = "Unit Error"


_DECIMAL = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "p": 1e15}
_BINARY = {"ki": 2.0**10, "mi": 2.0**20, "gi": 2.0**30, "ti": 2.0**40, "pi": 2.0**50}

_UNITS: dict[Dimension, dict[str, float]] = {
    Dimension.BYTES: {f"{p}b": scale for p, scale in (_DECIMAL | _BINARY).items()},
    Dimension.FLOPS: {f"{p}flop{s}": v for p, v in _DECIMAL.items() for s in ("", "s")}
    | {f"{p}mac{s}": 2 * v for p, v in _DECIMAL.items() for s in ("", "s")},
    Dimension.TIME: {
        "ns": 1e-6,
        "us": 1e-3,
        "µs": 1e-3,
        "ms": 1.0,
        "s": 1e3,
        "sec": 1e3,
        "min": 6e4,
        "h": 3.6e6,
    },
    Dimension.COUNT: {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12},
    Dimension.ENERGY: {"mj": 1e-3, "j": 1.0, "kj": 1e3},
    Dimension.RATE: {"qps": 1.0, "rps": 1.0, "hz": 1.0, "khz": 1e3},
    Dimension.FRACTION: {"%": 0.01},
    Dimension.NUMBER: {},
}

# What messages and completion offer, in the spelling people write.
SPELLINGS: dict[Dimension, tuple[str, ...]] = {
    Dimension.BYTES: ("B", "kB", "MB", "GB", "TB", "KiB", "MiB", "GiB"),
    Dimension.FLOPS: ("FLOPs", "MFLOPs", "GFLOPs", "TFLOPs", "MMACs", "GMACs"),
    Dimension.TIME: ("us", "ms", "s", "min", "h"),
    Dimension.COUNT: ("K", "M", "B"),
    Dimension.ENERGY: ("mJ", "J", "kJ"),
    Dimension.RATE: ("qps", "rps"),
    Dimension.FRACTION: ("%",),
    Dimension.NUMBER: (),
}

BASE_UNITS: dict[Dimension, str] = {
    Dimension.BYTES: "B",
    Dimension.FLOPS: "FLOPs",
    Dimension.TIME: "ms",
    Dimension.ENERGY: "J",
    Dimension.RATE: "rps",
}
"""The unit in which values are kept and given out; counts, fractions and numbers have none."""

_EXACT = 1e15  # up to here a float holds every whole number, and people read its digits
_QUANTITY = re.compile(r"\s*([+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)\s*([%A-Za-zµ]*)\s*\Z")


def to_base(value: float, unit: str, dimension: Dimension) -> float:
    """`value unit` in the base unit of `dimension`.

    >>> to_base(200, "MB", Dimension.BYTES)
    200000000.0
    >>> to_base(7, "B", Dimension.COUNT)
    7000000000.0

    Raises UnitError if the unit does not measure that dimension.
    """
    scale = _UNITS[dimension].get(unit.lower())
    if scale is None:
        found = [d.value for d, units in _UNITS.items() if unit.lower() in units]
        what = f"measures {' or '.join(found)}" if found else "is not a unit"
        options = ", ".join(SPELLINGS[dimension]) or "none: write a bare number"
        raise UnitError(
            f"'{unit}' {what}, but {dimension.value} is asked for",
            hint=f"units of {dimension.value}: {options}",
        )
    return value * scale


def parse(text: str, dimension: Dimension) -> float:
    """The base value of text such as '200 MB', '30ms' or '80%'.

    A bare number is accepted for counts, fractions and plain numbers only.

    >>> parse("1.5 GiB", Dimension.BYTES)
    1610612736.0
    """
    match = _QUANTITY.match(text)
    if match is None:
        raise UnitError(f"'{text}' is not a quantity", hint="write for example 200 MB or 30 ms")
    value, unit = float(match[1]), match[2]
    if unit:
        return to_base(value, unit, dimension)
    if dimension in (Dimension.COUNT, Dimension.FRACTION, Dimension.NUMBER):
        return value
    raise UnitError(
        f"{match[1]} what?", hint=f"add a unit of {dimension.value}: {SPELLINGS[dimension]}"
    )


_STEPS: dict[Dimension, tuple[tuple[float, str], ...]] = {
    Dimension.BYTES: ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")),
    Dimension.FLOPS: (
        (1e15, "PFLOPs"),
        (1e12, "TFLOPs"),
        (1e9, "GFLOPs"),
        (1e6, "MFLOPs"),
        (1e3, "kFLOPs"),
        (1.0, "FLOPs"),
    ),
    Dimension.TIME: ((3.6e6, "h"), (6e4, "min"), (1e3, "s"), (1.0, "ms"), (1e-3, "us")),
    Dimension.COUNT: ((1e9, "B"), (1e6, "M"), (1e3, "K"), (1.0, "")),
    Dimension.ENERGY: ((1e3, "kJ"), (1.0, "J"), (1e-3, "mJ")),
    Dimension.RATE: ((1.0, "rps"),),
}


def heading(name: str, dimension: Dimension | None) -> str:
    """The name of a column whose values are printed with their units: without its own.

    >>> heading("took_ms", Dimension.TIME), heading("p99", Dimension.TIME), heading("x_ms", None)
    ('took', 'p99', 'x_ms')
    """
    return name.removesuffix("_ms") if dimension is Dimension.TIME else name


def format_value(value: float | None, dimension: Dimension) -> str:
    """A base value in the unit a person would choose, three significant digits.

    >>> format_value(2.5e8, Dimension.BYTES), format_value(0.031, Dimension.TIME)
    ('250 MB', '31 us')
    >>> format_value(0.9512, Dimension.FRACTION), format_value(None, Dimension.BYTES)
    ('95.12%', 'NULL')
    >>> format_value(2_909_283.0, Dimension.NUMBER), format_value(2_909_283, Dimension.COUNT)
    ('2909283', '2.91M')
    """
    if value is None or math.isnan(value):
        return "NULL"
    if dimension is Dimension.FRACTION:
        return f"{value * 100:.2f}".rstrip("0").rstrip(".") + "%"
    steps = _STEPS.get(dimension)
    if steps is None or value == 0 or math.isinf(value):
        whole = abs(value) < _EXACT and float(value).is_integer()
        return f"{value:.0f}" if whole else f"{value:.6g}"
    scale, unit = next(((s, u) for s, u in steps if abs(value) >= s * 0.9995), steps[-1])
    number = value / scale
    digits = max(0, 2 - math.floor(math.log10(abs(number))) if number else 0)
    text = f"{number:.{digits}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return f"{text} {unit}" if unit and dimension is not Dimension.COUNT else f"{text}{unit}"
