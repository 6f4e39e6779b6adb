"""Whether the inputs of a request fit a model, found out once before it waits for its turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.model_inputs import is_auxiliary
from sommelier.analysis.preprocessing import fits
from sommelier.errors import AnalysisError, InputError
from sommelier.records import TensorSpec
from sommelier.storage.naming import nearest

Array = NDArray[Any]
_FORMS = 64  # of requests that are remembered
_KINDS = {"b": 1, "u": 2, "i": 2, "f": 3, "c": 4, "U": 5, "S": 5, "O": 5}  # what holds what


@dataclass(slots=True)
class Feed:
    """Inputs that were checked. samples : in them. padded : the batch that the file fixes, where
    it was filled up by repeating the last sample."""

    tensors: dict[str, Array]
    samples: int
    padded: int | None = None


def _form(inputs: Mapping[str, Any]) -> object:
    """Equal for requests that fit the same models and are fed as they are; None for those that
    have to be looked at: texts, and what is no array or not in one piece."""
    found = []
    for name, value in inputs.items():
        if type(value) is not np.ndarray or value.dtype.kind == "O" or not value.flags.c_contiguous:
            return None
        found += [name, value.dtype, value.shape]
    return tuple(found)


class InputCheck:
    """Checks requests against the inputs of one model."""

    def __init__(self, name: str, inputs: tuple[TensorSpec, ...], batch: int) -> None:
        """batch : most samples of a request. Raises AnalysisError for types numpy does not have."""
        self._name = name
        self._inputs = {spec.name: spec for spec in inputs}
        self._types = {spec.name: self._numpy_type(spec) for spec in inputs}
        self._batched = {spec.name: _batch_symbol(spec) for spec in inputs if _is_batched(spec)}
        self._batch = batch
        self.varies = any(_varies(spec) for spec in inputs)  # samples may be of any size
        self._fitting: dict[object, int] = {}  # samples of requests of a form that fitted once

    def __call__(self, inputs: Mapping[str, Any]) -> Feed:
        """The inputs as ONNX Runtime takes them. Raises InputError."""
        form = _form(inputs)
        samples = None if form is None else self._fitting.get(form)
        if samples is not None:
            return Feed(dict(inputs), samples)
        feed = self._checked(inputs)
        if form is not None:
            if len(self._fitting) >= _FORMS:
                self._fitting.clear()
            self._fitting[form] = feed.samples
        return feed

    def _checked(self, inputs: Mapping[str, Any]) -> Feed:
        for name in inputs:
            if name not in self._inputs:
                raise InputError(
                    f"{self._name} has no input '{name}'",
                    hint=f"its inputs are {self._wanted()}",
                    suggestions=tuple(nearest(str(name), list(self._inputs))),
                )
        missing = [name for name in self._inputs if name not in inputs]
        if missing:
            raise InputError(
                f"{self._name} needs {', '.join(missing)}", hint=f"its inputs are {self._wanted()}"
            )
        tensors = {name: self._tensor(name, inputs[name]) for name in self._inputs}
        return Feed(tensors, self._samples(tensors))

    def _tensor(self, name: str, value: Any) -> Array:
        spec, wanted = self._inputs[name], self._types[name]
        array = self._array(value, spec, wanted)
        if spec.shape is not None and not fits(array.shape, spec.shape):
            raise InputError(
                f"{self._name}: '{name}' has shape {list(array.shape)}, but {spec} is wanted"
            )
        if array.size == 0:
            raise InputError(f"{self._name}: '{name}' is empty, its shape is {list(array.shape)}")
        return array

    def _array(self, value: Any, spec: TensorSpec, wanted: np.dtype[Any]) -> Array:
        if not isinstance(value, np.ndarray):
            value = self._converted(value, spec, wanted)
        if wanted.kind == "O":
            return self._texts(value, spec)
        if value.dtype != wanted:
            raise InputError(
                f"{self._name}: '{spec.name}' is {value.dtype}, but {spec} is wanted",
                hint=f"give {spec.name}.astype('{spec.dtype}') if that is what you mean",
            )
        return np.ascontiguousarray(value) if value.ndim else value

    def _converted(self, value: Any, spec: TensorSpec, wanted: np.dtype[Any]) -> Array:
        """Lists and numbers as the model's type, unless that would drop what is behind a point."""
        try:
            natural = np.asarray(value)
            if _KINDS.get(natural.dtype.kind, 0) > _KINDS.get(wanted.kind, 0):
                raise TypeError(f"given are {natural.dtype}")
            return natural.astype(object) if wanted.kind == "O" else np.array(value, dtype=wanted)
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(
                f"{self._name}: '{spec.name}' is no array of {spec.dtype}: {error}"
            ) from error

    def _texts(self, value: Array, spec: TensorSpec) -> Array:
        texts = value.astype(object) if value.dtype.kind == "U" else value
        if texts.dtype != object or not all(isinstance(text, str) for text in texts.flat):
            raise InputError(f"{self._name}: '{spec.name}' is {value.dtype}, but texts are wanted")
        return texts

    def _samples(self, tensors: Mapping[str, Array]) -> int:
        """How many samples there are: the common length of the batch axes."""
        lengths: dict[str, tuple[str, int]] = {}
        for name, symbol in self._batched.items():
            found = tensors[name].shape[0]
            if found > self._batch:
                raise InputError(
                    f"{self._name} takes at most {self._batch} samples a request, not {found}",
                    hint=f"send several requests, or deploy it USING batch = {found}",
                )
            first, length = lengths.setdefault(symbol, (name, found))
            if found != length:
                raise InputError(
                    f"{self._name}: '{first}' has {length} samples, but '{name}' has {found}"
                )
        return next((length for _, length in lengths.values()), 1)

    def _numpy_type(self, spec: TensorSpec) -> np.dtype[Any]:
        if spec.dtype == "str":
            return np.dtype(object)
        try:
            return np.dtype(spec.dtype)
        except TypeError as error:
            raise AnalysisError(
                f"{self._name} cannot be served: its input {spec} has no type of numpy"
            ) from error

    def _wanted(self) -> str:
        return ", ".join(str(spec) for spec in self._inputs.values())


