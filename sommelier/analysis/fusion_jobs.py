"""CREATE MODEL ... AS FUSION OF: the search while it runs, and what is kept of it.

A fusion's row is in the catalog before its search begins, its steps as they come, and the model
with everything that is known of it in one transaction at the end. What the search needs to go on
after a kill, or with a larger budget, is in a folder beside the database; it is removed once there
is a model, or nothing to go on with.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sommelier.analysis.fusion.search.state import STATE
from sommelier.analysis.fusion_keeping import keep_model, original_latencies
from sommelier.analysis.fusion_plans import FusionRequest
from sommelier.analysis.fusion_requests import (
    CANCEL,
    MODEL,
    SEARCH,
    STEPS,
    FusionFinding,
    SearchRequest,
)
from sommelier.analysis.fusion_work import search_fusion
from sommelier.analysis.sandbox import Sandbox
from sommelier.errors import (
    AnalysisError,
    CancelledError,
    SommelierError,
    StorageError,
    UnusableStateError,
    WorkerCrashedError,
    WorkerTimeoutError,
)
from sommelier.fusion_records import FusedModel, FusionStep, FusionTask
from sommelier.units import Dimension, format_value

if TYPE_CHECKING:
    from sommelier.analysis.workers import Progress, Rooms

MOST_STEPS = 2**31 - 1  # of a search, or epochs of a step
UNLIMITED_S = 7 * 86_400.0  # of a search whose budget is no time
FINISHING_S = 1800.0  # of what follows on a search: training on, certifying, measuring
FOLDER = "fusions"
POLL_S = 0.2
UNFINISHED = ("searching", "interrupted", "cancelled", "failed", "none found")  # have a folder


@dataclass(frozen=True, slots=True)
class Stopping:
    """Why to stop. cancelled : the best so far is finished and kept. closing : at once."""

    cancelled: Callable[[], bool] = bool
    closing: Callable[[], bool] = bool


def run_fusion(
    rooms: Rooms,
    request: FusionRequest,
    *,
    job_id: int | None = None,
    progress: Progress,
    stopping: Stopping = Stopping(),
) -> tuple[FusedModel, tuple[str, ...]]:
    """The fusion that became a model, and what the user should know besides.

    When cancelled, the best so far. Raises AnalysisError when nothing within the threshold and
    limits was found, with what came closest; CancelledError when it was cancelled before anything
    was; StorageError when something could not be kept. The fusion's row says the same.
    """
    run = _Run(
        rooms, replace(request, fusion=replace(request.fusion, job_id=job_id)), progress, stopping
    )
    return run.whole()


@dataclass(slots=True)
class _Run:
    """One search while it runs."""

    rooms: Rooms
    request: FusionRequest
    progress: Progress
    stopping: Stopping
    steps: list[FusionStep] = field(default_factory=list)
    read: int = 0  # bytes of the file of steps
    resumed: bool = False

    @property
    def folder(self) -> Path:
        digest = self.request.fusion.id.rpartition(":")[2]
        return self.rooms.catalog.directory / FOLDER / digest

    @property
    def _begun(self) -> bool:
        """Whether there are steps of a search that the same statement goes on with."""
        return (self.folder / SEARCH / STATE).exists()

    def whole(self) -> tuple[FusedModel, tuple[str, ...]]:
        self._begin()
        try:
            with self._sandbox() as sandbox:
                finding = self._found(sandbox)
                kept = self._kept(finding, sandbox)
        except (WorkerCrashedError, WorkerTimeoutError) as error:  # more time or memory may help
            self._settle("interrupted", error.message)
            error.hint = error.hint or (
                "the same statement goes on from there; USING time_limit = 1h, memory_limit = 16 GB"
                " allow more"
            )
            raise
        except CancelledError as error:
            closing = self.stopping.closing()
            self._settle("interrupted" if closing else "cancelled", error.message)
            raise
        except StorageError as error:
            self._settle("failed", error.message)
            raise
        except SommelierError as error:
            self._settle("failed", error.message)
            if isinstance(error, UnusableStateError) or not self._begun:
                shutil.rmtree(self.folder, ignore_errors=True)
            raise
        except BaseException:
            self._settle("interrupted", "it was interrupted; the same statement goes on")
            raise
        if kept.state == "none found":
            if not self._begun:
                shutil.rmtree(self.folder, ignore_errors=True)
            raise self._nothing(finding)
        shutil.rmtree(self.folder, ignore_errors=True)
        notes = [*self.request.data.notes, *finding.notes]
        if self.resumed:
            notes.append("went on with the search that was begun before")
        return kept, tuple(notes)

    def _begin(self) -> None:
        """Its folder and its row; in one step, for another search sweeps folders without a row."""
        catalog, fusion = self.rooms.catalog, self.request.fusion
        with catalog.transaction():
            self._open_folder()
            if not self.resumed and catalog.fusions(id_=fusion.id):
                catalog.drop_fusion(fusion.id)  # its steps are those of another time
            catalog.add_fusion(fusion)

    def _settle(self, state: str, reason: str) -> None:
        """Keeps how it ended; where even that fails, what went wrong first is what is told."""
        with contextlib.suppress(SommelierError):
            self.rooms.catalog.add_fusion(replace(self.request.fusion, state=state, reason=reason))

    def _open_folder(self) -> None:
        self._sweep()
        try:
            self.resumed = self.folder.exists()
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / CANCEL).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(
                f"a search needs the folder {self.folder}: {error.strerror or error}",
                hint="nothing was begun; free some space, or allow writing there",
            ) from error

    def _sweep(self) -> None:
        """Removes folders of searches that nothing goes on with."""
        unfinished = {
            fusion.id.rpartition(":")[2]
            for fusion in self.rooms.catalog.fusions()
            if fusion.state in UNFINISHED and fusion.stale is None  # else no statement finds it
        }
        for left in self.folder.parent.glob("*"):
            if left.name not in unfinished and left != self.folder:
                shutil.rmtree(left, ignore_errors=True)

    # ---- the child

    def _found(self, sandbox: Sandbox) -> FusionFinding:
        """What the search came to. Raises CancelledError when it was stopped with nothing."""
        asked = self._asked(sandbox)
        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(sandbox.call, search_fusion, asked)
            try:
                self._watch(future)
            except BaseException:
                sandbox.close()
                raise
        finding = future.result()
        if finding.path is None and finding.stopped == "cancelled":
            raise CancelledError(
                f"the search was cancelled: {finding.closest}",
                hint="no model was made; the same statement goes on from there",
            )
        return finding

    def _asked(self, sandbox: Sandbox) -> SearchRequest:
        options, data = self.request.options, self.request.data
        asked = SearchRequest(
            data, self.request.fusion.name, self.folder, options.method, options.search,
            options.limits,
        )  # fmt: skip
        if options.method == "equal layers":
            return asked
        self.progress("measuring", 0, len(data.records), None)
        return replace(
            asked,
            latencies_ms=original_latencies(self.rooms, data, sandbox),
            operator_costs=tuple(self.rooms.catalog.operator_costs("cpu")),
        )

    def _sandbox(self) -> Sandbox:
        options = self.request.options
        limit = options.time_limit_s
        if limit is None:
            budget = options.search.budget_s
            limit = UNLIMITED_S if budget is None else budget + FINISHING_S
        return Sandbox(
            time_limit_s=limit, memory_limit_bytes=int(options.memory_limit_bytes),
            threads=options.threads,
        )  # fmt: skip

    def _watch(self, future: Future[FusionFinding]) -> None:
        """Until the child is done: its steps are kept, and the user's wish to end is handed on."""
        started, told = time.monotonic(), False
        while not future.done():
            pressed = _pressed(future)
            if pressed and told:
                raise KeyboardInterrupt
            if self.stopping.closing():
                raise CancelledError(
                    "the search was interrupted", hint="the same statement goes on from there"
                )
            if (pressed or self.stopping.cancelled()) and not told:
                (self.folder / CANCEL).touch()
                told = True
            self._keep_steps()
            self._tell(time.monotonic() - started, finishing=told)
        self._keep_steps()

    def _keep_steps(self) -> None:
        """Whole lines that were written since; one that is no step is left out."""
        try:
            with (self.folder / STEPS).open("rb") as stream:
                stream.seek(self.read)
                written = stream.read()
        except FileNotFoundError:
            return
        whole = written[: written.rfind(b"\n") + 1]
        new = [step for line in whole.splitlines() if (step := step_of(line)) is not None]
        if not new:
            self.read += len(whole)
            return
        try:
            self.rooms.catalog.add_fusion_steps(self.request.fusion.id, new)
        except CancelledError:  # the statement's cancellation met this write; the next one has them
            return
        self.read += len(whole)
        self.steps += new

    def _tell(self, elapsed_s: float, *, finishing: bool) -> None:
        search = self.request.options.search
        done, total = int(elapsed_s), None if search.budget_s is None else int(search.budget_s)
        if search.epochs is not None:
            done, total = sum(step.epochs for step in self.steps), search.epochs
        elif search.steps is not None:
            done, total = len(self.steps), search.steps
        if total is not None:
            done = min(done, total)
        phase = "finishing" if finishing or done == total else "searching"
        self.progress(phase, done, total, best_of(self.steps))

    # ---- keeping

    def _kept(self, finding: FusionFinding, sandbox: Sandbox) -> FusedModel:
        """The fusion as it is now; with a model, everything that is known of it, in one step."""
        catalog = self.rooms.catalog
        fusion = _with_finding(self.request.fusion, finding)
        if finding.path is None:
            with catalog.transaction():
                catalog.add_fusion(fusion)
                catalog.add_fusion_steps(fusion.id, finding.trace)
            return fusion
        self.progress("keeping", 0, 1, fusion.name)
        finding = replace(finding, path=self.folder / MODEL)  # the child may name any file
        return keep_model(self.rooms, self.request, fusion, finding, sandbox)

    def _nothing(self, finding: FusionFinding) -> AnalysisError:
        data, options = self.request.data, self.request.options
        asked = f"within {options.tolerance:.2%} of accuracy"
        if options.limits:
            asked += " and the limits"
        if options.method == "equal layers":
            asked = "that shares equal layers"
        return AnalysisError(
            f"no fusion of {', '.join(data.tasks)} {asked} was found: {finding.closest}",
            hint=finding.advice,
        )


