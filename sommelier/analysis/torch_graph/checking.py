"""Whether a converted module answers as ONNX Runtime does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from sommelier.analysis.execution import open_session
from sommelier.errors import AnalysisError, first_line

if TYPE_CHECKING:
    from onnx import ModelProto

    from sommelier.analysis.torch_graph.module import TorchGraph

FLOOR = 1e-2  # of an output's scale: probabilities that are all nearly zero differ in rounding


def check(
    module: TorchGraph, model: ModelProto, probes: Mapping[str, NDArray[Any]], tolerance: float
) -> float:
    """The largest difference of an output, relative to its largest element.

    Raises AnalysisError naming the output when it is above the tolerance.
    """
    if set(probes) != set(module.inputs):
        raise AnalysisError(
            f"the model's inputs are {sorted(module.inputs)}, given were {sorted(probes)}"
        )
    expected = _answers(module, model, probes)
    given = {name: torch.from_numpy(np.array(array)) for name, array in probes.items()}
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    with torch.no_grad():
        found = module.tensors(
            {name: value.to(device) for name, value in given.items()}, module.outputs
        )
    worst = 0.0
    for name, truth in zip(module.outputs, expected, strict=True):
        made = found[name].cpu().numpy()
        difference = _difference(made, np.asarray(truth))
        if not difference <= tolerance:
            raise AnalysisError(
                f"the converted model differs from ONNX Runtime by {difference:.2g} of the largest "
                f"element in output '{name}' (tolerance {tolerance:g})",
                hint="an operator of it is converted wrongly for these attributes",
            )
        worst = max(worst, difference)
    return worst


def _answers(
    module: TorchGraph, model: ModelProto, probes: Mapping[str, NDArray[Any]]
) -> list[NDArray[Any]]:
    session = open_session(model.SerializeToString(), 1)
    try:
        found: list[NDArray[Any]] = session.run(list(module.outputs), dict(probes))
    except Exception as error:  # ONNX Runtime has no common base class for its errors
        first = first_line(error)[:200]
        raise AnalysisError(f"ONNX Runtime cannot run the probes: {first}") from error
    return found


def _difference(made: NDArray[Any], truth: NDArray[Any]) -> float:
    if made.shape != truth.shape:
        return float("inf")
    if not truth.size:
        return 0.0
    gap = np.abs(made.astype(np.float64) - truth.astype(np.float64)).max()
    return float(gap / max(float(np.abs(truth.astype(np.float64)).max()), FLOOR))
