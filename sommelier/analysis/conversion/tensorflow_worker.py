"""What TensorFlow's own environment does of a conversion: the ONNX file and the original's answers.

Runs in the Python that tensorflow_environment.py found, in a sandbox of its own. It has TensorFlow,
tf2onnx, onnx and numpy; nothing else of what Sommelier needs may be imported here, nor in the
modules named tensorflow_* that are imported here.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from sommelier.analysis.conversion.tensorflow_feeds import answers
from sommelier.analysis.conversion.tensorflow_models import LOADERS, Array
from sommelier.analysis.conversion.tensorflow_names import finish
from sommelier.errors import RejectedModelError, first_line
from sommelier.units import Dimension, format_value

MAX_BYTES = 2 * 10**9  # tf2onnx makes one protobuf of a model, which holds no more


@dataclass(frozen=True, slots=True)
class OriginalAnswers:
    """What the original answered. feeds : by name of the ONNX input; truths : the outputs for each
    feed, in the order of the ONNX file's. producer : 'tensorflow 2.21.0'."""

    feeds: tuple[Mapping[str, Array], ...]
    truths: tuple[tuple[Array, ...], ...]
    producer: str


def convert(
    format: str, source: Path, target: Path, *, signature: str | None, trusted: bool
) -> OriginalAnswers:
    """Writes the model as ONNX to `target`; the answers it has to give.

    trusted : whether the model may do what reaches beyond it. Raises RejectedModelError.
    """
    _settle()
    _check_size(source)
    with _refusing("TensorFlow cannot read it"):
        loaded = LOADERS[format](source, signature, trusted)
    with _refusing("tf2onnx cannot convert it"):
        loaded.write(target)
        names = finish(target, [port.name for port in loaded.inputs], loaded.outputs)
    ports = zip(loaded.inputs, names, strict=True)
    loaded = replace(loaded, inputs=tuple(replace(port, name=name) for port, name in ports))
    feeds, truths = answers(loaded)
    import tensorflow as tf

    return OriginalAnswers(feeds, truths, f"tensorflow {tf.__version__}")


@contextmanager
def _refusing(what: str) -> Iterator[None]:
    """Turns whatever TensorFlow raises into a rejection; it has no common base class."""
    try:
        yield
    except (RejectedModelError, MemoryError, ModuleNotFoundError):
        raise
    except Exception as error:
        raise RejectedModelError(f"{what}: {first_line(error)}") from error


def _settle() -> None:
    """TensorFlow on the processor, deterministic and quiet; to be called before it is imported."""
    os.environ |= {
        "CUDA_VISIBLE_DEVICES": "-1",
        "KERAS_BACKEND": "tensorflow",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_ENABLE_ONEDNN_OPTS": "0",
    }
    logging.disable(logging.WARNING)


def _check_size(source: Path) -> None:
    """Raises RejectedModelError for weights that do not fit in one protobuf, before they are read.

    tf2onnx can leave weights outside of it, but keeps four copies in memory then.
    """
    weights = source.parent if source.name == "saved_model.pb" else source
    files = weights.rglob("*") if weights.is_dir() else [weights]
    size = sum(file.stat().st_size for file in files if file.is_file())
    if size > MAX_BYTES:
        raise RejectedModelError(
            f"it has {format_value(size, Dimension.BYTES)}; tf2onnx converts up to "
            f"{format_value(MAX_BYTES, Dimension.BYTES)}"
        )
