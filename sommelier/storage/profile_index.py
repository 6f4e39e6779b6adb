"""Which models spend their resources alike: nearest resource profiles by weighted Jaccard.

This is where locality-sensitive hashing does what it is good at, a profile of some dozens of
non-negative dimensions (docs/adr/0001). Every candidate it proposes is verified exactly.
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from sommelier.storage.catalog import Catalog
    from sommelier.storage.resource_index import ResourceIndex

EXACT_LIMIT = 100_000  # up to here one pass over all profiles (20 ms) beats hashing
PERMUTATIONS = 128  # ecosystem.md 2.3: recall .992 with 28 candidates of 20 000
WEIGHTS = (0.2, 0.8)  # false positives, false negatives: tuned for recall, candidates are verified
THRESHOLD = 0.8  # `similar`'s default
MARGIN = 0.1  # the hash aims so far below what is asked: recall .99 instead of .88 at THRESHOLD
LOWEST_HASHED = 0.6  # below it nearly every model is a candidate, so all are compared
SEED = 1
CHUNK_ROWS = 8_192
HASH_ROWS = 512  # minhash_many holds some 10 kB per profile and dimension while it works


class ProfileIndex:
    """Models by the similarity of their resource profiles. Safe to use from several threads."""

    def __init__(
        self, catalog: Catalog, resource_index: ResourceIndex, *, exact_limit: int = EXACT_LIMIT
    ) -> None:
        self._catalog = catalog
        self._resources = resource_index
        self._exact_limit = exact_limit
        self._lock = threading.RLock()
        self._generation = -1
        self._rows = np.empty(0, dtype=np.int64)
        self._vectors = np.empty((0, 0), dtype=np.float64)
        self._totals = np.empty(0, dtype=np.float64)
        self._place: dict[int, int] = {}
        self._hashed: dict[float, Any] = {}

    def similarity(self, model_id: str) -> NDArray[np.float64]:
        """Weighted Jaccard sum(min) / sum(max) of every model's profile with this one's, by row.

        NaN where a profile is unknown or all zero. Exact for up to `exact_limit` profiles; above,
        models that the hash does not propose at THRESHOLD hold NaN too.
        Raises UnknownNameError for a model that does not exist.
        """
        rows, similarity = self._compare(model_id, THRESHOLD)
        column = np.full(len(self._resources), np.nan)
        column[rows] = similarity
        return column

    def similar(
        self, model_id: str, at_least: float | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """(rows, similarity) of the models at least so similar (THRESHOLD), most similar first.

        Similarities are exact. Up to `exact_limit` profiles the list is complete; above, it lacks
        the few that the hash misses (recall .99). The model itself is among them.
        """
        threshold = THRESHOLD if at_least is None else at_least
        rows, similarity = self._compare(model_id, threshold)
        kept = similarity >= threshold
        rows, similarity = rows[kept], similarity[kept]
        order = np.lexsort((rows, -similarity))
        return rows[order], similarity[order]

    def candidates(self, model_id: str, at_least: float = THRESHOLD) -> NDArray[np.int64]:
        """Rows that the hash proposes as at least so similar, unverified, in row order.

        at_least : LOWEST_HASHED or more.
        """
        self.refresh()
        place = self._place.get(self._resources.row(model_id))
        if place is None:
            return np.empty(0, dtype=np.int64)
        return self._rows[self._propose(place, at_least)]

    def refresh(self) -> None:
        """Read the profiles again if the catalog has changed."""
        if self._catalog.generation == self._generation:
            return
        with self._catalog.steady(), self._lock:
            generation = self._catalog.generation
            self._resources.refresh()
            profiles = self._catalog.profiles()
            rows = self._resources.rows(profiles)
            vectors = _stack(list(profiles.values()))
            totals = vectors.sum(axis=1)
            known = (rows >= 0) & (totals > 0)
            if not (
                np.array_equal(rows[known], self._rows)
                and np.array_equal(vectors[known], self._vectors)
            ):
                self._rows, self._vectors = rows[known], vectors[known]
                self._totals = totals[known]
                self._place = {row: place for place, row in enumerate(self._rows.tolist())}
                self._hashed = {}
            self._generation = generation

    def _compare(
        self, model_id: str, at_least: float
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Rows and exact similarities of all models, or above the limit of candidates."""
        self.refresh()
        place = self._place.get(self._resources.row(model_id))
        if place is None:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float64)
        if len(self._rows) <= self._exact_limit or at_least < LOWEST_HASHED:
            places = None
        else:
            places = self._propose(place, at_least)
        similarity = weighted_jaccard(self._vectors[place], self._vectors, self._totals, places)
        return (self._rows if places is None else self._rows[places]), similarity

    def _propose(self, place: int, at_least: float) -> NDArray[np.int64]:
        with self._lock:
            step = math.floor(at_least * 10) / 10  # few tables serve all questions
            threshold = min(step, 0.9) - MARGIN
            built = self._hashed.get(threshold)
            if built is None:
                built = self._hashed[threshold] = _build(self._vectors, threshold)
        lsh, hashes = built
        return np.sort(np.fromiter(lsh.query(hashes[place]), dtype=np.int64))


def weighted_jaccard(
    profile: NDArray[np.float64],
    profiles: NDArray[np.float64],
    totals: NDArray[np.float64],
    places: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """sum(min) / sum(max) of `profile` (dims,) with rows of `profiles` (n, dims).

    totals : (n,) row sums, all positive; sum(max) = both sums - sum(min), so one pass is enough.
    """
    chosen = np.arange(len(profiles)) if places is None else places
    shared = np.empty(len(chosen), dtype=np.float64)
    for start in range(0, len(chosen), CHUNK_ROWS):
        part = chosen[start : start + CHUNK_ROWS]
        shared[start : start + CHUNK_ROWS] = np.minimum(profiles[part], profile).sum(axis=1)
    return np.asarray(shared / (totals[chosen] + profile.sum() - shared))


def _build(vectors: NDArray[np.float64], threshold: float) -> tuple[Any, list[Any]]:
    """(the hash tables over all profiles, each profile's weighted MinHash)."""
    from datasketch import MinHashLSH, WeightedMinHashGenerator

    generator = WeightedMinHashGenerator(vectors.shape[1], sample_size=PERMUTATIONS, seed=SEED)
    hashes = [
        generated
        for start in range(0, len(vectors), HASH_ROWS)
        for generated in generator.minhash_many(vectors[start : start + HASH_ROWS])
    ]
    lsh = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS, weights=WEIGHTS)
    with lsh.insertion_session() as session:
        for place, generated in enumerate(hashes):
            session.insert(place, generated, check_duplication=False)
    return lsh, hashes


def _stack(blobs: list[bytes]) -> NDArray[np.float64]:
    """(n, dims) profiles; shorter ones, of an older PROFILE_DIMS, are filled with zeros."""
    rows = [np.frombuffer(blob, dtype=np.float64) for blob in blobs]
    dims = max((len(row) for row in rows), default=0)
    if all(len(row) == dims for row in rows):
        return np.stack(rows) if rows else np.empty((0, 0))
    vectors = np.zeros((len(rows), dims))
    for place, row in enumerate(rows):
        vectors[place, : len(row)] = row
    return vectors
