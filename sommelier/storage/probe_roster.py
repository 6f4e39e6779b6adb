"""Who answered a probe set, where the answers lie, and in which classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sommelier.records import FIRST as FIRST
from sommelier.records import LabelSpace, ProbeSet
from sommelier.storage.label_matching import name_set
from sommelier.storage.label_translation import (
    POSITIONAL,
    Classes,
    Translation,
    classes,
    translation,
)
from sommelier.storage.model_ids import ABSENT, ModelIds

VECTORS = "vectors"
LabelMaps = Mapping[tuple[str, str], Mapping[str, str]]


class GroupKey(NamedTuple):
    """What the catalog keeps of sketches that compare in one way."""

    kind: str
    file: str
    width: int
    exact: bool
    label_space_id: str | None
    classes: int | None


@dataclass(frozen=True, slots=True)
class RosterColumns:
    """Sketches of one probe set as columns; see Roster."""

    rows: NDArray[np.int32]
    group_keys: tuple[GroupKey, ...]
    group: NDArray[Any]
    file_rows: NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class AnswerGroup:
    """Sketches that compare with a reference in one way: one file, one label space."""

    kind: str
    file: str
    width: int
    exact: bool
    classes: Classes


class Places:
    """Where the models of a roster stand in it, by id."""

    def __init__(self, ids: ModelIds, rows: NDArray[np.int32]) -> None:
        self._ids = ids
        self._rows = rows
        ascending = bool((rows[1:] > rows[:-1]).all())
        self._order = None if ascending else np.argsort(rows, kind="stable").astype(np.int32)

    def get(self, model_id: str) -> int:
        """The position of a model, ABSENT if it is not in the roster."""
        return int(self.of_rows(np.array([self._ids.row(model_id)], dtype=np.int32))[0])

    def of_rows(self, rows: NDArray[np.int32]) -> NDArray[np.int64]:
        """The positions of model rows, ABSENT for those that are not in the roster."""
        if not len(self._rows):
            return np.full(len(rows), ABSENT)
        places = np.searchsorted(self._rows, rows, sorter=self._order)
        places = np.minimum(places, len(self._rows) - 1)
        positions = places if self._order is None else self._order[places]
        return np.where(self._rows[positions] == rows, positions, ABSENT)

    def among(self, ids: ModelIds) -> Places:
        """The same, where `ids` begin with those known before."""
        more = Places.__new__(Places)
        more._ids, more._rows, more._order = ids, self._rows, self._order
        return more

    def __contains__(self, model_id: str) -> bool:
        return self.get(model_id) != ABSENT

    def __getitem__(self, model_id: str) -> int:
        position = self.get(model_id)
        if position == ABSENT:
            raise KeyError(model_id)
        return position


@dataclass(frozen=True, slots=True)
class Roster:
    """The sketches of one probe set, in catalog order.

    ids : of all models. rows : (n,) model rows. group : (n,) codes into `groups`, whose keys are
    `group_keys`. file_rows : (n,) rows inside the group's file. place : position by model id.
    drawn : the probe set is a random sample of its population or all of it, not the first items
    of a dataset.
    """

    probe_set: ProbeSet
    ids: ModelIds
    rows: NDArray[np.int32]
    group_keys: tuple[GroupKey, ...]
    groups: tuple[AnswerGroup, ...]
    group: NDArray[Any]
    file_rows: NDArray[np.int32]
    place: Places
    drawn: bool

    def model_id(self, position: int) -> str:
        """The model at a position."""
        return self.ids[int(self.rows[position])]

    def group_of(self, position: int) -> AnswerGroup:
        return self.groups[int(self.group[position])]

    @property
    def population(self) -> str:
        """What the probe set samples: only within one population do bounds carry over."""
        return self.probe_set.dataset_id or self.probe_set.name

    @property
    def preference(self) -> tuple[bool, int, int, str]:
        """Sorts probe sets by how well they serve a comparison; blind to what was answered.

        Real inputs first, then what most models answered, so that analysing a few of them again
        with more samples hides nobody; then most samples.
        """
        probe_set = self.probe_set
        return not probe_set.synthetic, len(self.rows), probe_set.samples, probe_set.id


def build_roster(
    probe_set: ProbeSet,
    ids: ModelIds,
    columns: RosterColumns,
    label_spaces: Mapping[str, LabelSpace],
    dataset_sizes: Mapping[str, int],
) -> Roster:
    """The roster of some sketches. dataset_sizes : items, by id."""
    whole = dataset_sizes.get(probe_set.dataset_id or "") == probe_set.samples
    return Roster(
        probe_set=probe_set,
        ids=ids,
        rows=columns.rows,
        group_keys=columns.group_keys,
        groups=tuple(_group(key, label_spaces) for key in columns.group_keys),
        group=columns.group,
        file_rows=columns.file_rows,
        place=Places(ids, columns.rows),
        drawn=whole or probe_set.seed != FIRST,
    )


@dataclass(frozen=True, slots=True)
class ReferenceView:
    """A roster as one of its models sees it. how : the way each group compares with that model."""

    roster: Roster
    reference: int
    how: tuple[Translation, ...]

    @property
    def usable(self) -> NDArray[np.bool_]:
        """(n,) which models compare with the reference."""
        mask: NDArray[np.bool_] = np.array([h.labels is not None for h in self.how], dtype=bool)
        return np.asarray(mask[self.roster.group])

    @property
    def positional(self) -> NDArray[np.bool_]:
        """(n,) which other models do by class number only, without names to check them."""
        by_group: NDArray[np.bool_] = np.array([h.labels == POSITIONAL for h in self.how], bool)
        mask = np.asarray(by_group[self.roster.group])
        mask[self.reference] = False
        return mask


def view_of(roster: Roster, model_id: str, maps: LabelMaps) -> ReferenceView:
    """The roster as this model of it sees it."""
    reference = roster.place[model_id]
    home = roster.group_of(reference)
    how = tuple(relate(home, group, maps) for group in roster.groups)
    return ReferenceView(roster, reference, how)


def relate(reference: AnswerGroup, candidate: AnswerGroup, maps: LabelMaps) -> Translation:
    """How a candidate's answers are compared with the reference's; `reason` when they cannot be."""
    if reference.kind != candidate.kind:
        return Translation(None, reason="different kinds of output")
    if reference.kind == "vectors":
        # projections have one width, so the size before projection has to be equal too
        if reference.file != candidate.file or reference.classes.count != candidate.classes.count:
            return Translation(None, reason="different output sizes")
        return Translation(VECTORS)
    return relate_classes(reference.classes, candidate.classes, maps)


def relate_classes(reference: Classes, candidate: Classes, maps: LabelMaps) -> Translation:
    """The translation between two sets of classes, by the user's label map where there is one.

    When only the map from the candidate's classes is given, the candidate is translated by it.
    """
    ours, theirs = reference.space_id, candidate.space_id
    if ours is None or theirs is None:
        return translation(reference, candidate)
    return translation(reference, candidate, maps.get((ours, theirs)), maps.get((theirs, ours)))


def truth_relation(answered: Classes, truth: Classes, maps: LabelMaps) -> Translation:
    """From a model's classes to those of true labels, never back: as accuracy is measured."""
    ours, theirs = answered.space_id, truth.space_id
    given = maps.get((ours, theirs)) if ours is not None and theirs is not None else None
    return translation(answered, truth, given)


