"""A torch module as the ONNX model that fusion starts from, found to answer as the module does."""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sommelier.analysis.execution import open_session
from sommelier.analysis.torch_evaluation import evaluation
from sommelier.analysis.torch_graph import require_torch
from sommelier.errors import AnalysisError, first_line

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import Tensor, nn

OPSET = 18
TOLERANCE = 1e-4  # of the largest element of an output; float32 sums in another order


def exported(
    module: nn.Module, examples: Sequence[Tensor], *, names: Sequence[str] = (), opset: int = OPSET
) -> ModelProto:
    """The module in evaluation mode as ONNX with an open batch, for `linearised`.

    examples : inputs, each (n, ...), n at least 2; the module is traced with them, and compared
    with the model on them and on the first alone. names : of the inputs, else 'input0' and so on.
    Outputs are 'output0' and so on. Raises AnalysisError when the module cannot be exported, or
    answers differ by more than 1e-4 of an output's largest element.
    """
    import onnx

    require_torch()
    if not examples or any(len(example) < 2 for example in examples):
        raise AnalysisError("a module is exported with examples of at least two samples each")
    inputs = tuple(names) or tuple(f"input{i}" for i in range(len(examples)))
    stream = io.BytesIO()
    with evaluation(module):
        truths = [_answers(module, given) for given in (examples, [e[:1] for e in examples])]
        outputs = tuple(f"output{i}" for i in range(len(truths[0])))
        _export(module, examples, stream, inputs, outputs, opset)
    model = onnx.load_model_from_string(stream.getvalue())
    for count, truth in zip((len(examples[0]), 1), truths, strict=True):
        _compare(model, dict(zip(inputs, (e[:count] for e in examples), strict=True)), truth)
    return model


def _export(
    module: nn.Module,
    examples: Sequence[Tensor],
    stream: Any,
    inputs: tuple[str, ...],
    outputs: tuple[str, ...],
    opset: int,
) -> None:
    import torch

    try:
        with warnings.catch_warnings():
            # the tracer warns of what the comparison finds out, and of its successor
            warnings.simplefilter("ignore")
            torch.onnx.export(
                module, tuple(examples), stream, input_names=list(inputs),
                output_names=list(outputs), opset_version=opset, dynamo=False,
                dynamic_axes={name: {0: "n"} for name in (*inputs, *outputs)},
            )  # fmt: skip
    except Exception as error:  # torch raises what it likes
        raise AnalysisError(
            f"the module cannot be exported: {first_line(error)}",
            hint="export it yourself, and give the ONNX file",
        ) from error


def _answers(module: nn.Module, inputs: Sequence[Tensor]) -> list[Any]:
    import torch

    with torch.no_grad():
        made = module(*inputs)
    found = (made,) if isinstance(made, torch.Tensor) else made
    if not isinstance(found, tuple | list) or not all(isinstance(x, torch.Tensor) for x in found):
        raise AnalysisError("a module that is fused gives a tensor, or a tuple of them")
    return [one.cpu().numpy() for one in found]


def _compare(model: ModelProto, inputs: dict[str, Tensor], truths: Sequence[Any]) -> None:
    session = open_session(model.SerializeToString(), 1)
    feed = {value.name: inputs[value.name].cpu().numpy() for value in session.get_inputs()}
    for place, (ours, truth) in enumerate(zip(session.run(None, feed), truths, strict=True)):
        scale = float(np.abs(truth).max(initial=1e-12))
        alike = ours.shape == truth.shape and np.allclose(
            ours, truth, rtol=0.0, atol=TOLERANCE * scale, equal_nan=True
        )
        if not alike:
            raise AnalysisError(
                f"exported, the module answers {len(truth)} samples otherwise in output {place}",
                hint="its answers may depend on numbers that tracing fixes, or on chance",
            )
