"""SavedModel, Keras and TensorFlow Lite as ONNX. TensorFlow runs in an environment of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sommelier.analysis.conversion import tensorflow_worker
from sommelier.analysis.conversion.comparing import Feed, largest_difference
from sommelier.analysis.conversion.tensorflow_environment import tensorflow_python
from sommelier.analysis.conversion.tensorflow_models import Array
from sommelier.analysis.conversion.values import ConversionRequest, ConvertedModel
from sommelier.analysis.sandbox import MODEL_BYTES, Sandbox
from sommelier.errors import AnalysisError, MissingDependencyError, RejectedModelError

SECONDS = 840.0  # less than converting.py waits, so that what took long is said
_OPTIONS = ("signature", "trust")
_MODEL = "model.onnx"


def convert_saved_model(request: ConversionRequest) -> ConvertedModel:
    """One signature of a SavedModel folder. options : signature, trust."""
    return _converted("savedmodel", request)


def convert_keras(request: ConversionRequest) -> ConvertedModel:
    """A .keras or .h5 file with its architecture. options : trust."""
    return _converted("keras", request)


def convert_tflite(request: ConversionRequest) -> ConvertedModel:
    """A .tflite file. options : trust."""
    return _converted("tflite", request)


def _converted(format: str, request: ConversionRequest) -> ConvertedModel:
    if request.source is None:
        raise RejectedModelError(f"there is no file to convert from {format}")
    signature, trusted = _options(request.options)
    target = request.folder / _MODEL
    found = _in_tensorflow(format, request.source, target, signature, trusted)
    truths = iter(found.truths)  # in the order of the feeds, as they are asked for

    def original(_: Feed) -> tuple[Array, ...]:
        return next(truths)

    difference = largest_difference(target, original, found.feeds)
    samples = sum(map(_samples, found.feeds))
    return ConvertedModel(target, found.producer, difference, samples)


def _samples(feed: Feed) -> int:
    """How many an input has of the batch, which is the first axis of those that have one."""
    return next((len(array) for array in feed.values() if array.ndim), 1)


def _options(options: Mapping[str, object]) -> tuple[str | None, bool]:
    """Signature and trust. Raises RejectedModelError for what we do not know."""
    unknown = [name for name in options if name not in _OPTIONS]
    if unknown:
        raise RejectedModelError(
            f"TensorFlow's conversion has no option '{unknown[0]}'; it has {', '.join(_OPTIONS)}"
        )
    signature = options.get("signature")
    return None if signature is None else str(signature), options.get("trust") is True


def _in_tensorflow(
    format: str, source: Path, target: Path, signature: str | None, trusted: bool
) -> tensorflow_worker.OriginalAnswers:
    """Runs the worker in TensorFlow's environment; what it says is checked to be an answer."""
    python = tensorflow_python()
    with Sandbox(
        time_limit_s=SECONDS, memory_limit_bytes=MODEL_BYTES, threads=2, python=python
    ) as sandbox:
        try:
            found = sandbox.call(
                tensorflow_worker.convert,
                format,
                source,
                target,
                signature=signature,
                trusted=trusted,
            )
        except AnalysisError as error:
            if "ModuleNotFoundError" not in error.message:
                raise
            raise MissingDependencyError(
                f"TensorFlow's environment {python} is not complete: {error.message}",
                hint="`sommelier environment tensorflow` makes one that is",
            ) from error
    if not isinstance(found, tensorflow_worker.OriginalAnswers):
        raise RejectedModelError("its converter answered something else than arrays")
    return found
