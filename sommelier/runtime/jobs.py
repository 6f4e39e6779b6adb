"""A request on its way through a dispatcher, and what a dispatcher works by."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from numpy.typing import NDArray

from sommelier.errors import RejectedError, SommelierError
from sommelier.runtime.answers import Answer, Ticket
from sommelier.runtime.interface import Inputs
from sommelier.runtime.policy import Decision, PooledModel, Rejection, Request, RoutingPolicy
from sommelier.runtime.predictor import Cancellation
from sommelier.runtime.queueing import QueueRules
from sommelier.runtime.scheduling import Turn

Array = NDArray[Any]

ANSWERED = Request(0.0)  # in place of a request that has its answer, so that its arrays are freed


@dataclass(slots=True, eq=False)
class Held:
    """A request that came at `arrived_ms`, is to be asked again soon, and counts as accepted until
    then. since_ns : the same by time.perf_counter_ns."""

    arrived_ms: float
    since_ns: int = field(default_factory=time.perf_counter_ns)


class Job:
    """A request from its acceptance to its answer. The dispatcher's lock guards all but `progress`
    and `left`, which belong to the thread that runs it, and `runs`, to which this thread adds, and
    looks then whether `settled` was set before whoever set it could see the run.

    accepted : it counts among those that have no answer. request : as it waits or runs. waits,
    since_ms : whether it waits, and when it began to. held : the state of the pool in which no
    model could take it. table : by which its last model was chosen. runs : what ends each run of
    it. ran : as the runs of Answer. errors : of models that failed on it. hedged : two models were
    asked. settled : somebody has its answer. progress : of an answering that asks several models;
    left : samples that its next one is asked about. ends_ms : when its answer is of no use to the
    caller any more, also while a model runs: a deadline of its own, and not only the SLA's, after
    which others count as late. ticket : None as long as only the thread that runs it may answer it.
    shared : the requests of clients that it stands for, where several were put together. brief :
    its caller's thread must not wait: what does not succeed at once is given back, to be asked
    otherwise. promised : it was accepted before, and is answered also where further ones are
    refused.
    """

    __slots__ = (
        "_cancel", "accepted", "brief", "ends_ms", "errors", "hedged", "held", "infer_ms", "inputs",
        "left", "note", "outputs", "progress", "promised", "queue_ms", "ran", "request", "runs",
        "settled", "shared", "since_ms", "table", "ticket", "waits",
    )  # fmt: skip

    def __init__(
        self, inputs: Inputs, outputs: Sequence[str] | None, cancel: Callable[[Job], None]
    ) -> None:
        """cancel : gives a request up."""
        self.inputs = inputs
        self.left = inputs.samples
        self.outputs = outputs
        self._cancel = cancel
        self.ticket: Ticket | None = None
        self.request = ANSWERED
        self.shared: Shared | None = None
        self.accepted = self.brief = self.promised = False
        self.waits = True
        self.since_ms = self.queue_ms = self.infer_ms = 0.0
        self.held = -1
        self.ends_ms = math.inf
        self.table: Any = None
        self.runs: list[Cancellation] = []
        self.ran: tuple[tuple[int, float], ...] = ()
        self.errors: list[Exception] = []
        self.hedged = self.settled = False
        self.progress: Any = None
        self.note = ""

    def awaited(self) -> Ticket:
        """Its ticket, made when it is first wanted: a future costs as much as a decision."""
        if self.ticket is None:
            self.ticket = Ticket(self.cancel)
        return self.ticket

    def run_ended(self, samples: int, took_ms: float, outcome: Outcome | None) -> None:
        """Take down a run that did not fail; the only one of a request needs no more than what its
        answer says anyway."""
        models = 1 if outcome is None else outcome.executed
        if outcome is None or self.ran or self.errors or models != 1:
            self.ran += ((samples, took_ms / max(models, 1)),) * models

    def cancel(self) -> None:
        """Give it up; nothing happens to what is answered."""
        self._cancel(self)


SharedRun = tuple[int, int, float, float]
"""A run: its samples, the requests that they are of, ms that these waited for it and that it took.
"""


Told = Callable[[Mapping[str, Array], float, float], None]
"""Gets the outputs of a request, ms that it waited for its run, and ms that this took."""


@dataclass(slots=True, eq=False)
class Shared:
    """Requests of clients that are decided about together. inputs : of those that it began with,
    until they are fed. further : tensors of those that came behind and are being answered now;
    samples : of each such one. arrived_ms : of those that are being answered; deadline_ms : of
    those that it began with, for others come only where nothing is promised. in_turn : they are
    believed to run in turn. epoch : the state of the pool when its model was chosen.

    told : how many have their answers; late : of these, after the deadline. runs : that ended;
    began_ms, running : of the last one, when it began and its samples.
    """

    inputs: Sequence[Inputs]
    arrived_ms: float
    deadline_ms: float
    clock: Callable[[], float]
    in_turn: bool = False
    epoch: int = -1
    further: Sequence[dict[str, Any]] | None = None
    samples: int = 1
    told: int = 0
    late: int = 0
    runs: list[SharedRun] = field(default_factory=list)
    began_ms: float = 0.0
    running: int = 1
    _each: Told | None = None

    def come(self, each: Told, further: Sequence[dict[str, Any]] | None) -> None:
        """These are to be answered now. each : gets their answers."""
        self._each = each
        if further is not None:
            self.further, self.arrived_ms = further, self.clock()

    def went(self) -> None:
        """They were answered, as many as could be: nothing of them is kept."""
        self.inputs, self.further, self._each = (), None, None

    def ended(self, now: float, outputs: Iterable[Mapping[str, Array]]) -> None:
        """A run is over, and these requests have their answers. now : ms."""
        each = self._each
        assert each is not None, "for somebody"
        took_ms, waited_ms = now - self.began_ms, self.began_ms - self.arrived_ms
        before = self.told
        try:
            for found in outputs:
                each(found, waited_ms, took_ms)
                self.told += 1
        finally:
            told = self.told - before
            if now > self.deadline_ms:
                self.late += told
            self.runs.append((self.running, told, waited_ms, took_ms))


def job_of(request: Request) -> Job:
    """What a dispatcher lets wait."""
    job = request.payload
    assert isinstance(job, Job), "the payload of every request of a dispatcher"
    return job


@dataclass(slots=True)
class Outcome:
    """What a model's run brought to a request; the fields are those of Answer. executed : models
    that ran for it, of a plan all that are executed."""

    outputs: Mapping[str, Array]
    stage: int | None = None
    stages: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()
    predicted: tuple[str, ...] = ()
    note: str = ""
    models: tuple[str, ...] = ()
    executed: int = 1

    def by_model(self, answered: str, samples: int) -> Mapping[str, int]:
        """How many samples each model answered. answered : the last one that was asked."""
        if not self.models:
            return {answered: samples}
        return Counter(self.models[stage] for stage in self.stages)


P = TypeVar("P")  # what a model is to the one who runs it
P_contra = TypeVar("P_contra", contravariant=True)
P_co = TypeVar("P_co", covariant=True)


class Models(Protocol[P_co]):
    """Where a deployment's models are; the methods are those of runtime.pool.ModelPool."""

    def acquire(self, name: str) -> P_co | None: ...

    def release(self, name: str, uses: int = 1) -> None: ...

    def request(self, name: str) -> Future[None]: ...

    def ready(self) -> Sequence[str]: ...


