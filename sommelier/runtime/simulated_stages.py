"""The stages of a cascade in a simulation: who is asked next, drawn by the shares it sends on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sommelier.runtime.policy import Decision, PoolState, Rejection, Request, decision


class InTurn:
    """Which stage each request has come to, and which are sent on: a policy."""

    name = "in turn"

    def __init__(
        self, names: Sequence[str], sent_on: Sequence[float], n: int, rng: np.random.Generator
    ) -> None:
        """names : of the stages. sent_on : shares, of each but the last. n : requests."""
        self._names = tuple(names)
        self._sent = [(rng.random(n) < share).tolist() for share in sent_on]
        self._reached = [0] * n

    def choose(self, request: Request, pool: PoolState, now_ms: float) -> Decision | Rejection:
        index = request.payload
        assert isinstance(index, int)
        wanted = self._names[self._reached[index]]
        model = next(model for model in pool.models if model.name == wanted)
        return decision(self.name, "its turn", model, request.deadline_ms - now_ms, pool)

    def following(self, index: int) -> str | None:
        """The model a request is sent on to; None if the answer it has stands."""
        stage = self._reached[index]
        last = stage == len(self._names) - 1
        return None if last or not self._sent[stage][index] else self._names[stage + 1]

    def advance(self, index: int) -> None:
        """It is sent on."""
        self._reached[index] += 1
