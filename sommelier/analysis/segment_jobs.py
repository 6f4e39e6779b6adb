"""ANALYZE ... FOR SEGMENTS: which pairs are worth the trouble, and what is kept of each.

A task is one ordered pair: the host that keeps its place and the donor that gives a part.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import permutations, product
from typing import TYPE_CHECKING, Any

from sommelier.analysis.aspects import Subject, Truth, measured_accuracy
from sommelier.analysis.execution import sketch_of
from sommelier.analysis.jobs import AnalysisPlan, open_datasets, task_of
from sommelier.analysis.probes import Probes, synthetic_probes
from sommelier.analysis.segment_study import (
    HybridStudy,
    PairRequest,
    SegmentStudy,
    definition_of,
    study_pair,
)
from sommelier.errors import AnalysisError, SommelierError
from sommelier.records import (
    Lineage,
    Measurement,
    ModelRecord,
    OutputSketch,
    ResourceProfile,
    SegmentMatch,
)

if TYPE_CHECKING:
    from sommelier.analysis.answers import ModelAnswers
    from sommelier.analysis.differences import LineageEvidence
    from sommelier.analysis.sandbox import Sandbox
    from sommelier.storage.catalog import Catalog

HOPELESS = 0.5  # share of changed answers beyond which a hybrid is no candidate for anything
ALIKE = 0.1  # Jaccard of operators and weight shapes from which a pair of a repository is compared
SEGMENTS = "segments"
RELATED = ("identical", "identical weights", "quantised", "pruned", "fine-tuned")
JUDGED = ("pruned", "fine-tuned")  # by a threshold on distances; the others are equal weights
HYBRID = "hybrid"  # source of the models that are built from others


@dataclass(frozen=True, slots=True)
class Hybrid:
    """A hybrid as the catalog keeps it."""

    record: ModelRecord
    measurements: tuple[Measurement, ...]
    profile: ResourceProfile | None
    sketch: OutputSketch
    lineage: tuple[Lineage, ...]


@dataclass(frozen=True, slots=True)
class SegmentFinding:
    """What a pair's task found. sketch, measurements : the host's own, on the probes that its
    hybrids answered; None where nothing was exchanged."""

    host_id: str
    donor_id: str
    matches: tuple[SegmentMatch, ...]
    hybrids: tuple[Hybrid, ...]
    lineage: tuple[Lineage, ...] = ()
    sketch: OutputSketch | None = None
    measurements: tuple[Measurement, ...] = ()
    remark: str | None = None


# ---- planning


def plan_segments(
    catalog: Catalog,
    models: Sequence[ModelRecord],
    against: Sequence[ModelRecord],
    plan: AnalysisPlan,
    *,
    named: bool,
) -> None:
    """Adds a task for every pair. named : the models were chosen one by one, so that every pair
    of them is meant; else only pairs whose operators and weight shapes are alike."""
    if not named:  # hybrids of hybrids are built where somebody names them
        models = [model for model in models if model.source != HYBRID]
    pairs = _pairs(models, against, named=named)
    with ExitStack() as stack:
        opened = open_datasets(catalog, plan, stack)
        chosen: dict[str, Probes | str] = {}
        for host, donor in pairs:
            if host.id not in chosen:
                chosen[host.id] = _probes_for(host, opened, catalog, plan)
            probes = chosen[host.id]
            if isinstance(probes, str):
                plan.skip(host, probes, aspect=SEGMENTS)
                continue
            plan.probes[probes.record.id] = probes
            decides = {
                "donor_id": donor.id,
                "probe_set_id": probes.record.id,
                "threshold": plan.options.threshold,
                "seed": plan.options.seed,
            }
            plan.tasks.append(task_of(SEGMENTS, host, decides))


def _pairs(
    models: Sequence[ModelRecord], against: Sequence[ModelRecord], *, named: bool
) -> list[tuple[ModelRecord, ModelRecord]]:
    """(host, donor), each ordered pair once; with `against` those between the two groups."""
    if against:
        both = [*product(models, against), *product(against, models)]
        found = [(a, b) for a, b in both if a.id != b.id]
        return list({(a.id, b.id): (a, b) for a, b in found}.values())
    if named:
        return list(permutations(models, 2))
    alike = _alike(models)
    return [(a, b) for a, b in permutations(models, 2) if frozenset((a.id, b.id)) in alike]


def _alike(models: Sequence[ModelRecord]) -> set[frozenset[str]]:
    """Pairs of ids whose operators may be alike, by locality-sensitive hashing."""
    from datasketch import LeanMinHash

    from sommelier.analysis.segments import candidate_pairs
    from sommelier.analysis.segments.sketches import SEED

    stored = {
        model.id: LeanMinHash.deserialize(bytearray(model.minhash))
        for model in models
        if model.minhash is not None
    }
    sketches = {id_: sketch for id_, sketch in stored.items() if sketch.seed == SEED}
    return {frozenset(pair) for pair in candidate_pairs(sketches, ALIKE)}


def _probes_for(
    host: ModelRecord, opened: Sequence[Any], catalog: Catalog, plan: AnalysisPlan
) -> Probes | str:
    """The largest probe set of a dataset that fits the host, else synthetic probes, or why none."""
    strict = not plan.options.datasets
    fitting: list[Probes] = [
        d.probes for d in opened if d.misfit(host, catalog, strict=strict) is None
    ]
    if fitting:
        return max(fitting, key=lambda probes: probes.record.samples)
    if plan.options.datasets:
        return f"none of {', '.join(plan.options.datasets)} fits it"
    try:
        return synthetic_probes(host.inputs, samples=plan.options.samples, seed=plan.options.seed)
    except SommelierError as error:
        return error.message


# ---- one task


def segments_task(
    request: PairRequest, host: Subject, truth: Truth, sandbox: Sandbox
) -> SegmentFinding:
    """Studies the pair in the sandbox; the answer as records."""
    study = sandbox.call(study_pair, request)
    told = _Teller(request, host, truth)
    own = study.host_answers
    accuracy = [] if own is None else told.accuracy(request.host, own)
    hybrids = {
        hybrid.segments: told.hybrid(hybrid)
        for hybrid in study.hybrids
        if own is not None and hybrid.changed <= HOPELESS * len(own.answers)
    }
    alone = {hybrid.segments[0]: hybrid for hybrid in study.hybrids if len(hybrid.segments) == 1}
    matches = []
    for one in study.segments:
        match, found = told.match(one), alone.get(one.segment.name)
        if found is not None and own is not None:
            match = _measured(match, own, found, hybrids.get(found.segments))
            right = _right(told.accuracy(request.host, found.answers))
            match = _with_accuracy(match, _right(accuracy), right)
        matches.append(match)
    remark = None if matches else f"shares no segment with {request.donor.name}"
    lineage = verified_lineage(study.weights, request.host.id, request.donor.id)
    finding = SegmentFinding(
        request.host.id, request.donor.id, tuple(matches), tuple(hybrids.values()), lineage,
        remark=remark,
    )  # fmt: skip
    if own is None:
        return finding
    return replace(finding, sketch=told.sketch(request.host, own), measurements=tuple(accuracy))


def _measured(
    match: SegmentMatch, own: ModelAnswers, found: HybridStudy, hybrid: Hybrid | None
) -> SegmentMatch:
    """With what running its hybrid showed. hybrid : None where it is not worth proposing."""
    return replace(
        match,
        samples=len(own.answers),
        measured=found.changed,
        hybrid_id=None if hybrid is None else hybrid.record.id,
    )


def _right(accuracy: Sequence[Measurement]) -> tuple[int, int] | None:
    """(right answers, labelled probes), None where they cannot be told."""
    found = [m for m in accuracy if m.metric == "accuracy"]
    if not found or not found[0].count:
        return None
    return round(found[0].value * found[0].count), found[0].count


def _with_accuracy(
    match: SegmentMatch, host: tuple[int, int] | None, hybrid: tuple[int, int] | None
) -> SegmentMatch:
    """With the right answers of both, where both were compared with the same labels."""
    if host is None or hybrid is None or host[1] != hybrid[1]:
        return match
    return replace(match, labelled=host[1], host_right=host[0], hybrid_right=hybrid[0])


@dataclass(frozen=True, slots=True)
class _Teller:
    """Turns what the sandbox found into records."""

    request: PairRequest
    host: Subject
    truth: Truth

    def match(self, one: SegmentStudy) -> SegmentMatch:
        """A segment, before its hybrid is known."""
        request, segment = self.request, one.segment
        copied = (
            *("name", "kind", "host_entry", "host_exit", "donor_entry", "donor_exit"),
            *("operators", "identical", "flops", "donor_flops", "params", "donor_params"),
        )
        return SegmentMatch(
            host_id=request.host.id,
            donor_id=request.donor.id,
            definition=definition_of(segment),
            probe_set_id=request.run.probes.record.id,
            estimated=one.estimated,
            certified=one.certified,
            certified_samples=one.samples,
            note=one.note,
            **{name: getattr(segment, name) for name in copied},
        )

    def hybrid(self, found: HybridStudy) -> Hybrid:
        """A hybrid with what is known of any model, and where it comes from."""
        request, inspection = self.request, found.inspection
        record = hybrid_record(inspection.record, request.host, request.donor, found.segments)
        measured = inspection.measurements
        return Hybrid(
            replace(record, proposal=SEGMENTS),
            (*measured, *self.accuracy(record, found.answers)),
            inspection.profile,
            self.sketch(record, found.answers),
            graft_lineage(record.id, request.host, request.donor, found.segments),
        )

    def sketch(self, record: ModelRecord, answers: ModelAnswers) -> OutputSketch:
        """The answers as the catalog keeps them."""
        return sketch_of(
            answers,
            model_id=record.id,
            probes=self.request.run.probes,
            label_space_id=record.label_space_id,
        )

    def accuracy(self, record: ModelRecord, answers: ModelAnswers) -> list[Measurement]:
        """Measured accuracy; empty where the probes have no labels of the model's classes."""
        if self.truth.probes.labels is None or answers.kind != "labels":
            return []
        subject = replace(self.host, record=record)
        try:
            return measured_accuracy(subject, self.truth, answers)
        except AnalysisError:  # other classes than the dataset's: the plan said so of the host
            return []


