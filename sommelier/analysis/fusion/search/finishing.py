"""The end of a search: elites become ONNX models that are measured, certified and chosen from.

The fastest comes first, and slower ones stand by, for what was chosen by a score may lose more
elsewhere; the first that is within the limits and the tolerance ends it. Elites were trained until
they met the search's tolerance, so a finalist is trained on, within the budget. All their
certificates hold together, and with those of finalists that an earlier run of the search had.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.bounds import Verdict
from sommelier.analysis.computing import Cancelled
from sommelier.analysis.execution import open_session
from sommelier.analysis.fusion.certifying import Certificate, certify, samples_lacking
from sommelier.analysis.fusion.distillation import RUN_BATCH, Epoch, fine_tune
from sommelier.analysis.fusion.generator import to_onnx
from sommelier.analysis.fusion.lessons import Lessons
from sommelier.analysis.fusion.module import FusedModule
from sommelier.analysis.fusion.search.choosing import chosen
from sommelier.analysis.fusion.search.options import Finalist
from sommelier.analysis.fusion.search.state import Elite, State
from sommelier.analysis.fusion.search.study import Study
from sommelier.analysis.fusion.search.timing import PairedLatency, paired_latency
from sommelier.errors import AnalysisError, CancelledError

if TYPE_CHECKING:
    from onnx import ModelProto

PROBES = 8  # samples on which the written model is compared with the module


def finalists(
    study: Study,
    state: State,
    *,
    cancelled: Cancelled = bool,
    counted: Callable[[int], None] = lambda _: None,
) -> tuple[Finalist, ...]:
    """Finalists, the fastest first, up to the first without a refusal, which is the answer.

    Once `cancelled` or interrupted, they are not trained on. counted : called before a finalist is
    held against the threshold with how many then were, `state.certified` of them earlier.
    """
    elites, ending = chosen(study, state), _Ending(cancelled)
    found: list[Finalist] = []
    spent, start = state, time.perf_counter()
    for place, elite in enumerate(elites):
        passed = state.elapsed_ms + (time.perf_counter() - start) * 1e3
        share = _Share(study, replace(spent, elapsed_ms=passed), place == len(elites) - 1)
        finalist = _written(study, elite, share, ending)
        if finalist.model is not None:
            spent = replace(spent, certified=spent.certified + 1)
            counted(spent.certified)
            finalist = _certified(study, finalist, state.certified + len(elites))
        found.append(finalist)
        spent = replace(spent, epochs=spent.epochs + finalist.epochs)
        if finalist.refusal is None:
            break
    return tuple(found)


@dataclass
class _Ending:
    """Whether finalists are trained on no more."""

    cancelled: Cancelled
    interrupted: bool = False

    def __call__(self) -> bool:
        return self.interrupted or self.cancelled()


@dataclass(frozen=True)
class _Share:
    """What one finalist may use of the budget that is left: half of it, the last one all."""

    study: Study
    spent: State
    last: bool

    @property
    def epochs(self) -> int:
        options = self.study.options
        most = options.training.epochs
        if options.epochs is None:
            return most
        left = max(0, options.epochs - self.spent.epochs)
        return min(most, left if self.last else -(-left // 2))

    @property
    def seconds(self) -> float:
        budget = self.study.options.budget_s
        if budget is None:
            return math.inf
        left = max(0.0, budget - self.spent.elapsed_ms / 1e3)
        return left if self.last else left / 2


def outputs(model: ModelProto, inputs: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
    """What ONNX Runtime answers, each (n, ...), to inputs given in the order of the model's."""
    session = open_session(model.SerializeToString(), 1)
    names = [value.name for value in session.get_inputs()]
    parts = []
    for start in range(0, len(inputs[0]), RUN_BATCH):
        batch = (given[start : start + RUN_BATCH] for given in inputs)
        parts.append(session.run(None, dict(zip(names, batch, strict=True))))
    return tuple(np.concatenate(one) for one in zip(*parts, strict=True))


