"""Inputs that a torch module is exported with: from a signature, from examples, or assumed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sommelier.errors import RejectedModelError
from sommelier.records import TensorSpec

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

SEED = 0
FREE_LENGTH = 16  # of an axis that is neither the batch nor stated
SMALL_ID = 15  # largest random integer: any table of ids is as long
IMAGE_SIDE = 224

_INPUT = re.compile(r"(?:(?P<name>[A-Za-z_]\w*)\s*:)?\s*(?P<dtype>\w+)\s*\[(?P<dims>[^\]]*)\]")
_TYPES = frozenset(
    {"float32", "float64", "float16", "bool", "uint8", "int8", "int16", "int32", "int64"}
)


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


def random_inputs(specs: Sequence[TensorSpec], *, batch: int, seed: int = SEED) -> list[Tensor]:
    """A seeded batch for each input: standard normal floats, ids up to 15, fair coins.

    The first axis has `batch` samples unless its length is stated; other open axes have 16.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    made = []
    for spec in specs:
        dtype = getattr(torch, spec.dtype)
        first, *rest = spec.shape or ("n",)
        shape = [first if isinstance(first, int) else batch]
        shape += [dim if isinstance(dim, int) else FREE_LENGTH for dim in rest]
        made.append(_random(shape, dtype, generator, SMALL_ID))
    return made


def alike(examples: Sequence[Tensor], *, batch: int, seed: int = SEED) -> list[Tensor]:
    """Seeded random inputs with the types and item shapes of examples, (batch, ...) each.

    Integers lie in the range of the example's own.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    made = []
    for example in examples:
        highest = SMALL_ID if example.is_floating_point() else int(example.max().clamp(min=0))
        made.append(_random([batch, *example.shape[1:]], example.dtype, generator, highest))
    return made


def _random(
    shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator, highest: int
) -> Tensor:
    import torch

    if dtype.is_floating_point:
        return torch.randn(*shape, generator=generator).to(dtype)
    if dtype == torch.bool:
        return torch.rand(*shape, generator=generator) < 0.5
    return torch.randint(0, highest + 1, tuple(shape), generator=generator).to(dtype)


def _dim(text: str) -> int | str:
    return int(text) if text.isdigit() else text
