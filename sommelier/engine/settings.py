"""Settings of the engine: checked when they are SET, kept as text, read back as Python values."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sommelier.engine.names import nearest, unknown
from sommelier.engine.options import SETTINGS, Kind, bind_value, check_confidence
from sommelier.engine.parameters import Supplied
from sommelier.errors import BinderError, Span
from sommelier.grammar import nodes
from sommelier.units import Dimension, format_value

if TYPE_CHECKING:
    from sommelier.storage.catalog import Catalog


def read(catalog: Catalog) -> dict[str, Any]:
    """The settings that are SET, in base units."""
    return {
        name: _parsed(text, SETTINGS[name])
        for name, text in catalog.settings().items()
        if name in SETTINGS
    }


def store(
    catalog: Catalog,
    statement: nodes.SetOption,
    parameters: Supplied = None,
    names: Callable[[str], list[str]] | None = None,
) -> str:
    """Keeps a setting; answers its value as a person writes it.

    names : the devices or datasets there are; None takes any. Raises BinderError,
    UnknownNameError.
    """
    name = statement.name.lower()
    kind = _kind(name, statement.span)
    value = bind_value(statement.value, kind, parameters, name=name)
    if value is None:
        catalog.reset_setting(name)
        return "default"
    if name == "confidence":
        check_confidence(value, statement.span)
    if name == "default_tolerance" and not 0 <= value <= 1:
        raise BinderError("a tolerance lies between 0% and 100%", span=statement.span)
    if name == "batch" and value < 1:
        raise BinderError("a batch has at least one input", span=statement.span)
    if names is not None and name in ("device", "dataset"):
        _check_name(name, str(value), names(name), statement)
    catalog.set_setting(name, _text(value))
    return shown(name, value)


def reset(catalog: Catalog, statement: nodes.ResetOption) -> None:
    """Forgets one setting, or every one. Raises BinderError for an unknown name."""
    if statement.name is None:
        for name in SETTINGS.keys() & catalog.settings().keys():  # others are not SET either
            catalog.reset_setting(name)
        return
    name = statement.name.lower()
    _kind(name, statement.span)
    catalog.reset_setting(name)


def shown(name: str, value: Any) -> str:
    """A setting's value as it is written."""
    kind = SETTINGS[name]
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(kind, Dimension):
        return format_value(float(value), kind)
    return str(value)


def _check_name(kind: str, name: str, known: list[str], statement: nodes.SetOption) -> None:
    """Raises UnknownNameError with the nearest names."""
    if name not in known:
        raise unknown(kind, name, known, getattr(statement.value, "span", None) or statement.span)


def _kind(name: str, span: Span | None) -> Kind:
    if name not in SETTINGS:
        raise BinderError(
            f"unknown setting '{name}'",
            span=span,
            expected=tuple(sorted(SETTINGS)),
            suggestions=nearest(name, SETTINGS),
        )
    return SETTINGS[name]


def _text(value: Any) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _parsed(text: str, kind: Kind) -> Any:
    if isinstance(kind, Dimension) or kind is float:
        return float(text)
    if kind is bool:
        return text == "true"
    return int(text) if kind is int else text
