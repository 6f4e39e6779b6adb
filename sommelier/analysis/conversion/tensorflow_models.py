"""Models of TensorFlow, loaded: what they take, what they answer, and what tf2onnx makes of them.

Runs in TensorFlow's environment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.conversion.tensorflow_keras import check_keras
from sommelier.analysis.conversion.tensorflow_safety import (
    check_signature,
    check_tflite,
    served_tags,
)
from sommelier.errors import RejectedModelError

OPSET = 18  # the newest that tf2onnx 1.17 writes

Array = NDArray[np.generic]


@dataclass(frozen=True, slots=True)
class Port:
    """An input. shape : None for an axis of any length. name : as in the ONNX file."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model in TensorFlow. write : makes the ONNX file; answer : outputs for arrays in the order
    of `inputs`. inputs, outputs : in the order of the ONNX file's."""

    inputs: tuple[Port, ...]
    outputs: tuple[str, ...]
    write: Callable[[Path], None]
    answer: Callable[[Sequence[Array]], list[Array]]


# ---- SavedModel


def _load_saved_model(source: Path, signature: str | None, trusted: bool) -> Loaded:
    """The signature of a SavedModel folder, or the file saved_model.pb in it."""
    import tensorflow as tf

    folder = source if source.is_dir() else source.parent
    tags = served_tags(folder, trusted=trusted)
    home = TemporaryDirectory(prefix="sommelier-saved-model-")
    model = tf.saved_model.load(str(_without_slots(folder, Path(home.name))), tags=tags)
    function = _signature(model.signatures, signature)
    check_signature(function, trusted=trusted)
    arguments = function.structured_input_signature[1]
    names = sorted(arguments)
    outputs = tuple(sorted(function.structured_outputs))
    specs = [tf.TensorSpec(arguments[n].shape, arguments[n].dtype, name=n) for n in names]

    def run(*values: Any) -> list[Any]:
        found = function(**dict(zip(names, values, strict=True)))
        return [found[name] for name in outputs]

    return _traced(run, specs, names, outputs, keep=(model, home))


