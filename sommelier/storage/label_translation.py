"""Class ids of one model in those of another: which label spaces compare, and by which table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sommelier.records import NO_ANSWER as NO_ANSWER
from sommelier.storage.label_matching import UNMATCHED, match_labels

NO_PARTNER = (
    0xFFFFFFFE  # an answer the other model has no class for; equals nothing, like NO_ANSWER
)

NAMED = "named"
MAPPED = "mapped"  # by a label map the user gave
POSITIONAL = "positional"  # same number of classes, names unknown: shown as unverified


@dataclass(frozen=True, slots=True)
class Classes:
    """What is known of a classifier's outputs.

    labels : names in output order, None when unknown. count : number of outputs, None when unknown.
    """

    space_id: str | None
    labels: tuple[str, ...] | None
    count: int | None


def classes(space_id: str | None, labels: Sequence[str] | None, count: int | None) -> Classes:
    """The classes of a label space with these names, or of `count` nameless outputs."""
    if labels is None:
        return Classes(space_id, None, count)
    return Classes(space_id, tuple(labels), len(labels))


@dataclass(frozen=True, slots=True, eq=False)
class Translation:
    """How a reference's class ids and a candidate's meet.

    labels : NAMED, MAPPED, POSITIONAL, or None when they do not compare, for `reason`.
    table : uint32, entry c is the other side's id for class c, or NO_PARTNER; None when ids stay
    as they are. backward : False, the reference's answers become the candidate's ids; True, the
    candidate's become the reference's, which is how a map of several classes to one is read from
    the side of the one.
    """

    labels: str | None
    table: NDArray[np.uint32] | None = None
    reason: str | None = None
    backward: bool = False

    def apply(self, answers: NDArray[np.uint32]) -> NDArray[np.uint32]:
        """The reference's answers as they are compared; unanswered -> NO_PARTNER."""
        translated = answers.copy()
        if self.table is not None and not self.backward:
            inside = answers < len(self.table)
            translated[inside] = self.table[answers[inside]]
            translated[~inside] = NO_PARTNER
        translated[answers == NO_ANSWER] = NO_PARTNER
        return translated

    @property
    def row_table(self) -> NDArray[np.uint32] | None:
        """What a candidate's answers become, as `row_lookup` says; None when they stay."""
        return row_lookup(self.table) if self.table is not None and self.backward else None


def row_lookup(table: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """A table for rows of answers: its last entry, NO_ANSWER, is for ids beyond the classes.

    Ids without a partner become NO_ANSWER too, which no translated reference holds.
    """
    known = np.where(table == NO_PARTNER, NO_ANSWER, table)
    return np.append(known, NO_ANSWER).astype(np.uint32)


def translation(
    reference: Classes,
    candidate: Classes,
    label_map: Mapping[str, str] | None = None,
    opposite: Mapping[str, str] | None = None,
) -> Translation:
    """How to compare answers in `reference`'s classes with answers in `candidate`'s.

    label_map : reference's name -> candidate's name; overrides equality of names for the names it
    mentions. opposite : the user's map the other way round, used when there is no `label_map`; the
    candidate is translated then. Without names on both sides, equal counts compare by position.
    """
    given = label_map or opposite
    if reference.space_id is not None and reference.space_id == candidate.space_id and not given:
        return Translation(NAMED)
    if reference.labels is not None and candidate.labels is not None:
        backward = not label_map and bool(opposite)
        source, target = reference.labels, candidate.labels
        if backward:
            source, target = target, source
        targets = match_labels(source, target, given)
        table = np.where(targets == UNMATCHED, NO_PARTNER, targets).astype(np.uint32)
        if (table == NO_PARTNER).all():
            return Translation(None, table, reason="label spaces share no names")
        return Translation(MAPPED if given else NAMED, table, backward=backward)
    if reference.count is None or candidate.count is None:
        return Translation(None, reason="number of classes unknown")
    if reference.count != candidate.count:
        return Translation(None, reason="different numbers of classes, names unknown")
    return Translation(POSITIONAL)
