"""What ANALYZE ... FOR SEGMENTS learns of one pair: its segments, and what exchanging them changes.

Runs in the sandbox. Each segment gets three numbers that are never mixed: estimated (noise of the
measured difference), certified (propagated bounds and margins) and measured (the hybrid was built
and run). Sommelier 4.2 as corrected in algorithms.md B.5.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis import datasets
from sommelier.analysis.answers import ModelAnswers
from sommelier.analysis.computing import check_device
from sommelier.analysis.differences.lineage import LineageEvidence, weight_lineage
from sommelier.analysis.execution import RunRequest, answer_items, open_model, open_session
from sommelier.analysis.inspection import Inspection, inspect
from sommelier.analysis.metrics import interchangeable
from sommelier.analysis.model_inputs import tensor_spec
from sommelier.analysis.segments import (
    Forms,
    Segment,
    assessment_of,
    build_twin,
    forms,
    replaced_weights_of,
    segments_of,
    separated_host_of,
    twin_of,
)
from sommelier.errors import AnalysisError
from sommelier.records import ModelRecord, OutputKind

if TYPE_CHECKING:
    from onnx import ModelProto

    from sommelier.analysis.datasets import LoadedDataset
    from sommelier.analysis.probes import Probes

Array = NDArray[Any]

LARGEST = 2**31  # bytes of a protocol buffer
FEWEST_UNSEEN = 64  # inputs by which a set of segments is chosen
DRAW = 256  # seed of the draw of probes that are assessed
ASSESSED = 256  # probes of the estimate and of the proof: each costs several runs


@dataclass(frozen=True, slots=True)
class PairRequest:
    """A host, how it is run, and a donor. threshold : share of answers that a set of segments
    exchanged together may change. device : where norms are computed."""

    host: ModelRecord
    run: RunRequest
    donor: ModelRecord
    donor_path: Path
    threshold: float = 0.05
    assessed: int = ASSESSED
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class SegmentStudy:
    """One segment. estimated : share; certified : of `samples` at most so many answers change."""

    segment: Segment
    estimated: float | None = None
    certified: int | None = None
    samples: int = 0
    note: str | None = None


@dataclass(frozen=True, slots=True)
class HybridStudy:
    """A hybrid that was built and run. changed : answers that differ from the host's, of all."""

    segments: tuple[str, ...]
    inspection: Inspection
    answers: ModelAnswers
    changed: int


@dataclass(frozen=True, slots=True)
class PairStudy:
    """chosen : the largest set of segments found that keeps to the threshold together. weights :
    how the donor's weights are related to the host's, None where they cannot be read."""

    segments: tuple[SegmentStudy, ...]
    hybrids: tuple[HybridStudy, ...]
    host_answers: ModelAnswers | None = None
    chosen: tuple[str, ...] = ()
    weights: LineageEvidence | None = None


def study_pair(request: PairRequest) -> PairStudy:
    """Segments of the pair in the order of the host, and a hybrid of each that changes anything.

    Raises AnalysisError when the host cannot be run on the probes, or the device is not there.
    """
    if request.device != "cpu":  # which needs no torch
        check_device(request.device)
    both = forms(request.run.model_path, request.donor_path)
    found = segments_of(both)
    weights = _lineage(request)
    exchanged = [segment for segment in found if not segment.identical]
    if not exchanged:
        same = tuple(SegmentStudy(s, note="identical weights") for s in found)
        return PairStudy(same, (), weights=weights)
    dataset = request.run.probes.dataset
    opened = nullcontext() if dataset is None else datasets.reopen(dataset, verify=False)
    with opened as items:
        pair = _Pair(request, both, items)
        estimates, chosen, reason = pair.estimates(exchanged)
        if reason is None and weights is not None and weights.relation == "unrelated":
            reason = "weights unrelated: an estimate says little"
        studies = tuple(
            SegmentStudy(segment, note="identical weights")
            if segment.identical
            else pair.study(segment, estimates.get(segment.name), reason)
            for segment in found
        )
        answers = answer_items(request.run, items)
        sets: list[tuple[Segment, ...]] = [(segment,) for segment in exchanged]
        if len(chosen) > 1:
            sets.append(tuple(s for s in exchanged if s.name in chosen))
        hybrids = [pair.hybrid(segments, answers) for segments in sets]
    notes = {h.segments[0]: h.reason for h in hybrids if isinstance(h, _NotBuilt)}
    return PairStudy(
        tuple(_noted(study, notes.get(study.segment.name)) for study in studies),
        tuple(h for h in hybrids if isinstance(h, HybridStudy)),
        answers,
        chosen,
        weights,
    )