def _without_slots(folder: Path, home: Path) -> Path:
    """The model without what an optimizer remembered of each weight, in `home`, which links to the
    rest; the folder itself where there is nothing of that kind. Models saved by Keras 2 have it,
    and TensorFlow with Keras 3 fails to restore it. No answer depends on it.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    content = saved_model_pb2.SavedModel()
    content.ParseFromString((folder / "saved_model.pb").read_bytes())
    nodes = [node for graph in content.meta_graphs for node in graph.object_graph_def.nodes]
    if not any(node.slot_variables for node in nodes):
        return folder
    for node in nodes:
        del node.slot_variables[:]
    for entry in folder.iterdir():
        if entry.name != "saved_model.pb":
            (home / entry.name).symlink_to(entry.resolve())
    (home / "saved_model.pb").write_bytes(content.SerializeToString())
    return home


def _signature(signatures: Mapping[str, Any], wanted: str | None) -> Any:
    """The function asked for; else serving_default, or the only one."""
    known = [name for name in signatures if not name.startswith("__")]
    if wanted is None:
        usual = [name for name in ("serving_default", "default") if name in known]
        wanted = usual[0] if usual else known[0] if len(known) == 1 else None
    if wanted not in known:
        asked = "which of several is not said" if wanted is None else f"not '{wanted}'"
        raise RejectedModelError(
            f"it has the signatures {', '.join(sorted(known)) or '(none)'}; {asked}",
            hint="USING signature = '...' chooses one" if known else "export it with a signature",
        )
    return signatures[wanted]


# ---- Keras


def _load_keras(source: Path, signature: str | None, trusted: bool) -> Loaded:
    """A .keras or .h5 file. Layers that are Python code are refused unless trusted."""
    import keras

    _without_signature("a Keras model", signature)
    check_keras(source, trusted=trusted)
    model = keras.saving.load_model(source, compile=False, safe_mode=not trusted)
    if not getattr(model, "inputs", None):
        raise RejectedModelError("a Keras model that does not say its inputs: it was never called")
    return _traced_keras(model)


def _traced_keras(model: Any) -> Loaded:
    import keras
    import tensorflow as tf

    names = [tensor.name.partition(":")[0] for tensor in model.inputs]
    specs = [
        tf.TensorSpec(tensor.shape, tensor.dtype, name=name)
        for tensor, name in zip(model.inputs, names, strict=True)
    ]
    stated = list(getattr(model, "output_names", ()) or ())
    count = len(model.outputs)
    usable = len(stated) == count and len(set(stated)) == count
    outputs = tuple(stated if usable else (f"output_{i}" for i in range(count)))

    def run(*values: Any) -> list[Any]:
        found = model(values[0] if len(values) == 1 else list(values), training=False)
        return list(keras.tree.flatten(found))

    return _traced(run, specs, names, outputs, keep=model)


def _traced(
    run: Callable[..., list[Any]],
    specs: list[Any],
    names: Sequence[str],
    outputs: tuple[str, ...],
    *,
    keep: object,
) -> Loaded:
    """What tf2onnx makes of a traced function. keep : owns the variables that `run` reads."""
    import tensorflow as tf

    def write(target: Path) -> None:
        import tf2onnx

        traced = tf.function(run, input_signature=specs)
        tf2onnx.convert.from_function(
            traced, input_signature=specs, opset=OPSET, output_path=str(target)
        )

    def answer(values: Sequence[Array]) -> list[Array]:
        tensors = [tf.constant(v, dtype=s.dtype) for v, s in zip(values, specs, strict=True)]
        return [np.asarray(found) for found in run(*tensors)] if keep else []

    ports = tuple(
        Port(name, spec.dtype.as_numpy_dtype.__name__, _lengths(spec.shape))
        for name, spec in zip(names, specs, strict=True)
    )
    return Loaded(ports, outputs, write, answer)


def _lengths(shape: Any) -> tuple[int | None, ...]:
    if shape.rank is None:
        raise RejectedModelError("the number of axes of an input is not said")
    return tuple(shape.as_list())


# ---- TensorFlow Lite


def _load_tflite(source: Path, signature: str | None, trusted: bool) -> Loaded:
    """A .tflite file."""
    import tensorflow as tf

    _without_signature("a TensorFlow Lite model", signature)
    check_tflite(source, trusted=trusted)
    interpreter = tf.lite.Interpreter(str(source))
    details, results = interpreter.get_input_details(), interpreter.get_output_details()
    known = _names_by_tensor(interpreter)

    def write(target: Path) -> None:
        import tf2onnx

        tf2onnx.convert.from_tflite(
            str(source),
            input_names=[detail["name"] for detail in details],
            output_names=[detail["name"] for detail in results],
            opset=OPSET,
            output_path=str(target),
        )

    def answer(values: Sequence[Array]) -> list[Array]:
        now = interpreter.get_input_details()  # the shapes may be those of the last answer
        for detail, value in zip(now, values, strict=True):
            if list(value.shape) != list(detail["shape"]):
                interpreter.resize_tensor_input(detail["index"], value.shape)
        interpreter.allocate_tensors()
        for detail, value in zip(details, values, strict=True):
            interpreter.set_tensor(detail["index"], value)
        interpreter.invoke()
        return [interpreter.get_tensor(result["index"]) for result in results]

    ports = tuple(
        Port(known[d["index"]], np.dtype(d["dtype"]).name, _open_axes(d)) for d in details
    )
    return Loaded(ports, tuple(known[r["index"]] for r in results), write, answer)


def _names_by_tensor(interpreter: Any) -> dict[int, str]:
    """Names of inputs and outputs: those of the only signature, else the tensors' own."""
    tensors = [*interpreter.get_input_details(), *interpreter.get_output_details()]
    names = {
        t["index"]: t["name"].partition(":")[0].removeprefix("serving_default_") for t in tensors
    }
    signatures = interpreter.get_signature_list()
    if len(signatures) == 1:
        runner = interpreter.get_signature_runner(next(iter(signatures)))
        for stated in (runner.get_input_details(), runner.get_output_details()):
            names |= {tensor["index"]: name for name, tensor in stated.items()}
    return names


def _open_axes(detail: Mapping[str, Any]) -> tuple[int | None, ...]:
    return tuple(None if length < 0 else int(length) for length in detail["shape_signature"])


def _without_signature(what: str, signature: str | None) -> None:
    if signature is not None:
        raise RejectedModelError(f"{what} has no signature '{signature}': it is one function")


LOADERS: Mapping[str, Callable[[Path, str | None, bool], Loaded]] = {
    "savedmodel": _load_saved_model,
    "keras": _load_keras,
    "tflite": _load_tflite,
}
"""By format: load(path, signature or None, trusted)."""
