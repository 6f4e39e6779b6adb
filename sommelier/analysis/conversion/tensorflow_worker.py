"""What TensorFlow's own environment does of a conversion: the ONNX file and the original's answers.

Runs in the Python that tensorflow_environment.py found, in a sandbox of its own. It has TensorFlow,
tf2onnx, onnx and numpy; nothing else of what Sommelier needs may be imported here, nor in the
modules named tensorflow_* that are imported here.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sommelier.analysis.conversion.tensorflow_models import LOADERS, Array, Loaded, Port
from sommelier.errors import RejectedModelError, first_line

SEED = 20221  # of the inputs on which original and conversion are compared
BATCH = 4
LENGTHS = (16, 64, 224)  # tried in turn for axes that the model leaves open
MAX_ID = 2  # integers may be token ids of a vocabulary whose size is not said


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
    with _refusing("TensorFlow cannot read it"):
        loaded = LOADERS[format](source, signature, trusted)
    with _refusing("tf2onnx cannot convert it"):
        loaded.write(target)
        _finish(target, [port.name for port in loaded.inputs], loaded.outputs)
    feeds, truths = _answers(loaded)
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


def _finish(path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> None:
    """Gives inputs and outputs their names, and open axes names that do not change from run to run.

    Raises RejectedModelError where tf2onnx left operators that ONNX does not have: it only logs.
    """
    import onnx

    model = onnx.load(path)
    graph = model.graph
    unknown = {n.op_type for n in graph.node if not n.domain and not onnx.defs.has(n.op_type)}
    if unknown:
        raise RejectedModelError(f"ONNX has nothing for {', '.join(sorted(unknown))}")
    found, wanted = (len(graph.input), len(graph.output)), (len(inputs), len(outputs))
    if found != wanted:  # what the function captured and is no variable stays open
        raise RejectedModelError(
            f"tf2onnx made {found[0]} inputs and {found[1]} outputs of {wanted[0]} and {wanted[1]}"
        )
    renamed = dict(zip([i.name for i in graph.input], inputs, strict=True))
    renamed |= dict(zip([o.name for o in graph.output], outputs, strict=True))
    used = {name for node in graph.node for name in (*node.input, *node.output)}
    used |= {tensor.name for tensor in graph.initializer}
    for old, new in renamed.items():
        if old != new and new in used | set(renamed):
            renamed[old] = f"{new}_io"
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    del graph.value_info[:]
    axes: dict[str, str] = {}
    for value in (*graph.input, *graph.output):
        value.name = renamed[value.name]
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_param:
                dim.dim_param = axes.setdefault(dim.dim_param, f"N{len(axes)}" if axis else "N")
    onnx.save(model, path)


def _answers(
    loaded: Loaded,
) -> tuple[tuple[dict[str, Array], ...], tuple[tuple[Array, ...], ...]]:
    """Seeded inputs and the original's answers; open axes get the first length that it accepts."""
    error: Exception | None = None
    for length in LENGTHS:
        rng = np.random.default_rng(SEED)
        feeds = [{p.name: _random(p, length, rng) for p in loaded.inputs} for _ in range(2)]
        try:
            truths = [tuple(loaded.answer(list(feed.values()))) for feed in feeds]
        except Exception as failed:  # TensorFlow's errors have no common base class
            error = failed
            continue
        return tuple(feeds), tuple(truths)
    reason = first_line(error) if error else "no lengths to try"
    raise RejectedModelError(f"the original fails on random inputs: {reason}")


def _random(port: Port, length: int, rng: np.random.Generator) -> Array:
    shape = [
        (BATCH if axis == 0 else length) if size is None else size
        for axis, size in enumerate(port.shape)
    ]
    if port.dtype.startswith("float"):
        return rng.random(shape).astype(port.dtype)
    if port.dtype in ("uint8", "int8"):  # pixels
        info = np.iinfo(port.dtype)
        return rng.integers(info.min, info.max, shape, endpoint=True).astype(port.dtype)
    if port.dtype.startswith(("int", "uint")):
        return rng.integers(0, MAX_ID, shape).astype(port.dtype)
    if port.dtype == "bool":
        return rng.random(shape) < 0.5
    raise RejectedModelError(f"input '{port.name}' is {port.dtype}, which ONNX Runtime cannot feed")