def concatenated(feeds: Sequence[Feed]) -> Feed:
    """The samples of several requests, one behind the other."""
    names = feeds[0].tensors
    tensors = {name: np.concatenate([feed.tensors[name] for feed in feeds]) for name in names}
    return Feed(tensors, sum(feed.samples for feed in feeds))


def divided(outputs: Mapping[str, Array], feeds: Sequence[Feed]) -> list[dict[str, Array]]:
    """The outputs of each of the requests that were put together. Raises InputError for an output
    without their samples in front."""
    samples = sum(feed.samples for feed in feeds)
    for name, array in outputs.items():
        if array.ndim == 0 or array.shape[0] != samples:
            raise InputError(f"output '{name}' has shape {list(array.shape)} of {samples} samples")
    found, start = [], 0
    for feed in feeds:
        end = start + feed.samples
        found.append({name: array[start:end] for name, array in outputs.items()})
        start = end
    return found


def size_of(tensors: Mapping[str, Array]) -> int:
    """Bytes of tensors, and characters of texts."""
    return sum(
        sum(map(len, array.flat)) if array.dtype.kind == "O" else array.nbytes
        for array in tensors.values()
    )


def _varies(spec: TensorSpec) -> bool:
    """Whether one sample may be larger than another."""
    if spec.shape is None or spec.dtype == "str":
        return True
    axes = spec.shape[1:] if _is_batched(spec) else spec.shape
    return not all(isinstance(axis, int) for axis in axes)


def _is_batched(spec: TensorSpec) -> bool:
    """Whether its first axis is open and counts samples."""
    return (
        bool(spec.shape)
        and not isinstance((spec.shape or (0,))[0], int)
        and (not is_auxiliary(spec) or len(spec.shape or ()) > 1)
    )


def _batch_symbol(spec: TensorSpec) -> str:
    """Inputs whose first axes share a name must agree; a nameless one stands for itself."""
    first = (spec.shape or (None,))[0]
    return first if isinstance(first, str) and first else f"of {spec.name}"