def _lineage(request: PairRequest) -> LineageEvidence | None:
    try:
        return weight_lineage(request.run.model_path, request.donor_path)
    except AnalysisError:
        return None


@dataclass(frozen=True, slots=True)
class _NotBuilt:
    """A hybrid that does not build or run."""

    segments: tuple[str, ...]
    reason: str


class _Pair:
    """A pair while it is studied: its models in normal form and the drawn probes as the host
    takes them."""

    def __init__(self, request: PairRequest, both: Forms, items: LoadedDataset | None) -> None:
        self._request = request
        self._forms = both
        self._items = items
        self._inputs = drawn_feeds(request.run, items, request.assessed)
        self._unseen = unseen_probes(request.run.probes, items, request.assessed)

    def estimates(
        self, segments: Sequence[Segment]
    ) -> tuple[dict[str, float], tuple[str, ...], str | None]:
        """(share of answers that noise changes by segment, the chosen set, why there is none).

        The set is chosen on inputs that are no probes: the best of thousands of sets looks better
        on the inputs it was chosen by, and its bound is computed from the probes. Where the probes
        are all the data there is, no set is chosen (algorithms.md A.5).
        """
        request, inputs = self._request, self._inputs
        try:
            if self._unseen is not None:
                run = replace(request.run, probes=self._unseen)
                inputs = drawn_feeds(run, self._items, request.assessed)
            found = assessment_of(
                self._forms, segments, inputs, threshold=request.threshold,
                output_kind=request.host.output_kind, threads=request.run.threads,
                seed=request.seed,
            )  # fmt: skip
        except AnalysisError as error:
            return {}, (), f"no estimate: {error.message}"
        chosen = found.chosen if self._unseen is not None else ()
        return {s.segment.name: s.estimated for s in found.segments}, chosen, None

    def study(self, segment: Segment, estimated: float | None, reason: str | None) -> SegmentStudy:
        """The segment with its estimate and, where there is one, its proof."""
        samples = len(next(iter(self._inputs.values())))
        certified, why = self._certified(segment)
        note = "; ".join(text for text in (reason, why) if text) or None
        return SegmentStudy(
            segment, estimated, certified, 0 if certified is None else samples, note
        )

    def _certified(self, segment: Segment) -> tuple[int | None, str | None]:
        """How many answers may change at most, or why that is not proved."""
        from sommelier.analysis.propagation import propagate

        if segment.kind != "common":
            return None, "no proof: its operators are others"
        if self._request.host.output_kind is not OutputKind.CLASSIFICATION:
            return None, "no proof: margins are those of class scores"
        try:
            replaced = replaced_weights_of(self._forms, [segment])
            host = separated_host_of(self._forms, [segment])
            found = propagate(host, replaced, self._inputs, device=self._request.device)
            unchanged = found.certified_unchanged(scores_output(self._request.run.model_path))
        except AnalysisError as error:
            return None, f"no proof: {error.message}"
        if found.unbounded:
            operator, why = next(iter(found.unbounded.items()))
            return int((~unchanged).sum()), f"unbounded behind {operator}: {why}"
        return int((~unchanged).sum()), None

    def hybrid(
        self, segments: Sequence[Segment], host_answers: ModelAnswers
    ) -> HybridStudy | _NotBuilt:
        """The hybrid with these segments, run on all probes."""
        names = tuple(segment.name for segment in segments)
        try:
            twin = twin_of(self._forms, segments)
            with tempfile.TemporaryDirectory(prefix="sommelier-hybrid-") as folder:
                path = write_twin(twin, Path(folder))
                inspection = inspect(path, hybrid_facts(self._request.host, self._request.donor))
                run = replace(self._request.run, model_path=path)
                answers = answer_items(run, self._items)
        except AnalysisError as error:
            return _NotBuilt(names, f"not built: {error.message}")
        return HybridStudy(names, inspection, answers, changed_answers(host_answers, answers))


def build_hybrid(
    host: ModelRecord,
    host_path: Path,
    donor: ModelRecord,
    donor_path: Path,
    definitions: Sequence[str],
    folder: Path,
) -> tuple[Path, Inspection]:
    """The file of a hybrid, in `folder`, and what it holds. definitions : `definition_of` each."""
    twin = build_twin(host_path, donor_path, [segment_from(d) for d in definitions])
    path = write_twin(twin, folder)
    return path, inspect(path, hybrid_facts(host, donor))


