"""That a twin is a valid model and runs; what the host itself fails is not held against it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from sommelier.analysis import signature
from sommelier.analysis.execution import open_session
from sommelier.analysis.segments.normal_form import NormalForm
from sommelier.analysis.synthetic_inputs import synthetic_inputs
from sommelier.errors import AnalysisError, first_line

if TYPE_CHECKING:
    from onnx import ModelProto


def check(model: ModelProto, host: NormalForm, names: Sequence[str], *, run: bool = True) -> None:
    """Raises AnalysisError if the checker, shape inference or ONNX Runtime refuses the twin.

    With an open batch axis it runs for one sample and for two.
    """
    what = f"the twin with segment{'s' if len(names) > 1 else ''} {', '.join(names)}"
    data = serialised(model)
    problem = _invalid(data)
    if problem is not None and _invalid(serialised(host.model)) is None:
        raise AnalysisError(f"{what} is no valid model: {problem}")
    if not run:
        return
    session = open_session(data, 1)
    specs = signature.input_specs(model.graph)
    for batch in (1, 2):
        binding = signature.bind(specs, batch=batch)
        for name, tensor in host.graph.tensors.items():
            if binding.shapes.get(name) is not None and tensor.shape is not None:
                traced = [d or 1 for d in tensor.shape]
                stated = binding.shapes[name] or ()
                binding.shapes[name] = (*stated[:1], *traced[1:])
        try:
            feed = synthetic_inputs(specs, binding)
        except AnalysisError:
            return  # inputs nobody can make up: that it loads is all there is to see
        _try(session, feed, what, batch)


def serialised(model: ModelProto) -> bytes:
    """The model's bytes, equal for equal models. Raises AnalysisError above protobuf's 2 GB."""
    try:
        return bytes(model.SerializeToString(deterministic=True))
    except ValueError as error:
        raise AnalysisError(f"the model is too large for one file: {error}") from error


def _try(session: Any, feed: dict[str, Any], what: str, batch: int) -> None:
    try:
        session.run(None, feed)
    except Exception as error:  # ONNX Runtime has no common base class for its errors
        raise AnalysisError(f"{what} fails at batch {batch}: {first_line(error)}") from error


def _invalid(model: bytes) -> str | None:
    """What the checker or shape inference say against a model; None if nothing."""
    import onnx
    from onnx import checker, shape_inference

    try:
        checker.check_model(model)
        shape_inference.infer_shapes(model, strict_mode=True)
    except (checker.ValidationError, shape_inference.InferenceError, ValueError, RuntimeError) as e:
        return first_line(e)
    except onnx.onnx_cpp2py_export.checker.ValidationError as e:
        return first_line(e)
    return None
