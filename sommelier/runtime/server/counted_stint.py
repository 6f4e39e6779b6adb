"""A stint as a server has it: its answers are counted when it ends, and its runs are watched."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from sommelier.runtime.server.statistics import Answered

if TYPE_CHECKING:
    from sommelier.runtime.server.served import Served
    from sommelier.runtime.stint import Stint


class CountedStint:
    """As Stint. served : whose. writer : of the lane that goes on with it, if one does."""

    __slots__ = ("_stint", "_watched", "answer", "as_answer", "cancel", "joins", "served", "writer")

    def __init__(self, served: Served, stint: Stint) -> None:
        self.served, self._stint = served, stint
        self.answer, self.as_answer, self.cancel = stint.answer, stint.as_answer, stint.cancel
        self.joins = stint.joins
        self.writer: Any = None
        self._watched: Watched | None = None

    @property
    def open(self) -> bool:
        """Whether further requests may go on with it."""
        return self._stint.open

    @property
    def lasts(self) -> bool:
        """Whether it is to be looked at again: it may be open."""
        return self._stint.steady and not self._stint.ended

    def watched(self) -> Watched:
        """What a sentinel may end, until `unwatched`."""
        found = self._watched = Watched(self)
        return found

    def unwatched(self) -> None:
        """A sentinel that was late ends nothing."""
        if self._watched is not None:
            self._watched.stint = None
            self._watched = None

    def end(self) -> None:
        """As of Stint; to be called once."""
        stint = self._stint
        stint.end()
        if stint.runs:
            decision = stint.decision
            none = (0, 0, 0, 0, 0)
            self.served.tally.answered(
                Answered(decision.model, decision.policy, 0, time.time(), none, shared=stint.runs)
            )


class Watched:
    """Some runs of a stint: those that follow are others, to whoever watches. (Who is about to
    cancel as they end may still hit the next ones: those are asked one by one.)"""

    __slots__ = ("stint",)

    def __init__(self, stint: CountedStint) -> None:
        self.stint: CountedStint | None = stint

    def cancel(self) -> None:
        stint = self.stint
        if stint is not None:
            stint.cancel()
