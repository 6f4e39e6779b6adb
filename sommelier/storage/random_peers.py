"""The paper's own semantic index (Sommelier 5.2), kept as a baseline and as a setting."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from sommelier.errors import StorageError

PEERS = 5  # Sommelier 5.2: sampled comparisons per insertion
RANDOM5_SEED = 5
RANDOM5_LIMIT = 5_000  # the paper's index keeps two numbers per PAIR of models: 200 MB here


class RandomPeers:
    """Each model of one probe set compared with PEERS random earlier ones.

    Its distances to all others are intervals by transitivity through those peers, computed once, at
    insertion. Distances are counts of samples answered differently. Sketches compare every pair
    exactly at the same cost of insertion.
    """

    def __init__(self, seed: int = RANDOM5_SEED) -> None:
        self._random = np.random.default_rng(seed)
        self._size = 0
        self._low = np.zeros((0, 0), dtype=np.int32)
        self._high = np.zeros((0, 0), dtype=np.int32)

    def __len__(self) -> int:
        return self._size

    def insert(
        self, compare: Callable[[NDArray[np.int64]], NDArray[np.int64]], samples: int
    ) -> None:
        """Add the next model. compare(indices of earlier models) -> their distances to it.

        samples : an upper limit of any distance. Raises StorageError above RANDOM5_LIMIT models.
        """
        new = self._size
        if new >= RANDOM5_LIMIT:
            raise StorageError(
                f"random5 keeps an interval for every pair of models; it stops at {RANDOM5_LIMIT}",
                hint="use the default, mode 'sketch'",
            )
        self._grow(new + 1)
        if new:
            peers = np.sort(self._random.choice(new, min(PEERS, new), replace=False))
            distances = compare(peers).astype(np.int32)[:, None]  # (peers, 1)
            low, high = self._low[peers, :new], self._high[peers, :new]  # (peers, earlier)
            lower = np.maximum(np.maximum(distances - high, low - distances), 0).max(axis=0)
            upper = np.minimum((distances + high).min(axis=0), samples)
            lower[peers] = upper[peers] = distances[:, 0]
            self._low[new, :new] = self._low[:new, new] = lower
            self._high[new, :new] = self._high[:new, new] = upper
        self._size = new + 1

    def intervals(self, index: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """(low, high) distance of every model to model `index`; 0 to itself."""
        return self._low[index, : self._size], self._high[index, : self._size]

    def _grow(self, size: int) -> None:
        if size > len(self._low):
            room = min(max(64, 2 * len(self._low)), RANDOM5_LIMIT)
            for name in ("_low", "_high"):
                larger = np.zeros((room, room), dtype=np.int32)
                larger[: self._size, : self._size] = getattr(self, name)[: self._size, : self._size]
                setattr(self, name, larger)
