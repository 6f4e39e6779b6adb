"""Members of cascades from what models answered, and from whose labels they are right.

No model is run here; neither ONNX Runtime nor torch is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.cascades.members import Member, member, top_margin
from sommelier.analysis.labels import LabelMap, map_labels
from sommelier.analysis.links.formats import CLASS_KINDS, AnswerFormat, format_of
from sommelier.analysis.output_kinds import class_count
from sommelier.errors import AnalysisError
from sommelier.records import LabelSpace, ModelRecord, OutputSketch, ProbeSet

if TYPE_CHECKING:
    from sommelier.storage.catalog import Catalog

Array = NDArray[Any]
KEPT = "outputs"  # under which answers at full precision are kept
TOP_MARGIN = "top margin"  # of the five best scores that a sketch has; not of probabilities


def raw_member(record: ModelRecord, raw: Array, flops: float | None) -> tuple[Member, AnswerFormat]:
    """A member from a classifier's raw answers (n, d), and how they are written.

    Raises AnalysisError for answers that choose no class.
    """
    classes = class_count(record.outputs, record.output_kind)
    format = format_of(record.output_kind, raw, outputs=record.outputs, classes=classes)
    return member(record.name, raw, format, flops=flops), format


def sketched_member(
    record: ModelRecord,
    sketch: OutputSketch,
    flops: float | None,
    outputs: Mapping[str, Array] | None = None,
) -> Member:
    """A member from what the catalog keeps: all its scores from `outputs`, answers at full
    precision; else the margin of its two best scores, or none. It has no logits.

    Raises AnalysisError for answers that choose no class.
    """
    if record.output_kind not in CLASS_KINDS or sketch.kind != "labels":
        raise AnalysisError(f"{record.name} answers no class")
    if outputs is not None and KEPT in outputs:
        found, _ = raw_member(record, outputs[KEPT], flops)
        return replace(found, logits=None)
    ids = np.frombuffer(sketch.answers, dtype=np.uint32).astype(np.int64)
    ids[ids == np.iinfo(np.uint32).max] = -1  # no answer
    if sketch.topk_scores is None:
        return Member(record.name, ids, {}, flops)
    scores = np.frombuffer(sketch.topk_scores, dtype=np.float16).reshape(len(ids), -1)
    return Member(record.name, ids, {TOP_MARGIN: top_margin(scores)}, flops)


def classes_of(record: ModelRecord, answered: int | None = None) -> tuple[str | None, int | None]:
    """(label space, number of classes) a model's class numbers are of; None where unknown.

    answered : how many classes its answers show.
    """
    return record.label_space_id, class_count(record.outputs, record.output_kind) or answered


def label_map(
    own: LabelSpace | None,
    classes: int | None,
    labels: Array,
    space: LabelSpace | None,
    explicit: Mapping[str, str] | None = None,
) -> LabelMap:
    """From a model's classes to those of the labels (n,), of label space `space` if it is named.

    Labels without names are taken by position where the model has at least as many classes. Raises
    AnalysisError where they do not fit.
    """
    seen = int(labels.max(initial=-1)) + 1
    if own is None and space is None and classes is not None and classes >= seen:
        return LabelMap(np.arange(classes, dtype=np.int32), 1.0, "positional")
    theirs = len(space.labels) if space else seen
    found = map_labels(own, space, classes=classes, target_classes=theirs, explicit=explicit)
    if found.coverage == 0:
        raise AnalysisError("its classes are others than the dataset's")
    return found


def in_labels(one: Member, to_labels: LabelMap) -> Member:
    """The same answers as classes of the labels, -1 where the model's class is none of them."""
    return replace(one, ids=to_labels.apply(one.ids).astype(np.int64))


def accuracies(members: Sequence[Member], labels: Array) -> tuple[float, ...]:
    """How often each is right; members as classes of the labels (n,)."""
    return tuple(float((one.ids == labels).mean()) for one in members)


def in_their_labels(
    catalog: Catalog,
    models: Sequence[ModelRecord],
    answers: Sequence[tuple[Member, AnswerFormat]],
    probes: ProbeSet,
) -> tuple[tuple[Member, ...] | None, NDArray[np.int64] | None]:
    """(members with classes as those of the probes' labels, the labels), of the probes that have
    one; None where none has. Raises AnalysisError where a model's classes are others."""
    labels = None if probes.labels is None else np.frombuffer(probes.labels, dtype=np.int32)
    if labels is None or not (labels >= 0).any():
        return None, None
    known = np.flatnonzero(labels >= 0)
    space_id = probes.label_space_id
    space = None if space_id is None else catalog.label_space(space_id)
    found = []
    for model, (one, format) in zip(models, answers, strict=True):
        own = model.label_space_id
        mapped = label_map(
            None if own is None else catalog.label_space(own),
            format.width,
            labels,
            space,
            catalog.label_map(own, space_id) if own and space_id else None,
        )
        found.append(in_labels(one, mapped).rows(known))
    return tuple(found), labels[known].astype(np.int64)
