"""Is one model made from the other? What the weights themselves show.

issue [2/8] part 6. The relation is read from numbers alone; what a file or a record declares about
its origin is carried beside it and changes nothing.

Thresholds, and what they were measured against (distance as a share of that of shuffled rows):

- unrelated training: 0.97 to 1.02 in the median over weights for the CIFAR ladder, magika v2 and
  v3, the face detectors, head pose and toy networks; single layers of fewer than a hundred numbers
  reach 0.8 by chance.
- fine-tuning: toy networks 0.09 for the same labels, 0.19 for others, 0.33 when trained on twice as
  long as at first; mobilenet v2 in the zoo's two quantised forms 0.05 (layers 0.01 to 0.2).
- one initialisation trained apart: toy networks 0.42, magika v3.0 to v3.3 0.8 to 0.9. That is
  neither, and is answered 'unknown' with a note. No distance tells a short training apart from a
  long fine-tuning; 0.4 lies between those measured.
- the int8 forms of both MLPerf ResNets are within half a step in every element; 1 % of the elements
  may be outside, where a quantiser clips or corrects.
- rounding of a folded normalisation moves weights by some 1e-7: 2e-6 counts as equal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sommelier.analysis.differences.weight_pairs import WeightPair, measure_pair, pair_weights
from sommelier.analysis.differences.weights import Weight, weights_of
from sommelier.analysis.segments.normalising import load, normal_form
from sommelier.errors import AnalysisError, RejectedModelError

if TYPE_CHECKING:
    from onnx import ModelProto

EQUAL = 2e-6
WITHIN = 0.99
FINE_TUNED = 0.4
UNRELATED = 0.9
PRUNED = 0.05  # share of zeros a model has more than the other
COVERED = 0.5  # share of the smaller model's weights that must have been compared

IDENTICAL, SAME_WEIGHTS, QUANTISED = "identical", "identical weights", "quantised"
TUNED, THINNED, STRANGERS, UNKNOWN = "fine-tuned", "pruned", "unrelated", "unknown"
ORIGIN_WORDS = ("base", "parent", "derived", "origin", "source_model", "quant", "finetun",
                "fine_tun", "teacher", "pretrained", "checkpoint")  # fmt: skip


@dataclass(frozen=True, slots=True, repr=False)
class LineageEvidence:
    """How two models' weights are related, and the figures that say so; printing shows a table.

    relation : 'identical' (the same graph, names and numbers), 'identical weights' (another graph
    or names), 'quantised', 'pruned', 'fine-tuned', 'unrelated' or 'unknown'. derived : 'candidate'
    or 'reference', the side that was made from the other where the weights show it (the one of
    lower precision, or with zeros); fine-tuning has no direction. layers : the weights that were
    compared. compared : share of the smaller model's weights among them. reasons : in words.
    declared : what the candidate's file or record says of its origin, never verified by it.
    """

    names: tuple[str, str]
    relation: str
    derived: str | None
    layers: tuple[WeightPair, ...]
    only_reference: tuple[str, ...]
    only_candidate: tuple[str, ...]
    compared: float
    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    declared: Mapping[str, str] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """Distance as a share of that of unrelated weights, median over weights; NaN of none."""
        return _weighted_median([(p.ratio, p.size) for p in self.layers])

    def as_dict(self) -> dict[str, Any]:
        """Plain data: numbers, text, lists and dictionaries."""
        return asdict(self) | {"declared": dict(self.declared), "ratio": self.ratio}

    def __str__(self) -> str:
        from sommelier.analysis.differences.text import lineage_table

        return lineage_table(self)

    __repr__ = __str__


def weight_lineage(
    reference: Path | str | ModelProto,
    candidate: Path | str | ModelProto,
    *,
    declared: Mapping[str, str] | None = None,
) -> LineageEvidence:
    """How the weights of two ONNX models are related.

    Independent of names, storage, order, layout, folded normalisation and the scale of channels.
    declared : what is said about the candidate's origin elsewhere, carried beside the evidence.
    Nothing is run; cost is a few passes over the weights.
    Raises AnalysisError for a file that is no model, or weights that cannot be read.
    """
    protos = (_load(reference), _load(candidate))
    names = _names(reference, candidate)
    ours, theirs = (_weights(proto, name) for proto, name in zip(protos, names, strict=True))
    pairs, searched = _pairs(ours, theirs)
    relation, derived, reasons, notes = _judged(ours, theirs, pairs, searched)
    if relation == SAME_WEIGHTS and _same_file(protos[0], protos[1]):
        relation, reasons = IDENTICAL, ("the same graph, names and numbers",)
    matched = ({i for i, _ in pairs}, {j for _, j in pairs})
    alone = [
        tuple(w.name for k, w in enumerate(side) if w.is_matrix and k not in taken)
        for side, taken in zip((ours, theirs), matched, strict=True)
    ]
    layers = tuple(found for (i, _), found in pairs.items() if ours[i].is_matrix)
    return LineageEvidence(
        names, relation, derived, layers, alone[0], alone[1], _compared(ours, theirs, layers),
        reasons, notes, _declared(protos[1]) | dict(declared or {}),
    )  # fmt: skip


def _load(model: Path | str | ModelProto) -> ModelProto:
    try:
        return load(model)
    except RejectedModelError as error:
        title = Path(model).name if isinstance(model, (str, Path)) else "the model"
        raise AnalysisError(f"'{title}' cannot be compared: {error.message}") from error


def _weights(model: ModelProto, name: str) -> tuple[Weight, ...]:
    try:
        return weights_of(normal_form(model))
    except RejectedModelError as error:
        raise AnalysisError(f"'{name}' cannot be compared: {error.message}") from error


def _names(reference: Any, candidate: Any) -> tuple[str, str]:
    one, other = (
        Path(model).stem if isinstance(model, (str, Path)) else name
        for model, name in ((reference, "reference"), (candidate, "candidate"))
    )
    return one, other


Pairs = Mapping[tuple[int, int], WeightPair]


def _pairs(ours: Sequence[Weight], theirs: Sequence[Weight]) -> tuple[Pairs, float]:
    """The measured pairs, and the share of the smaller side that has a partner of its shape."""
    channels = [w.values.shape[0] for w in (*ours, *theirs) if w.values.ndim > 2]
    pairs = {
        (i, j): measure_pair(ours[i], theirs[j], channels) for i, j in pair_weights(ours, theirs)
    }
    sides = [[w for w in side if w.is_matrix] for side in (ours, theirs)]
    sides.sort(key=lambda side: sum(w.values.size for w in side))
    shapes = {w.values.shape for w in sides[1]}
    met = sum(w.values.size for w in sides[0] if w.values.shape in shapes)
    return pairs, met / max(1, sum(w.values.size for w in sides[0]))


def _compared(
    ours: Sequence[Weight], theirs: Sequence[Weight], layers: Sequence[WeightPair]
) -> float:
    sizes = [sum(w.values.size for w in side if w.is_matrix) for side in (ours, theirs)]
    return sum(pair.size for pair in layers) / min(sizes) if min(sizes) else 0.0


Judgement = tuple[str, str | None, tuple[str, ...], tuple[str, ...]]


def _judged(
    ours: Sequence[Weight], theirs: Sequence[Weight], pairs: Pairs, searched: float
) -> Judgement:
    layers = [found for (i, _), found in pairs.items() if ours[i].is_matrix]
    whole = _whole(ours, theirs, pairs)
    compared = _compared(ours, theirs, layers)
    if not layers:
        said = "no weight of one has the shape of a weight of the other"
        return UNKNOWN, None, (said,), ()
    if whole and all(_equal(found) for found in pairs.values()):
        return SAME_WEIGHTS, None, ("all weights and biases are equal",), _scaled(layers)
    for judge in (_as_quantised, _as_pruned):
        found = judge(layers) if compared >= COVERED else None
        if found is not None:
            return found
    return _by_distance(layers, compared, searched)


def _whole(ours: Sequence[Weight], theirs: Sequence[Weight], pairs: Pairs) -> bool:
    """Whether every learned tensor of both has a partner."""
    return len(pairs) == len(ours) == len(theirs)


def _equal(found: WeightPair) -> bool:
    bias = found.bias is None or found.bias <= EQUAL
    vector = len(found.shape) < 2
    return bias and (_raw(found) <= EQUAL if vector else min(found.distance, _raw(found)) <= EQUAL)


def _raw(found: WeightPair) -> float:
    return float("inf") if found.raw is None else found.raw


def _scaled(layers: Sequence[WeightPair]) -> tuple[str, ...]:
    count = sum(_raw(found) > EQUAL for found in layers)
    return (f"{count} weights are equal up to a factor per channel",) if count else ()


def _as_quantised(layers: Sequence[WeightPair]) -> Judgement | None:
    """Every element within half a step of the coarser side, and what has no step equal."""
    stepped = [p for p in layers if p.within is not None]
    exact = [p for p in layers if p.within is None]
    if not stepped or any(_raw(p) > EQUAL for p in exact):
        return None
    outside = sum(p.size * (1 - (p.within or 0.0)) for p in stepped)
    total = sum(p.size for p in stepped)
    worst = min(p.within or 0.0 for p in stepped)
    if outside > (1 - WITHIN) * total or worst < WITHIN - 0.04:
        return None
    sides = {p.coarser for p in stepped}
    reasons = (f"{1 - outside / total:.2%} of {total} weights are within half a quantisation step",)
    return QUANTISED, sides.pop() if len(sides) == 1 else None, reasons, ()


def _as_pruned(layers: Sequence[WeightPair]) -> Judgement | None:
    """Zeros that the other side does not have, the other elements equal or hardly moved."""
    total = sum(p.size for p in layers)
    zeros = [sum(p.size * p.zeros[k] for p in layers) / total for k in (0, 1)]
    if zeros[1] - zeros[0] < PRUNED:
        return None
    kept = max(p.kept for p in layers)
    same = kept <= EQUAL
    if not same and _weighted_median([(p.kept, p.size) for p in layers]) > FINE_TUNED:
        return None
    reasons = (f"{zeros[1]:.1%} of the weights are zero, {zeros[0]:.1%} in the reference",)
    notes = () if same else (f"the other weights moved by up to {kept:.2g} of their size",)
    return THINNED, "candidate", reasons, notes


def _by_distance(layers: Sequence[WeightPair], compared: float, searched: float) -> Judgement:
    ratio = _weighted_median([(p.ratio, p.size) for p in layers])
    moved = [p for p in layers if not _equal(p)]
    figures = (
        f"distance is {ratio:.1%} of that of unrelated weights (median), over {compared:.0%} of "
        "the smaller model"
    )
    if compared >= COVERED and ratio <= FINE_TUNED:
        still = len(layers) - len(moved)
        notes = [f"{still} of {len(layers)} weights are unchanged"] if still else []
        new = sum(p.ratio > UNRELATED for p in layers)
        notes += [f"{new} of {len(layers)} weights are as if trained anew"] if new else []
        return TUNED, None, (figures,), tuple(notes)
    if ratio >= UNRELATED and searched >= COVERED:
        return STRANGERS, None, (figures,), ()
    if searched < COVERED:
        return UNKNOWN, None, (figures, "too few weights of equal shape to tell"), ()
    said = (
        "closer than separate training explains, further than fine-tuning: perhaps one "
        "initialisation, or only parts in common"
    )
    return UNKNOWN, None, (figures, said), ()


def _weighted_median(values: Sequence[tuple[float, int]]) -> float:
    known = sorted((value, size) for value, size in values if np.isfinite(value))
    if not known:
        return float("nan")
    reached = np.cumsum([size for _, size in known])
    return known[int(np.searchsorted(reached, reached[-1] / 2))][0]


def _same_file(reference: ModelProto, candidate: ModelProto) -> bool:
    """Whether operators, names and numbers are equal; notes and producers do not matter."""
    import onnx

    texts = []
    for model in (reference, candidate):
        graph = onnx.GraphProto()
        graph.CopyFrom(model.graph)
        graph.name = graph.doc_string = ""
        del graph.value_info[:], graph.metadata_props[:]
        for node in graph.node:
            node.doc_string = ""
            del node.metadata_props[:]
        opsets = sorted((o.domain, o.version) for o in model.opset_import)
        texts.append((opsets, graph.SerializeToString(deterministic=True)))
    return texts[0] == texts[1]


def _declared(model: ModelProto) -> dict[str, str]:
    """What the file says of its origin."""
    return {
        entry.key: entry.value[:200]
        for entry in model.metadata_props
        if any(word in entry.key.lower() for word in ORIGIN_WORDS)
    }
