"""Runs the tasks of a job: models in sandboxes, findings and the task's new state kept together.

One dispatcher claims tasks in order. Latency runs alone, so that nothing disturbs the clock; the
rest runs on as many sandboxes as there are workers. A model that crashes, hangs or answers nothing
fails its own task with the reason, and the run goes on.
"""

from __future__ import annotations

import logging
import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sommelier.analysis import aspects
from sommelier.analysis.answer_book import AnswerBook
from sommelier.analysis.aspects import Finding, OperatorRow, Subject, Truth
from sommelier.analysis.execution import RunRequest
from sommelier.analysis.jobs import AnalysisOptions, AnalysisPlan
from sommelier.analysis.sandbox import Sandbox
from sommelier.errors import CancelledError, SommelierError, StorageError
from sommelier.records import AnalysisTask, Job
from sommelier.storage.versions import version_of

if TYPE_CHECKING:
    from sommelier.analysis.link_jobs import LinkFinding
    from sommelier.analysis.operator_timing import ModelTimes
    from sommelier.analysis.segment_jobs import SegmentFinding
    from sommelier.storage.artifacts import ArtifactStore
    from sommelier.storage.catalog import Catalog
    from sommelier.storage.sketches import SketchStore
    from sommelier.storage.tasks import TaskQueue

logger = logging.getLogger(__name__)
Progress = Callable[[str, int, int | None, str | None], None]

POLL_S = 0.1  # how soon a cancellation is noticed
TABLE_MODELS = 3  # fewer models say too little about other models' operators


@dataclass(frozen=True, slots=True)
class Rooms:
    """What a worker reads from and writes to."""

    catalog: Catalog
    artifacts: ArtifactStore
    sketches: SketchStore
    queue: TaskQueue


@dataclass(slots=True)
class JobSummary:
    """How a job went. outcomes : tasks by (aspect, state). reasons : (model, why) of failures,
    skips and remarks, in the order they came."""

    outcomes: Counter[tuple[str, str]] = field(default_factory=Counter)
    reasons: list[tuple[str, str]] = field(default_factory=list)

    @property
    def done(self) -> int:
        return sum(count for (_, state), count in self.outcomes.items() if state == "done")


def run_job(
    rooms: Rooms,
    job: Job,
    plan: AnalysisPlan,
    *,
    progress: Progress,
    cancelled: Callable[[], bool],
) -> JobSummary:
    """Runs every pending task of the job, which ends with that; the summary of what happened.

    Raises CancelledError when `cancelled` turns true, StorageError when findings cannot be kept;
    either way finished tasks are kept and the same ANALYZE takes up the rest.
    """
    try:
        summary = run_tasks(rooms, job, plan, progress=progress, cancelled=cancelled)
    except BaseException as error:
        stopped = isinstance(error, CancelledError | KeyboardInterrupt)
        rooms.queue.finish_job(job.id, "cancelled" if stopped else "interrupted")
        raise
    rooms.queue.finish_job(job.id, "done")
    return summary


def run_tasks(
    rooms: Rooms,
    job: Job,
    plan: AnalysisPlan,
    *,
    progress: Progress,
    cancelled: Callable[[], bool],
) -> JobSummary:
    """As run_job, for a job that goes on or is ended by who calls."""
    runner = Runner(rooms, job, plan, progress, cancelled)
    runner.run()
    return runner.summary


