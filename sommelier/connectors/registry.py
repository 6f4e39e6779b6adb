"""Finds connectors by name among the installed entry points; loads the one that is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sommelier.connectors.base import Connector
from sommelier.connectors.options import nearest
from sommelier.errors import ConnectorError, MissingDependencyError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint, EntryPoints

GROUP = "sommelier.connectors"
"""Entry point group. Another package adds a connector by naming a class in it."""


def connector(name: str) -> Connector:
    """The connector of that name, newly made.

    Raises ConnectorError with the nearest names if there is none, if two packages claim the name,
    or if what is installed under it is not a connector.
    """
    found = _entry_points(name)
    if not found:
        names = connector_names()
        raise ConnectorError(
            f"there is no connector '{name}'",
            suggestions=nearest(name, names),
            hint=f"connectors: {', '.join(names) or 'none installed (pip install sommelier-db)'}",
        )
    targets = sorted({entry.value for entry in found})
    if len(targets) > 1:
        raise ConnectorError(
            f"several packages provide a connector '{name}': {', '.join(targets)}",
            hint="uninstall all but one",
        )
    entry = next(iter(found))
    try:
        made = entry.load()()
    except ImportError as error:
        raise MissingDependencyError(
            f"connector '{name}' cannot be loaded: {error}",
            hint=_needs(entry, error.name),
        ) from error
    if not isinstance(made, Connector) or made.name != name:
        raise ConnectorError(f"'{entry.value}', registered as '{name}', is not that connector")
    return made


def connector_names() -> list[str]:
    """Names of all installed connectors, sorted; none is loaded."""
    return sorted({entry.name for entry in _entry_points()})


def _needs(entry: EntryPoint, module: str | None) -> str | None:
    """What to do about a missing module. No advice to install it by that name: what an index has
    under the name of a module may be somebody else's."""
    if module is None or entry.dist is None:
        return None
    return f"it belongs to {entry.dist.name}, which says what to install for the module '{module}'"


def _entry_points(name: str | None = None) -> EntryPoints:
    from importlib.metadata import entry_points  # 20 ms that a query need not pay

    return entry_points(group=GROUP) if name is None else entry_points(group=GROUP, name=name)
