"""Segments of two models: common runs and interchangeable stages, named in order of place.

Sommelier section 4.2 as corrected in algorithms.md B.1.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from sommelier.analysis.segments.bindings import bindings, identical, replacements
from sommelier.analysis.segments.dividing import Split, computes, divided, resolution
from sommelier.analysis.segments.forms import Forms, forms, paired
from sommelier.analysis.segments.linear import OperatorSequence, linearise
from sommelier.analysis.segments.matching import Block, Match, Stretch, cuts, match
from sommelier.analysis.segments.normal_form import NormalForm, digest
from sommelier.analysis.segments.pairing import region
from sommelier.analysis.segments.segment import Kind, Segment

if TYPE_CHECKING:
    from onnx import ModelProto

Ends = tuple[str, str, str, str]  # host entry, host exit, donor entry, donor exit
Place = tuple[int, int, int]


def common_segments(
    host: ModelProto | Path | str,
    donor: ModelProto | Path | str,
    *,
    kinds: Collection[Kind] = ("common", "interface"),
    split: Split = "stage",
) -> tuple[Segment, ...]:
    """The segments of a pair, in order of place in the host, named 's1', 's2', ...

    split : 'stage' divides common runs between stages, 'block' wherever one tensor passes, 'run'
    not at all (the paper's longest common operator sequences). Parts without weights are no
    segments. Where two segments begin together the common one comes first.
    Raises RejectedModelError for a broken graph, AnalysisError for one that is too large.
    """
    return segments_of(forms(host, donor), kinds=kinds, split=split)


def segments_of(
    found: Forms,
    *,
    kinds: Collection[Kind] = ("common", "interface"),
    split: Split = "stage",
) -> tuple[Segment, ...]:
    """`common_segments` of models that are in normal form already."""
    matched = match(*found.alike)
    segments: list[tuple[Place, Segment]] = []
    if "common" in kinds:
        pieces = divided(found.alike, matched, split)
        segments.extend(_common(found.alike, blocks) for blocks in pieces)
    if "interface" in kinds:
        same = found.alike is found.plain
        gaps = _gap_ends(found.plain, matched) if same else ()
        segments.extend(_interfaces(found.plain, [*_stage_ends(found.plain), *gaps]))
    segments.sort(key=lambda item: item[0])
    return tuple(
        _with_weights(found.alike, replace(segment, name=f"s{number}"))
        for number, (_, segment) in enumerate(segments, start=1)
    )


def _common(pair: tuple[NormalForm, NormalForm], blocks: list[Block]) -> tuple[Place, Segment]:
    pairs = sorted(p for block in blocks for p in block.pairs)
    ours, theirs = tuple(i for i, _ in pairs), tuple(sorted(j for _, j in pairs))
    first, last = blocks[0], blocks[-1]
    ends = (first.host_entry, last.host_exit, first.donor_entry, last.donor_exit)
    segment = _segment(pair, "common", ends, ours, theirs)
    return _place(pair[0], ours, 0), replace(segment, identical=identical(*pair, pairs))


def _segment(
    pair: tuple[NormalForm, NormalForm], kind: Kind, ends: Ends, ours: Sequence[int],
    theirs: Sequence[int],
) -> Segment:  # fmt: skip
    """The segment without its name and what its kind adds."""
    host, donor = pair
    return Segment(
        "", kind, *ends, _titles(host, ours), _titles(donor, theirs), operators=len(ours),
        flops=_flops(host, ours), donor_flops=_flops(donor, theirs),
        params=_params(host, ours), donor_params=_params(donor, theirs),
        digest=content_digest(host, ours), donor_digest=content_digest(donor, theirs),
    )  # fmt: skip


def _place(form: NormalForm, operators: Sequence[int], kind: int) -> Place:
    """Place in the file first; where segments begin together, the common and the shorter first."""
    nodes = [n for i in operators for n in form.operators[i].nodes]
    return min(nodes), kind, max(nodes)


def _with_weights(pair: tuple[NormalForm, NormalForm], segment: Segment) -> Segment:
    if segment.kind != "common":
        return segment
    pairs = paired(pair, segment) or ()
    found = replacements(pair[0], bindings(*pair, pairs), segment.name)
    return replace(segment, weights={r.name: "+".join(r.sources) for r in found})


def _interfaces(
    pair: tuple[NormalForm, NormalForm], candidates: list[Ends]
) -> Iterator[tuple[Place, Segment]]:
    """Segments of other operators between tensors of equal type and shape."""
    host, donor = pair
    for a, b, c, d in dict.fromkeys(candidates):
        ours, theirs = region(host, a, b), region(donor, c, d)
        if ours is None or theirs is None or not _fits(pair, (a, b, c, d)):
            continue
        symbols = [host.operators[i].symbol for i in ours]
        if symbols == [donor.operators[j].symbol for j in theirs]:
            continue  # the same operators: a common segment
        if not computes(host, ours) or not computes(donor, theirs):
            continue
        if (a, b) == (host.inputs[0], host.outputs[0]) and len(host.outputs) == 1:
            continue  # the whole model: nothing of the host would be left
        segment = _segment(pair, "interface", (a, b, c, d), ours, theirs)
        yield _place(host, ours, 1), segment


def _fits(pair: tuple[NormalForm, NormalForm], ends: Ends) -> bool:
    """Whether entries and exits are of equal, known types and shapes."""
    for ours, theirs in ((ends[0], ends[2]), (ends[1], ends[3])):
        mine, yours = pair[0].kind(ours), pair[1].kind(theirs)
        if mine != yours or not mine[0] or mine[1] is None or None in mine[1]:
            return False
    return True


def _stage_ends(pair: tuple[NormalForm, NormalForm]) -> Iterator[Ends]:
    """Stages of the two spines with equal ends, in order."""
    ours, theirs = (_stages(form, linearise(form)) for form in pair)
    start = 0
    for entry, exit_ in ours:
        for k in range(start, len(theirs)):
            ends = (entry, exit_, *theirs[k])
            if _fits(pair, ends):
                yield ends
                start = k + 1
                break


def _stages(form: NormalForm, sequence: OperatorSequence) -> list[tuple[str, str]]:
    """(entry, exit) of every stage of a spine."""
    passing = [name for name in cuts(form, sequence) if name is not None]
    keys = [resolution(form.kind(name)[1]) for name in passing]
    last = [k for k in range(len(keys)) if k + 1 == len(keys) or keys[k] != keys[k + 1]]
    borders = [passing[0], *(passing[k] for k in last if k)] if passing else []
    return list(pairwise(borders))


def _gap_ends(pair: tuple[NormalForm, NormalForm], matched: Match) -> Iterator[Ends]:
    """Where one model has other operators than the other between two common runs."""
    for gap in matched.gaps:
        ours, theirs = _ends(pair[0], gap.host), _ends(pair[1], gap.donor)
        if ours is not None and theirs is not None:
            yield (*ours, *theirs)


def _ends(form: NormalForm, stretch: Stretch) -> tuple[str, str] | None:
    passing = cuts(form, stretch.sequence)
    entry, exit_ = passing[stretch.start], passing[stretch.stop]
    return None if entry is None or exit_ is None else (entry, exit_)


def _titles(form: NormalForm, operators: Sequence[int]) -> tuple[str, ...]:
    return tuple(title for i in operators for title in form.titles(form.operators[i]))


def _flops(form: NormalForm, operators: Sequence[int]) -> float | None:
    costs = [form.flops[i] for i in operators]
    return None if None in costs else sum(cost for cost in costs if cost is not None)


def _params(form: NormalForm, operators: Sequence[int]) -> float:
    leaves = dict.fromkeys(leaf for i in operators for leaf in form.leaves(form.operators[i]))
    stored = (form.graph.weights.get(leaf) for leaf in leaves)
    return float(sum(weight.stored for weight in stored if weight is not None))


def content_digest(form: NormalForm, operators: Sequence[int]) -> str:
    """A hash of operators and weights in order: equal parts of any two models share it."""
    parts = [
        (
            form.operators[i].symbol,
            [form.constants.digest(s.tensor) for s in form.operators[i].slots],
        )
        for i in operators
    ]
    return digest("segment", parts)
