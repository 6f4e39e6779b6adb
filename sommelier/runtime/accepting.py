"""From what a caller gives to the job that a dispatcher takes: checked, with its deadline."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Any

from sommelier.runtime import wishes
from sommelier.runtime.generations import Generation
from sommelier.runtime.interface import Given, alike, all_of
from sommelier.runtime.jobs import Held, Job, Shared
from sommelier.runtime.policy import Request

Cancel = Callable[[Job], None]


def job_of_one(
    now: Generation, clock: Callable[[], float], cancel: Cancel, inputs: Given,
    *, outputs: Sequence[str] | None, deadline_ms: float | None, priority: int,
    min_accuracy: float | None, held: Held | None = None,
) -> Job:  # fmt: skip
    """Of one request; the arguments are those of `RunningDeployment.infer`. Raises InputError."""
    arrived = clock() if held is None else held.arrived_ms
    deployment = now.deployment
    wanted = None if outputs is None else wishes.wished_outputs(outputs)
    brought = now.receive(inputs, wanted)
    ends_ms = inf
    if deadline_ms is None:
        deadline_ms = inf if deployment.sla_ms is None else deployment.sla_ms
    else:
        if type(deadline_ms) is not float or not 0 < deadline_ms < inf:
            deadline_ms = wishes.wished_deadline(deadline_ms)
        ends_ms = arrived + deadline_ms
    if type(priority) is not int or priority:
        priority = wishes.wished_priority(priority)
    wished = None if min_accuracy is None else wishes.wished_accuracy(min_accuracy)
    least = wished
    if wished is None and deployment.kind == "models":
        least = deployment.min_accuracy
    job = Job(brought, wanted, cancel)
    job.ends_ms = ends_ms
    if held is not None:
        job.promised, job.queue_ms = True, clock() - arrived
    job.request = Request(
        arrived, arrived + deadline_ms, priority, least, job, brought.samples,
        brought.unfit, wished is not None,
    )  # fmt: skip
    return job


def job_of_several(
    now: Generation, clock: Callable[[], float], cancel: Cancel,
    requests: Sequence[dict[str, Any]], outputs: Sequence[str] | None,
    *, same: bool,
) -> Job:  # fmt: skip
    """Of requests that wish nothing of their own, to a deployment of kind 'models'; the arguments
    are those of `RunningDeployment.open_stint`. Raises InputError."""
    arrived, deployment, interface = clock(), now.deployment, now.interface
    wanted = None if outputs is None else wishes.wished_outputs(outputs)
    brought = [interface.receive(given, wanted) for given in requests[: 1 if same else None]]
    if same:
        brought += alike(brought[0], requests[1:])
    whole = all_of(brought)
    job = Job(whole, wanted, cancel)
    deadline = inf if deployment.sla_ms is None else arrived + deployment.sla_ms
    job.request = Request(
        arrived, deadline, 0, deployment.min_accuracy, job, whole.samples, whole.unfit
    )
    job.shared = Shared(brought, arrived, deadline, clock, in_turn=not interface.joins)
    return job