def _written(study: Study, elite: Elite, share: _Share, ending: _Ending) -> Finalist:
    """Trained on and written; refused where it cannot be written as the module answers."""
    module = study.restored(elite)
    drop, epochs = elite.drop, 0
    if not ending() and share.epochs and share.seconds:
        drop, epochs = _polished(study, module, elite, share, ending)
    rows = study.lessons.splits.select[:PROBES]
    probes = study.lessons.inputs_of(rows)
    flops, memory = study.costs.relative(elite.graph)
    finalist = Finalist(
        elite.step, elite.graph, module, None, drop, epochs, flops, memory, None, None, None, None
    )
    try:
        model = to_onnx(module, probes)
    except AnalysisError as error:
        return replace(finalist, refusal=f"it cannot be written: {error.message}")
    latency = _latency(study, model, [given[:1] for given in probes])
    limit = study.options.limits.latency
    refusal = None
    if limit is not None and latency.share > limit:
        refusal = f"takes {latency.share:.0%} of the originals' time, and {limit:.0%} are allowed"
    return replace(finalist, model=model, latency=latency, refusal=refusal)


def _polished(
    study: Study, module: FusedModule, elite: Elite, share: _Share, ending: _Ending
) -> tuple[float, int]:
    """(drop, whole epochs) after its share of the budget, with the best state kept."""
    step, measured = elite.step, list[Epoch]()
    training, end = study.options.training, time.perf_counter() + share.seconds
    seed = study.options.seed + step
    asked = replace(training, tolerance=None, epochs=share.epochs, seed=seed)
    try:
        curve = fine_tune(
            module, study.lessons, asked,
            cancelled=lambda: ending() or time.perf_counter() > end, on_epoch=measured.append,
        )  # fmt: skip
    except (CancelledError, KeyboardInterrupt) as error:  # the module has its best state so far
        ending.interrupted |= isinstance(error, KeyboardInterrupt)
        best = min(measured, key=lambda epoch: epoch.rank, default=None)
        return elite.drop if best is None else best.drop, measured[-1].epoch if measured else 0
    return curve.best.drop, curve.trained


def _latency(study: Study, model: ModelProto, sample: Sequence[NDArray[Any]]) -> PairedLatency:
    """Beside the originals, on one sample."""
    given = dict(zip(study.module.inputs, sample, strict=True))
    originals = [
        (blocks.model, {own: given[name] for name, own in names.items()})
        for blocks, names in zip(study.models.values(), study.module.renamed, strict=True)
    ]
    options = study.options
    return paired_latency(
        originals, (model, given), runs=options.runs, threads=options.training.threads
    )


def _certified(study: Study, finalist: Finalist, together: int) -> Finalist:
    """Held against the threshold on samples that nothing was chosen by, as one of so many."""
    options, lessons = study.options, study.lessons
    assert finalist.model is not None, "what could not be written is refused before"
    found = certificate(lessons, finalist.model, options.confidence, together)
    verdict = found.meets(options.tolerance, upper_end=options.upper_end)
    refusal, needed = finalist.refusal, None
    if refusal is None and verdict is Verdict.UNDECIDABLE:
        needed = samples_lacking(
            found, options.tolerance, confidence=options.confidence, candidates=together
        )
        refusal = _unshown(found, options.tolerance, needed)
    elif refusal is None and verdict is not Verdict.PASSES:
        worst = max(found.drops, key=lambda d: d.interval.high if options.upper_end else d.drop)
        loses = worst.interval.high if options.upper_end else worst.drop
        most = "at most " if options.upper_end else ""
        refusal = f"a task loses {most}{loses:.2%}, and {options.tolerance:.2%} are allowed"
    return replace(finalist, certificate=found, verdict=verdict, refusal=refusal, needed=needed)


def _unshown(found: Certificate, tolerance: float, needed: int | None) -> str:
    """Why no answers to so few samples could have shown the tolerance."""
    samples = min(drop.interval.samples for drop in found.drops)
    told = (
        f"{samples} samples measured on cannot show that a task loses at most {tolerance:.2%},"
        " whatever is answered"
    )
    return told if needed is None else f"{told}: it takes {needed}"


def certificate(
    lessons: Lessons, model: ModelProto, confidence: float, candidates: int = 1
) -> Certificate:
    """What the written model loses, by ONNX Runtime on the `certify` samples."""
    answers = outputs(model, lessons.inputs_of(lessons.splits.certify))
    return certify(lessons, answers, confidence=confidence, candidates=candidates)
