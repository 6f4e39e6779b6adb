"""Bounds for models that share no probe set with a reference, through models that share both.

The triangle inequality carries them over (agreement_bounds.py); here are the bridges it may use.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sommelier.storage.agreement_bounds import Leg, TransitiveBounds, transitive_bounds
from sommelier.storage.answer_scans import AnswerScans
from sommelier.storage.model_ids import ABSENT
from sommelier.storage.probe_roster import LabelMaps, Roster, frame, mapped_spaces

INTERMEDIATES = 16  # third models tried per pair of probe sets: those nearest to the reference


@dataclass(frozen=True, slots=True)
class Bridges:
    """The probe sets that bounds may reach over to, and how answers on them are counted."""

    rosters: tuple[Roster, ...]
    scans: AnswerScans
    maps: LabelMaps

    def bounds(
        self, roster: Roster, reference_id: str, wanted: NDArray[np.bool_]
    ) -> TransitiveBounds | None:
        """Bounds for the wanted models that a bridge from `roster` reaches; None without any.

        wanted : (models,) by model row. Only probe sets that sample the population of `roster`
        serve.
        """
        legs: list[Leg] = []
        considered = 0
        for other in self.rosters:
            if _one_population(roster, other):
                found, bridges = self._legs(roster, reference_id, other, wanted)
                legs += found
                considered += bridges
        return transitive_bounds(legs, considered)

    def _legs(
        self, roster: Roster, reference_id: str, other: Roster, wanted: NDArray[np.bool_]
    ) -> tuple[list[Leg], int]:
        """Ways over the models nearest to the reference to the wanted ones of `other`.

        Also how many models the nearest were chosen from, which the bounds have to pay for.
        """
        reference = roster.place[reference_id]
        mapped = mapped_spaces((roster, other), self.maps)
        home = frame(roster.group_of(reference), mapped)
        here, there = in_frame(roster, home, mapped), in_frame(other, home, mapped)
        ends = np.flatnonzero(there & wanted[other.rows])
        both = np.flatnonzero(here)
        middles = other.place.of_rows(roster.rows[both])
        common = (middles != ABSENT) & there[middles]
        bridges = list(zip(both[common].tolist(), middles[common].tolist(), strict=True))
        if home is None or not bridges or not len(ends):
            return [], 0
        starts = np.array([position for position, _ in bridges], dtype=np.int64)
        near = self.scans.counts(roster, reference, starts, self.maps)
        legs = []
        for i in np.argsort(-near, kind="stable")[:INTERMEDIATES].tolist():
            position, middle = bridges[i]
            leg = Leg(
                row=int(roster.rows[position]),
                agreements=int(near[i]),
                samples=roster.probe_set.samples,
                rows=other.rows[ends].astype(np.int64),
                counts=self.scans.counts(other, middle, ends, self.maps),
                candidate_samples=other.probe_set.samples,
            )
            legs.append(leg)
        return legs, len(bridges)


def in_frame(
    roster: Roster, home: tuple[object, ...] | None, mapped: Set[str]
) -> NDArray[np.bool_]:
    """(n,) whether "same class" means for a model what it means in frame `home`."""
    alike: NDArray[np.bool_] = np.array([frame(g, mapped) == home for g in roster.groups], bool)
    return np.asarray(alike[roster.group])


def _one_population(roster: Roster, other: Roster) -> bool:
    """Whether both probe sets are samples of one population; the first n items are a sample of
    nothing, because datasets are often sorted by class."""
    return roster.population == other.population and roster.drawn and other.drawn