def verified_lineage(
    found: LineageEvidence | None, host_id: str, donor_id: str
) -> tuple[Lineage, ...]:
    """What the weights of a pair show of where they come from; nothing where they are unrelated.

    Where the weights do not tell which was made of which, the link goes from the larger id to the
    smaller one, and its detail says that the direction is not known.
    """
    if found is None or found.relation not in RELATED:
        return ()
    child, parent = sorted((host_id, donor_id), reverse=True)
    if found.derived is not None:
        both = (donor_id, host_id)
        child, parent = both if found.derived == "candidate" else both[::-1]
    detail: dict[str, object] = {"evidence": list(found.reasons)}
    if found.derived is None:
        detail["direction"] = "not known"
    provenance = "evidence" if found.relation in JUDGED else "verified"
    return (Lineage(child, parent, found.relation, provenance, json.dumps(detail)),)


def hybrid_name(host: ModelRecord, donor: ModelRecord, segments: Sequence[str]) -> str:
    """What a proposal is called, such as `hybrid/resnet56/resnet44:s3`."""
    return f"hybrid/{host.name}/{donor.name}:{'.'.join(segments)}"


def hybrid_record(
    built: ModelRecord, host: ModelRecord, donor: ModelRecord, segments: Sequence[str]
) -> ModelRecord:
    """The record of a hybrid: the file's own facts, and the host's about inputs and classes."""
    return replace(
        built,
        name=hybrid_name(host, donor, segments),
        version="1",
        source=HYBRID,
        revision=f"{host.name} with {', '.join(segments)} of {donor.name}",
        inputs=host.inputs,
        output_kind=host.output_kind,
        output_kind_inferred=host.output_kind_inferred,
        label_space_id=host.label_space_id,
        preprocessing=host.preprocessing,
        created=None,
        artifact=None,
    )


def graft_lineage(
    model_id: str, host: ModelRecord, donor: ModelRecord, segments: Iterable[str]
) -> tuple[Lineage, Lineage]:
    """That a model was built from a host and a donor."""
    detail = json.dumps({"segments": list(segments)})
    return (
        Lineage(model_id, host.id, "host", "built", detail),
        Lineage(model_id, donor.id, "donor", "built", detail),
    )
