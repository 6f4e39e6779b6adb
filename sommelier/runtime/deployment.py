"""A deployment that runs in this process: inputs in, answers out, switched without a pause."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import wait
from math import inf
from typing import Any

from sommelier.deployment_records import Deployment
from sommelier.errors import SommelierError
from sommelier.records import TensorSpec
from sommelier.runtime import displays
from sommelier.runtime.accepting import job_of_one, job_of_several
from sommelier.runtime.answers import Answer, Cancellable, Ticket
from sommelier.runtime.cascade import Cascade
from sommelier.runtime.collaborate import CollaborativePlan
from sommelier.runtime.deployment_state import (
    DeploymentState,
    Status,
    Switch,
    failed,
    state_of,
    switch_between,
)
from sommelier.runtime.dispatcher import Dispatcher
from sommelier.runtime.generations import Generation, generation, loaded
from sommelier.runtime.interface import Given
from sommelier.runtime.jobs import Held, now_ms
from sommelier.runtime.pool import ModelPool
from sommelier.runtime.pool_entries import Budget
from sommelier.runtime.session_cache import ServedModel
from sommelier.runtime.stint import Stint
from sommelier.runtime.telemetry import Telemetry

SWITCH_S = 60.0  # how long a switch waits for new models while the old ones answer
_ASKED_AFTER = 32  # runs were learned from, it is asked again how many may be decided together


class RunningDeployment:
    """Answers requests as a Deployment says. Safe for threads; close it, or use it as a context
    manager. No database, parser or planner is asked for a request.

    telemetry : what models took; `telemetry.summary()` for those who keep it.
    """

    def __init__(
        self,
        deployment: Deployment,
        models: Mapping[str, ServedModel],
        pool: ModelPool,
        *,
        plan: CollaborativePlan | None = None,
        clock: Callable[[], float] = now_ms,
    ) -> None:
        """Starts loading; requests may come at once and wait for the first model.

        models : by the names that the deployment gives them; more of them may be stand-ins and the
        fallback. plan : of kind 'plan'; it is closed with the deployment. clock : ms, monotonic.
        Raises SommelierError where something is missing.
        """
        self.pool = pool
        self.telemetry = Telemetry()
        self._clock = clock
        self._switching, self._closing = threading.Lock(), threading.Lock()
        self._contents = {name: model.id for name, model in models.items()}
        self._budget = Budget.of(deployment.name, deployment.options)
        self._now = self._generation(deployment, models, plan)
        self._dispatcher: Dispatcher[Any] = Dispatcher(self._now.table, self.telemetry, clock=clock)
        self._status: Status | None = None
        self._begun = self._withdrawn = False  # it was ready once; nobody may ask it
        self._notices: tuple[str, ...] = ()
        self._asked: object = None  # when `together` was
        self._together = 1
        self._end = pool.subscribe(self._pool_changed)
        self._learn(self._now)
        self._dispatcher.refresh()
        pool.keep_within(self._budget)
        self._dispatcher.warm(self._now.warm)

    # ---- requests

    def infer(
        self, inputs: Given, *, deadline_ms: float | None = None, priority: int = 0,
        min_accuracy: float | None = None, outputs: Sequence[str] | None = None,
    ) -> Answer:  # fmt: skip
        """The answer to one request; runs in this thread when a server is idle.

        inputs : tensors by name as the models take them, or raw items (n, ...), images say, which
        each model prepares as it declares. deadline_ms : above 0, from now on, when the answer is
        of no use any more: then a run is ended too. Where it is not given the SLA's counts while
        the request waits, and a run may be late. priority : smaller is served first, -2^32 to 2^32.
        min_accuracy : in [0, 1]. outputs : names; none are all. Raises InputError, RejectedError
        (429, 503, 504), AnalysisError of a model that fails.
        """
        job = job_of_one(
            self._now, self._clock, self._dispatcher.cancel, inputs, outputs=outputs,
            deadline_ms=deadline_ms, priority=priority, min_accuracy=min_accuracy,
        )  # fmt: skip
        ticket = self._dispatcher.answer(job) or self._dispatcher.submit(job)
        if isinstance(ticket, Answer):
            return ticket
        try:
            return ticket.result()
        except BaseException:
            ticket.cancel()  # an interrupt; nothing happens to what is answered
            raise
        finally:
            del ticket, job  # else the error's traceback has itself, and the inputs

    def submit(
        self, inputs: Given, *, deadline_ms: float | None = None, priority: int = 0,
        min_accuracy: float | None = None, outputs: Sequence[str] | None = None,
        held: Held | None = None,
    ) -> Ticket:  # fmt: skip
        """The same without waiting: a future. held : as `hold` said. Raises InputError,
        RejectedError when it is known."""
        job = job_of_one(
            self._now, self._clock, self._dispatcher.cancel, inputs, outputs=outputs,
            deadline_ms=deadline_ms, priority=priority, min_accuracy=min_accuracy, held=held,
        )  # fmt: skip
        return self._dispatcher.submit(job)

    def try_infer(
        self, inputs: Given, *, at_most_ms: float, deadline_ms: float | None = None,
        priority: int = 0, min_accuracy: float | None = None,
        outputs: Sequence[str] | None = None, held: Held | None = None,
        begun: Callable[[Cancellable], None] | None = None,
    ) -> Answer | None:  # fmt: skip
        """The answer if it can be had in this thread at once: nothing waits, a server is idle, one
        model answers and takes at most so long on average, or usually. None, and nothing has
        happened, if not. For event loops. begun : gets the request before the run, which another
        thread may cancel when it takes longer after all: CancelledError is raised then, and where
        it is to be asked again otherwise (Dispatcher.answer). held : as `hold` said."""
        if self._now.deployment.kind != "models":
            return None
        job = job_of_one(
            self._now, self._clock, self._dispatcher.cancel, inputs, outputs=outputs,
            deadline_ms=deadline_ms, priority=priority, min_accuracy=min_accuracy, held=held,
        )  # fmt: skip
        if begun is not None:
            begun(job)
        found = self._dispatcher.answer(job, at_most_ms=at_most_ms)
        try:
            return found.result() if isinstance(found, Ticket) else found
        finally:
            del found, job  # as above

    def open_stint(
        self, requests: Sequence[dict[str, Any]], *, at_most_ms: float,
        outputs: Sequence[str] | None = None, same: bool = False,
    ) -> Stint | None:  # fmt: skip
        """The same for requests of several clients, by one decision about all of them: what is to
        answer them now. They run in one run, or in turn, whichever is faster.

        requests : tensors by name, of each. at_most_ms : of all. same : tensors of all have the
        same names, types and shapes, and none is of texts. Raises InputError, RejectedError; then
        each is to be asked alone."""
        now, cancel = self._now, self._dispatcher.cancel
        if now.deployment.kind != "models":
            return None
        job = job_of_several(now, self._clock, cancel, requests, outputs, same=same)
        steady = now.deployment.sla_ms is None and len(now.table.models) == 1
        return self._dispatcher.open_stint(job, at_most_ms, steady=now.table if steady else None)

    def hold(self, held: Held | None = None) -> Held | None:
        """Accept a request that has to wait for others now, without its inputs, until `let_go`: it
        is to be asked again soon. None where it is better submitted. held : it is held already."""
        if held is None:
            return self._dispatcher.hold()
        sla_ms = self._now.deployment.sla_ms or inf
        late = self._clock() - held.arrived_ms >= sla_ms
        return None if late or not self.engaged else held

    def let_go(self) -> None:
        """A request that was held has its answer, or was submitted."""
        self._dispatcher.let_go()

    # ---- what it is

    @property
    def deployment(self) -> Deployment:
        """As it was planned last."""
        return self._now.deployment

    @property
    def name(self) -> str:
        return self._now.deployment.name

    @property
    def kind(self) -> str:
        return self._now.deployment.kind

    @property
    def policy(self) -> str:
        """By which models are chosen."""
        return self._now.table.policy.name

    @property
    def models(self) -> tuple[str, ...]:
        """Names of its models in the pool."""
        return tuple(self._now.pooled.values())

    @property
    def ready(self) -> bool:
        """Whether requests are welcome: it could answer any once, and may again. A model that left
        memory for want of use is loaded by the next request."""
        return self.status == "ready"

    @property
    def status(self) -> Status:
        """As of `state()`."""
        if self._status is not None or self._withdrawn:
            return self._status or "unloaded"
        self._begun = self._begun or self._now.ready
        if not self._now.ready and failed(self._now, self.pool):
            return "failed"
        return "ready" if self._begun else "loading"

    @property
    def together(self) -> int:
        """Most samples of several requests that are better decided about together, and take a
        moment only; 1: none are."""
        now = self._now
        asked = now, now.interface.together, self.telemetry.observations // _ASKED_AFTER
        if asked != self._asked:
            joins = now.deployment.kind == "models" and now.deployment.options.batching is not False
            most, in_turn = now.interface.together if joins else 1, not now.interface.joins
            together = self._dispatcher.most_together
            self._together = together(most, in_turn=in_turn) if most > 1 else 1
            self._asked = asked
        return self._together

    @property
    def engaged(self) -> bool:
        """Whether a request would have to wait for others now."""
        return self._dispatcher.engaged

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What its models take; () until one was loaded, and of a plan."""
        return self._now.interface.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What its models give; () until one was loaded, and of a plan."""
        return self._now.interface.outputs

    @property
    def cascade(self) -> Cascade | None:
        """Whose `thresholds` may be set while it runs; None of another kind."""
        return self._now.cascade

    def state(self) -> DeploymentState:
        """What people and metrics are told."""
        now, status = self._now, self.status
        return state_of(now, status, self._dispatcher, self.pool, self.telemetry, self._notices)

    def notice(self, *notices: str) -> None:
        """What `state().warnings` says beside its own, in place of earlier notices."""
        self._notices = notices

    # ---- its life

    def wait_ready(self, timeout_s: float | None = None) -> bool:
        """Wait for the models that are loaded at the start, or fail to be; whether it is ready."""
        now = self._now
        wait([self.pool.request(now.pooled[name]) for name in now.warm], timeout_s)
        return self.ready

    def replan(
        self,
        deployment: Deployment,
        models: Mapping[str, ServedModel],
        *,
        plan: CollaborativePlan | None = None,
        timeout_s: float = SWITCH_S,
    ) -> Switch:
        """Go on as another Deployment says. The old models answer until the new ones are loaded, or
        the time is up; no request is lost. Models that nobody uses any more are unloaded after
        their last run. Raises SommelierError once it is closed. Source: Sommelier 7.1."""
        with self._switching:
            self._expect_open()
            old = self._now
            for name, model in models.items():
                if self._contents.get(name, model.id) != model.id:
                    self._dispatcher.forget(name)  # it was about another content
            new = self._generation(deployment, models, plan)
            if new.cascade is not None and old.cascade is not None:
                new.cascade.resume(old.cascade)
            self._budget.follow(deployment.options)
            missing = {} if self._withdrawn else loaded(new, self.pool, timeout_s, self._given_up)
            self._learn(new)
            if self._status == "closed":
                self._forget(new)
            self._expect_open()
            self._contents = {name: model.id for name, model in models.items()}
            self._now = new
            self._dispatcher.switch(new.table)
            self._forget(old, but=new)
        self.pool.keep_within(self._budget)
        return switch_between(old, new, missing)

    def withdraw(self, timeout_s: float | None = None) -> int:
        """Accept no further requests until `restore`, and load nothing; how many of those that were
        accepted have no answer after this time."""
        self._withdrawn = True
        self._dispatcher.refuse("the deployment was unloaded")
        left = self._dispatcher.drain(timeout_s)
        with self._switching:  # one that has begun knows which models are to be unloaded
            return left

    def restore(self) -> None:
        """The opposite of `withdraw`."""
        with self._closing:
            self._withdrawn = False
            if self._status is None:
                self._dispatcher.refuse(None)

    def refuse(self, reason: str = "the deployment is shutting down") -> None:
        """Accept no further requests (503); what was accepted is answered."""
        with self._closing:
            if self._status != "closed":
                self._status = "draining"
                self._dispatcher.refuse(reason)

    def drain(self, timeout_s: float | None = None) -> int:
        """Refuse further requests and wait for those that were accepted; how many are left."""
        self.refuse()
        return self._dispatcher.drain(timeout_s)

    def close(self) -> None:
        """Refuse what waits, cancel what runs, let the models go. A switch that waits for models
        ends."""
        with self._closing:
            if self._status == "closed":
                return
            self._status = "closed"
        self._end()
        self._dispatcher.close()
        with self._switching:
            self._forget(self._now)

    def __enter__(self) -> RunningDeployment:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return displays.deployment_line(self.deployment, self.status)

    def _repr_html_(self) -> str:
        return displays.deployment_html(self.deployment, self.state())

    # ---- inside

    def _pool_changed(self, pooled: str) -> None:
        now = self._now
        if pooled in now.pooled.values():
            self._learn(now)
            self._dispatcher.refresh()
            self._begun = self._begun or now.ready

    def _generation(
        self, deployment: Deployment, models: Mapping[str, ServedModel], plan: Any
    ) -> Generation:
        return generation(
            deployment, models, self.pool, self.telemetry, plan,
            clock=self._clock, budget=self._budget,
        )  # fmt: skip

    def _learn(self, now: Generation) -> None:
        """What models take and give, and how long, from those that are loaded."""
        for name in now.table.view.ready() if now.pooled else ():
            predictor = None if now.interface.knows(name) else now.table.view.acquire(name)
            if predictor is None:
                continue
            now.interface.learn(name, predictor)
            run_ms = predictor.prepared.preparation.run_ms
            now.table.view.release(name)
            if run_ms is not None:
                self.telemetry.estimate(name, device=now.device).suppose(run_ms)

    def _given_up(self) -> bool:
        return self._status == "closed" or self._withdrawn

    def _expect_open(self) -> None:
        if self._status == "closed":
            raise SommelierError(f"deployment {self.name} is closed")

    def _forget(self, old: Generation, *, but: Generation | None = None) -> None:
        """Let the models of a generation go, once; its plan unless another one has it."""
        for pooled in old.pooled.values():
            self.pool.forget(pooled, self._budget)
        if old.plan is not None and (but is None or old.plan is not but.plan):
            old.plan.close()
