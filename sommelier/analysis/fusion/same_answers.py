"""That a model written anew answers as the model it was written from, tried in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from sommelier.analysis import signature
from sommelier.analysis.execution import open_session
from sommelier.analysis.segments.checking import serialised
from sommelier.analysis.synthetic_inputs import synthetic_inputs
from sommelier.errors import AnalysisError

if TYPE_CHECKING:
    from onnx import ModelProto

SAMPLES = 2
FLOOR = 1e-2  # of an output's scale: probabilities that are all nearly zero differ in rounding


def check_answers(
    made: ModelProto, original: ModelProto, outputs: Mapping[str, str], what: str, tolerance: float
) -> None:
    """Raises AnalysisError unless both answer alike to synthetic samples.

    outputs : name in the original -> name in what was made; inputs correspond by name, or in order.
    what : of the made model, for the message. tolerance : of the largest answer, or of FLOOR.
    """
    specs = signature.input_specs(original.graph)
    feed = synthetic_inputs(specs, signature.bind(specs, batch=SAMPLES))
    theirs, ours = (open_session(serialised(model), 1) for model in (original, made))
    names = [value.name for value in ours.get_inputs()]
    given = feed if set(names) == set(feed) else dict(zip(names, feed.values(), strict=True))
    truths = theirs.run(list(outputs), feed)
    answers = ours.run(list(outputs.values()), given)
    for name, truth, answer in zip(outputs, truths, answers, strict=True):
        if not _close(answer, truth, tolerance):
            raise AnalysisError(f"the model {what} answers differently in '{name}'")


def _close(answer: Any, truth: Any, tolerance: float) -> bool:
    if not isinstance(truth, np.ndarray) or truth.dtype.kind not in "fc":
        return bool(np.array_equal(answer, truth))
    if answer.shape != truth.shape:
        return False
    scale = float(np.abs(np.nan_to_num(truth)).max(initial=FLOOR))
    return bool(np.allclose(answer, truth, rtol=0.0, atol=tolerance * scale, equal_nan=True))
