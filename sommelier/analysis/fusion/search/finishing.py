"""The end of a search: elites become ONNX models that are measured, certified and chosen from.

The fastest elite comes first; two more that lost less on the samples of the search stand by, for
what was chosen by a score may lose more elsewhere. As many certificates as finalists are made on
the same samples, and all hold together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.bounds import Verdict
from sommelier.analysis.execution import open_session
from sommelier.analysis.fusion.certifying import Certificate, certify
from sommelier.analysis.fusion.distillation import RUN_BATCH
from sommelier.analysis.fusion.generator import to_onnx
from sommelier.analysis.fusion.lessons import Lessons
from sommelier.analysis.fusion.search.options import Finalist
from sommelier.analysis.fusion.search.state import Elite, State
from sommelier.analysis.fusion.search.study import Study
from sommelier.analysis.fusion.search.timing import PairedLatency, paired_latency

if TYPE_CHECKING:
    from onnx import ModelProto

PROBES = 8  # samples on which the written model is compared with the module


def finalists(study: Study, state: State) -> tuple[Finalist, ...]:
    """The finalists, by measured latency; the first without a refusal is the answer."""
    chosen = _chosen(study, state)
    found = [_written(study, elite) for elite in chosen]
    certified = [_certified(study, finalist, len(found)) for finalist in found]
    return tuple(sorted(certified, key=lambda f: f.latency.share))


def outputs(model: ModelProto, inputs: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
    """What ONNX Runtime answers, each (n, ...), to inputs given in the order of the model's."""
    session = open_session(model.SerializeToString(), 1)
    names = [value.name for value in session.get_inputs()]
    parts = []
    for start in range(0, len(inputs[0]), RUN_BATCH):
        batch = (given[start : start + RUN_BATCH] for given in inputs)
        parts.append(session.run(None, dict(zip(names, batch, strict=True))))
    return tuple(np.concatenate(one) for one in zip(*parts, strict=True))


def _chosen(study: Study, state: State) -> list[Elite]:
    """The fastest of all, of those with half the drop allowed, and of those without any.

    The limit on FLOPs is exact and known before; so is the one on memory, an estimate anyway.
    """
    limits = study.options.limits
    usable = []
    for elite in state.kept:
        flops, memory = _shares(study, elite)
        exact = replace(limits, latency=None)
        if exact.allow(latency=None, flops=flops, memory=memory):
            usable.append(elite)
    found: dict[int, Elite] = {}
    for highest in (study.tolerance, study.tolerance / 2, 0.0):
        within = [elite for elite in usable if elite.drop <= highest]
        if within:
            fastest = min(within, key=lambda e: (e.share, e.step))
            found.setdefault(fastest.step, fastest)
    return list(found.values())


def _shares(study: Study, elite: Elite) -> tuple[float, float | None]:
    """Of FLOPs and of memory, relative to the originals."""
    cost, whole = study.costs.cost(elite.graph), study.costs.cost(study.costs.original)
    memory = None
    if cost.memory_bytes is not None and whole.memory_bytes:
        memory = cost.memory_bytes / whole.memory_bytes
    return cost.flops / max(whole.flops, 1.0), memory


def _written(study: Study, elite: Elite) -> Finalist:
    module = study.restored(elite)
    rows = study.lessons.splits.select[:PROBES]
    probes = study.lessons.inputs_of(rows)
    model = to_onnx(module, probes)
    flops, memory = _shares(study, elite)
    latency = _latency(study, model, [given[:1] for given in probes])
    limit = study.options.limits.latency
    refusal = None
    if limit is not None and latency.share > limit:
        refusal = f"takes {latency.share:.0%} of the originals' time, and {limit:.0%} are allowed"
    return Finalist(
        elite.step, elite.graph, module, model, elite.drop, flops, memory, latency, None, None,
        refusal,
    )  # fmt: skip


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
    """Held against the threshold on samples that nothing was chosen by."""
    options, lessons = study.options, study.lessons
    found = certificate(lessons, finalist.model, options.confidence, together)
    verdict = found.meets(options.tolerance, upper_end=options.upper_end)
    refusal = finalist.refusal
    if refusal is None and verdict is not Verdict.PASSES:
        worst = max(found.drops, key=lambda d: d.interval.high if options.upper_end else d.drop)
        loses = worst.interval.high if options.upper_end else worst.drop
        most = "at most " if options.upper_end else ""
        refusal = f"a task loses {most}{loses:.2%}, and {options.tolerance:.2%} are allowed"
    return replace(finalist, certificate=found, verdict=verdict, refusal=refusal)


def certificate(
    lessons: Lessons, model: ModelProto, confidence: float, candidates: int = 1
) -> Certificate:
    """What the written model loses, by ONNX Runtime on the `certify` samples."""
    answers = outputs(model, lessons.inputs_of(lessons.splits.certify))
    return certify(lessons, answers, confidence=confidence, candidates=candidates)
