"""Which files hold models, and which converter makes ONNX of those that are something else.

Told by name and, where a name says too little, by the list of what an archive holds; nothing is
loaded. A format is a key of sommelier.analysis.conversion.CONVERTERS.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path

from sommelier.connectors import saved_model
from sommelier.errors import RejectedModelError
from sommelier.storage.zips import opened_zip

ONNX = ".onnx"
FORMATS: Mapping[str, str] = {
    ".pt2": "torch_export",
    ".pt": "torch_weights",  # or TorchScript, see format_of
    ".pth": "torch_weights",
    ".safetensors": "torch_weights",
    ".keras": "keras",
    ".h5": "keras",
    ".hdf5": "keras",
    ".tflite": "tflite",
}
"""Format by suffix."""

SHARDS = ".safetensors.index.json"
"""How the list of a model's several files ends; it stands for them all."""

TENSORFLOW: Mapping[str, str] = {
    suffix: format for suffix, format in FORMATS.items() if format in ("keras", "tflite")
}
"""Those of TensorFlow whose models are one file; a SavedModel is a folder."""

COMPLETE = frozenset({ONNX, ".pt2", ".keras", ".tflite"})
"""Suffixes of files that are a model by themselves: a search through a folder finds these. Others
are taken where they are named, alone or by a pattern."""

REFUSED: Mapping[str, str] = {
    ".ort": "an .ort file is made for one version of ONNX Runtime and holds its optimised graph, "
    "from which ONNX cannot be made again; import the .onnx file it was made from",
}
"""Suffixes of models that cannot be taken, with the reason."""


def is_model(path: Path) -> bool:
    """Whether a file's name is that of a model, acceptable or not."""
    return has_model_suffix(path) or path.name == saved_model.FILE or path.name.endswith(SHARDS)


def has_model_suffix(path: Path) -> bool:
    """The same by the suffix alone."""
    suffix = path.suffix.lower()
    return suffix == ONNX or suffix in FORMATS or suffix in REFUSED


def format_of(path: Path) -> str | None:
    """The file's format, None for ONNX. Raises RejectedModelError for one that is not taken."""
    suffix = path.suffix.lower()
    if suffix == ONNX:
        return None
    if path.name == saved_model.FILE:
        return "savedmodel"
    if path.name.endswith(SHARDS):
        return FORMATS[".safetensors"]
    if suffix in REFUSED:
        raise RejectedModelError(REFUSED[suffix])
    if suffix not in FORMATS:
        raise RejectedModelError(f"not an {ONNX} file; export the model to ONNX first")
    return "torchscript" if suffix in (".pt", ".pth") and _is_script(path) else FORMATS[suffix]


def _is_script(path: Path) -> bool:
    """Whether a torch archive holds code. Weights have none, and older files are no archives."""
    try:
        with opened_zip(path) as archive:
            return any("/code/" in name for name in archive.namelist())
    except (zipfile.BadZipFile, OSError):
        return False