def frame(group: AnswerGroup, mapped: Set[str]) -> tuple[object, ...] | None:
    """What "same class" means for a group; bounds carry over between groups of an equal frame only.

    mapped : label spaces that a user's map relates to another one of the comparison
    (`mapped_spaces`). Equal sets of names match one to one, so "same class" stays an equivalence;
    synonyms and partial overlaps need not. None : never. A relative distance of vectors is no
    metric (algorithms.md C.1), and a user's label map may send two classes to one. Names beside
    bare positions need not mean the same.
    """
    classes = group.classes
    if group.kind != "labels" or classes.space_id in mapped:
        return None
    if classes.labels is not None:
        return ("names", name_set(classes.labels))
    return ("positions", classes.count) if classes.count is not None else None


def mapped_spaces(rosters: Iterable[Roster], maps: LabelMaps) -> frozenset[str]:
    """The label spaces of these rosters that a map relates to another of them."""
    here = {group.classes.space_id for roster in rosters for group in roster.groups}
    return frozenset(space for pair in maps if here.issuperset(pair) for space in pair)


def _group(key: GroupKey, label_spaces: Mapping[str, LabelSpace]) -> AnswerGroup:
    space = label_spaces.get(key.label_space_id) if key.label_space_id else None
    known = classes(key.label_space_id, space.labels if space is not None else None, key.classes)
    return AnswerGroup(key.kind, key.file, key.width, key.exact, known)
