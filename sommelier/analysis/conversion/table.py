"""Which function converts which format."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from sommelier.analysis.conversion.torch_requests import VARIABLES
from sommelier.analysis.conversion.values import ConversionRequest, ConvertedModel
from sommelier.analysis.sandbox import MODEL_BYTES
from sommelier.errors import RejectedModelError

if TYPE_CHECKING:
    from torch import nn

SECONDS = 900.0  # exporting a large network takes minutes on a slow machine
FETCHING_SECONDS = 3600.0  # of one whose code fetches its weights, over a slow line


@dataclass(frozen=True, slots=True)
class Converter:
    """How a format becomes ONNX.

    function : 'module:name' of convert(ConversionRequest) -> ConvertedModel, which runs in a
    sandbox, imports its framework itself, compares what it wrote with the original (comparing.py),
    and raises RejectedModelError with the reason, or MissingDependencyError. words : the format.
    original : 'module:name' of load(ConversionRequest) -> nn.Module, the module that is converted.
    """

    function: str
    words: str
    seconds: float = SECONDS
    memory_bytes: int = MODEL_BYTES
    original: str | None = None


_TENSORFLOW = "sommelier.analysis.conversion.tensorflow"

_TORCH = "sommelier.analysis.conversion.torch_files"
_PROGRAMS = "sommelier.analysis.conversion.torch_programs"
_TRANSFORMERS = "sommelier.analysis.conversion.transformers_models"

CONVERTERS: Mapping[str, Converter] = {
    "torch_export": Converter(
        f"{_PROGRAMS}:convert_program",
        "a program of torch.export",
        original=f"{_PROGRAMS}:load_program",
    ),
    "torchscript": Converter(
        f"{_TORCH}:convert_torchscript", "TorchScript", original=f"{_TORCH}:load_torchscript"
    ),
    "torch_weights": Converter(
        f"{_TORCH}:convert_weights", "torch weights", original=f"{_TORCH}:load_weights"
    ),
    "torchhub": Converter(
        f"{_TORCH}:convert_hub", "a torch module", FETCHING_SECONDS, original=f"{_TORCH}:load_hub"
    ),
    "transformers": Converter(
        f"{_TRANSFORMERS}:convert_transformers",
        "a model of transformers",
        original=f"{_TRANSFORMERS}:load_transformers",
    ),
    "savedmodel": Converter(f"{_TENSORFLOW}:convert_saved_model", "a TensorFlow SavedModel"),
    "keras": Converter(f"{_TENSORFLOW}:convert_keras", "a Keras model"),
    "tflite": Converter(f"{_TENSORFLOW}:convert_tflite", "a TensorFlow Lite model"),
}


def convert(format: str, request: ConversionRequest) -> ConvertedModel:
    """What the format's converter makes; this is what runs in the sandbox."""
    made = _function(CONVERTERS[format].function)(request)
    assert isinstance(made, ConvertedModel)
    return made


def original(format: str, request: ConversionRequest) -> nn.Module:
    """The module of a format of torch, made in this process; the variables that converters set in
    theirs are as before, and what others set meanwhile stays.

    Raises RejectedModelError for a format whose framework does not run here, and as converters do.
    """
    converter = CONVERTERS[format]
    if converter.original is None:
        raise RejectedModelError(f"{converter.words} runs in an environment of its own, not here")
    before = {name: os.environ.get(name) for name in VARIABLES}
    try:
        module: nn.Module = _function(converter.original)(request)
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
    return module


def _function(named: str) -> Callable[[ConversionRequest], Any]:
    module, _, name = named.partition(":")
    found: Callable[[ConversionRequest], Any] = getattr(import_module(module), name)
    return found
