"""What the two ends of a sandbox say to each other.

Requests are ordinary pickles: the parent trusts itself. Answers come from a process that read a
hostile file, so they are unpickled with a short list of classes and can call nothing else.
"""

from __future__ import annotations

import dataclasses
import enum
import importlib
import io
import pickle
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

from sommelier.errors import SommelierError, WorkerCrashedError

_PLAIN = frozenset(
    {
        ("builtins", "set"), ("builtins", "frozenset"), ("builtins", "complex"),
        ("builtins", "bytearray"), ("builtins", "slice"), ("builtins", "range"),
        ("collections", "OrderedDict"), ("collections", "defaultdict"), ("collections", "Counter"),
        ("datetime", "datetime"), ("datetime", "timezone"), ("datetime", "timedelta"),
        ("pathlib", "PosixPath"), ("pathlib", "WindowsPath"), ("pathlib", "Path"),
        ("pathlib._local", "PosixPath"), ("pathlib._local", "WindowsPath"),
        ("numpy", "ndarray"), ("numpy", "dtype"),
        ("numpy._core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "scalar"),
        ("numpy.core.multiarray", "_reconstruct"), ("numpy.core.multiarray", "scalar"),
        ("numpy._core.numeric", "_frombuffer"), ("numpy.core.numeric", "_frombuffer"),
        ("_codecs", "encode"),
    }
)  # fmt: skip


def encode_call(
    function: Callable[..., object],
    args: tuple[object, ...],
    kwargs: Mapping[str, object],
    limit_s: float,
) -> bytes:
    """The request to run a function."""
    return pickle.dumps((function, args, dict(kwargs), limit_s), protocol=5)


def decode_call(
    data: bytes,
) -> tuple[Callable[..., object], tuple[Any, ...], dict[str, Any], float]:
    """The function, its arguments and its time limit."""
    function, args, kwargs, limit_s = pickle.loads(data)
    return function, args, kwargs, limit_s


def encode_result(value: object) -> bytes:
    """A returned value; a value that cannot be pickled becomes an error that says so."""
    try:
        return pickle.dumps(("result", value), protocol=5)
    except (pickle.PicklingError, TypeError, AttributeError) as error:
        return pickle.dumps(("error", f"the result cannot be sent back: {error}"), protocol=5)


def encode_error(error: BaseException) -> bytes:
    """An exception: Sommelier's own as it is, memory exhaustion by kind, others as a sentence."""
    text = f"{type(error).__name__}: {error}".strip().splitlines()[0][:500]
    if isinstance(error, MemoryError) or any(t in text for t in ("bad_alloc", "bad allocation")):
        return pickle.dumps(("memory", text), protocol=5)
    if "Failed to allocate memory" in text or "BFCArena" in text:
        return pickle.dumps(("memory", text), protocol=5)
    if isinstance(error, SommelierError):
        return pickle.dumps(("error", error), protocol=5)
    return pickle.dumps(("error", text), protocol=5)


def decode_answer(data: bytes) -> tuple[str, Any]:
    """('result', value), ('error', exception or sentence) or ('memory', sentence).

    Raises WorkerCrashedError for an answer that is none: the child was taken over or confused.
    """
    try:
        kind, value = _Careful(io.BytesIO(data)).load()
    except Exception as error:  # anything at all may be wrong with such bytes
        raise WorkerCrashedError(f"the worker's answer is not acceptable: {error}") from error
    return str(kind), value


class _Careful(pickle._Unpickler):
    """Knows plain containers, numpy arrays, and Sommelier's own value classes.

    In Python, three times as slow as C, because there a pickle may set attributes of the classes it
    names, `Path.exists` for one, and of members of enums, which all of the parent would see.
    """

    stack: list[Any]  # the standard library's, of what is under construction
    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def load_build(self) -> None:
        """Sets the attributes of what lies below the state on the stack."""
        if isinstance(self.stack[-2], type | enum.Enum):
            raise pickle.UnpicklingError("attributes of a class or of a member of an enum")
        pickle._Unpickler.dispatch[pickle.BUILD[0]](self)  # type: ignore[arg-type]  # typeshed

    dispatch[pickle.BUILD[0]] = load_build

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _PLAIN:
            return getattr(importlib.import_module(module), name)
        if module.split(".")[0] == "sommelier" and "." not in name:
            found = getattr(importlib.import_module(module), name, None)
            if isinstance(found, type) and found.__module__ == module and _is_value(found):
                return found
        raise pickle.UnpicklingError(f"{module}.{name} is not a value")


def _is_value(found: type) -> bool:
    return dataclasses.is_dataclass(found) or issubclass(found, enum.Enum | SommelierError)
