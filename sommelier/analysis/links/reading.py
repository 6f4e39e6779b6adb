"""The answers of a model as links take them: read from what the catalog keeps, or made by a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from numpy.typing import NDArray

from sommelier.analysis import datasets
from sommelier.analysis.answers import AnswerCollector, OutputCollector
from sommelier.analysis.execution import OpenModel, RunRequest, open_model
from sommelier.analysis.links.collecting import TokenCollector, best_boxes
from sommelier.analysis.links.formats import AnswerFormat, LinkAnswers, format_of, natural
from sommelier.analysis.output_kinds import class_count
from sommelier.analysis.probes import Probes
from sommelier.analysis.quality.decoders import known_decoder
from sommelier.errors import AnalysisError
from sommelier.records import ModelRecord, OutputKind

Array = NDArray[Any]
DECODED = (OutputKind.DETECTION, OutputKind.SEQUENCE)  # from several outputs, or padded
KEPT = "outputs"  # under which AnswerCollector keeps the answers


def stored_answers(record: ModelRecord, outputs: Mapping[str, Array]) -> LinkAnswers | None:
    """The answers in what a sketch kept at full precision; None where that is no answer yet."""
    if record.output_kind in DECODED or KEPT not in outputs:
        return None
    return _natural(record, outputs[KEPT])


def read_answers(request: RunRequest, record: ModelRecord) -> LinkAnswers:
    """The model's answers to the request's probes; what a sandbox runs.

    Raises AnalysisError when the model fails, or answers what no link is made for.
    """
    assert request.probes.dataset is not None, "links are learned from datasets"
    with datasets.reopen(request.probes.dataset, verify=False) as items:
        return run_answers(open_model(request, items), request.probes, record)


def run_answers(
    opened: OpenModel, probes: Probes, record: ModelRecord, format: AnswerFormat | None = None
) -> LinkAnswers:
    """The answers of a model that is open. format : as links to or from it have it; None: told from
    these answers, which should then be many. Raises AnalysisError as `read_answers` does."""
    if record.output_kind is OutputKind.DETECTION:
        return _boxes(opened, probes, record)
    if record.output_kind is OutputKind.SEQUENCE:
        return _tokens(opened, probes, format)
    block = run_block(opened, probes, record)
    return _natural(record, block) if format is None else natural(block, format)


def run_block(opened: OpenModel, probes: Probes, record: ModelRecord) -> Array:
    """The raw answers (n, d) as AnswerCollector takes them from a model's outputs; not of detectors
    and sequences, which need more than one output or more than one length."""
    collect = partial(AnswerCollector, record.output_kind, keep_bytes=math.inf)
    kept = opened.run(probes, collect).outputs
    assert kept is not None, "all bytes are kept"
    return kept[KEPT]


def _natural(record: ModelRecord, block: Array) -> LinkAnswers:
    classes = class_count(record.outputs, record.output_kind)
    format = format_of(record.output_kind, block, outputs=record.outputs, classes=classes)
    return natural(block, format)


def _boxes(opened: OpenModel, probes: Probes, record: ModelRecord) -> LinkAnswers:
    decoder = known_decoder(record.outputs, record.inputs)
    if decoder is None:
        raise AnalysisError(
            "its boxes are in a form that is not known here",
            hint="declare output_kind = 'regression' to link its numbers as they are",
        )
    boxes = best_boxes(decoder, opened.run(probes, OutputCollector))
    return natural(boxes, format_of(OutputKind.DETECTION, boxes))


def _tokens(opened: OpenModel, probes: Probes, format: AnswerFormat | None) -> LinkAnswers:
    collected = opened.run(probes, TokenCollector)
    if format is None:
        return collected.answers()
    return natural(collected.ids, format)
