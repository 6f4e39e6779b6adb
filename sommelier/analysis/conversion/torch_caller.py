"""How a torch module is called and what it answers, as an exporter can take it. Imports torch."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from traceback import extract_stack
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakIdKeyDictionary

from sommelier.errors import RejectedModelError

LOOKS = frozenset(
    {"__bool__", "__int__", "__float__", "__index__", "__complex__", "__array__", "__contains__",
     "item", "tolist", "numpy", "equal", "allclose", "is_nonzero"}
)  # fmt: skip
"""What gives Python the numbers in a tensor; a trace keeps what Python then did."""

T = TypeVar("T")


class Caller(nn.Module):
    """A module called with tensors in order that answers a tuple of tensors.

    keywords : names of the last inputs, which are passed by name.
    """

    def __init__(self, module: nn.Module, keywords: Sequence[str] = ()) -> None:
        super().__init__()
        self.module = module
        self.keywords = tuple(keywords)

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(answer for _, answer in tensors_in(self.answer(*inputs)))

    def answer(self, *inputs: Tensor) -> object:
        """What the module itself answers."""
        count = len(inputs) - len(self.keywords)
        return self.module(*inputs[:count], **dict(zip(self.keywords, inputs[count:], strict=True)))


def unwrapped(module: nn.Module) -> nn.Module:
    """The module that torch.compile or a parallel wrapper was given."""
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    name = "module" if isinstance(module, parallel) else "_orig_mod"
    inner = getattr(module, name, None)
    return unwrapped(inner) if isinstance(inner, nn.Module) else module


def on_cpu(module: nn.Module) -> nn.Module:
    """The module, or a copy whose weights are on the CPU where some are elsewhere.

    No weight is copied where it is: a GPU may have no room for another.
    """
    tensors = [*module.parameters(), *module.buffers()]
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return module
    memo: dict[int, Any] = {}
    for tensor in tensors:
        moved = tensor.detach().cpu()
        memo[id(tensor)] = nn.Parameter(moved) if isinstance(tensor, nn.Parameter) else moved
    return deepcopy(module, memo)


def bound_by_name(module: nn.Module, given: Mapping[str, T]) -> tuple[dict[str, T], dict[str, T]]:
    """What is given by the names of forward, as (in order, by name only).

    Raises RejectedModelError naming what forward takes.
    """
    signature = _signature(module)
    try:
        bound = signature.bind(**given)
    except TypeError as error:
        raise RejectedModelError(
            f"forward does not take these inputs: {error}", hint=f"it is forward{signature}"
        ) from error
    return dict(zip(bound.arguments, bound.args, strict=False)), dict(bound.kwargs)


def parameter_names(module: nn.Module, count: int) -> tuple[str, ...]:
    """Names of the first `count` parameters of forward; 'input0' and so on where it has fewer."""
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = _signature(module).parameters.values()
    names = tuple(one.name for one in parameters if one.kind in plain)
    return names[:count] if len(names) >= count else tuple(f"input{i}" for i in range(count))


def takes_any(module: nn.Module) -> bool:
    """Whether forward is forward(*inputs), so that names of inputs are only labels."""
    kinds = [one.kind for one in _signature(module).parameters.values()]
    return bool(kinds) and kinds[0] is inspect.Parameter.VAR_POSITIONAL


def _signature(module: nn.Module) -> inspect.Signature:
    schema = getattr(module.forward, "schema", None)  # of TorchScript
    if schema is None:
        return inspect.signature(module.forward)
    kind, empty = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.empty
    return inspect.Signature(
        [
            inspect.Parameter(
                one.name, kind, default=one.default_value if one.has_default_value() else empty
            )
            for one in schema.arguments[1:]
        ]
    )


def tensors_in(made: object) -> Iterator[tuple[str, Tensor]]:
    """(keys joined by '_', tensor) of what a module answers; what it leaves out as None is dropped.

    Raises RejectedModelError naming what is neither a tensor nor a container of some.
    """
    found = list(_leaves(made, ()))
    foreign = sorted({type(leaf).__name__ for _, leaf in found if not isinstance(leaf, Tensor)})
    if foreign or not found:
        raise RejectedModelError(
            f"it answers {', '.join(foreign)} besides tensors" if foreign else "it answers nothing",
            hint="wrap it in a module whose forward answers tensors; a transformer of Hugging Face "
            "does with use_cache=False",
        )
    yield from (("_".join(keys), leaf) for keys, leaf in found)


def _leaves(made: object, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if made is None:
        return
    inner: Iterator[tuple[object, object]] | None = None
    if isinstance(made, Mapping):
        inner = iter(made.items())
    elif dataclasses.is_dataclass(made) and not isinstance(made, type):
        inner = ((field.name, getattr(made, field.name)) for field in dataclasses.fields(made))
    elif isinstance(made, tuple | list):
        inner = iter(enumerate(made))
    if inner is None:
        yield keys, made
        return
    for key, value in inner:
        yield from _leaves(value, (*keys, str(key)))


def is_plain(made: object) -> bool:
    """Whether an exporter takes such an answer as it is: tensors in tuples, lists and dicts."""
    if isinstance(made, Tensor):
        return True
    if type(made) in (tuple, list):
        return all(is_plain(one) for one in made)  # type: ignore[attr-defined]  # it is one of both
    return type(made) is dict and all(is_plain(one) for one in made.values())


def output_names(made: object, inputs: Sequence[str]) -> list[str]:
    """'output', or 'output0' and so on, or the keys of a dict or dataclass; no input's name."""
    found = list(tensors_in(made))
    keyed = isinstance(made, Mapping) or dataclasses.is_dataclass(made)
    if keyed:
        names = [name for name, _ in found]
    else:
        names = [f"output{i}" for i in range(len(found))] if len(found) > 1 else ["output"]
    return [f"{name}_output" if name in inputs else name for name in names]


def looks_at(module: Callable[..., object], inputs: Sequence[Tensor]) -> str | None:
    """Where Python looks at numbers that the inputs decide, 'nets.py:12'; None if it never does.

    Runs the module once. A trace holds for these numbers only, then. TorchScript decides in its
    graph, and so is never found here.
    """
    inputs = [one.clone() for one in inputs]  # the module may change them
    watch = _Watch(inputs)
    with watch, torch.no_grad():
        module(*inputs)
    return watch.place


class _Watch(TorchFunctionMode):
    """Follows the inputs through every function of torch; place : of the first look."""

    def __init__(self, inputs: Sequence[Tensor]) -> None:
        super().__init__()
        self.place: str | None = None
        self._from_inputs = WeakIdKeyDictionary(dict.fromkeys(inputs, True))

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        given = pytree.tree_leaves((args, kwargs))
        if not any(isinstance(one, Tensor) and one in self._from_inputs for one in given):
            return made
        name = getattr(func, "__name__", "")
        if name in LOOKS and self.place is None:
            self.place = _place()
        changed = [made]
        if name.endswith("_") or name in ("__setitem__", "__set__"):  # in place, as x.add_(y)
            changed.append(args[0])
        for one in pytree.tree_leaves(changed):
            if isinstance(one, Tensor):
                self._from_inputs[one] = True
        return made


def _place() -> str:
    """The innermost line of the call that is neither torch's nor ours."""
    ours = (str(Path(torch.__file__).parent), __file__)
    frames = [f for f in extract_stack() if not f.filename.startswith(ours)]
    return f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "its code"
