"""What each kind of deployment does with the model that was chosen for a request."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from numpy.typing import NDArray

from sommelier.errors import AnalysisError, InputError, SommelierError
from sommelier.runtime.collaborate import CollaborativePlan, as_items
from sommelier.runtime.feeds import concatenated, divided
from sommelier.runtime.interface import Inputs, Interface
from sommelier.runtime.jobs import Job, Outcome, Shared
from sommelier.runtime.pool import ModelPool
from sommelier.runtime.predictor import Cancellation, Predictor
from sommelier.storage.naming import unknown_name

Array = NDArray[Any]


class PoolView:
    """The models of one deployment in a pool that others share, by the names it gave them."""

    def __init__(self, pool: ModelPool, names: Mapping[str, str]) -> None:
        """names : the pool's, by the deployment's."""
        self._pool = pool
        self.names = dict(names)

    def acquire(self, name: str) -> Predictor | None:
        return self._pool.acquire(self.names[name])

    def release(self, name: str, uses: int = 1) -> None:
        self._pool.release(self.names[name], uses)

    def request(self, name: str) -> Future[None]:
        return self._pool.request(self.names[name])

    def ready(self) -> tuple[str, ...]:
        known = frozenset(self._pool.ready())
        return tuple(name for name, pooled in self.names.items() if pooled in known)


class ModelAnswering:
    """One model answers."""

    def __init__(self, interface: Interface) -> None:
        self._interface = interface

    def run(self, job: Job, name: str, model: Predictor, cancellation: Cancellation) -> Outcome:
        if job.shared is not None:
            self._run_shared(job, job.shared, name, model, cancellation)
            return Outcome({})
        feed = self._interface.feed(job.inputs, name, model)
        found = model.run(feed, cancellation)
        return Outcome(self._interface.outputs_of(name, found, job.outputs))

    def _run_shared(
        self, job: Job, shared: Shared, name: str, model: Predictor, cancellation: Cancellation
    ) -> None:
        """One run for all, or runs in turn, whichever is faster."""
        interface, clock, joins = self._interface, shared.clock, model.joins
        if shared.further is None:
            feeds = [interface.feed(inputs, name, model) for inputs in shared.inputs]
            shared.samples = feeds[0].samples
        else:
            feeds = interface.feeds_alike(name, shared.samples, shared.further)
        as_it_is = job.outputs is None and not interface.renames_outputs(name)
        for feed in [concatenated(feeds)] if joins else feeds:
            shared.running, shared.began_ms = feed.samples, clock()
            found: Mapping[str, Array] = model.run(feed, cancellation)
            now = clock()
            if not as_it_is:
                found = interface.outputs_of(name, found, job.outputs)
            shared.ended(now, divided(found, feeds) if joins else (found,))


class PlanView:
    """The models of an activation plan, which are loaded with its first request and kept."""

    def __init__(self, name: str, plan: CollaborativePlan) -> None:
        self.name, self.plan = name, plan

    def acquire(self, name: str) -> CollaborativePlan | None:
        return self.plan if name == self.name else None

    def release(self, name: str, uses: int = 1) -> None:
        """Nothing is counted: a plan is not unloaded while its deployment runs."""

    def request(self, name: str) -> Future[None]:
        done: Future[None] = Future()
        assert name == self.name, "the only one"
        done.set_result(None)
        return done

    def ready(self) -> tuple[str, ...]:
        return (self.name,)


class PlanAnswering:
    """All models of an activation plan answer; those it does not execute are predicted.

    The outputs have the names of the models. A run is not cancelled in the middle.
    """

    def receive(self, plan: CollaborativePlan, given: Any, outputs: Any) -> Inputs:
        """What a request brings. Raises InputError for an output that is no model's, and for what
        is no array."""
        known = [model.name for model in plan.plan.models]
        for name in outputs or ():
            if name not in known:
                raise InputError(unknown_name("model of the plan", name, known).message)
        items = next(iter(given.values()), ()) if isinstance(given, Mapping) else given
        try:
            count = len(as_items(items))
        except SommelierError as error:
            raise InputError(error.message, hint=error.hint) from error
        return Inputs(given, max(count, 1), {}, frozenset())

    def run(
        self, job: Job, name: str, model: CollaborativePlan, cancellation: Cancellation
    ) -> Outcome:
        if cancellation.cancelled:
            raise SommelierError(f"{name}: the request was cancelled")
        try:
            answers = model.run(job.inputs.given)  # type: ignore[arg-type]  # arrays, as it checks
        except AnalysisError:
            raise
        except SommelierError as error:  # items that are missing or of different numbers
            raise InputError(error.message, hint=error.hint) from error
        wanted = job.outputs if job.outputs is not None else tuple(answers)
        given = {name: answers[name] for name in wanted}
        return Outcome(
            {name: found.values for name, found in given.items() if found.values is not None},
            predicted=tuple(name for name, found in given.items() if not found.executed),
            executed=sum(found.executed for found in answers.values()),
        )
