"""Which class of one vocabulary is which of another, by name: the one rule every comparison uses.

Agreement, accuracy and paired differences all match labels here, so that they cannot contradict
each other. Without a user's map the match is symmetric and one to one.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

UNMATCHED = -1
_SYNSET = re.compile(r"n\d{8}(?!\d)")

Name = tuple[str, int]
"""A normalised class name, and how many equal ones come before it: ImageNet has two cranes."""


def normalise(name: str) -> str:
    """A class name without case, accents' encoding, spaces, underscores and hyphens.

    >>> normalise("Tiger_Cat") == normalise("tiger cat")
    True
    """
    folded = unicodedata.normalize("NFKC", name).casefold()
    return "".join(c for c in folded if not c.isspace() and c not in "_-")


def label_keys(label: str) -> tuple[str, ...]:
    """What a label may be recognised by, best first: WordNet id, whole name, each synonym.

    >>> label_keys("n01440764 tench, Tinca tinca")
    ('n01440764', 'tench,tincatinca', 'tench', 'tincatinca')
    """
    synset = _synset(label)
    rest = label.lower().replace(synset, " ") if synset else label
    keys = [synset] if synset else []
    keys += [normalise(rest), *(normalise(part) for part in rest.split(","))]
    return tuple(dict.fromkeys(key for key in keys if key))


def match_labels(
    source: Sequence[str], target: Sequence[str], explicit: Mapping[str, str] | None = None
) -> NDArray[np.int32]:
    """(len(source),) the target class of each source class, UNMATCHED where it has none.

    Equal whole names match first, occurrence with occurrence; then equal WordNet ids; then names
    and synonyms that point at one class on either side. A label that `explicit` (source name ->
    target name) mentions goes where it says, and nowhere when the target has no such name; several
    labels may go to one.
    """
    targets = _implicit(tuple(source), tuple(target)).copy()
    if not explicit:
        return targets
    chosen = {normalise(a): b for a, b in explicit.items()}
    first = {name: place for name, place in _places(target).items() if name[1] == 0}
    owners = _unique_owners(target)
    for index, label in enumerate(source):
        wanted = chosen.get(normalise(label))
        if wanted is not None:
            by_key = (owners[key] for key in label_keys(wanted) if key in owners)
            place = first.get((normalise(wanted), 0))
            targets[index] = next(by_key, UNMATCHED) if place is None else place
    return targets


@lru_cache(maxsize=256)
def name_set(labels: tuple[str, ...]) -> frozenset[Name]:
    """The names of a vocabulary whatever their order; equal sets match class by class."""
    return frozenset(_occurrences(labels))


@lru_cache(maxsize=256)
def _implicit(source: tuple[str, ...], target: tuple[str, ...]) -> NDArray[np.int32]:
    """`match_labels` without a user's map: one to one, and the same seen from the other side."""
    places = _places(target)
    found = (places.get(name, UNMATCHED) for name in _occurrences(source))
    targets = np.fromiter(found, dtype=np.int32, count=len(source))
    if (targets != UNMATCHED).all() or np.count_nonzero(targets != UNMATCHED) == len(target):
        return targets
    ours, theirs = _unique_owners(source), _unique_owners(target)
    shared = [(key, ours[key], theirs[key]) for key in ours if key in theirs]
    _join(targets, ((i, j) for key, i, j in shared if _SYNSET.fullmatch(key)))
    _join(targets, ((i, j) for _, i, j in shared if not _conflict(source[i], target[j])))
    return targets


def _join(targets: NDArray[np.int32], pairs: Iterable[tuple[int, int]]) -> None:
    """Match what is unmatched on both sides and has one partner only, seen from either side."""
    taken = set(targets.tolist())
    forth: dict[int, set[int]] = defaultdict(set)
    back: dict[int, set[int]] = defaultdict(set)
    for i, j in pairs:
        if targets[i] == UNMATCHED and j not in taken:
            forth[i].add(j)
            back[j].add(i)
    for i, partners in forth.items():
        j = min(partners)
        if len(partners) == 1 and len(back[j]) == 1:
            targets[i] = j


def _conflict(label: str, other: str) -> bool:
    """Whether two labels name different WordNet ids: crane the bird is no crane the machine."""
    ours, theirs = _synset(label), _synset(other)
    return ours is not None and theirs is not None and ours != theirs


def _synset(label: str) -> str | None:
    found = _SYNSET.search(label.lower())
    return found[0] if found else None


def _unique_owners(labels: Sequence[str]) -> dict[str, int]:
    """The one label each key belongs to; keys of two labels (crane, the bird) are left out."""
    owners: dict[str, int | None] = {}
    for index, label in enumerate(labels):
        for key in label_keys(label):
            owners[key] = index if key not in owners else None
    return {key: index for key, index in owners.items() if index is not None}


def _places(labels: Sequence[str]) -> dict[Name, int]:
    return {name: place for place, name in enumerate(_occurrences(labels))}


def _occurrences(labels: Iterable[str]) -> Iterator[Name]:
    seen: Counter[str] = Counter()
    for name in map(normalise, labels):
        yield name, seen[name]
        seen[name] += 1
