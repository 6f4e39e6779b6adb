"""Class ids of one model in those of another: which label spaces compare, and by which table."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NO_ANSWER = 0xFFFFFFFF  # records.OutputSketch: the model gave no answer
NO_PARTNER = (
    0xFFFFFFFE  # an answer the other model has no class for; equals nothing, like NO_ANSWER
)

NAMED = "named"
MAPPED = "mapped"  # by a label map the user gave
POSITIONAL = "positional"  # same number of classes, names unknown: shown as unverified


Name = tuple[str, int]
"""A normalised class name, and how many equal ones come before it (ImageNet has two cranes):
matching occurrence with occurrence keeps "same class" an equivalence relation."""


@dataclass(frozen=True, slots=True, eq=False)
class Classes:
    """What is known of a classifier's outputs.

    names : in output order, None when unknown. position : output of each name. count : number of
    outputs, None when unknown.
    """

    space_id: str | None
    names: tuple[Name, ...] | None
    position: Mapping[Name, int]
    count: int | None


def classes(space_id: str | None, labels: Sequence[str] | None, count: int | None) -> Classes:
    """The classes of a label space with these names, or of `count` nameless outputs."""
    if labels is None:
        return Classes(space_id, None, {}, count)
    names = tuple(_occurrences(labels))
    return Classes(space_id, names, {name: place for place, name in enumerate(names)}, len(names))


@dataclass(frozen=True, slots=True)
class Translation:
    """How a reference's class ids become a candidate's.

    labels : NAMED, MAPPED, POSITIONAL, or None when they do not compare, for `reason`.
    table : uint32, entry c is the candidate's id for the reference's class c, or NO_PARTNER;
    None when ids stay as they are.
    """

    labels: str | None
    table: NDArray[np.uint32] | None = None
    reason: str | None = None

    def apply(self, answers: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """The reference's answers as the candidate would number them; unanswered -> NO_PARTNER."""
        translated = answers.copy()
        if self.table is not None:
            inside = answers < len(self.table)
            translated[inside] = self.table[answers[inside]]
            translated[~inside] = NO_PARTNER
        translated[answers == NO_ANSWER] = NO_PARTNER
        return translated


def normalise(name: str) -> str:
    """A class name without case, accents' encoding, spaces, underscores and hyphens.

    >>> normalise("Tiger_Cat") == normalise("tiger cat")
    True
    """
    folded = unicodedata.normalize("NFKC", name).casefold()
    return "".join(c for c in folded if not c.isspace() and c not in "_-")


def translation(
    reference: Classes, candidate: Classes, label_map: Mapping[str, str] | None = None
) -> Translation:
    """How to compare answers in `reference`'s classes with answers in `candidate`'s.

    label_map : reference's name -> candidate's name; overrides equality of names for the names it
    mentions. Without names on both sides, equal class counts compare by position.
    """
    if (
        reference.space_id is not None
        and reference.space_id == candidate.space_id
        and not label_map
    ):
        return Translation(NAMED)
    if reference.names is not None and candidate.names is not None:
        table = _table(reference.names, candidate.position, label_map or {})
        if (table == NO_PARTNER).all():
            return Translation(None, table, reason="label spaces share no names")
        return Translation(MAPPED if label_map else NAMED, table)
    if reference.count is None or candidate.count is None:
        return Translation(None, reason="number of classes unknown")
    if reference.count != candidate.count:
        return Translation(None, reason="different numbers of classes, names unknown")
    return Translation(POSITIONAL)


def _table(
    reference: Sequence[Name], position: Mapping[Name, int], label_map: Mapping[str, str]
) -> NDArray[np.uint32]:
    """(len(reference),) candidate's position of each reference name, or NO_PARTNER."""
    renamed = {normalise(a): normalise(b) for a, b in label_map.items()}
    partners = (
        position.get((renamed[name], 0) if name in renamed else (name, nth), NO_PARTNER)
        for name, nth in reference
    )
    return np.fromiter(partners, dtype=np.uint32, count=len(reference))


def _occurrences(labels: Iterable[str]) -> Iterator[Name]:
    seen: Counter[str] = Counter()
    for name in map(normalise, labels):
        yield name, seen[name]
        seen[name] += 1
