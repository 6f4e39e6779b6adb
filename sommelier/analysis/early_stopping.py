"""ANALYZE m FOR EQUIVALENCE AGAINST r USING bound = 'anytime': no more answers than the case needs.

Both models answer probes side by side, in a random order and in growing batches, until a confidence
sequence lies on one side of the threshold (analysis/bounds/anytime.py) or the probes end. What is
kept is k of n at that time: such a sequence allows a question to ask for another confidence later.
Source: algorithms.md A.4.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from math import ceil
from typing import TYPE_CHECKING, Any

import numpy as np

from sommelier.analysis import datasets
from sommelier.analysis.answers import AnswerCollector
from sommelier.analysis.aspects import Finding, Subject
from sommelier.analysis.bounds.anytime import GROWTH, Decision, decide
from sommelier.analysis.execution import RunRequest, open_model
from sommelier.analysis.jobs import AnalysisPlan, open_datasets, task_of
from sommelier.analysis.metrics import interchangeable
from sommelier.errors import AnalysisError
from sommelier.records import NO_ANSWER, EquivalenceEdge, ModelRecord, OutputKind
from sommelier.storage.label_translation import Translation, classes
from sommelier.storage.probe_roster import LabelMaps, relate_classes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sommelier.analysis.datasets import LoadedDataset
    from sommelier.analysis.probes import Probes
    from sommelier.analysis.sandbox import Sandbox
    from sommelier.storage.catalog import Catalog

STREAM = "stream"
ANYTIME = "anytime"
CONFIDENCE = 0.95  # at which it stops; a question asks for its own
LEAST = 16  # samples a model answers at once

_CLASSES = (OutputKind.CLASSIFICATION, OutputKind.CLASS_IDS)


# ---- planning


def plan_streams(
    catalog: Catalog,
    models: Sequence[ModelRecord],
    references: Sequence[ModelRecord],
    plan: AnalysisPlan,
) -> None:
    """A task for each model and reference, on the first dataset that fits both."""
    others = {reference.id for reference in references}
    strict = not plan.options.datasets
    with ExitStack() as stack:
        opened = open_datasets(catalog, plan, stack)
        for model in models:
            for reference in references if model.id not in others else ():
                pair = (reference, model)
                told = [
                    (one, [one.misfit(side, catalog, strict=strict) for side in pair])
                    for one in opened
                ]
                fitting = [one for one, reasons in told if not any(reasons)]
                if not fitting:
                    why = [f"{one.name}: {r}" for one, reasons in told for r in reasons if r]
                    plan.skip(model, "; ".join(why) or "there is no dataset", aspect=STREAM)
                    continue
                probes = fitting[0].probes
                plan.probes[probes.record.id] = probes
                decides = {
                    "reference_id": reference.id,
                    "probe_set_id": probes.record.id,
                    "threshold": plan.options.threshold,
                    "seed": plan.options.seed,
                }
                plan.tasks.append(task_of(STREAM, model, decides))


# ---- one pair


@dataclass(frozen=True, slots=True)
class StreamRequest:
    """What a worker process needs to know; plain values. how : between the two models' classes."""

    reference: RunRequest
    candidate: RunRequest
    how: Translation | None
    threshold: float
    seed: int


def stream_task(
    pair: tuple[Subject, Subject],
    probes: Probes,
    parameters: Mapping[str, Any],
    label_maps: LabelMaps,
    sandbox: Sandbox,
) -> Finding:
    """The pair's edge, and in words how much was spent. Raises AnalysisError."""
    reference, candidate = pair
    how = _relation(pair, label_maps)
    runs = [
        RunRequest(s.path, s.record.output_kind, s.record.preprocessing, probes,
                   threads=sandbox.threads)
        for s in pair
    ]  # fmt: skip
    threshold = float(parameters["threshold"])
    request = StreamRequest(runs[0], runs[1], how, threshold, int(parameters["seed"]))
    found = sandbox.call(decide_pair, request)
    edge = EquivalenceEdge(
        reference_id=reference.record.id,
        candidate_id=candidate.record.id,
        probe_set_id=probes.record.id,
        samples=found.samples,
        agreements=found.successes,
        lower=found.interval.low,
        upper=found.interval.high,
        confidence=CONFIDENCE,
        method=ANYTIME,
        labels=None if how is None else how.labels,
    )
    remark = (
        f"against {reference.record.name}: {found.verdict} {threshold * 100:g}% after "
        f"{found.samples} of {probes.record.samples} samples, of which {found.successes} agree"
    )
    return Finding(edge=edge, remark=remark)


def decide_pair(request: StreamRequest) -> Decision:
    """Whether the models agree on at least the threshold of inputs; runs in the sandbox."""
    dataset = request.reference.probes.dataset
    assert dataset is not None, "plan_streams takes probes of a dataset"
    with datasets.reopen(dataset, verify=False) as items:
        stream = _agreements(request, items)
        return decide(stream, request.threshold, confidence=CONFIDENCE)


def _agreements(request: StreamRequest, items: LoadedDataset) -> Iterator[bool]:
    """Whether the models agree, probe by probe, in a random order."""
    runs = request.reference, request.candidate
    sides = [(open_model(run, items), partial(AnswerCollector, run.output_kind)) for run in runs]
    probes = request.reference.probes
    indices = probes.indices
    assert indices is not None, "probes of a dataset know their items"
    order = iter(np.random.default_rng(request.seed).permutation(indices).tolist())
    seen = 0
    while block := list(islice(order, max(LEAST, ceil((GROWTH - 1) * seen)))):
        drawn = replace(probes, indices=np.array(block, dtype=np.int64))
        ours, theirs = (model.run(drawn, collector).answers for model, collector in sides)
        yield from _agree(ours, theirs, request.how).tolist()
        seen += len(block)


def _agree(ours: NDArray[Any], theirs: NDArray[Any], how: Translation | None) -> NDArray[np.bool_]:
    """(n,) where both give the same class, or vectors within the tolerance of the language."""
    if how is None:
        return interchangeable(ours, theirs)
    table = how.row_table
    if table is not None:
        theirs = table[np.minimum(theirs, len(table) - 1)]
    return np.asarray((how.apply(ours) == theirs) & (theirs != NO_ANSWER))


def _relation(pair: tuple[Subject, Subject], label_maps: LabelMaps) -> Translation | None:
    """How the classes meet, None for vectors. Raises AnalysisError where they do not."""
    kinds = [subject.record.output_kind in _CLASSES for subject in pair]
    if kinds[0] != kinds[1]:
        raise AnalysisError("different kinds of output")
    if not kinds[0]:
        return None
    from sommelier.analysis.output_kinds import class_count

    ours, theirs = (
        classes(
            s.record.label_space_id,
            s.label_space.labels if s.label_space else None,
            class_count(s.record.outputs, s.record.output_kind),
        )
        for s in pair
    )
    how = relate_classes(ours, theirs, label_maps)
    if how.labels is None:
        raise AnalysisError(how.reason or "the classes cannot be compared")
    return how
