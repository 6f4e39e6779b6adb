"""Weights from files anyone may have written: only tensors are read, nothing is called."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sommelier.errors import RejectedModelError, first_line

if TYPE_CHECKING:
    from torch import Tensor

SAFETENSORS = ".safetensors"
MAX_HEADER_BYTES = 100 * 10**6  # as the reference implementation has it
NESTED = ("state_dict", "model_state_dict", "model", "module")  # where trainers put the weights

_TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64",
    "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a torch file read with weights_only, by name.

    One that a checkpoint keeps beside its optimiser's state is found; the prefix 'module.' of
    parallel training is dropped. Raises RejectedModelError for anything else.
    """
    import torch

    if path.suffix == SAFETENSORS:
        return _safetensors(path)
    try:
        kept = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises what it likes for a broken or hostile file
        raise _refused(path, error) from error
    for key in NESTED:
        if isinstance(kept, Mapping) and isinstance(kept.get(key), Mapping):
            kept = kept[key]
            break
    if not isinstance(kept, Mapping) or not kept:
        raise RejectedModelError("it holds no dictionary of weights")
    other = [k for k, v in kept.items() if not isinstance(v, torch.Tensor)]
    if other:
        raise RejectedModelError(f"its entry '{other[0]}' is not a tensor")
    parallel = all(str(name).startswith("module.") for name in kept)
    return {str(n).removeprefix("module.") if parallel else str(n): v for n, v in kept.items()}


def _refused(path: Path, error: Exception) -> RejectedModelError:
    """Why weights_only refuses a file, with the classes it names where it is a pickle."""
    import torch

    try:
        wanted = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:
        wanted = []
    if wanted:
        return RejectedModelError(
            f"unpickling it calls {', '.join(sorted(wanted)[:5])}; only tensors are read",
            hint="save its state_dict(), or use safetensors",
        )
    return RejectedModelError(f"torch cannot read it: {first_line(error)}")


def _safetensors(path: Path) -> dict[str, Tensor]:
    """8 bytes of length, a JSON header, then the tensors. Every offset is checked."""
    import torch

    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, len(data) - 8):
        raise RejectedModelError("not a safetensors file, or a truncated one")
    try:
        header = json.loads(data[8 : 8 + length])
        body = bytearray(data[8 + length :])
        described = {name: _Tensor(one) for name, one in header.items() if name != "__metadata__"}
        return {
            name: torch.frombuffer(body, dtype=getattr(torch, one.dtype), count=one.count,
                                   offset=one.start).reshape(one.shape)
            if one.count
            else torch.empty(one.shape, dtype=getattr(torch, one.dtype))
            for name, one in described.items()
        }  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise RejectedModelError(f"its safetensors header is wrong: {first_line(error)}") from error


class _Tensor:
    """One entry of the header. count : elements; start : its first byte in the body."""

    def __init__(self, entry: Mapping[str, Any]) -> None:
        self.dtype = _TYPES[entry["dtype"]]
        self.shape = [int(dim) for dim in entry["shape"]]
        if any(dim < 0 for dim in self.shape):
            raise ValueError("a negative length")
        self.count = math.prod(self.shape)
        self.start, end = (int(offset) for offset in entry["data_offsets"])
        if self.start < 0 or end < self.start:
            raise ValueError("offsets run backwards")
