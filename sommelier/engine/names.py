"""Nearest names: what an error offers when a name does not exist."""

from __future__ import annotations

from collections.abc import Iterable

from sommelier.errors import BinderError, Span, UnknownNameError

_OFFERED = 3
_ALIKE = 60.0  # rapidfuzz's ratio out of 100, below it a suggestion is noise
_CLOSE = 15.0  # how far behind the best one another suggestion may be
_LISTED = 9


def nearest(name: str, known: Iterable[str]) -> tuple[str, ...]:
    """The known names that look most like `name`, best first; may be empty.

    >>> nearest("memry", ["flops", "memory", "params"])
    ('memory',)
    """
    from rapidfuzz import process, utils  # needed only for a mistake

    found = process.extract(
        name, list(known), limit=_OFFERED, score_cutoff=_ALIKE, processor=utils.default_process
    )
    return tuple(match for match, score, _ in found if score >= found[0][1] - _CLOSE)


def unknown(kind: str, name: str, known: Iterable[str], span: Span | None = None) -> BinderError:
    """The error for a name that does not exist, with the nearest ones, or a list of all."""
    names = sorted(known)
    alike = nearest(name, names)
    listed = ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")
    hint = f"{kind}s: {listed}" if names else f"there is no {kind} in the database yet"
    return UnknownNameError(f"unknown {kind} '{name}'", span=span, hint=hint, suggestions=alike)
