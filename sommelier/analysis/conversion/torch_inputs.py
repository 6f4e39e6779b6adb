"""Inputs that a torch module is exported with: from a signature, from examples, or assumed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from sommelier.errors import RejectedModelError
from sommelier.records import TensorSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

SEED = 0
BATCH_AXIS = "batch"
BATCH = 2  # of the inputs that a module is traced with; 1 would be taken for a fixed length
FREE_LENGTH = 16  # of an axis that is neither the batch nor stated
SMALL_ID = 15  # largest random integer: most tables of ids are as long
IMAGE_SIDE = 224

Range = tuple[int, int]
"""The smallest and the largest random integer of an input."""

_INPUT = re.compile(r"(?:(?P<name>[A-Za-z_]\w*)\s*:)?\s*(?P<dtype>\w+)\s*\[(?P<dims>[^\]]*)\]")
_TYPES = frozenset(
    {"float32", "float64", "float16", "bool", "uint8", "int8", "int16", "int32", "int64"}
)


@dataclass(frozen=True, slots=True)
class Examples:
    """What a module is exported with.

    tensors, names : of its inputs in order, (n, ...) each. axes : of each input, the names of its
    open axes by position, {0: 'batch'}; axes of one name are as long as each other. keywords : how
    many of the last inputs forward takes by name only. ranges : of random integers, by place.
    """

    tensors: tuple[Tensor, ...]
    names: tuple[str, ...]
    axes: tuple[Mapping[int, str], ...]
    keywords: int = 0
    ranges: Mapping[int, Range] = field(default_factory=dict)


def parse_inputs(text: str) -> tuple[TensorSpec, ...]:
    """The inputs that a text such as 'float32[n,3,32,32]; mask: bool[n,5]' states.

    Unnamed ones are 'input0', 'input1' ... in order. Raises RejectedModelError with an example.

    >>> [str(spec) for spec in parse_inputs("ids:int64[n,?]")]
    ['ids:int64[n,?]']
    """
    found = []
    for place, part in enumerate(text.split(";")):
        match = _INPUT.fullmatch(part.strip())
        if match is None or match["dtype"] not in _TYPES:
            raise RejectedModelError(
                f"inputs = '{text}' cannot be read at '{part.strip()}'",
                hint="write type and shape of each, as in 'float32[n,3,224,224]; mask: bool[n,5]'",
            )
        dims = tuple(_dim(dim.strip()) for dim in match["dims"].split(",") if dim.strip())
        found.append(TensorSpec(match["name"] or f"input{place}", match["dtype"], dims))
    return tuple(found)


def assumed_inputs(module: nn.Module) -> tuple[TensorSpec, ...]:
    """The input that the first layer of a module takes, with its length guessed for images.

    Raises RejectedModelError where the first layer does not tell.
    """
    from torch import nn

    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            shape = ("n", layer.in_channels, IMAGE_SIDE, IMAGE_SIDE)
            return (TensorSpec("input0", "float32", shape),)
        if isinstance(layer, nn.Linear):
            return (TensorSpec("input0", "float32", ("n", layer.in_features)),)
        if next(layer.parameters(recurse=False), None) is not None:
            break
    raise RejectedModelError(
        "what its inputs are is unknown", hint="say it: USING inputs = 'float32[n,3,224,224]'"
    )


def specified_examples(
    specs: Sequence[TensorSpec], names: Sequence[str], *, highest: int = SMALL_ID
) -> Examples:
    """Two samples of each input, standard normal floats, integers up to `highest`, fair coins.

    The first axis is the batch; beside an open one, a first axis of a stated length is not. Other
    axes that are open have 16 elements, and one length where they have one name.
    """
    shapes = [spec.shape or ("n",) for spec in specs]
    batches = {str(shape[0]) for shape in shapes if not isinstance(shape[0], int)}
    axes, lengths = [], []
    for place, shape in enumerate(shapes):
        opened = {
            axis: BATCH_AXIS if axis == 0 or dim in batches else _axis_name(dim, place, axis)
            for axis, dim in enumerate(shape)
            if not isinstance(dim, int)
        }
        axes.append(opened)
        lengths.append(
            [
                dim
                if isinstance(dim, int)
                else BATCH
                if opened[axis] == BATCH_AXIS
                else FREE_LENGTH
                for axis, dim in enumerate(shape)
            ]
        )
    ranges = dict.fromkeys(range(len(specs)), (0, highest))
    tensors = _random_all(lengths, [_dtype(spec.dtype) for spec in specs], ranges, SEED)
    if not batches:
        found = batched_examples(tensors, names)
        axes = [{**ours, **theirs} for ours, theirs in zip(axes, found.axes, strict=True)]
    return Examples(tensors, tuple(names), tuple(axes))


def batched_examples(
    tensors: Sequence[Tensor], names: Sequence[str], *, keywords: int = 0
) -> Examples:
    """Examples whose batch is the commonest first length above 1, else 1; others stay fixed."""
    lengths = Counter(len(one) for one in tensors)
    several = Counter({length: count for length, count in lengths.items() if length > 1})
    batch = (several or lengths).most_common(1)[0][0]
    axes = tuple({0: BATCH_AXIS} if len(one) == batch else {} for one in tensors)
    return Examples(tuple(tensors), tuple(names), axes, keywords)


def doubled(examples: Examples) -> Examples:
    """Two samples where there is one, which exporters take for a fixed length."""
    import torch

    tensors = tuple(
        torch.cat([one, one]) if len(one) == 1 and 0 in axes else one
        for one, axes in zip(examples.tensors, examples.axes, strict=True)
    )
    return replace(examples, tensors=tensors)


def single(examples: Examples) -> Examples:
    """The first sample, with every axis fixed."""
    tensors = tuple(
        one[:1] if 0 in axes else one
        for one, axes in zip(examples.tensors, examples.axes, strict=True)
    )
    return replace(examples, tensors=tensors, axes=tuple({} for _ in tensors))


def only_batch(examples: Examples) -> Examples:
    """The examples with other axes than the batch fixed."""
    axes = tuple({0: BATCH_AXIS} if 0 in one else {} for one in examples.axes)
    return replace(examples, axes=axes)


def copied(examples: Examples) -> Examples:
    """The examples in memory of their own: a module may change what it is given."""
    return replace(examples, tensors=tuple(one.clone() for one in examples.tensors))


def samples(examples: Examples, inputs: Sequence[Tensor]) -> int:
    """How many samples such inputs hold: the length of the open first axis, 1 if none is open."""
    batches = (len(one) for one, axes in zip(inputs, examples.axes, strict=True) if 0 in axes)
    return next(batches, 1)


def other_axes(examples: Examples) -> tuple[str, ...]:
    """Names of the open axes but the batch, in order."""
    names = (name for axes in examples.axes for axis, name in axes.items() if axis)
    return tuple(dict.fromkeys(names))


def alike(
    examples: Examples, lengths: Mapping[str, int], *, seed: int = SEED
) -> tuple[Tensor, ...]:
    """Seeded random inputs, typed and shaped as examples. lengths : of open axes by name."""
    shapes = [
        [lengths.get(axes.get(axis, ""), size) for axis, size in enumerate(one.shape)]
        for one, axes in zip(examples.tensors, examples.axes, strict=True)
    ]
    ranges = {place: _own_range(one) for place, one in enumerate(examples.tensors)}
    kinds = [one.dtype for one in examples.tensors]
    return _random_all(shapes, kinds, {**ranges, **examples.ranges}, seed)


def with_ranges(examples: Examples, accepts: Callable[[Sequence[Tensor]], bool]) -> Examples:
    """Examples with the widest ranges of integers that the module takes, for each input.

    Up to 15, or what the example has, if that is more; 0 and 1, for tables of two; the example's
    own. An example of zeros only says nothing of what a module does with ids. accepts : whether
    the module runs; a table may be shorter than we hope. Ranges that are known already stay.
    """
    import torch

    tensors, ranges = list(examples.tensors), dict(examples.ranges)
    for place, one in enumerate(tensors):
        if one.is_floating_point() or one.dtype == torch.bool or place in examples.ranges:
            continue
        low, high = _own_range(one)
        zero, most = min(low, 0), max(high, SMALL_ID)
        for wider in ((zero, most), (low, most), (zero, max(high, 1))):
            tried = [
                [*tensors[:place], torch.full_like(one, end), *tensors[place + 1 :]]
                for end in wider
            ]
            if all(accepts(inputs) for inputs in tried):
                tensors, ranges[place] = tried[1], wider
                break
    return replace(examples, ranges=ranges)


def _own_range(tensor: Tensor) -> Range:
    if tensor.is_floating_point() or tensor.is_complex() or not tensor.numel():
        return (0, SMALL_ID)
    return int(tensor.min()), int(tensor.max())


def _random_all(
    shapes: Sequence[Sequence[int]],
    kinds: Sequence[torch.dtype],
    ranges: Mapping[int, Range],
    seed: int,
) -> tuple[Tensor, ...]:
    import torch

    generator = torch.Generator().manual_seed(seed)
    return tuple(
        _random(shape, kind, generator, ranges[place])
        for place, (shape, kind) in enumerate(zip(shapes, kinds, strict=True))
    )


def _random(
    shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator, ids: Range
) -> Tensor:
    import torch

    if dtype.is_floating_point:
        return torch.randn(tuple(shape), generator=generator).to(dtype)
    if dtype == torch.bool:
        return torch.rand(tuple(shape), generator=generator) < 0.5
    return torch.randint(ids[0], ids[1] + 1, tuple(shape), generator=generator).to(dtype)


def _dtype(name: str) -> torch.dtype:
    import torch

    found = getattr(torch, name)
    assert isinstance(found, torch.dtype)
    return found


def _axis_name(dim: object, place: int, axis: int) -> str:
    named = isinstance(dim, str) and dim.isidentifier() and dim != BATCH_AXIS
    return str(dim) if named else f"axis{place}_{axis}"


def _dim(text: str) -> int | str:
    return int(text) if text.isascii() and text.isdigit() else text
