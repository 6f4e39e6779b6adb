"""Which function converts which format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module

from sommelier.analysis.conversion.values import ConversionRequest, ConvertedModel
from sommelier.analysis.sandbox import MODEL_BYTES

SECONDS = 900.0  # exporting a large network takes minutes on a slow machine
FETCHING_SECONDS = 3600.0  # of one whose code fetches its weights, over a slow line


@dataclass(frozen=True, slots=True)
class Converter:
    """How a format becomes ONNX.

    function : 'module:name' of convert(ConversionRequest) -> ConvertedModel, which runs in a
    sandbox, imports its framework itself, compares what it wrote with the original (comparing.py),
    and raises RejectedModelError with the reason, or MissingDependencyError. words : the format.
    """

    function: str
    words: str
    seconds: float = SECONDS
    memory_bytes: int = MODEL_BYTES


_TENSORFLOW = "sommelier.analysis.conversion.tensorflow"

_TORCH = "sommelier.analysis.conversion.torch_files"
_PROGRAMS = "sommelier.analysis.conversion.torch_programs"

CONVERTERS: Mapping[str, Converter] = {
    "torch_export": Converter(f"{_PROGRAMS}:convert_program", "a program of torch.export"),
    "torchscript": Converter(f"{_TORCH}:convert_torchscript", "TorchScript"),
    "torch_weights": Converter(f"{_TORCH}:convert_weights", "torch weights"),
    "torchhub": Converter(f"{_TORCH}:convert_hub", "a torch module", FETCHING_SECONDS),
    "transformers": Converter(
        "sommelier.analysis.conversion.transformers_models:convert_transformers",
        "a model of transformers",
    ),
    "savedmodel": Converter(f"{_TENSORFLOW}:convert_saved_model", "a TensorFlow SavedModel"),
    "keras": Converter(f"{_TENSORFLOW}:convert_keras", "a Keras model"),
    "tflite": Converter(f"{_TENSORFLOW}:convert_tflite", "a TensorFlow Lite model"),
}


def convert(format: str, request: ConversionRequest) -> ConvertedModel:
    """What the format's converter makes; this is what runs in the sandbox."""
    module, _, name = CONVERTERS[format].function.partition(":")
    made = getattr(import_module(module), name)(request)
    assert isinstance(made, ConvertedModel)
    return made
