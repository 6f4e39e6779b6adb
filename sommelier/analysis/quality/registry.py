"""Which measure compares which kind of output, and how raw outputs become its answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from sommelier.analysis.quality.boxes import BoxSets
from sommelier.analysis.quality.classes import TopClass
from sommelier.analysis.quality.distributions import Distributions
from sommelier.analysis.quality.measure import Array, Measure
from sommelier.analysis.quality.multilabel import LabelSets
from sommelier.analysis.quality.ranking import RankedOverlap
from sommelier.analysis.quality.segmentation import Pixels
from sommelier.analysis.quality.sequences import Sequences, decode_ids, decode_scores
from sommelier.analysis.quality.vectors import Vectors, scale_of
from sommelier.errors import AnalysisError
from sommelier.records import NO_ANSWER, OutputKind

VECTOR_KINDS = (OutputKind.REGRESSION, OutputKind.EMBEDDING, OutputKind.UNKNOWN)
CLASS_KINDS = (OutputKind.CLASSIFICATION, OutputKind.CLASS_IDS)

MEASURES: Mapping[OutputKind, Callable[[Any], Measure]] = {
    OutputKind.CLASSIFICATION: lambda _: TopClass(),
    OutputKind.CLASS_IDS: lambda _: TopClass(),
    OutputKind.REGRESSION: lambda answers: Vectors(scale_of(answers)),
    OutputKind.EMBEDDING: lambda answers: Vectors(scale_of(answers)),
    OutputKind.UNKNOWN: lambda answers: Vectors(scale_of(answers)),
    OutputKind.DETECTION: lambda _: BoxSets(),
    OutputKind.SEQUENCE: lambda _: Sequences(),
    OutputKind.MULTILABEL: lambda answers: LabelSets(threshold=_threshold(answers)),
    OutputKind.SEGMENTATION: lambda _: Pixels(),
    OutputKind.RANKING: lambda answers: RankedOverlap(k=min(10, np.shape(answers)[1])),
    OutputKind.DISTRIBUTION: lambda _: Distributions(),
}
"""Measure by kind of output, made for the reference's answers: they set scale and threshold."""


def measure_for(kind: OutputKind, reference: Any = None) -> Measure:
    """The default measure of a kind of output.

    reference : the reference's answers, which vectors and multi-label scores need for their scale
    and threshold.
    """
    needs = (*VECTOR_KINDS, OutputKind.MULTILABEL, OutputKind.RANKING)
    if reference is None and kind in needs:
        raise AnalysisError(f"the measure of {kind.value} answers needs the reference's answers")
    return MEASURES[kind](reference)


def answers_of(kind: OutputKind, output: Array) -> Any:
    """One raw output (n, ...) as the answers the measure of its kind takes.

    Detections are decoded from several outputs: see `decoders`.
    """
    reader = _READERS.get(kind)
    return output if reader is None else reader(np.asarray(output))


def _classes(output: Array) -> Array:
    """uint32 (n,), the class of the highest score; NO_ANSWER for NaN and negative ids."""
    flat = output.reshape(len(output), -1)
    if output.dtype.kind in "iu" and flat.shape[1] == 1:
        ids = flat[:, 0].astype(np.int64)
        return np.where(ids < 0, NO_ANSWER, ids).astype(np.uint32)
    missing = np.isnan(flat).any(axis=1) if flat.dtype.kind == "f" else False
    return np.where(missing, NO_ANSWER, flat.argmax(axis=1)).astype(np.uint32)


def _sequences(output: Array) -> Any:
    if output.ndim == 3:
        return decode_scores(output)
    if output.dtype.kind in "iu":
        return decode_ids(output.reshape(len(output), -1))
    if output.dtype.kind in "OUS":
        return [tuple(str(token) for token in np.atleast_1d(row)) for row in output]
    raise AnalysisError(f"sequences are token ids or scores, not {output.dtype} {output.shape}")


def _pixels(output: Array) -> Array:
    """Class ids (n, h, w) from scores (n, classes, h, w), or from ids."""
    if output.dtype.kind == "f" and output.ndim == 4:
        return np.asarray(output.argmax(axis=1))
    return output.reshape(len(output), *[side for side in output.shape[1:] if side != 1])


def _ranked(output: Array) -> Array:
    """Item ids, best first: ids as they are, scores sorted (equal ones in order of their ids)."""
    if output.dtype.kind in "iu":
        return output
    return np.argsort(-output, axis=1, kind="stable")


def _threshold(scores: Array) -> float:
    """0.5 for scores that can be probabilities, 0 for logits."""
    values = np.asarray(scores)
    if values.dtype == np.bool_:
        return 0.5
    return 0.5 if np.nanmin(values) >= 0 and np.nanmax(values) <= 1 else 0.0


_READERS: Mapping[OutputKind, Callable[[Array], Any]] = {
    OutputKind.CLASSIFICATION: _classes,
    OutputKind.CLASS_IDS: _classes,
    OutputKind.SEQUENCE: _sequences,
    OutputKind.SEGMENTATION: _pixels,
    OutputKind.RANKING: _ranked,
}
