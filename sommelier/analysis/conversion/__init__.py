"""Models of other formats as ONNX: converted in a sandbox, and accepted only if they answer alike.

A connector says with Artifact.conversion what it found; `converted` makes an ONNX artifact of it.
The converters are in table.py, one module a framework, which is imported in the sandbox only.
"""

from __future__ import annotations

from sommelier.analysis.conversion.converting import converted
from sommelier.analysis.conversion.table import CONVERTERS, Converter
from sommelier.analysis.conversion.values import ConversionRequest, ConvertedModel

__all__ = ["CONVERTERS", "ConversionRequest", "ConvertedModel", "Converter", "converted"]
