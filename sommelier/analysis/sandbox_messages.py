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
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import PurePath
from types import ModuleType
from typing import Any, ClassVar

from sommelier.errors import SommelierError, WorkerCrashedError

_PLAIN = frozenset(
    {
        ("builtins", "complex"), ("builtins", "slice"), ("builtins", "range"),
        ("collections", "OrderedDict"), ("collections", "defaultdict"), ("collections", "Counter"),
        ("datetime", "datetime"), ("datetime", "timezone"), ("datetime", "timedelta"),
        ("pathlib", "PosixPath"), ("pathlib", "WindowsPath"), ("pathlib", "Path"),
        ("pathlib._local", "PosixPath"), ("pathlib._local", "WindowsPath"),
        ("numpy", "ndarray"), ("numpy", "dtype"),
        ("numpy._core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "scalar"),
        ("numpy.core.multiarray", "_reconstruct"), ("numpy.core.multiarray", "scalar"),
        ("numpy._core.numeric", "_frombuffer"), ("numpy.core.numeric", "_frombuffer"),
    }
)  # fmt: skip
_ROOMS = ("sommelier.records", "sommelier.analysis.", "sommelier.storage.")
"""Modules of ours that an answer may make us import; others only name what is imported."""
_ANY = {
    "complex": (float, float), "slice": (object, object, object), "range": (int, int, int),
    "OrderedDict": (), "Counter": (dict,), "defaultdict": (type | None,),
    "datetime": (bytes, object), "timezone": (object, str), "timedelta": (int, int, int),
    "_reconstruct": (type, tuple, bytes), "_frombuffer": (bytes | bytearray, object, tuple, str),
    "dtype": (str, bool, bool),
}  # fmt: skip
"""What plain callables are called with, by name; fewer arguments are as good. No size is among
them, for what allocates does so before it looks at what is there: bytearray(3 * 10**9)."""
_DTYPE = re.compile("[biufcmMOSU][0-9]{1,9}")


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
        under, state = self.stack[-2:]
        if isinstance(under, type | enum.Enum):
            raise pickle.UnpicklingError("attributes of a class or of a member of an enum")
        is_dtype = any(kind.__name__ == "dtype" for kind in type(under).__mro__)
        if is_dtype and any(part is not None for part in state[2:5]):
            raise pickle.UnpicklingError("an array of records")
        pickle._Unpickler.dispatch[pickle.BUILD[0]](self)  # type: ignore[arg-type]  # typeshed

    def load_reduce(self) -> None:
        """Calls what lies below the arguments on the stack."""
        called, arguments = self.stack[-2:]
        if not isinstance(arguments, tuple) or not _may_call(called, arguments):
            raise pickle.UnpicklingError(f"a call of {_name(called)} with what makes no value")
        pickle._Unpickler.dispatch[pickle.REDUCE[0]](self)  # type: ignore[arg-type]  # typeshed

    def load_newobj(self) -> None:
        """An object that nothing was done to yet."""
        made, arguments = self.stack[-2:]
        if arguments != () or not isinstance(made, type) or not _is_value(made):
            raise pickle.UnpicklingError(f"a new {_name(made)} that is no value")
        pickle._Unpickler.dispatch[pickle.NEWOBJ[0]](self)  # type: ignore[arg-type]  # typeshed

    def load_other(self) -> None:
        """What no value of ours is pickled with."""
        raise pickle.UnpicklingError("an operation that makes no value")

    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    for _code in (pickle.NEWOBJ_EX, pickle.OBJ, pickle.INST):
        dispatch[_code[0]] = load_other

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _PLAIN:
            return getattr(importlib.import_module(module), name)
        if module.split(".")[0] == "sommelier" and "." not in name:
            found = getattr(_imported(module), name, None)
            if isinstance(found, type) and found.__module__ == module and _is_value(found):
                return found
        raise pickle.UnpicklingError(f"{module}.{name} is not a value")


def _imported(module: str) -> ModuleType | None:
    known = sys.modules.get(module)
    if known is None and f"{module}.".startswith(_ROOMS):
        return importlib.import_module(module)
    return known


def _may_call(called: object, arguments: tuple[object, ...]) -> bool:
    """Whether this is how a value is pickled; a call with other arguments may never end."""
    name = _name(called)
    if isinstance(called, type) and issubclass(called, PurePath):
        return all(isinstance(part, str) for part in arguments)
    if isinstance(called, type) and issubclass(called, SommelierError):
        return True
    if isinstance(called, type) and issubclass(called, enum.Enum):
        return len(arguments) == 1  # with more it would make a class
    if name == "dtype" and not _DTYPE.fullmatch(str(arguments[0])):
        return False
    if name == "_reconstruct":
        return arguments[1:] == ((0,), b"b")
    if name == "scalar":
        return len(arguments) == 2
    kinds = _ANY.get(name)
    return (
        kinds is not None
        and len(arguments) <= len(kinds)
        and all(map(isinstance, arguments, kinds[: len(arguments)]))
    )


def _name(called: object) -> str:
    return str(getattr(called, "__name__", type(called).__name__))


def _is_value(found: type) -> bool:
    return dataclasses.is_dataclass(found) or issubclass(found, enum.Enum | SommelierError)
