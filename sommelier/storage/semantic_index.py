"""Which models answer as a reference does, best first, from cached answers (algorithms.md C).

No model runs here: a question scans the sketches of one probe set once per reference, about 0.1 s
for 100 000 models of 2 048 answers, and is a dictionary lookup afterwards. A model that arrives
later costs one row of that scan.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping, Set
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.errors import BinderError
from sommelier.storage.agreement_bounds import Leg, TransitiveBounds, transitive_bounds
from sommelier.storage.answer_scans import AnswerScans
from sommelier.storage.candidates import (
    Candidates,
    PairAgreement,
    PairedCounts,
    equivalence_edges,
)
from sommelier.storage.label_translation import NAMED, POSITIONAL, classes
from sommelier.storage.probe_roster import (
    VECTORS,
    Roster,
    build_roster,
    frame,
    mapped_spaces,
    relate,
)
from sommelier.storage.random_peers import RandomPeers

if TYPE_CHECKING:
    from sommelier.records import EquivalenceEdge, LabelSpace
    from sommelier.storage.catalog import Catalog
    from sommelier.storage.resource_index import ResourceIndex
    from sommelier.storage.sketches import SketchRow, SketchStore

MODES = ("sketch", "random5")
REMEMBERED_BYTES = 256 << 20  # answers kept, the oldest leave first; 1.7 MB each at 100 000 models
BYTES_PER_ROW = 17
INTERMEDIATES = 16  # third models tried for transitive bounds: those nearest to the reference

NO_ANSWERS = "not analysed for equivalence"
OTHER_PROBES = "analysed on other probe sets only"
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
        self._state: tuple[Any, ...] | None = None
        self._rosters: dict[str, Roster] = {}
        self._spaces: Mapping[str, LabelSpace] = {}
        self._maps: Mapping[tuple[str, str], Mapping[str, str]] = {}
        self._answers: OrderedDict[tuple[str, str | None, str], Candidates] = OrderedDict()
        self._peers: dict[tuple[Any, ...], tuple[tuple[SketchRow, ...], RandomPeers]] = {}

    def candidates(
        self, reference_id: str, *, probe_set_id: str | None = None, mode: str = "sketch"
    ) -> Candidates:
        """The models comparable with a reference, best first; cached.

        probe_set_id : None takes, of those the reference answered, a real one (not synthetic) with
        the largest product of samples and models, ties by id. A reference without answers has no
        candidates; `incomparable` says so. mode 'random5' : the paper's index (RandomPeers).
        Raises UnknownNameError for a model or probe set that does not exist.
        """
        self.refresh()
        key = (reference_id, probe_set_id, mode)
        found = self._answers.get(key)
        if found is None:
            with self._lock:
                found = self._answers[key] = self._find(reference_id, probe_set_id, mode)
                room = max(16, REMEMBERED_BYTES // (BYTES_PER_ROW * max(1, len(self._resources))))
                if len(self._answers) > room:
                    self._answers.popitem(last=False)
        return found

    def agreement(
        self, reference_id: str, candidate_id: str, probe_set_id: str | None = None
    ) -> PairAgreement:
        """How often two models agree, on the best probe set both answered or on the given one."""
        self.refresh()
        shared = [
            roster
            for roster in self._answered_by(reference_id)
            if candidate_id in roster.place and probe_set_id in (None, roster.probe_set.id)
        ]
        if not shared:
            return PairAgreement(0, 0, probe_set_id, None, reason="no common probe set")
        roster = max(shared, key=_preference)
        reference, candidate = roster.place[reference_id], roster.place[candidate_id]
        how = relate(roster.group_of(reference), roster.group_of(candidate), self._maps)
        if how.labels is None:
            return PairAgreement(0, 0, roster.probe_set.id, None, reason=how.reason)
        counts = self._scans.counts(roster, reference, np.array([candidate]), self._maps)
        return PairAgreement(
            int(counts[0]),
            roster.probe_set.samples,
            roster.probe_set.id,
            None if how.labels == VECTORS else how.labels,
            exact=roster.group_of(reference).exact and roster.group_of(candidate).exact,
        )

    def paired(self, reference_id: str, probe_set_id: str | None = None) -> PairedCounts | None:
        """Who is right where the other is wrong, for all candidates; None without true labels."""
        self.refresh()
        roster = self._choose(reference_id, probe_set_id)
        if roster is None or roster.probe_set.labels is None:
            return None
        reference = roster.place[reference_id]
        kept, _, _ = self._comparable(roster, reference)
        home = roster.group_of(reference)
        if home.kind != "labels":
            return None
        space_id = roster.probe_set.label_space_id
        space = self._spaces.get(space_id) if space_id else None
        truth = classes(space_id, space.labels if space else None, home.classes.count)
        return self._scans.paired(roster, reference, kept, truth, self._maps)

    def edges(
        self, reference_id: str, confidence: float, probe_set_id: str | None = None
    ) -> list[EquivalenceEdge]:
        """The reference's candidates as records, bounds two-sided at `confidence`, best first.

        Transitive ones follow; accuracy differences are given where the probe set has true labels.
        """
        found = self.candidates(reference_id, probe_set_id=probe_set_id)
        paired = self.paired(reference_id, found.probe_set_id)
        return equivalence_edges(found, paired, self._resources.ids, confidence)

    def refresh(self) -> None:
        """Read the catalog again if it has changed. Rows already compared stay compared."""
        if self._catalog.generation == self._generation:
            return
        with self._lock:
            generation = self._catalog.generation
            self._resources.refresh()
            entries = self._catalog.sketch_rows()
            maps = self._catalog.label_maps()
            if maps != self._maps:
                self._maps = maps
                self._scans.forget()
            state = (self._resources.ids, tuple(entries), maps)
            if (
                self._state is None
                or state[0] is not self._state[0]
                or state[1:] != self._state[1:]
            ):
                self._answers.clear()
                self._rosters = self._build_rosters(entries)
                self._state = state
            self._generation = generation

    def _build_rosters(self, entries: list[SketchRow]) -> dict[str, Roster]:
        self._spaces = {space.id: space for space in self._catalog.label_spaces()}
        sizes = {dataset.id: dataset.samples for dataset in self._catalog.datasets()}
        by_probe_set: dict[str, list[SketchRow]] = {}
        for entry in entries:
            by_probe_set.setdefault(entry.probe_set_id, []).append(entry)
        return {
            probe_set_id: build_roster(
                self._catalog.probe_set(probe_set_id),
                group,
                self._resources.rows(entry.model_id for entry in group),
                self._spaces,
                sizes,
            )
            for probe_set_id, group in by_probe_set.items()
        }

    def _find(self, reference_id: str, probe_set_id: str | None, mode: str) -> Candidates:
        if mode not in MODES:
            raise BinderError(f"no index mode '{mode}'", expected=MODES)
        self._resources.row(reference_id)  # raises for a model that does not exist
        roster = self._choose(reference_id, probe_set_id)
        if roster is None:
            return self._no_candidates(reference_id, probe_set_id, mode)
        if mode == "random5":
            return self._random5(roster, reference_id)
        reference = roster.place[reference_id]
        kept, positional, reasons = self._comparable(roster, reference)
        agreements = self._scans.counts(roster, reference, kept, self._maps)
        order = np.lexsort((roster.rows[kept], -agreements))
        home = roster.group_of(reference)
        return Candidates(
            reference_id=reference_id,
            probe_set_id=roster.probe_set.id,
            rows=roster.rows[kept][order],
            agreements=agreements[order],
            samples=roster.probe_set.samples,
            method=mode,
            labels=None if home.kind == VECTORS else POSITIONAL if positional.any() else NAMED,
            positional=positional[order],
            exact=home.exact,
            incomparable=dict(reasons + self._absent(roster)),
            transitive=self._transitive(roster, reference_id),
        )

    def _no_candidates(self, reference_id: str, probe_set_id: str | None, mode: str) -> Candidates:
        if probe_set_id is not None:
            self._catalog.probe_set(probe_set_id)  # raises when there is none
        nothing = np.empty(0, dtype=np.int64)
        return Candidates(
            reference_id=reference_id,
            probe_set_id=None,
            rows=nothing,
            agreements=nothing,
            samples=0,
            method=mode,
            labels=None,
            positional=np.empty(0, dtype=bool),
            incomparable={REFERENCE_UNKNOWN: len(self._resources)},
        )

    def _answered_by(self, model_id: str) -> list[Roster]:
        return [roster for roster in self._rosters.values() if model_id in roster.place]

    def _choose(self, reference_id: str, probe_set_id: str | None) -> Roster | None:
        answered = self._answered_by(reference_id)
        if probe_set_id is not None:
            answered = [roster for roster in answered if roster.probe_set.id == probe_set_id]
        return max(answered, key=_preference, default=None)

    def _comparable(
        self, roster: Roster, reference: int
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_], Counter[str]]:
        """(positions that compare with the reference, which by position only, why the rest not)."""
        home = roster.group_of(reference)
        how = [relate(home, group, self._maps) for group in roster.groups]
        usable = np.array([h.labels is not None for h in how], dtype=bool)
        unverified = np.array([h.labels == POSITIONAL for h in how], dtype=bool)
        reasons: Counter[str] = Counter()
        sizes = np.bincount(roster.group, minlength=len(how)).tolist()
        for translated, size in zip(how, sizes, strict=True):
            if translated.labels is None and translated.reason is not None:
                reasons[translated.reason] += size
        kept = np.flatnonzero(usable[roster.group])
        positional = unverified[roster.group[kept]] & (kept != reference)
        return kept, positional, reasons

    def _absent(self, roster: Roster) -> Counter[str]:
        """Models without answers on this probe set, by reason."""
        anywhere = np.zeros(len(self._resources), dtype=bool)
        for other in self._rosters.values():
            anywhere[other.rows] = True
        elsewhere = int(anywhere.sum()) - len(roster.rows)
        return +Counter({OTHER_PROBES: elsewhere, NO_ANSWERS: int((~anywhere).sum())})

    def _transitive(self, roster: Roster, reference_id: str) -> TransitiveBounds | None:
        """Bounds for models without a common probe set, through models that have one with each."""
        shared = np.zeros(len(self._resources), dtype=bool)
        for known in self._answered_by(reference_id):
            shared[known.rows] = True
        legs: list[Leg] = []
        considered = 0
        for other in self._rosters.values():
            if reference_id not in other.place and _one_population(roster, other):
                found, bridges = self._legs(roster, roster.place[reference_id], other, shared)
                legs += found
                considered += bridges
        return transitive_bounds(legs, considered)

    def _legs(
        self, roster: Roster, reference: int, other: Roster, shared: NDArray[np.bool_]
    ) -> tuple[list[Leg], int]:
        """Ways over the models nearest to the reference to those of `other` not in `shared`.

        Also how many models the nearest were chosen from, which the bounds have to pay for.
        """
        mapped = mapped_spaces((roster, other), self._maps)
        home = frame(roster.group_of(reference), mapped)
        here, there = _in_frame(roster, home, mapped), _in_frame(other, home, mapped)
        ends = np.flatnonzero(there & ~shared[other.rows])
        both = [
            (position, other.place[roster.entries[position].model_id])
            for position in np.flatnonzero(here).tolist()
            if roster.entries[position].model_id in other.place
        ]
        bridges = [(position, middle) for position, middle in both if there[middle]]
        if home is None or not bridges or not len(ends):
            return [], 0
        starts = np.array([position for position, _ in bridges], dtype=np.int64)
        near = self._scans.counts(roster, reference, starts, self._maps)
        legs = []
        for i in np.argsort(-near, kind="stable")[:INTERMEDIATES].tolist():
            position, middle = bridges[i]
            leg = Leg(
                row=int(roster.rows[position]),
                agreements=int(near[i]),
                samples=roster.probe_set.samples,
                rows=other.rows[ends],
                counts=self._scans.counts(other, middle, ends, self._maps),
                candidate_samples=other.probe_set.samples,
            )
            legs.append(leg)
        return legs, len(bridges)

    def _random5(self, roster: Roster, reference_id: str) -> Candidates:
        """Candidates ranked by the agreement that the paper's index guarantees."""
        reference, samples = roster.place[reference_id], roster.probe_set.samples
        mapped = mapped_spaces((roster,), self._maps)
        home = frame(roster.group_of(reference), mapped)
        if home is None:
            raise BinderError(
                "index mode 'random5' needs models that answer with classes, without label maps",
                hint="use the default, mode 'sketch'",
            )
        members = np.flatnonzero(_in_frame(roster, home, mapped))
        peers = self._peers_of(roster, home, members)
        low, high = peers.intervals(int(np.searchsorted(members, reference)))
        guaranteed = samples - high.astype(np.int64)
        order = np.lexsort((roster.rows[members], -guaranteed))
        positional = np.full(len(members), home[0] != "names") & (members != reference)
        others = Counter({OTHER_FRAME: len(roster.rows) - len(members)})
        return Candidates(
            reference_id=reference_id,
            probe_set_id=roster.probe_set.id,
            rows=roster.rows[members][order],
            agreements=guaranteed[order],
            samples=samples,
            method="random5",
            labels=POSITIONAL if positional.any() else NAMED,
            positional=positional[order],
            low=guaranteed[order] / samples,
            high=1 - low[order] / samples,
            incomparable=dict(+others + self._absent(roster)),
        )

    def _peers_of(
        self, roster: Roster, home: tuple[object, ...], members: NDArray[np.int64]
    ) -> RandomPeers:
        """The paper's index of the members, extended by those that are new."""
        key = (roster.probe_set.id, home)
        entries = tuple(roster.entries[position] for position in members.tolist())
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


def _in_frame(
    roster: Roster, home: tuple[object, ...] | None, mapped: Set[str]
) -> NDArray[np.bool_]:
    """(n,) whether "same class" means for a model what it means in frame `home`."""
    alike = np.array([frame(group, mapped) == home for group in roster.groups], dtype=bool)
    return alike[roster.group]


def _one_population(roster: Roster, other: Roster) -> bool:
    """Whether both probe sets are samples of one population; the first n items are a sample of
    nothing, because datasets are often sorted by class."""
    return roster.population == other.population and roster.drawn and other.drawn


def _preference(roster: Roster) -> tuple[bool, int, int, str]:
    """Real inputs first, then what most models answered, so that analysing a few of them again
    with more samples hides nobody; then most samples."""
    probe_set = roster.probe_set
    return not probe_set.synthetic, len(roster.rows), probe_set.samples, probe_set.id
