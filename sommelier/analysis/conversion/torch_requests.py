"""What converters of torch's files ask of a request before they touch a file."""

from __future__ import annotations

import os
from pathlib import Path

from sommelier.analysis.conversion.values import TRUST, ConversionRequest
from sommelier.errors import MissingDependencyError, RejectedModelError

FILE = "model.onnx"
ANYTHING = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"
WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
VARIABLES = (ANYTHING, WEIGHTS_ONLY)
"""What converters set in the environment of their process."""


def require_torch() -> None:
    """Raises MissingDependencyError naming the extra, where torch or its exporter is missing."""
    try:
        import onnxscript  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"models of torch need {error.name or 'torch'}, which is not installed",
            hint="pip install 'sommelier-db[torch]'",
        ) from error


def require_trust(request: ConversionRequest, why: str) -> None:
    """Raises RejectedModelError with `why`, unless the user trusts the source."""
    if request.options.get("trust") is not True:
        raise RejectedModelError(f"{why}; it was not touched", hint=TRUST)


def force_weights_only() -> None:
    """From now on torch.load unpickles tensors only, whatever its caller asks for."""
    os.environ.pop(ANYTHING, None)  # torch refuses to have both
    os.environ[WEIGHTS_ONLY] = "1"


def source_of(request: ConversionRequest) -> Path:
    """The file. Raises RejectedModelError where there is none."""
    if request.source is None:
        raise RejectedModelError("there is no file to convert")
    return request.source
