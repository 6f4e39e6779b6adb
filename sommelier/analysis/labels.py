"""Label spaces and the maps between them: which of your classes is my class 17?

Two classifiers with different vocabularies (1 000 against 1 001 classes, synonyms, another order)
are compared by the names of their classes, not by their positions (algorithms.md A.1, step 4).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sommelier.errors import AnalysisError
from sommelier.records import LabelSpace
from sommelier.storage.label_matching import UNMATCHED, match_labels, normalise

NO_LABEL = UNMATCHED


@dataclass(frozen=True, slots=True)
class LabelMap:
    """Where each class of one space lies in another.

    targets : int32 (classes,), the other space's class, NO_LABEL where it has none.
    coverage : classes of the *target* space that are hit, as a fraction.
    kind : 'named', 'explicit' or 'positional' (same class count, names unknown: unverified).
    """

    targets: NDArray[np.int32]
    coverage: float
    kind: str

    def apply(self, class_ids: NDArray[np.generic]) -> NDArray[np.int32]:
        """Class ids in the target space, int32 (n,); ids outside the source space get NO_LABEL."""
        ids = class_ids.astype(np.int64)
        inside = (ids >= 0) & (ids < len(self.targets))
        return np.where(inside, self.targets[np.where(inside, ids, 0)], NO_LABEL).astype(np.int32)


def label_space(name: str, labels: Sequence[str]) -> LabelSpace:
    """A label space of these names in this order; its id is the hash of the names."""
    names = tuple(str(label) for label in labels)
    digest = hashlib.sha256("\x00".join(names).encode()).hexdigest()
    return LabelSpace(f"labels:{digest[:32]}", name, names)


def map_labels(
    source: LabelSpace | None,
    target: LabelSpace | None,
    *,
    classes: int | None = None,
    target_classes: int | None = None,
    explicit: Mapping[str, str] | None = None,
) -> LabelMap:
    """The map from `source` to `target` classes.

    An `explicit` map of names wins over equal names. When either space is unknown, equal class
    counts (`classes`, `target_classes`) are matched by position and flagged; unequal ones are
    refused with AnalysisError, because class 0 may or may not be 'background'.
    """
    if source is not None and target is not None:
        return _by_name(source, target, explicit or {})
    ours = len(source.labels) if source else classes
    theirs = len(target.labels) if target else target_classes
    if ours is None or theirs is None:
        raise AnalysisError(
            "the class names and the number of classes are unknown, so labels cannot be matched",
            hint="give the label names (labels = [...]) or a label map",
        )
    if ours != theirs:
        raise AnalysisError(
            f"{ours} classes cannot be matched with {theirs} by position",
            hint="give the label names of the model (labels = [...]) or a label map",
        )
    return LabelMap(np.arange(ours, dtype=np.int32), 1.0, "positional")


def name_map(source: LabelSpace, target: LabelSpace) -> dict[str, str]:
    """The named part of the map as label names: what the catalog stores for a pair of spaces."""
    found = _by_name(source, target, {}).targets
    return {
        label: target.labels[index]
        for label, index in zip(source.labels, found, strict=True)
        if index != NO_LABEL
    }


def _by_name(source: LabelSpace, target: LabelSpace, explicit: Mapping[str, str]) -> LabelMap:
    """The map of storage.label_matching, refused where a name of `explicit` does not exist."""
    targets = match_labels(source.labels, target.labels, explicit)
    mentioned = {normalise(a): b for a, b in explicit.items()}
    for label in (source.labels[index] for index in np.flatnonzero(targets == NO_LABEL)):
        wanted = mentioned.get(normalise(label))
        if wanted is not None:
            raise AnalysisError(
                f"the label map names '{wanted}', which is not a label of '{target.name}' "
                f"({_sample(target)})"
            )
    hit = len(set(targets[targets != NO_LABEL].tolist()))
    if hit == 0:
        raise AnalysisError(
            f"label spaces '{source.name}' ({_sample(source)}) and '{target.name}' "
            f"({_sample(target)}) have no name in common",
            hint="give a label map, for example {'py': 'python'}",
        )
    kind = "explicit" if explicit else "named"
    return LabelMap(targets, hit / len(target.labels), kind)


def _sample(space: LabelSpace) -> str:
    shown = ", ".join(space.labels[:4])
    return shown + (", ..." if len(space.labels) > 4 else "")