class Runner:
    """One job while it runs."""

    def __init__(
        self,
        rooms: Rooms,
        job: Job,
        plan: AnalysisPlan,
        progress: Progress,
        cancelled: Callable[[], bool],
    ) -> None:
        self.summary = JobSummary()
        self._rooms = rooms
        self._job = job
        self._plan = plan
        self._progress = progress
        self._cancelled = cancelled
        self._times: list[ModelTimes] = []
        self._table: tuple[OperatorRow, ...] | None = None
        self._answers = AnswerBook(rooms)
        self._sandboxes: queue.SimpleQueue[Sandbox] = queue.SimpleQueue()
        self._finished = 0
        self._turn = threading.Lock()
        self._stopping = threading.Event()

    def run(self) -> None:
        workers = worker_count(self._plan.options)
        with self._open_sandboxes(workers) as sandboxes, ThreadPoolExecutor(workers) as pool:
            running: dict[Future[None], AnalysisTask] = {}
            try:
                while (task := self._rooms.queue.claim(self._job.id)) is not None:
                    self._tell(task)
                    while len(running) >= (1 if task.aspect == "latency" else workers):
                        self._collect(running)
                    running[pool.submit(self._run_task, task)] = task
                    if task.aspect == "latency":
                        while running:
                            self._collect(running)
                while running:
                    self._collect(running)
            except BaseException:
                self._stop(running, sandboxes)
                raise
        self._learn_operators()

    def _stop(self, running: Iterable[Future[None]], sandboxes: list[Sandbox]) -> None:
        """Ends what is running; a sandbox that was just about to start is closed at its turn."""
        self._stopping.set()
        while True:
            for sandbox in sandboxes:
                sandbox.close()
            if not wait(running, timeout=POLL_S).not_done:
                return

    @contextmanager
    def _open_sandboxes(self, count: int) -> Iterator[list[Sandbox]]:
        options = self._plan.options
        sandboxes = [
            Sandbox(
                time_limit_s=options.time_limit_s,
                memory_limit_bytes=int(options.memory_limit_bytes),
                threads=options.threads,
            )
            for _ in range(count)
        ]
        for sandbox in sandboxes:
            self._sandboxes.put(sandbox)
        try:
            yield sandboxes
        finally:
            for sandbox in sandboxes:
                sandbox.close()

    def _collect(self, running: dict[Future[None], AnalysisTask]) -> None:
        """Waits for one task to end. Raises CancelledError, or what a task could not handle."""
        if self._cancelled():
            raise CancelledError(
                "ANALYZE was cancelled",
                hint=f"tasks kept: {self.summary.done}; the same statement goes on from there",
            )
        ended, _ = wait(running, timeout=POLL_S, return_when=FIRST_COMPLETED)
        for future in ended:
            del running[future]
            future.result()

    def _tell(self, task: AnalysisTask) -> None:
        current = self._rooms.catalog.model(task.model_id).name
        self._progress(_PHASES[task.aspect], self._finished, self._job.total, current)

    # ---- one task, in a thread of the pool

    def _run_task(self, task: AnalysisTask) -> None:
        sandbox = self._sandboxes.get()
        started = time.perf_counter()
        try:
            with self._rooms.artifacts.using():
                finding = self._find(task, sandbox)
        except SommelierError as error:
            if not (self._stopping.is_set() or self._cancelled()):
                self._fail(task, error)
        else:
            if not self._stopping.is_set():
                self._keep_or_fail(task, finding)
            logger.debug("%s took %.2f s", task.key, time.perf_counter() - started)
        finally:
            self._sandboxes.put(sandbox)

    def _fail(self, task: AnalysisTask, error: SommelierError) -> None:
        """It is the model's fault, or its file's."""
        self._settle(task, "failed", error.message)

    def _find(self, task: AnalysisTask, sandbox: Sandbox) -> Finding:
        catalog = self._rooms.catalog
        record = catalog.model(task.model_id)
        assert record.artifact is not None, "plan_analysis takes models with a file only"
        space = catalog.label_space(record.label_space_id) if record.label_space_id else None
        path: Path = self._rooms.artifacts.path(record.artifact)
        subject = Subject(record, path, space)
        if task.aspect == "latency":
            return aspects.latency_task(subject, task.parameters, sandbox)
        if task.aspect == "resources":
            return aspects.resources_task(subject, task.parameters, sandbox, self._operator_rows())
        if task.aspect == "segments":
            found = self._find_segments(subject, task, sandbox)
            return Finding(segments=found, remark=found.remark)
        if task.aspect == "bounds":
            from sommelier.analysis.bound_jobs import bounds_task

            return bounds_task(subject, self._truth(subject, task), task.parameters, sandbox)
        if task.aspect == "stream":
            return self._stream(subject, task, sandbox)
        if task.aspect == "links":
            from sommelier.analysis.link_jobs import links_task

            linked = links_task(task, self._plan, self._rooms, self._answers, sandbox)
            return Finding(links=linked, remark=linked.remark)
        return aspects.sketch_task(subject, self._truth(subject, task), sandbox)

    def _stream(self, candidate: Subject, task: AnalysisTask, sandbox: Sandbox) -> Finding:
        from sommelier.analysis.early_stopping import stream_task

        catalog = self._rooms.catalog
        record = catalog.model(str(task.parameters["reference_id"]))
        assert record.artifact is not None, "plan_streams takes models with a file only"
        space = catalog.label_space(record.label_space_id) if record.label_space_id else None
        reference = Subject(record, self._rooms.artifacts.path(record.artifact), space)
        probes = self._plan.probes[str(task.parameters["probe_set_id"])]
        maps = catalog.label_maps()
        return stream_task((reference, candidate), probes, task.parameters, maps, sandbox)

    def _find_segments(self, host: Subject, task: AnalysisTask, sandbox: Sandbox) -> SegmentFinding:
        from sommelier.analysis.segment_jobs import segments_task
        from sommelier.analysis.segment_study import PairRequest

        donor = self._rooms.catalog.model(str(task.parameters["donor_id"]))
        assert donor.artifact is not None, "plan_segments takes models with a file only"
        truth, record = self._truth(host, task), host.record
        run = RunRequest(
            host.path, record.output_kind, record.preprocessing, truth.probes,
            threads=sandbox.threads,
        )  # fmt: skip
        request = PairRequest(
            record, run, donor, self._rooms.artifacts.path(donor.artifact),
            threshold=self._plan.options.threshold, seed=self._plan.options.seed,
            device=self._plan.options.device,
        )  # fmt: skip
        return segments_task(request, host, truth, sandbox)

    def _truth(self, subject: Subject, task: AnalysisTask) -> Truth:
        probes = self._plan.probes[str(task.parameters["probe_set_id"])]
        catalog, space_id = self._rooms.catalog, probes.record.label_space_id
        if space_id is None:
            return Truth(probes, None)
        own = subject.record.label_space_id
        explicit = catalog.label_map(own, space_id) if own else None
        return Truth(probes, catalog.label_space(space_id), explicit)

    def _keep_or_fail(self, task: AnalysisTask, finding: Finding) -> None:
        """Keeps the finding; one that does not fit the catalog fails its own task only."""
        try:
            self._keep(task, finding)
        except (StorageError, CancelledError):
            raise
        except SommelierError as error:
            self._settle(task, "failed", error.message)

    def _keep(self, task: AnalysisTask, finding: Finding) -> None:
        """Findings and the task's state, in one transaction."""
        rooms = self._rooms
        with rooms.catalog.transaction():
            rooms.catalog.add_measurements(finding.measurements)
            if finding.sketch is not None:
                rooms.catalog.add_probe_set(self._plan.probes[finding.sketch.probe_set_id].record)
                rooms.sketches.add(finding.sketch)
                if finding.outputs is not None:
                    # under its version: with other preprocessing it answers otherwise
                    version = version_of(rooms.catalog.model(task.model_id))
                    rooms.sketches.add_outputs(
                        version, finding.sketch.probe_set_id, dict(finding.outputs)
                    )
            if finding.edge is not None:
                rooms.catalog.add_probe_set(
                    self._plan.probes[str(task.parameters["probe_set_id"])].record
                )
                rooms.catalog.add_edges([finding.edge])
            if finding.segments is not None:
                self._keep_segments(finding.segments)
            if finding.links is not None:
                self._keep_links(finding.links, task)
            rooms.queue.finish(task, "done", finding.remark)
        if finding.times is not None:
            with self._turn:
                self._times.append(finding.times)
        self._count(task, "done", finding.remark)

    def _keep_segments(self, found: SegmentFinding) -> None:
        """The pair's segments, and its hybrids as models that nobody created yet."""
        catalog = self._rooms.catalog
        for hybrid in found.hybrids:
            catalog.add_model(hybrid.record)
            catalog.add_measurements(hybrid.measurements)
            if hybrid.profile is not None:
                catalog.add_profile(hybrid.profile)
            catalog.add_probe_set(self._plan.probes[hybrid.sketch.probe_set_id].record)
            self._rooms.sketches.add(hybrid.sketch)
            catalog.add_lineage(hybrid.lineage)
        if found.sketch is not None:  # hybrids are compared with the host on these probes
            catalog.add_probe_set(self._plan.probes[found.sketch.probe_set_id].record)
            self._rooms.sketches.add(found.sketch)
            catalog.add_measurements(found.measurements)
        catalog.replace_segments(found.host_id, found.donor_id, found.matches)
        catalog.add_lineage(found.lineage)

    def _keep_links(self, found: LinkFinding, task: AnalysisTask) -> None:
        from sommelier.analysis.link_jobs import keep_links

        names = ("probe_set_id", "target_probe_set_id")
        probes = [self._plan.probes[str(task.parameters[name])].record for name in names]
        keep_links(self._rooms, found, probes)

    def _settle(self, task: AnalysisTask, state: str, reason: str) -> None:
        self._rooms.queue.finish(task, state, reason)
        self._count(task, state, reason)

    def _count(self, task: AnalysisTask, state: str, reason: str | None) -> None:
        name = self._rooms.catalog.model(task.model_id).name
        with self._turn:
            self._finished += 1
            self.summary.outcomes[task.aspect, state] += 1
            if reason is not None:
                self.summary.reasons.append((name, reason))

    # ---- the operator table

    def _operator_rows(self) -> tuple[OperatorRow, ...]:
        """The table in the catalog, with what this job's latency tasks added before."""
        with self._turn:
            if self._table is None:
                self._learn_operators()
                device = self._plan.options.device
                costs = self._rooms.catalog.operator_costs(device)
                self._table = tuple((c.device, c.key, c.milliseconds, c.runs) for c in costs)
            return self._table

    def _learn_operators(self) -> None:
        """Fits the operator table anew once enough models were timed in this job."""
        if len(self._times) < TABLE_MODELS:
            return
        from sommelier.analysis.operators import OperatorTable

        device = self._plan.options.device
        table = OperatorTable.fit(self._times, device=device)
        self._rooms.catalog.add_operator_costs(
            (cost.device, cost.key, cost.milliseconds, cost.runs) for cost in table.rows()
        )
        self._times.clear()


_PHASES = {
    "latency": "timing",
    "resources": "profiling",
    "sketch": "answering",
    "segments": "exchanging",
    "bounds": "bounding",
    "stream": "comparing",
    "links": "linking",
}


def worker_count(options: AnalysisOptions) -> int:
    """Sandboxes that run side by side: what was asked for, else one a core, at most eight."""
    return max(1, options.workers or min(8, os.cpu_count() or 1))
