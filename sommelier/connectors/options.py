"""Reads the USING options of a connector, and says which exist when one does not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sommelier import units
from sommelier.errors import ConnectorError, RejectedModelError
from sommelier.storage.naming import nearest as nearest
from sommelier.units import Dimension, UnitError

MAX_MODEL_BYTES = 2 * 10**9  # protobuf cannot hold more in one message
_MOST_BYTES = 2**62  # more than any file has; beyond it a read cannot count

CONVERSION: Mapping[str, str] = {
    "inputs": "types and shapes of a model that is not ONNX: 'float32[n,3,32,32]; mask: bool[n,5]'",
    "module": "what makes the module of bare weights: 'nets.py:Net' or 'package.module:function'",
    "arguments": "arguments of the module, or of the entry of a repository, as a JSON object",
    "signature": "which function of a SavedModel to take (serving_default)",
    "trust": "whether code that comes with a model may run (no)",
}
"""Options of what is converted to ONNX; see `conversion`."""

_TENSORFLOW: Mapping[str, frozenset[str]] = {
    "savedmodel": frozenset({"signature", "trust"}),
    "keras": frozenset({"trust"}),
    "tflite": frozenset({"trust"}),
}
_TORCH = frozenset(CONVERSION) - {"signature"}


def check(connector: str, options: Mapping[str, object], known: Mapping[str, str]) -> None:
    """Raises ConnectorError at the first option the connector does not have."""
    for name in options:
        if name not in known:
            raise ConnectorError(
                f"connector '{connector}' has no option '{name}'",
                suggestions=nearest(name, known),
                hint=f"options of {connector}: {', '.join(known) or 'none'}",
            )


def size(options: Mapping[str, object], name: str, default: int) -> int:
    """A number of bytes: a bare number, or text such as '500 MB'."""
    value = options.get(name)
    if value is None:
        return default
    if isinstance(value, str):
        try:
            value = float(value) if _is_number(value) else units.parse(value, Dimension.BYTES)
        except UnitError as error:
            raise ConnectorError(f"option {name}: {error.message}", hint=error.hint) from error
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= _MOST_BYTES:
        return int(value)
    raise ConnectorError(f"option {name} must be a size above 0 and below 4 EB, such as '500 MB'")


def text(options: Mapping[str, object], name: str) -> str | None:
    """A text option, or None when it is not given."""
    value = options.get(name)
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, Path):
        return str(value)
    raise ConnectorError(f"option {name} must be text, not {value!r}")


def address(options: Mapping[str, object], name: str) -> str | None:
    """A text option that says where something is, or None when it is not given; never empty."""
    value = text(options, name)
    if value is None or value.strip():
        return value
    raise ConnectorError(
        f"option {name} is empty", hint=f"say an address, or leave {name} out for the usual one"
    )


def path(options: Mapping[str, object], name: str) -> Path | None:
    """A path option with '~' expanded, or None when it is not given."""
    value = text(options, name)
    return None if value is None else Path(value).expanduser()


def flag(options: Mapping[str, object], name: str) -> bool:
    """Whether an option is switched on: true, 'yes' or 'on'; False when it is not given."""
    value = options.get(name, False)
    if isinstance(value, bool):
        return value
    words = {"yes": True, "on": True, "true": True, "no": False, "off": False, "false": False}
    if isinstance(value, str) and value.lower() in words:
        return words[value.lower()]
    raise ConnectorError(f"option {name} is true or false, not {value!r}")


def conversion(options: Mapping[str, object]) -> dict[str, object]:
    """What the options say to a converter: those of CONVERSION that are given, trust as a bool."""
    given: dict[str, object] = {
        name: text(options, name) for name in CONVERSION if name in options and name != "trust"
    }
    return {**given, "trust": True} if flag(options, "trust") else given


def of_format(given: Mapping[str, object], format: str, *, alone: bool) -> dict[str, object]:
    """Those of `conversion` that a model of this format is converted with.

    alone : whether no other model is imported with it. Then one that it has no use for is a
    mistake, and RejectedModelError says so; else it is meant for the others.
    """
    known = _TENSORFLOW.get(format, _TORCH)
    unknown = [name for name in given if name not in known]
    if unknown and alone:
        raise RejectedModelError(
            f"the option '{unknown[0]}' is not for {format}; what is: {', '.join(sorted(known))}"
        )
    return {name: value for name, value in given.items() if name in known}


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