def _pressed(future: Future[FusionFinding]) -> bool:
    """Waits a moment; whether Ctrl-C was pressed in it, which nobody else had a handler for."""
    try:
        wait([future], timeout=POLL_S)
    except KeyboardInterrupt:
        return True
    return False


def step_of(line: bytes) -> FusionStep | None:
    """The step that a line of the child's file holds; None for anything else: the child ran models
    of others, and what it wrote may be damaged."""
    try:
        step = FusionStep(**json.loads(line))
    except (ValueError, TypeError, RecursionError):
        return None
    figures = (
        step.flops, step.latency_ms, step.drop_predicted, step.drop_measured, step.elapsed_ms,
    )  # fmt: skip
    texts = (step.pair, step.reason)
    fits = (
        all(_is_count(count) and count <= MOST_STEPS for count in (step.step, step.epochs))
        and isinstance(step.action, str)
        and all(text is None or isinstance(text, str) for text in texts)
        and all(figure is None or type(figure) is float or _is_count(figure) for figure in figures)
        and step.accepted in (None, True, False)
    )
    return step if fits else None


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def best_of(steps: Sequence[FusionStep]) -> str | None:
    """The best so far in a few words; None before anything was accepted."""
    accepted = [step for step in steps if step.accepted]
    if not accepted:
        return f"{len(steps)} tried, none good enough" if steps else None
    best = accepted[-1]
    flops = "" if best.flops is None else f"{format_value(best.flops, Dimension.FLOPS)}, "
    return f"best {flops}drop {best.drop_measured or 0.0:.1%}"


