"""A stint whose answers are counted, all of them when it ends."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sommelier.runtime.server.statistics import Answered

if TYPE_CHECKING:
    from sommelier.runtime.server.served import Served
    from sommelier.runtime.stint import Stint


class CountedStint:
    """As Stint. served : whose."""

    __slots__ = ("_stint", "answer", "as_answer", "cancel", "served")

    def __init__(self, served: Served, stint: Stint) -> None:
        self.served, self._stint = served, stint
        self.answer, self.as_answer, self.cancel = stint.answer, stint.as_answer, stint.cancel

    @property
    def open(self) -> bool:
        return self._stint.open

    @property
    def lasts(self) -> bool:
        """Whether it is to be looked at again: it may be open."""
        return self._stint.steady and not self._stint.ended

    def end(self) -> None:
        stint = self._stint
        stint.end()
        if stint.runs:
            decision = stint.decision
            none = (0, 0, 0, 0, 0)
            self.served.tally.answered(
                Answered(decision.model, decision.policy, 0, time.time(), none, shared=stint.runs)
            )
