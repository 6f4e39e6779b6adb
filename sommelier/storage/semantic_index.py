"""Which models answer as a reference does, best first, from cached answers (algorithms.md C).

No model runs here. A question counts the agreements of models that may have enough of them, which
one bit for every answer tells of most (answer_bits.py), once per reference; afterwards it is a
dictionary lookup. A model that arrives later costs one row.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.errors import BinderError
from sommelier.storage.answer_scans import AnswerScans
from sommelier.storage.bridges import Bridges, in_frame
from sommelier.storage.candidates import (
    Candidates,
    PairAgreement,
    PairedCounts,
    Ranked,
    Ranking,
    equivalence_edges,
)
from sommelier.storage.counted_ranking import CountedRanking
from sommelier.storage.label_translation import NAMED, POSITIONAL, classes
from sommelier.storage.model_ids import ModelIds
from sommelier.storage.probe_roster import (
    VECTORS,
    ReferenceView,
    Roster,
    frame,
    mapped_spaces,
    relate,
    view_of,
)
from sommelier.storage.random_peers import RandomPeers
from sommelier.storage.rosters import Rosters
from sommelier.storage.uncompared import Told, reasons_counted

if TYPE_CHECKING:
    from sommelier.records import EquivalenceEdge
    from sommelier.storage.agreement_bounds import TransitiveBounds
    from sommelier.storage.catalog import Catalog
    from sommelier.storage.resource_index import ResourceIndex
    from sommelier.storage.sketches import SketchStore

MODES = ("sketch", "random5")
REMEMBERED_BYTES = 256 << 20  # answers kept, the oldest leave first

NOTHING_SHARED = "no common probe set"
REFERENCE_UNKNOWN = "the reference is not analysed for equivalence"
OTHER_FRAME = "classes cannot be compared by transitivity"


class SemanticIndex:
    """Candidates of a reference by agreement. Safe to use from several threads."""

    def __init__(
        self, catalog: Catalog, sketches: SketchStore, resource_index: ResourceIndex
    ) -> None:
        self._catalog = catalog
        self._resources = resource_index
        self._scans = AnswerScans(sketches)
        self._lock = threading.RLock()
        self._generation = -1
        self._read = Rosters()
        self._ids = ModelIds()
        self._maps: Mapping[tuple[str, str], Mapping[str, str]] = {}
        self._answers: OrderedDict[tuple[str, str | None, str], Candidates] = OrderedDict()
        self._peers: dict[tuple[Any, ...], tuple[tuple[Any, ...], RandomPeers]] = {}

    @property
    def _rosters(self) -> Mapping[str, Roster]:
        return self._read.of

    def candidates(
        self, reference_id: str, *, probe_set_id: str | None = None, mode: str = "sketch"
    ) -> Candidates:
        """The models comparable with a reference, best first; cached.

        probe_set_id : None compares every model that shares any probe set with the reference on
        the best one they share: a real one (not synthetic), the one most models answered, most
        samples, then by id. What was answered has no say in it, so the bounds stay what they are.
        Those on the best of all are returned; `others` holds the rest. A reference without answers
        has no candidates; `incomparable` says so. mode 'random5' : the paper's index (RandomPeers),
        on the best probe set of the reference alone.
        Raises UnknownNameError for a model or probe set that does not exist.
        """
        self.refresh()
        key = (reference_id, probe_set_id, mode)
        found = self._answers.get(key)
        if found is None:
            with self._lock:
                found = self._answers[key] = self._find(reference_id, probe_set_id, mode)
                while sum(c.nbytes for c in self._answers.values()) > REMEMBERED_BYTES:
                    self._answers.popitem(last=False)
        return found

    def agreement(
        self, reference_id: str, candidate_id: str, probe_set_id: str | None = None
    ) -> PairAgreement:
        """How often two models agree, on the best probe set they share or on the given one."""
        self.refresh()
        shared = [
            roster
            for roster in self._answered_by(reference_id, probe_set_id)
            if candidate_id in roster.place
        ]
        if not shared:
            return PairAgreement(0, 0, probe_set_id, None, reason=NOTHING_SHARED)
        reasons: list[str | None] = []
        for roster in shared:
            reference, candidate = roster.place[reference_id], roster.place[candidate_id]
            how = relate(roster.group_of(reference), roster.group_of(candidate), self._maps)
            if how.labels is not None:
                return self._counted(roster, reference, candidate, how.labels)
            reasons.append(how.reason)
        return PairAgreement(0, 0, shared[0].probe_set.id, None, reason=reasons[0])

    def halves(
        self, reference_id: str, seed: int, probe_set_id: str | None = None
    ) -> tuple[Candidates, Candidates]:
        """The candidates on either half of one probe set, dealt out by `seed`; a scan each time.

        probe_set_id : None takes the best one the reference answered.
        """
        self.refresh()
        answered = self._answered_by(reference_id, probe_set_id)
        if not answered:
            return (self._no_candidates(reference_id, probe_set_id, "sketch"),) * 2
        view = view_of(answered[0], reference_id, self._maps)
        samples = view.roster.probe_set.samples
        order = np.random.default_rng(seed).permutation(samples)
        halves = np.sort(order[: samples // 2]), np.sort(order[samples // 2 :])
        told = [(view.roster, tuple(how.reason for how in view.how))]
        found = []
        for half in halves:
            compared = np.zeros(len(self._resources), dtype=bool)
            part = self._on(view, reference_id, compared, half)
            found.append(replace(part, incomparable=self._incomparable(told, compared)))
        return found[0], found[1]

    def paired(self, reference_id: str, probe_set_id: str | None = None) -> PairedCounts | None:
        """Who is right where the other is wrong, on one probe set; None without true labels.

        probe_set_id : None takes the best one the reference answered.
        """
        self.refresh()
        roster = next(iter(self._answered_by(reference_id, probe_set_id)), None)
        if roster is None or roster.probe_set.labels is None:
            return None
        reference = roster.place[reference_id]
        kept = np.flatnonzero(view_of(roster, reference_id, self._maps).usable)
        home = roster.group_of(reference)
        if home.kind != "labels":
            return None
        space_id = roster.probe_set.label_space_id
        space = self._read.spaces.get(space_id) if space_id else None
        truth = classes(space_id, space.labels if space else None, home.classes.count)
        return self._scans.paired(roster, reference, kept, truth, self._maps)

    def edges(
        self, reference_id: str, confidence: float, probe_set_id: str | None = None
    ) -> list[EquivalenceEdge]:
        """The reference's candidates as records, bounds two-sided at `confidence`, best first.

        Transitive ones follow; accuracy differences are given where the probe set has true labels.
        """
        found = self.candidates(reference_id, probe_set_id=probe_set_id)
        paired = [self.paired(reference_id, part.probe_set_id) for part in found.parts]
        return equivalence_edges(found, paired, self._resources.ids, confidence)

    def refresh(self) -> None:
        """Read what changed in the catalog. Rows already compared stay compared."""
        if self._catalog.generation == self._generation:
            return
        with self._catalog.steady(), self._lock:
            generation = self._catalog.generation
            self._resources.refresh()
            ids, maps = self._resources.ids, self._catalog.label_maps()
            if maps != self._maps:
                self._scans.forget()
            changed = self._read.refresh(self._catalog, ids)
            if changed or ids is not self._ids or maps != self._maps:
                self._answers.clear()
            self._ids, self._maps, self._generation = ids, maps, generation

    def _find(self, reference_id: str, probe_set_id: str | None, mode: str) -> Candidates:
        if mode not in MODES:
            raise BinderError(f"no index mode '{mode}'", expected=MODES)
        self._resources.row(reference_id)  # raises for a model that does not exist
        answered = self._answered_by(reference_id, probe_set_id)
        if not answered:
            return self._no_candidates(reference_id, probe_set_id, mode)
        if mode == "random5":
            return self._random5(answered[0], reference_id)
        return self._on_all(answered, reference_id)

    def _on_all(self, answered: list[Roster], reference_id: str) -> Candidates:
        """Each model on the first of these probe sets that serves, or bounded by transitivity."""
        views = [view_of(roster, reference_id, self._maps) for roster in answered]
        compared = np.zeros(len(self._resources), dtype=bool)
        parts = [self._on(view, reference_id, compared) for view in views]
        bounds = self._transitive(answered, reference_id)
        for found in bounds:
            if found is not None:
                compared[found.rows] = True
        parts = [replace(part, transitive=found) for part, found in zip(parts, bounds, strict=True)]
        told = [(view.roster, tuple(how.reason for how in view.how)) for view in views]
        return replace(
            parts[0],
            incomparable=self._incomparable(told, compared),
            others=tuple(part for part in parts[1:] if len(part) or part.transitive is not None),
        )

    def _on(
        self,
        view: ReferenceView,
        reference_id: str,
        compared: NDArray[np.bool_],
        part: NDArray[np.int64] | None = None,
    ) -> Candidates:
        """The candidates on a probe set, or on `part` of its samples, without those in `compared`,
        which they join."""
        roster = view.roster
        kept = np.flatnonzero(view.usable & ~compared[roster.rows])
        compared[roster.rows[kept]] = True
        home = roster.group_of(view.reference)
        by_position = self._by_position(view, kept)
        labels = POSITIONAL if by_position is not None else NAMED
        return Candidates(
            reference_id=reference_id,
            probe_set_id=roster.probe_set.id,
            ranking=self._ranking(view, kept, part),
            samples=roster.probe_set.samples if part is None else len(part),
            method="sketch",
            labels=None if home.kind == VECTORS else labels,
            by_position=by_position,
            exact=home.exact,
        )

    def _ranking(
        self, view: ReferenceView, kept: NDArray[np.int64], part: NDArray[np.int64] | None
    ) -> Ranking:
        """The models at these positions; on `part` of the samples they are counted now."""
        roster = view.roster
        if part is None:
            some = None if len(kept) == len(roster.rows) else kept
            return CountedRanking(self._scans, roster, view.reference, some, self._maps)
        counts = self._scans.counts(roster, view.reference, kept, self._maps, part)
        rows = roster.rows[kept].astype(np.int64)
        order = np.lexsort((rows, -counts))
        return Ranked(rows[order], counts[order])

    def _by_position(
        self, view: ReferenceView, kept: NDArray[np.int64]
    ) -> NDArray[np.bool_] | None:
        """(models,) which compare by class number only; None if none do."""
        at = kept[view.positional[kept]]
        if not len(at):
            return None
        mask = np.zeros(len(self._resources), dtype=bool)
        mask[view.roster.rows[at]] = True
        return mask

    def _counted(
        self, roster: Roster, reference: int, candidate: int, labels: str
    ) -> PairAgreement:
        """What two models of a roster, given by position, have in common."""
        counts = self._scans.counts(roster, reference, np.array([candidate]), self._maps)
        return PairAgreement(
            int(counts[0]),
            roster.probe_set.samples,
            roster.probe_set.id,
            None if labels == VECTORS else labels,
            exact=roster.group_of(reference).exact and roster.group_of(candidate).exact,
        )

    def _no_candidates(self, reference_id: str, probe_set_id: str | None, mode: str) -> Candidates:
        if probe_set_id is not None:
            self._catalog.probe_set(probe_set_id)  # raises when there is none
        nothing = np.empty(0, dtype=np.int64)
        return Candidates(
            reference_id=reference_id,
            probe_set_id=None,
            ranking=Ranked(nothing, nothing),
            samples=0,
            method=mode,
            labels=None,
            incomparable={REFERENCE_UNKNOWN: len(self._resources)},
        )

    def _answered_by(self, model_id: str, probe_set_id: str | None = None) -> list[Roster]:
        """The rosters with this model, in the order in which a pair takes the first that serves."""
        found = [
            roster
            for roster in self._rosters.values()
            if model_id in roster.place and probe_set_id in (None, roster.probe_set.id)
        ]
        return sorted(found, key=lambda roster: roster.preference, reverse=True)

    def _transitive(
        self, answered: list[Roster], reference_id: str
    ) -> list[TransitiveBounds | None]:
        """Bounds for models without a common probe set, from each of those the reference answered.

        A model is bounded from the first that reaches it: choosing among several by what they say
        would have to be paid for.
        """
        unreached = np.ones(len(self._resources), dtype=bool)
        for roster in self._answered_by(reference_id):
            unreached[roster.rows] = False
        others = tuple(r for r in self._rosters.values() if reference_id not in r.place)
        bridges = Bridges(others, self._scans, self._maps)
        found = []
        for roster in answered:
            bounds = bridges.bounds(roster, reference_id, unreached)
            if bounds is not None:
                unreached[bounds.rows] = False
            found.append(bounds)
        return found

    def _incomparable(self, told: Sequence[Told], compared: NDArray[np.bool_]) -> dict[str, int]:
        """Reason -> number of models without bounds. told : rosters, best first."""
        return reasons_counted(self._rosters.values(), told, compared)

    def _random5(self, roster: Roster, reference_id: str) -> Candidates:
        """Candidates ranked by the agreement that the paper's index guarantees.

        On the best probe set the reference answered only: a baseline keeps to one index.
        """
        reference, samples = roster.place[reference_id], roster.probe_set.samples
        mapped = mapped_spaces((roster,), self._maps)
        home = frame(roster.group_of(reference), mapped)
        if home is None:
            raise BinderError(
                "index mode 'random5' needs models that answer with classes, without label maps",
                hint="use the default, mode 'sketch'",
            )
        members = np.flatnonzero(in_frame(roster, home, mapped))
        peers = self._peers_of(roster, home, members)
        low, high = peers.intervals(int(np.searchsorted(members, reference)))
        guaranteed = samples - high.astype(np.int64)
        order = np.lexsort((roster.rows[members], -guaranteed))
        by_position = None
        if home[0] != "names" and len(members) > 1:
            by_position = np.zeros(len(self._resources), dtype=bool)
            by_position[roster.rows[members[members != reference]]] = True
        compared = np.zeros(len(self._resources), dtype=bool)
        compared[roster.rows[members]] = True
        told = [(roster, (OTHER_FRAME,) * len(roster.groups))]
        return Candidates(
            reference_id=reference_id,
            probe_set_id=roster.probe_set.id,
            ranking=Ranked(roster.rows[members][order].astype(np.int64), guaranteed[order]),
            samples=samples,
            method="random5",
            labels=NAMED if by_position is None else POSITIONAL,
            by_position=by_position,
            low=guaranteed[order] / samples,
            high=1 - low[order] / samples,
            incomparable=self._incomparable(told, compared),
        )

    def _peers_of(
        self, roster: Roster, home: tuple[object, ...], members: NDArray[np.int64]
    ) -> RandomPeers:
        """The paper's index of the members, extended by those that are new."""
        key = (roster.probe_set.id, home)
        entries = tuple(
            (roster.model_id(p), roster.group_of(p).file, int(roster.file_rows[p]))
            for p in members.tolist()
        )
        known, peers = self._peers.get(key, ((), RandomPeers()))
        if entries[: len(known)] != known:
            known, peers = (), RandomPeers()
        samples = roster.probe_set.samples
        for position in members[len(known) :].tolist():

            def distances(chosen: NDArray[np.int64], new: int = position) -> NDArray[np.int64]:
                agreements = self._scans.counts(roster, new, members[chosen], self._maps)
                return np.asarray(samples - agreements)

            peers.insert(distances, samples)
        self._peers[key] = (entries, peers)
        return peers
