"""An ONNX model as a torch module: differentiable, trainable, checked against ONNX Runtime.

A converter of our own for a bounded set of operators (ecosystem.md 2.4: of the public ones, one is
silently wrong on some operators and others stop at opset 17). What it does not know is refused by
name, and what it made answers like ONNX Runtime before anything is computed from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from sommelier.errors import AnalysisError

if TYPE_CHECKING:
    from onnx import ModelProto

    from sommelier.analysis.torch_graph.module import TorchGraph

TOLERANCE = 1e-3  # of the largest element of an output; float32 sums in another order give 1e-5

__all__ = ["require_torch", "supported_operators", "to_torch"]


def to_torch(
    model: ModelProto | Path | str,
    probes: Mapping[str, NDArray[Any]],
    *,
    trainable: bool = False,
    tolerance: float = TOLERANCE,
) -> TorchGraph:
    """The model as a torch module that was found to answer the probes as ONNX Runtime does.

    probes : input -> array, one batch. trainable : learned weights ask for gradients. tolerance :
    of the difference of an output, relative to its largest element.
    Raises AnalysisError naming the operators that are not supported or where the answers differ.
    """
    require_torch()
    from sommelier.analysis.segments.normalising import load
    from sommelier.analysis.torch_graph.checking import check
    from sommelier.analysis.torch_graph.module import TorchGraph

    proto = load(model)
    module = TorchGraph(proto, trainable=trainable)
    check(module, proto, probes, tolerance)
    return module


def supported_operators() -> tuple[str, ...]:
    """Names of the ONNX operators that can be converted, sorted."""
    require_torch()
    from sommelier.analysis.torch_graph.operators import OPERATORS

    return tuple(sorted(OPERATORS))


def require_torch() -> None:
    """Raises AnalysisError with the command that installs torch, where it is missing."""
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise AnalysisError(
            "gradients of a model need torch, which is not installed",
            hint="pip install 'sommelier-db[torch]'",
        ) from error