class Answering(Protocol[P_contra]):
    """What a deployment does with the model that was chosen."""

    def run(
        self, job: Job, name: str, model: P_contra, cancellation: Cancellation
    ) -> Outcome | None:
        """What the model says to the request; None if another one is to be asked, which the policy
        then chooses. Raises SommelierError when the model fails."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Table(Generic[P]):
    """What a dispatcher works by, from one switch to the next.

    models : that may answer, loaded or not. stand_ins : by model, who may answer while it is being
    loaded, the best first. hedge : ask a second model when the first one takes long. device : where
    models run, as telemetry counts them.
    """

    deployment: str
    policy: RoutingPolicy
    models: tuple[PooledModel, ...]
    view: Models[P]
    answering: Answering[P]
    rules: QueueRules = field(default_factory=QueueRules)
    servers: int = 1
    fallback: str | None = None
    stand_ins: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    hedge: bool = False
    device: str = "cpu"


@dataclass(slots=True)
class Counts:
    """What became of requests since the start. promised : of those answered, how many had a
    deadline, the SLA's or their own; late : of these, answered after it. by_model, failures : of
    each model, the requests it answered (of a cascade, at least a sample of each) and its failures.
    samples : that each model answered."""

    answered: int = 0
    promised: int = 0
    late: int = 0
    failed: int = 0
    cancelled: int = 0
    hedged: int = 0
    rejected: dict[int, int] = field(default_factory=dict)
    by_model: dict[str, int] = field(default_factory=dict)
    samples: dict[str, int] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)

    def answered_by(
        self, samples: Mapping[str, int], requests: int, deadline_ms: float, late: int
    ) -> None:
        """samples : of these requests, by the model that answered them. deadline_ms : of each; inf
        where nothing was promised. late : how many of them were answered after it."""
        self.answered += requests
        if deadline_ms < math.inf:
            self.promised += requests
            self.late += late
        for model, count in samples.items():
            self.by_model[model] = self.by_model.get(model, 0) + requests
            self.samples[model] = self.samples.get(model, 0) + count

    def refused(self, status: int) -> None:
        self.rejected[status] = self.rejected.get(status, 0) + 1

    def failed_in(self, model: str) -> None:
        self.failures[model] = self.failures.get(model, 0) + 1


def answer_of(job: Job, turn: Turn, decision: Decision, outcome: Outcome, now_ms: float) -> Answer:
    """What the caller gets."""
    return Answer(
        outputs=outcome.outputs,
        model=decision.model,
        decision=decision,
        queue_ms=job.queue_ms,
        infer_ms=job.infer_ms,
        total_ms=now_ms - turn.request.arrived_ms,
        deployment=job.table.deployment,
        note=f"{job.note}; {outcome.note}"
        if job.note and outcome.note
        else job.note or outcome.note,
        stage=outcome.stage,
        stages=outcome.stages,
        scores=outcome.scores,
        predicted=outcome.predicted,
        samples=job.inputs.samples,
        models=outcome.models,
        runs=job.ran,
    )


def error_of(rejection: Rejection) -> RejectedError:
    """The refusal, to be raised."""
    return RejectedError(
        rejection.reason, status=rejection.status, retry_after_ms=rejection.retry_after_ms
    )


def now_ms() -> float:
    """The clock of serving: ms, monotonic."""
    return time.perf_counter() * 1e3


def run_model(
    table: Table[P], job: Job, name: str, model: P, cancellation: Cancellation | None = None
) -> Outcome | Exception | None:
    """What a model says. An error is a value here: its traceback would keep the inputs, but one
    that nobody foresaw has it, to be logged.

    cancellation : of the job's runs so far, none of which was cancelled; None: a new one."""
    if cancellation is None:
        cancellation = Cancellation()
        job.runs.append(cancellation)
    if job.settled:
        cancellation.cancel()
    try:
        return table.answering.run(job, name, model, cancellation)
    except SommelierError as error:
        error.__cause__ = error.__context__ = None
        return error.with_traceback(None)
    except Exception as error:  # whatever a model does, its request has an answer
        return error
