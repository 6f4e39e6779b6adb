"""Fusions that need no training: equal layers kept once, and averaged weights of one architecture.

Equal layers promise the same answers and less memory. Averaged weights promise nothing before they
are measured, as any candidate is; they cost seconds, so they are tried before a search.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.bounds import Verdict
from sommelier.analysis.fusion.search.costs import FLOAT_BYTES
from sommelier.analysis.fusion_data import FusionData
from sommelier.analysis.fusion_outcomes import costs_of, kept_model, split_sizes, tasks_of
from sommelier.analysis.fusion_requests import FusionFinding, SearchRequest
from sommelier.errors import AnalysisError
from sommelier.fusion_records import FusionCost, FusionStep
from sommelier.units import Dimension, format_value

if TYPE_CHECKING:
    from onnx import ModelProto

    from sommelier.analysis.fusion.certifying import Certificate
    from sommelier.analysis.fusion.search.options import SearchOptions
    from sommelier.analysis.fusion.search.ranking import Limits
    from sommelier.analysis.fusion_lessons import Taught

Array = NDArray[Any]

ALIGNED_BY = 256  # samples whose activations say which unit is which
LEAST_SAVING = 0.01  # of the weights; what is shared below that is shapes and constants
MERGED_RISK = 0.25  # of the risk of a wrong statement; the rest is for what a search finds


def equal_layers(request: SearchRequest) -> FusionFinding:
    """One file that keeps equal layers of the models once, or why there is none.

    Raises AnalysisError for models whose inputs differ.
    """
    from sommelier.analysis.fusion.sharing import share_identical
    from sommelier.analysis.fusion_limits import shares_of

    data = request.data
    shared = share_identical(data.files)
    alone, base = costs_of(data)
    saved = format_value(shared.saved_bytes, Dimension.BYTES)
    told = (
        f"{shared.shared_weights} weights ({saved}) are kept once and {shared.shared_operators}"
        " operators run once; nothing was trained, and the answers are the same"
    )
    finding = FusionFinding("equal layers", tasks_of(data, None, None), base, told=told)
    if shared.saved_bytes < LEAST_SAVING * _bytes(base) and not shared.shared_operators:
        return replace(
            finding,
            closest=f"{', '.join(data.tasks)} have no layers with equal weights",
            advice="without FOR MEMORY, models are trained to share",
        )
    path, inspection, cost = kept_model(data, shared.model, request.name, request.folder)
    latency = _latency(request, shared.model)
    base = replace(base, latency_ms=latency.original_ms)
    cost = replace(cost, latency_ms=latency.fused_ms)
    if cost.memory is not None and base.memory is not None and cost.memory >= base.memory:
        return replace(finding, base=base, closest=_no_less(cost.memory, base.memory, told),
                       advice="without FOR MEMORY, models are trained to share")  # fmt: skip
    limits = shares_of(request.limits, alone, base)
    over = _beyond(limits, cost, base, latency.share)
    if over is not None:
        return replace(finding, base=base, closest=over, advice="allow more with ON")
    exact = tuple(
        replace(task, metric="agreement", baseline=1.0, drop=0.0, drop_low=0.0, drop_high=0.0,
                proved=True)
        for task in finding.tasks
    )  # fmt: skip
    return replace(finding, tasks=exact, base=base, cost=cost, path=path, inspection=inspection)


def merged_weights(
    request: SearchRequest, taught: Taught, options: SearchOptions, together: FusionCost
) -> FusionFinding:
    """The models with one averaged trunk and their own heads, if it meets what is asked.

    together : what the models cost one after the other. Without path where it does not: `closest`
    says why, and `notes` what it lost.
    """
    from sommelier.analysis.fusion.merging import merge

    data, lessons = request.data, taught.lessons
    finding = FusionFinding(
        "merged weights", tasks_of(data, None, None), together, samples=split_sizes(lessons),
        advice="models that were trained apart have to be trained to share: leave out the method",
    )  # fmt: skip
    try:
        rows = lessons.splits.fine_tune[:ALIGNED_BY]
        model = merge(data.files, inputs=lessons.inputs_of(rows)).model
    except AnalysisError as error:
        return replace(finding, closest=error.message)
    select = lessons.splits.select
    drop = max(judged.drop for judged in lessons.judge(_answers(taught, model, select), select))
    step = FusionStep(0, "merged", drop_measured=drop, reason="weights averaged, nothing trained")
    if drop > options.tolerance:
        lost = f"averaged weights lose {drop:.2%}, and {options.tolerance:.2%} are allowed"
        return replace(finding, closest=lost, notes=(lost,), trace=(step,))
    return _certified(
        request, taught, options, model, replace(finding, trace=(step,), evaluations=1)
    )


def _certified(
    request: SearchRequest,
    taught: Taught,
    options: SearchOptions,
    model: ModelProto,
    finding: FusionFinding,
) -> FusionFinding:
    """The finding once the model was held against the threshold on samples that nothing chose."""
    data = request.data
    found = _certificate(request, taught, options, model)
    path, inspection, cost = kept_model(data, model, request.name, request.folder)
    latency = _latency(request, model)
    base = replace(finding.base, latency_ms=latency.original_ms)
    cost = replace(cost, latency_ms=latency.fused_ms)
    finding = replace(finding, tasks=tasks_of(data, taught, found), base=base, certified=True)
    refusal = _beyond(options.limits, cost, base, latency.share)
    if found.meets(options.tolerance, upper_end=options.upper_end) is not Verdict.PASSES:
        refusal = f"averaged weights lose {found.worst.drop:.2%} on samples that nothing chose"
    if refusal is not None:
        return replace(finding, closest=refusal, notes=(refusal,))
    told = "the averaged weights of all models but their heads; nothing was trained"
    trace = (
        replace(finding.trace[0], flops=cost.flops, latency_ms=cost.latency_ms, accepted=True),
    )
    return replace(
        finding, path=path, inspection=inspection, cost=cost, told=told, trace=trace,
        closest=None, advice=None,
    )  # fmt: skip


def _certificate(
    request: SearchRequest, taught: Taught, options: SearchOptions, model: ModelProto
) -> Certificate:
    from sommelier.analysis.fusion.certifying import certify

    lessons = taught.lessons
    answers = _answers(taught, model, lessons.splits.certify)
    risk = 1 - options.confidence
    if request.method == "auto":
        risk *= MERGED_RISK
    return certify(lessons, answers, confidence=1 - risk)


def _answers(taught: Taught, model: ModelProto, rows: NDArray[np.int64]) -> tuple[Array, ...]:
    """What the model answers to some samples, in the order of the lessons' tasks."""
    from sommelier.analysis.fusion.search.finishing import outputs

    given = outputs(model, taught.lessons.inputs_of(rows))
    named = dict(zip((o.name for o in model.graph.output), given, strict=True))
    return tuple(named[name] for name in taught.names)


