"""A search from the first mutation to a certified model; killed, it goes on where it was.

Each step depends on the state before it, the seed and nothing else, so that a search that was
killed and called again ends as one that was not, if its budget is one of epochs or steps.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from sommelier.analysis.computing import Cancelled, check_device, torch_threads
from sommelier.analysis.fusion.blocks import Blocks
from sommelier.analysis.fusion.lessons import Lessons
from sommelier.analysis.fusion.module import FusedModule
from sommelier.analysis.fusion.search.annealing import Annealing
from sommelier.analysis.fusion.search.costs import CostModel
from sommelier.analysis.fusion.search.finishing import finalists
from sommelier.analysis.fusion.search.gain_first import GainFirst
from sommelier.analysis.fusion.search.options import (
    MethodName,
    SearchOptions,
    SearchResult,
    Stopped,
)
from sommelier.analysis.fusion.search.shared_trunk import AllShared
from sommelier.analysis.fusion.search.state import Elite, State, StateFolder
from sommelier.analysis.fusion.search.study import Outcome, Study, arrays, texts
from sommelier.errors import AnalysisError, CancelledError
from sommelier.fusion_records import FusionStep

if TYPE_CHECKING:
    from sommelier.analysis.operators import OperatorTable

OnStep = Callable[[FusionStep], None]


class Method(Protocol):
    """A way of searching."""

    def exhausted(self, state: State) -> bool:
        """Whether nothing is expected of further steps."""

    def step(self, state: State, cancelled: Cancelled) -> Outcome:
        """Tries a candidate. The state, the seed and nothing else decide what happens."""


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
        return _result(study, state, stopped, ended)


def _steps(
    study: Study, folder: StateFolder | None, on_step: OnStep, cancelled: Cancelled
) -> tuple[State, Stopped]:
    """Step after step until the budget is used, nothing is expected, or it is cancelled."""
    state = (folder.load(study.module.graph) if folder else None) or State()
    method = METHODS[study.options.method](study)
    before, start = state.elapsed_ms, time.perf_counter()
    seconds = study.options.budget_s

    def over() -> bool:
        """A candidate that is trained when the time is up is given up."""
        passed = before / 1e3 + time.perf_counter() - start
        return seconds is not None and passed >= seconds * study.searching

    try:
        while True:
            state = replace(state, elapsed_ms=before + (time.perf_counter() - start) * 1e3)
            if study.progress(state) >= study.searching:
                return state, "budget"
            if method.exhausted(state):
                return state, "exhausted"
            if cancelled():
                return state, "cancelled"
            outcome = method.step(state, lambda: cancelled() or over())
            elapsed = before + (time.perf_counter() - start) * 1e3
            state = _after(study, replace(state, elapsed_ms=elapsed), outcome)
            if folder is not None:
                folder.save(state)
            on_step(state.trace[-1])
    except CancelledError:
        return state, "budget" if over() and not cancelled() else "cancelled"
    except KeyboardInterrupt:
        return state, "cancelled"


def _after(study: Study, state: State, outcome: Outcome) -> State:
    """The state once the step is done."""
    graph, module, drop = outcome.graph, outcome.module, outcome.drop
    accepted = None
    following = replace(state, idle=state.idle + 1)
    if graph is not None and module is not None and drop is not None:
        share = study.costs.share(graph)
        passed = drop <= study.tolerance
        accepted = passed and share < state.share
        if passed:
            elite = Elite(state.step, graph, arrays(module), share, drop)
            blamed = {e: n for e, n in state.blamed.items() if e not in outcome.edges}
            following = replace(state, idle=0, blamed=blamed).with_elite(elite)
        else:
            floor = max(state.floor, share) if share < state.share else state.floor
            following = replace(following, floor=floor)
        if outcome.failed and not passed:
            failed = {**state.failed, f"step {state.step}": graph.capacity}
            blamed = {**state.blamed, **{e: state.blamed.get(e, 0) + 1 for e in outcome.edges}}
            following = replace(following, failed=failed, blamed=blamed)
        following = replace(following, last_drop=drop)
    tried = state.tried if outcome.key is None else state.tried | {outcome.key}
    step = _record(study, state, outcome, accepted)
    return replace(
        following, step=state.step + 1, epochs=state.epochs + outcome.epochs, tried=tried,
        trace=(*state.trace, step),
    )  # fmt: skip


def _record(study: Study, state: State, outcome: Outcome, accepted: bool | None) -> FusionStep:
    graph = outcome.graph
    cost = None if graph is None else study.costs.cost(graph)
    reason = outcome.reason
    if reason is None and outcome.base is not None:
        reason = f"from step {outcome.base}"
    return FusionStep(
        state.step, outcome.action,
        pair=texts(study.module.graph, outcome.pairs) or None,
        flops=None if cost is None else cost.flops,
        latency_ms=None if cost is None else cost.latency_ms,
        drop_predicted=outcome.predicted, drop_measured=outcome.drop, epochs=outcome.epochs,
        elapsed_ms=state.elapsed_ms, accepted=accepted, reason=reason,
    )  # fmt: skip


def _result(study: Study, state: State, stopped: Stopped, cancelled: Cancelled) -> SearchResult:
    found = finalists(study, state, cancelled=cancelled)
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
