"""The tasks of a job that is left to workers, one at a time, as one worker does them."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from sommelier.analysis.frozen_plans import thawed
from sommelier.analysis.workers import Runner
from sommelier.errors import SommelierError, StorageError

if TYPE_CHECKING:
    from sommelier.analysis.workers import Rooms
    from sommelier.records import AnalysisTask, Job


class LeasedWork(Runner):
    """One job at one worker: its sandbox, and what it has learnt meanwhile.

    A task that fails for what is the model's fault is settled; what is the server's or the store's
    (StorageError) is raised, for another try may go well.
    """

    def __init__(self, rooms: Rooms, job: Job, plan: str) -> None:
        """plan : as frozen_plans keeps it."""
        super().__init__(rooms, job, thawed(plan), lambda *_: None, lambda: False)
        self.job_id = job.id
        self._open = ExitStack()
        self._sandboxes_open = self._open.enter_context(self._open_sandboxes(1))

    @property
    def probe_set_ids(self) -> tuple[str, ...]:
        """What its models answer."""
        return tuple(self._plan.probes)

    def do(self, task: AnalysisTask) -> None:
        """Do one task and keep what was found; nothing is kept after `stop`.

        Raises LeaseLostError if the task is not this worker's any more, StorageError.
        """
        self._stopping.clear()
        self._run_task(task)

    def stop(self) -> None:
        """End what is running, from another thread."""
        self._stopping.set()
        for sandbox in self._sandboxes_open:
            sandbox.close()

    @property
    def stopped(self) -> bool:
        """Whether the last task was stopped."""
        return self._stopping.is_set()

    def close(self) -> None:
        """Keep what the job's timings say of operators, and end the sandbox."""
        try:
            self._learn_operators()
        finally:
            self._open.close()

    def _fail(self, task: AnalysisTask, error: SommelierError) -> None:
        if isinstance(error, StorageError):
            raise error
        super()._fail(task, error)