def drawn_feeds(
    request: RunRequest, items: LoadedDataset | None, count: int
) -> Mapping[str, Array]:
    """`count` probes drawn at random, the same for equal arguments, as the model takes them:
    input -> (n, ...), one sample a run. The first ones would not do: probes are kept in the order
    of their dataset, which may be that of its classes."""
    probes = some_probes(request.probes, count)
    model = open_model(replace(request, probes=probes, batch=1), items)
    if model.plan.batch < 1:
        raise AnalysisError("the model has no batch axis: its samples cannot be told apart")
    made = [feed for feed, _ in islice(model.feeds(probes), count)]
    return {name: np.concatenate([feed[name] for feed in made]) for name in made[0]}


def scores_output(path: Path) -> str:
    """The output that classes are read from (answers.py): the first with a row of scores a sample.

    Raises AnalysisError where the stated shapes do not tell which that is.
    """
    outputs = [tensor_spec(node) for node in open_session(path, 1).get_outputs()]
    if len(outputs) == 1:
        return outputs[0].name
    for spec in outputs:
        sizes = None if spec.shape is None else [size for size in spec.shape[1:] if size != 1]
        if sizes is None or not all(isinstance(size, int) for size in sizes):
            break
        if len(sizes) == 1 and spec.dtype.startswith(("float", "double", "int", "uint")):
            return spec.name
    raise AnalysisError("which of its outputs holds the scores is not stated by their shapes")


def some_probes(probes: Probes, count: int) -> Probes:
    """At most `count` of the probes; made-up ones are independent as they come."""
    if probes.indices is None or count >= len(probes.indices):
        return probes
    order = np.random.default_rng([DRAW, len(probes.indices)]).permutation(len(probes.indices))
    return replace(probes, indices=probes.indices[np.sort(order[:count])])


def unseen_probes(probes: Probes, items: LoadedDataset | None, count: int) -> Probes | None:
    """`count` inputs like the probes that are none of them; None where the data has too few."""
    if probes.indices is None:
        seed = probes.record.seed + 1  # made-up inputs of another seed are other inputs
        return replace(probes, record=replace(probes.record, seed=seed))
    assert items is not None, "probes with indices are of a dataset"
    others = np.setdiff1d(np.arange(len(items)), probes.indices)
    if len(others) < min(count, FEWEST_UNSEEN):
        return None
    drawn = np.random.default_rng([DRAW, len(others)]).permutation(others)[:count]
    return replace(probes, indices=np.sort(drawn))


def changed_answers(host: ModelAnswers, hybrid: ModelAnswers) -> int:
    """How many answers of a hybrid are not the host's."""
    if host.kind != hybrid.kind:
        return len(host.answers)
    if host.kind == "labels":
        return int(np.count_nonzero(host.answers != hybrid.answers))
    return int(np.count_nonzero(~interchangeable(host.answers, hybrid.answers)))


def write_twin(twin: ModelProto, folder: Path) -> Path:
    """The hybrid as a file; equal hybrids are equal bytes."""
    if twin.ByteSize() >= LARGEST:
        raise AnalysisError("the hybrid would be larger than the 2 GB of one ONNX file")
    path = folder / "hybrid.onnx"
    path.write_bytes(twin.SerializeToString(deterministic=True))
    return path


def hybrid_facts(host: ModelRecord, donor: ModelRecord) -> dict[str, object]:
    """What is declared of a hybrid: it does the host's task under the licences of both."""
    facts = {"task": host.task, "family": host.family, "license": joint_license((host, donor))}
    return {name: value for name, value in facts.items() if value is not None}


def joint_license(records: Sequence[ModelRecord]) -> str | None:
    """The licences of all, under which what is made of them stands; None where one is unknown."""
    known = [record.license for record in records if record.license is not None]
    return " AND ".join(dict.fromkeys(known)) if len(known) == len(records) else None


def definition_of(segment: Segment) -> str:
    """The segment as JSON, from which `segment_from` makes it again."""
    return json.dumps(asdict(segment), sort_keys=True)


def segment_from(definition: str) -> Segment:
    """The segment that `definition_of` wrote."""
    fields = json.loads(definition)
    for name in ("host_nodes", "donor_nodes"):
        fields[name] = tuple(fields[name])
    return Segment(**fields)


def _noted(study: SegmentStudy, reason: str | None) -> SegmentStudy:
    if reason is None:
        return study
    return replace(study, note=reason if study.note is None else f"{study.note}; {reason}")