def _with_finding(fusion: FusedModel, finding: FusionFinding) -> FusedModel:
    """The row as the search ended, without its model."""
    training, selection, held_out = finding.samples
    cost, base = finding.cost, finding.base
    found = finding.path is not None
    told: Mapping[str, Any] = {} if cost is None else {
        "params": cost.params, "flops": cost.flops, "memory": cost.memory,
        "latency_ms": cost.latency_ms,
    }  # fmt: skip
    reason = finding.told if found else f"{finding.closest}; {finding.advice}"
    if found and finding.stopped == "cancelled":
        reason = "cancelled: the best so far was finished and kept"
    return replace(
        fusion, state="fused" if found else "none found", tasks=_named(fusion, finding),
        method=finding.method, reason=reason, graph=finding.graph, training=training,
        selection=selection, held_out=held_out, elapsed_ms=finding.elapsed_ms,
        evaluations=finding.evaluations, base_params=base.params, base_flops=base.flops,
        base_memory=base.memory, base_latency_ms=base.latency_ms, created_at=datetime.now(UTC),
        **told,
    )  # fmt: skip


def _named(fusion: FusedModel, finding: FusionFinding) -> tuple[FusionTask, ...]:
    """What each task lost, under the names and versions that the search began with."""
    return tuple(
        replace(lost, name=task.name, version=task.version)
        for task, lost in zip(fusion.tasks, finding.tasks, strict=True)
    )
