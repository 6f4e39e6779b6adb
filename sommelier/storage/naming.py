"""What is said when a name does not exist: the nearest names that do, or some that there are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from sommelier.errors import UnknownNameError

_SHOWN = 3
_FEW = 5
_ALIKE = 65.0  # rapidfuzz's score out of 100; two letters of three alone give 60
_CLOSE = 15.0  # how far behind the best one another suggestion may be
_PREFIX = 3  # letters from which on the beginning of a name says what was meant


def nearest(name: str, names: Iterable[str]) -> tuple[str, ...]:
    """Up to three names that resemble `name`, best first. About 0.1 s for 100 000 names.

    What starts with `name` and goes on with a new word comes first, then what starts with it.

    >>> nearest("memry", ["flops", "memory", "params"]), nearest("m99", ["m1", "m3", "m5"])
    (('memory',), ())
    >>> nearest("resnet50", ["lresnet50", "resnet50d.a1_in1k", "resnet50.a1_in1k"])
    ('resnet50.a1_in1k', 'resnet50d.a1_in1k', 'lresnet50')
    """
    from rapidfuzz import process, utils  # needed only for a mistake

    distinct = list(dict.fromkeys(names))
    begun = _that_start_with(name, distinct)
    found = process.extract(
        name, distinct, limit=2 * _SHOWN, score_cutoff=_ALIKE, processor=utils.default_process
    )
    alike = [match for match, score, _ in found if score >= found[0][1] - _CLOSE]
    return tuple(dict.fromkeys([*begun, *alike]))[:_SHOWN]


def _that_start_with(name: str, names: Sequence[str]) -> list[str]:
    """The shortest names that begin as `name` does, those that go on with a new word first."""
    typed = name.lower()
    if len(typed) < _PREFIX:
        return []
    begun = [known for known in names if known.lower().startswith(typed)]
    begun.sort(key=lambda known: (known[len(typed) : len(typed) + 1].isalnum(), len(known), known))
    return begun[:_SHOWN]


def unknown_name(
    kind: str, name: str, names: Sequence[str], *, none: str | None = None
) -> UnknownNameError:
    """The error for a `kind` ('dataset', 'pool' ...) of that name not being there: with names that
    resemble it, and with what there is where none does or there is little. none : the hint where
    there is nothing."""
    alike = nearest(name, names)
    hint = None
    if not names:
        hint = none or f"there is no {kind} in the database yet"
    elif not alike or len(names) <= _SHOWN:
        hint = f"there is {few(sorted(names))}"
    return UnknownNameError(f"there is no {kind} '{name}'", suggestions=alike, hint=hint)


def few(names: Sequence[str]) -> str:
    """At most five of the names, and how many more there are.

    >>> few(["a", "b", "c", "d", "e", "f", "g"])
    'a, b, c, d, e and 2 more'
    """
    more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
    return ", ".join(names[:_FEW]) + more
