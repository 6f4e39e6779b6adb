"""Which models answer as a reference does, best first, from cached answers (algorithms.md C).

No model runs here: a question scans the sketches of one probe set once per reference, about 0.1 s
for 100 000 models of 2 048 answers, and is a dictionary lookup afterwards. A model that arrives
later costs one row of that scan.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
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
    equivalence_edges,
)
from sommelier.storage.label_translation import NAMED, POSITIONAL, classes
from sommelier.storage.probe_roster import (
    VECTORS,
    ReferenceView,
    Roster,
    build_roster,
    frame,
    mapped_spaces,
    relate,
    view_of,
)
from sommelier.storage.random_peers import RandomPeers

if TYPE_CHECKING:
    from sommelier.records import EquivalenceEdge, LabelSpace
    from sommelier.storage.agreement_bounds import TransitiveBounds
    from sommelier.storage.catalog import Catalog
    from sommelier.storage.resource_index import ResourceIndex
    from sommelier.storage.sketches import SketchRow, SketchStore

MODES = ("sketch", "random5")
REMEMBERED_BYTES = 256 << 20  # answers kept, the oldest leave first; 2.1 MB each at 100 000 models
BYTES_PER_ROW = 21

NO_ANSWERS = "not analysed for equivalence"
OTHER_PROBES = "analysed on other probe sets only"
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
                room = max(16, REMEMBERED_BYTES // (BYTES_PER_ROW * max(1, len(self._resources))))
                if len(self._answers) > room:
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
        paired = [self.paired(reference_id, part.probe_set_id) for part in found.parts]
        return equivalence_edges(found, paired, self._resources.ids, confidence)

    def refresh(self) -> None:
        """Read the catalog again if it has changed. Rows already compared stay compared."""
        if self._catalog.generation == self._generation:
            return
        with self._catalog.steady(), self._lock:
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
        agreements = self._scans.counts(roster, view.reference, kept, self._maps, part)
        order = np.lexsort((roster.rows[kept], -agreements))
        positional = view.positional[kept]
        home = roster.group_of(view.reference)
        return Candidates(
            reference_id=reference_id,
            probe_set_id=roster.probe_set.id,
            rows=roster.rows[kept][order],
            agreements=agreements[order],
            samples=roster.probe_set.samples if part is None else len(part),
            method="sketch",
            labels=None if home.kind == VECTORS else POSITIONAL if positional.any() else NAMED,
            positional=positional[order],
            exact=home.exact,
        )

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
            rows=nothing,
            agreements=nothing,
            samples=0,
            method=mode,
            labels=None,
            positional=np.empty(0, dtype=bool),
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

    def _incomparable(
        self, told: Sequence[tuple[Roster, tuple[str | None, ...]]], compared: NDArray[np.bool_]
    ) -> dict[str, int]:
        """Reason -> number of models without bounds. told : rosters, best first, a reason a group.

        Of several reasons a model has the one of the best probe set it shares with the reference.
        """
        why = np.full(len(self._resources), NO_ANSWERS, dtype=object)
        for roster in self._rosters.values():
            why[roster.rows] = OTHER_PROBES
        for roster, reasons in reversed(told):
            known = np.array([reason is not None for reason in reasons], dtype=bool)[roster.group]
            why[roster.rows[known]] = np.array(reasons, dtype=object)[roster.group[known]]
        return dict(Counter(why[~compared].tolist()))

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
        positional = np.full(len(members), home[0] != "names") & (members != reference)
        compared = np.zeros(len(self._resources), dtype=bool)
        compared[roster.rows[members]] = True
        told = [(roster, (OTHER_FRAME,) * len(roster.groups))]
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
            incomparable=self._incomparable(told, compared),
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
