"""A search from the first mutation to a certified model; killed, it goes on where it was.

Each round of one candidate, or of as many as there are workers, depends on the state before it, the
seed and nothing else, so that a search that was killed and called again ends as one that was not,
if its budget is one of epochs or steps.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sommelier.analysis.computing import Cancelled, check_device, torch_threads
from sommelier.analysis.fusion.blocks import Blocks
from sommelier.analysis.fusion.lessons import Lessons
from sommelier.analysis.fusion.module import FusedModule
from sommelier.analysis.fusion.search.annealing import Annealing
from sommelier.analysis.fusion.search.attempts import Attempt, Child, Proposal, attempt
from sommelier.analysis.fusion.search.costs import CostModel
from sommelier.analysis.fusion.search.finishing import finalists
from sommelier.analysis.fusion.search.gain_first import GainFirst
from sommelier.analysis.fusion.search.options import (
    MethodName,
    SearchOptions,
    SearchResult,
    Stopped,
)
from sommelier.analysis.fusion.search.ranking import shares
from sommelier.analysis.fusion.search.shared_trunk import AllShared
from sommelier.analysis.fusion.search.state import Elite, State, StateFolder
from sommelier.analysis.fusion.search.study import Study, texts
from sommelier.analysis.fusion.search.trainers import Trainers, trainers_of
from sommelier.errors import AnalysisError, CancelledError
from sommelier.fusion_records import FusionStep

if TYPE_CHECKING:
    from sommelier.analysis.operators import OperatorTable

OnStep = Callable[[FusionStep], None]


class Method(Protocol):
    """A way of searching."""

    def exhausted(self, state: State) -> bool:
        """Whether nothing is expected of further steps."""

    def proposals(self, state: State, count: int) -> list[Proposal]:
        """What to train next side by side: at most `count`, no two of them equal graphs; none
        when nothing is left. The state, the seed and nothing else decide."""


METHODS: Mapping[MethodName, Callable[[Study], Method]] = {
    "gain first": GainFirst,
    "annealing": Annealing,
    "random": lambda study: Annealing(study, elites=False),
    "all shared": AllShared,
}


@dataclass(frozen=True, slots=True)
class Latencies:
    """What is known of latency before the search; without any, FLOPs are what is made small.

    table : operator times of the device. originals_ms : measured, by task.
    """

    table: OperatorTable | None = None
    originals_ms: Mapping[str, float] | None = None


def search(
    models: Mapping[str, Blocks],
    lessons: Lessons,
    options: SearchOptions,
    *,
    latencies: Latencies = Latencies(),
    on_step: OnStep = lambda _: None,
    cancelled: Cancelled = bool,
    folder: Path | None = None,
) -> SearchResult:
    """The fastest fusion of the models found within the budget, certified and as ONNX.

    models : task -> model in blocks. lessons : labels are not needed. folder : keeps the search
    after every step; the same call goes on with it. When `cancelled` or interrupted, the result is
    the best so far. Raises AnalysisError for lessons of other tasks, and a folder of another
    search.
    """
    check_device(options.training.device)
    with torch_threads(options.training.threads):
        module = FusedModule.original(models)
        if lessons.tasks != len(module.outputs):
            raise AnalysisError(
                f"the models give {len(module.outputs)} outputs and the lessons answer "
                f"{lessons.tasks}: one of each a task"
            )
        costs = CostModel.of(models, table=latencies.table, latencies_ms=latencies.originals_ms)
        study = Study(models, lessons, options, costs, module)
        kept = None if folder is None else StateFolder(folder, _key(study))
        state, stopped = _steps(study, kept, on_step, cancelled)
        ended = (lambda: True) if stopped == "cancelled" else cancelled
        return _result(study, state, stopped, ended, kept)


def _steps(
    study: Study, folder: StateFolder | None, on_step: OnStep, cancelled: Cancelled
) -> tuple[State, Stopped]:
    """Round after round until the budget is used, nothing is expected, or it is cancelled."""
    state = (folder.load(study.module.graph) if folder else None) or State()
    method = METHODS[study.options.method](study)
    clock = _Clock(study, state.elapsed_ms, time.perf_counter())
    with trainers_of(study, folder.folder if folder else None) as trainers:
        try:
            while True:
                state = replace(state, elapsed_ms=clock.elapsed_ms)
                if study.progress(state) >= study.searching:
                    return state, "budget"
                if method.exhausted(state):
                    return state, "exhausted"
                if cancelled():
                    return state, "cancelled"
                proposals = method.proposals(state, study.room(state))
                done = _trained(study, state, proposals, trainers, (cancelled, clock.over))
                before, state = state.step, replace(state, elapsed_ms=clock.elapsed_ms)
                for child, made in done:
                    state = _after(study, state, child, made)
                if not proposals:
                    state = _without(state, "nothing faster is left to try")
                if folder is not None:
                    folder.save(state)  # of a whole round: half of one would go on another way
                for step in state.trace[before:]:
                    on_step(step)
        except CancelledError:
            state = replace(state, elapsed_ms=clock.elapsed_ms)  # what was given up took time too
            return state, "budget" if clock.over() and not cancelled() else "cancelled"
        except KeyboardInterrupt:
            return replace(state, elapsed_ms=clock.elapsed_ms), "cancelled"


@dataclass(frozen=True, slots=True)
class _Clock:
    """before : what an earlier run of the search took. start : when this one began."""

    study: Study
    before: float
    start: float

    @property
    def elapsed_ms(self) -> float:
        return self.before + (time.perf_counter() - self.start) * 1e3

    def over(self) -> bool:
        """A candidate that is trained when the time is up is given up."""
        seconds = self.study.options.budget_s
        return seconds is not None and self.elapsed_ms / 1e3 >= seconds * self.study.searching


def _trained(
    study: Study, state: State, proposals: Sequence[Proposal], trainers: Trainers | None,
    stops: tuple[Cancelled, Cancelled],
) -> list[tuple[Child, Attempt]]:  # fmt: skip
    """What was trained of each proposal. stops : cancelled, and out of time.

    One after the other in this process without trainers.
    """
    allowance = study.allowance(state, max(1, len(proposals)))
    if trainers is None:
        made: list[Attempt | None] = [
            attempt(study, proposal, allowance, lambda: any(stop() for stop in stops))
            for proposal in proposals
        ]
    else:
        made = trainers.attempts(proposals, allowance, *stops)
    pairs = zip(proposals, made, strict=True)
    return [(asked.children[a.place], a) for asked, a in pairs if a is not None]


def _after(study: Study, state: State, child: Child, made: Attempt) -> State:
    """The state once a candidate was trained."""
    share, graph = study.costs.share(child.graph), child.graph
    following = replace(state, idle=state.idle + 1)
    if made.weights is not None:
        found = Elite(state.step, graph, made.weights, share, made.drop)
        if made.met:
            blamed = {e: n for e, n in state.blamed.items() if e not in child.edges}
            following = replace(state, idle=0, blamed=blamed).with_elite(found)
        else:
            following = following.with_near(found)
    if not made.met and share < state.share:
        following = replace(following, floor=max(state.floor, share))
    if made.failed:
        failed = {**state.failed, f"step {state.step}": graph.capacity}
        blamed = {**state.blamed, **{e: state.blamed.get(e, 0) + 1 for e in child.edges}}
        following = replace(following, failed=failed, blamed=blamed)
    step = _record(study, state, child, made)
    return replace(
        following, step=state.step + 1, epochs=state.epochs + made.epochs, last_drop=made.drop,
        tried=state.tried | {child.key}, trace=(*state.trace, step),
    )  # fmt: skip


def _without(state: State, reason: str) -> State:
    """The state once there was nothing to train."""
    step = FusionStep(state.step, "filtered", elapsed_ms=state.elapsed_ms, reason=reason)
    return replace(state, step=state.step + 1, idle=state.idle + 1, trace=(*state.trace, step))


def _record(study: Study, state: State, child: Child, made: Attempt) -> FusionStep:
    cost = study.costs.cost(child.graph)
    return FusionStep(
        state.step, "stopped early" if made.hopeless else "trained",
        pair=texts(study.module.graph, child.pairs) or ", ".join(shares(child.graph)) or None,
        flops=cost.flops, latency_ms=cost.latency_ms, drop_predicted=made.predicted,
        drop_measured=made.drop, epochs=made.epochs, elapsed_ms=state.elapsed_ms,
        accepted=made.met and child.share < state.share,
        reason=None if child.base is None else f"from step {child.base.step}",
    )  # fmt: skip


def _result(
    study: Study, state: State, stopped: Stopped, cancelled: Cancelled, folder: StateFolder | None
) -> SearchResult:
    """What it ends with. folder : is told of every certificate, for a later run to count."""

    def counted(certified: int) -> None:
        if folder is not None:
            folder.save(replace(state, certified=certified))

    found = finalists(study, state, cancelled=cancelled, counted=counted)
    return SearchResult(
        method=study.options.method,
        best=next((f for f in found if f.refusal is None), None),
        finalists=found,
        elites=tuple((elite.step, elite.graph) for elite in state.kept),
        trace=state.trace,
        epochs=state.epochs,
        evaluations=sum(step.drop_measured is not None for step in state.trace),
        elapsed_ms=state.elapsed_ms,
        stopped=stopped,
    )


def _key(study: Study) -> str:
    """A hash of everything that decides the steps: models, samples, costs and options.

    The budget does not count: given more of it, the same search goes on.
    """
    digest = hashlib.blake2b(digest_size=16)
    for task, blocks in study.models.items():
        digest.update(task.encode() + blocks.model.SerializeToString(deterministic=True))
    lessons = study.lessons
    splits = (lessons.splits.fine_tune, lessons.splits.select, lessons.splits.certify)
    for array in (*lessons.inputs, *lessons.answers, *lessons.truths, *splits):
        digest.update(b"-" if array is None else array.tobytes())
    decisive = replace(
        study.options, runs=1, confidence=0.5, upper_end=False, budget_s=1, epochs=None, steps=None
    )
    digest.update(repr((lessons.formats, decisive, sorted(study.costs.block_ms.items()))).encode())
    return digest.hexdigest()
