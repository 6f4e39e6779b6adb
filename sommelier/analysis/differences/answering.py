"""What the models answer when they are run: the end of a comparison, on all samples."""

from __future__ import annotations

from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.answers import AnswerCollector, ModelAnswers
from sommelier.analysis.differences.disagreements import Disagreements, Side, disagreements
from sommelier.analysis.differences.subjects import Given, Subject, subject
from sommelier.analysis.execution import BATCH, RunRequest, answer_items, open_session
from sommelier.analysis.probes import dataset_probes
from sommelier.analysis.quality.answered import Answered
from sommelier.errors import AnalysisError, first_line
from sommelier.records import LabelSpace, Preprocessing

if TYPE_CHECKING:
    from pathlib import Path

    from onnx import ModelProto

Array = NDArray[Any]


def run_disagreements(
    reference: Path | ModelProto,
    candidate: Path | ModelProto,
    inputs: Given | tuple[Given, Given],
    *,
    labels: Any = None,
    label_spaces: tuple[LabelSpace | None, LabelSpace | None] = (None, None),
    preprocessing: tuple[Preprocessing | None, Preprocessing | None] = (None, None),
    limit: int | None = 20,
) -> Disagreements:
    """The samples on which two model files answer differently, run now; see `disagreements`.

    inputs : items for both, or one of each where they differ. labels : true class ids (n,).
    Raises AnalysisError where a model does not take the inputs, or answers cannot be compared.
    """
    pair = inputs if isinstance(inputs, tuple) else (inputs, inputs)
    with TemporaryDirectory() as folder:
        one = subject(reference, pair[0], "reference", folder, preprocessing[0])
        other = subject(candidate, pair[1], "candidate", folder, preprocessing[1])
        sides = [
            side_of(model, answers(model), space)
            for model, space in zip((one, other), label_spaces, strict=True)
        ]
    truth = None if labels is None else np.asarray(labels, dtype=np.int32)
    names = (one.name, other.name)
    return disagreements(sides[0], sides[1], truth=truth, names=names, limit=limit)


def answers(model: Subject) -> ModelAnswers:
    """The model's answers to all its samples, as a database would keep them."""
    if model.plan is not None and model.items is not None:
        probes = dataset_probes(model.items, samples=model.samples, sampling="first")
        request = RunRequest(model.path, model.record.output_kind, model.plan.preprocessing, probes)
        return answer_items(request, model.items)
    session = open_session(model.path, 0)
    collector = AnswerCollector(model.record.output_kind, [o.name for o in session.get_outputs()])
    for feed, count in model.feeds(model.samples, BATCH):
        try:
            outputs = session.run(None, feed)
        except Exception as error:  # ONNX Runtime has no common base class for its errors
            raise AnalysisError(
                f"'{model.name}' failed on its input: {first_line(error)}"
            ) from error
        collector.add(outputs, count, single=count == 1)
    return collector.result()


def side_of(model: Subject, found: ModelAnswers, space: LabelSpace | None = None) -> Side:
    """The answers as a side of a comparison, with the names of classes the file states."""
    return Side(Answered.of_run(found, space or model.label_space), found.topk_scores)
