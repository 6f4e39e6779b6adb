"""Nearest names: what an error offers when a name does not exist."""

from __future__ import annotations

from collections.abc import Iterable

from sommelier.errors import BinderError, Span, UnknownNameError
from sommelier.storage.naming import few as few
from sommelier.storage.naming import nearest as nearest

_LISTED = 9


def unknown(kind: str, name: str, known: Iterable[str], span: Span | None = None) -> BinderError:
    """The error for a name that does not exist, with the nearest ones, or a list of all."""
    names = sorted(known)
    alike = nearest(name, names)
    listed = ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
    hint = f"{several(kind)}: {listed}" if names else f"there is no {kind} in the database yet"
    return UnknownNameError(f"unknown {kind} '{name}'", span=span, hint=hint, suggestions=alike)


def several(kind: str) -> str:
    """A kind of thing in the plural.

    >>> several("model"), several("repository")
    ('models', 'repositories')
    """
    return f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"
