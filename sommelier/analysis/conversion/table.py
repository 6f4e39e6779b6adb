"""Which function converts which format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module

from sommelier.analysis.conversion.values import ConversionRequest, ConvertedModel
from sommelier.analysis.sandbox import MODEL_BYTES

SECONDS = 900.0  # exporting a large network takes minutes on a slow machine


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


CONVERTERS: Mapping[str, Converter] = {}


def convert(format: str, request: ConversionRequest) -> ConvertedModel:
    """What the format's converter makes; this is what runs in the sandbox."""
    module, _, name = CONVERTERS[format].function.partition(":")
    made = getattr(import_module(module), name)(request)
    assert isinstance(made, ConvertedModel)
    return made