def _latency(request: SearchRequest, model: ModelProto) -> Any:
    """Of the model beside the originals, on one sample."""
    from sommelier.analysis.fusion.search.timing import paired_latency
    from sommelier.analysis.segments.normalising import load

    data, options = request.data, request.options
    feeds = _feeds(data)
    originals = [(load(path), feed) for path, feed in zip(data.paths, feeds, strict=True)]
    return paired_latency(
        originals, (model, feeds[0]), runs=options.runs, threads=options.training.threads
    )


def _feeds(data: FusionData) -> list[Mapping[str, Array]]:
    """One sample as each of the models takes it; made up where there are no data."""
    from sommelier.analysis.fusion_lessons import inputs_of
    from sommelier.analysis.model_inputs import feeds, plan_feeds
    from sommelier.analysis.probes import synthetic_probes

    first = data.records[0]
    if data.probes is None:
        plan = plan_feeds(first.inputs, None, None, 1)
        made, _ = next(feeds(first.inputs, plan, synthetic_probes(first.inputs, samples=1), None))
        values: Sequence[Array] = [made[spec.name] for spec in first.inputs]
    else:
        values = inputs_of(data, 1)
    names = [spec.name for spec in first.inputs]
    given = dict(zip(names, values, strict=True))
    found: list[Mapping[str, Array]] = []
    for record in data.records:
        own = [spec.name for spec in record.inputs]
        alike = set(own) == set(names)
        found.append(given if alike else dict(zip(own, values, strict=True)))
    return found


def _no_less(ours: float, theirs: float, told: str) -> str:
    """Features that several branches read stay alive, which may cost more than is shared."""
    own, together = (format_value(value, Dimension.BYTES) for value in (ours, theirs))
    return f"one file would need {own}, and the models need {together}: {told.partition(';')[0]}"


def _bytes(cost: FusionCost) -> float:
    return FLOAT_BYTES * (cost.params or 0.0)


def _beyond(limits: Limits, cost: FusionCost, base: FusionCost, latency: float) -> str | None:
    """Which limit is exceeded, in words; None within all of them."""
    shares = {"latency": latency}
    for metric in ("flops", "memory"):
        ours, theirs = getattr(cost, metric), getattr(base, metric)
        if ours is not None and theirs:
            shares[metric] = ours / theirs
    for metric in ("latency", "flops", "memory"):
        limit, share = getattr(limits, metric), shares.get(metric)
        if limit is not None and share is None:
            return f"its {metric} is unknown"
        if limit is not None and share is not None and share > limit:
            return f"it takes {share:.0%} of the originals' {metric}, and {limit:.0%} are allowed"
    return None
