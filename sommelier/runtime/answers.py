"""What a deployment gives back: an answer that says who gave it and why, and a ticket for one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from sommelier.runtime.policy import Decision

Array = NDArray[Any]


@dataclass(slots=True, eq=False)
class Answer:
    """The outputs of a request, by name, and how they came about.

    model : that answered; of a cascade the last one that was asked. decision : of the policy.
    note : what else there is to say, as why a stand-in answered. queue_ms : time the request waited
    for a server. infer_ms : time models took for it. total_ms : from its arrival on.
    stage : of a cascade, the last stage that answered a sample, from 0; stages, scores : of each
    sample the stage that answered it and how sure that was (NaN from the last one); models : by
    stage.
    predicted : names of the outputs that no model gave but links predict; () when all were given.
    samples : in the request. runs : of models that brought it, in order, (samples, ms) of each; ()
    stands for one of all samples in `infer_ms`.
    """

    outputs: Mapping[str, Array]
    model: str
    decision: Decision
    queue_ms: float
    infer_ms: float
    total_ms: float
    deployment: str
    note: str = ""
    stage: int | None = None
    stages: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()
    predicted: tuple[str, ...] = ()
    samples: int = 1
    models: tuple[str, ...] = ()
    runs: tuple[tuple[int, float], ...] = ()

    @property
    def by_stage(self) -> tuple[tuple[int, str, int], ...]:
        """Of a cascade, each stage that answered samples: (stage, model, how many)."""
        counts = [self.stages.count(stage) for stage in range(len(self.models))]
        known = enumerate(zip(self.models, counts, strict=True))
        return tuple((stage, model, count) for stage, (model, count) in known if count)

    @property
    def policy(self) -> str:
        """By which the model was chosen."""
        return self.decision.policy

    @property
    def reason(self) -> str:
        """Why this model answered, in words; made when asked for."""
        return f"{self.note}: {self.decision.reason}" if self.note else self.decision.reason


class Cancellable(Protocol):
    """What another thread may give up."""

    def cancel(self) -> object: ...


class Ticket(Future[Answer]):
    """A request that was accepted. `result()` waits for its answer.

    It raises RejectedError when the request is refused after all (504 at its deadline, 503 when the
    deployment is closed), InputError or AnalysisError naming the model that failed.
    """

    def __init__(self, on_cancel: Callable[[], None]) -> None:
        super().__init__()
        self._on_cancel = on_cancel

    def cancel(self) -> bool:
        """Give the request up, also while a model runs for it, which then ends early. False if it
        was answered already; otherwise `result()` raises concurrent.futures.CancelledError."""
        if self.cancelled():
            return True
        if not super().cancel():
            return False
        self._on_cancel()
        return True

    def given_up(self) -> None:
        """The request was given up, by this ticket or without it: who waits is told."""
        super().cancel()
        self.set_running_or_notify_cancel()
        self.forget()

    def forget(self) -> None:
        """It has its answer: let go of the request, so that its inputs are freed at once."""
        self._on_cancel = _nothing


def _nothing() -> None:
    """To give up what is answered."""
