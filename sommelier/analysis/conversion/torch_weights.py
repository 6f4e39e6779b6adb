"""Weights from files anyone may have written: only tensors are read, nothing is called."""

from __future__ import annotations

import json
import math
import mmap
import re
import warnings
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sommelier.errors import RejectedModelError, first_line

if TYPE_CHECKING:
    from torch import Tensor

SAFETENSORS = ".safetensors"
MAX_HEADER_BYTES = 100 * 10**6  # as the reference implementation has it
NESTED = (
    "state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "weights",
    "params", "generator", "params_ema", "state_dict_ema", "model_ema", "ema_state_dict", "ema",
)  # fmt: skip
"""Where trainers put the weights; the first is taken, an average only where there is no other."""
DEPTH = 4  # of such dictionaries in each other
COMPILED = "_orig_mod."  # what torch.compile puts before the names of what it wraps

_SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-\d{5}")
_INDEX = ".index.json"
_TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64",
    "I32": "int32", "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32",
    "U16": "uint16", "U8": "uint8", "BOOL": "bool", "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E8M0": "float8_e8m0fnu",
}  # fmt: skip


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a torch file read with weights_only, by name.

    Of a model that is kept in several files, any of these or their index names all. Weights that a
    checkpoint keeps beside its optimiser's state are found. Raises RejectedModelError for anything
    else.
    """
    shards = _shards(path)
    if shards:
        return {name: tensor for shard in shards for name, tensor in _of_file(shard).items()}
    return _of_file(path)


def fitting(weights: Mapping[str, Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """The weights by the names that a module has, where wrappers have put theirs before them.

    names : of the module's own. Given back as they are if no prefix explains the difference.
    """
    wanted = set(names)
    found = {name.replace(COMPILED, ""): tensor for name, tensor in weights.items()}
    while not wanted & set(found):
        heads = {name.partition(".")[0] for name in found}
        if len(heads) != 1 or not all("." in name for name in found):
            return dict(weights)
        found = {name.partition(".")[2]: tensor for name, tensor in found.items()}
    return found


def _shards(path: Path) -> list[Path]:
    """The files that the index beside a shard lists; none where the path is no shard."""
    match = _SHARD.fullmatch(path.stem)
    index = path if path.name.endswith(_INDEX) else None
    if match:
        index = path.with_name(f"{match['stem']}{path.suffix}{_INDEX}")
    if index is None:
        return []
    try:
        listed = sorted(set(json.loads(index.read_text())["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RejectedModelError(
            f"'{path.name}' is one of several files, and the list of them, '{index.name}', cannot "
            f"be read: {first_line(error)}"
        ) from error
    if not all(isinstance(name, str) and Path(name).name == name for name in listed):
        raise RejectedModelError(f"'{index.name}' names files elsewhere")
    absent = [name for name in listed if not (index.parent / name).is_file()]
    if absent:
        raise RejectedModelError(f"of the files of '{index.name}', '{absent[0]}' is missing")
    return [index.parent / name for name in listed]


def _of_file(path: Path) -> dict[str, Tensor]:
    import torch

    if path.suffix.lower() == SAFETENSORS:
        return _safetensors(path)
    try:
        kept = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except Exception as error:  # torch raises what it likes for a broken or hostile file
        raise _refused(path, error) from error
    return _weights_in(kept, DEPTH)


def _weights_in(kept: object, depth: int) -> dict[str, Tensor]:
    """The dictionary of tensors that is, or lies somewhere in, what a file keeps."""
    import torch

    if not isinstance(kept, Mapping) or not kept:
        raise RejectedModelError("it holds no dictionary of weights")
    if all(isinstance(value, torch.Tensor) for value in kept.values()):
        return {str(name): value for name, value in kept.items()}
    inner = [key for key in NESTED if isinstance(kept.get(key), Mapping)]
    if inner and depth:
        return _weights_in(kept[inner[0]], depth - 1)
    other = next(key for key, value in kept.items() if not isinstance(value, torch.Tensor))
    known = ", ".join(str(key) for key in list(kept)[:8])
    raise RejectedModelError(
        f"its entry '{other}' is not a tensor (it has {known})", hint="save only its state_dict()"
    )


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
    """8 bytes of length, a JSON header, then the tensors, which are mapped. Offsets are checked."""
    import torch

    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
            raise RejectedModelError("not a safetensors file, or a truncated one")
        text = file.read(length)
        body = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        described = {
            name: _Tensor(one, 8 + length)
            for name, one in json.loads(text).items()
            if name != "__metadata__"
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they cannot be written, nor are they
            return {
                name: torch.frombuffer(body, dtype=one.dtype, count=one.count, offset=one.start)
                .reshape(one.shape)
                if one.count
                else torch.empty(one.shape, dtype=one.dtype)
                for name, one in described.items()
            }  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise RejectedModelError(f"its safetensors header is wrong: {first_line(error)}") from error


class _Tensor:
    """One entry of the header. count : elements; start : its first byte in the file."""

    def __init__(self, entry: Mapping[str, Any], body: int) -> None:
        import torch

        self.dtype: torch.dtype = getattr(torch, _TYPES[entry["dtype"]])
        self.shape = [int(dim) for dim in entry["shape"]]
        if any(dim < 0 for dim in self.shape):
            raise ValueError("a negative length")
        self.count = math.prod(self.shape)
        start, end = (int(offset) for offset in entry["data_offsets"])
        if start < 0 or end - start != self.count * self.dtype.itemsize:
            raise ValueError("offsets that do not fit the shape")
        self.start = body + start
