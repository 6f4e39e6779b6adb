"""Weights from files anyone may have written: only tensors are read, nothing is called."""

from __future__ import annotations

import json
import mmap
import pickletools
import re
import warnings
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from sommelier.errors import RejectedModelError, first_line
from sommelier.storage.safetensors import (
    DTYPES,
    LENGTH_BYTES,
    StoredTensor,
    header_length,
    stored_tensors,
)

if TYPE_CHECKING:
    from torch import Tensor

SAFETENSORS = ".safetensors"
NESTED = (
    "state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "weights",
    "params", "generator", "params_ema", "state_dict_ema", "model_ema", "ema_state_dict", "ema",
)  # fmt: skip
"""Where trainers put the weights; the first is taken, an average only where there is no other."""
DEPTH = 4  # of such dictionaries in each other
MOST_OPERATIONS_BYTES = 1 << 20  # of a pickle that is looked at for what it would call
COMPILED = "_orig_mod."  # what torch.compile puts before the names of what it wraps

_SHARD = re.compile(r"(?P<stem>.+)-\d{5}-of-\d{5}")
INDEX = ".index.json"  # behind the name of weights in several files: their list


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


def whole_of(path: Path) -> Path | None:
    """'model.bin' of its part 'model-00001-of-00002.bin' or its list 'model.bin.index.json', where
    it is not itself; None for any other file."""
    match = _SHARD.fullmatch(path.stem)
    if match:
        return path.with_name(f"{match['stem']}{path.suffix}")
    return path.with_name(path.name.removesuffix(INDEX)) if path.name.endswith(INDEX) else None


def _shards(path: Path) -> list[Path]:
    """The files that the index beside a shard lists; none where the path is no shard."""
    whole = whole_of(path)
    if whole is None:
        return []
    index = whole.with_name(f"{whole.name}{INDEX}")
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
    except Exception:  # it is no archive of torch: an old file, or a bare pickle
        wanted = _called(path)
    if wanted:
        return RejectedModelError(
            f"unpickling it calls {', '.join(sorted(wanted)[:5])}; only tensors are read",
            hint="save its state_dict(), or use safetensors",
        )
    if "weights_only" in str(error):  # torch goes on with advice to run what is in it
        return RejectedModelError(
            "it is a pickle of more than tensors; only tensors are read",
            hint="save its state_dict(), or use safetensors",
        )
    return RejectedModelError(f"torch cannot read it: {first_line(error)}")


def _called(path: Path) -> list[str]:
    """What a pickle names to be called, as 'module.name', by its operations alone; nothing runs."""
    found, texts = set(), ["", ""]
    try:
        with path.open("rb") as file:
            for operation, value, _ in pickletools.genops(file.read(MOST_OPERATIONS_BYTES)):
                if operation.name == "GLOBAL":
                    found.add(str(value).replace(" ", "."))
                elif operation.name == "STACK_GLOBAL":
                    found.add(".".join(texts))
                elif isinstance(value, str):
                    texts = [texts[1], value]
    except Exception:  # cut off in the middle, or no pickle: what was found counts
        return sorted(found)
    return sorted(found)


def _safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of the file, which are mapped; offsets and types are checked."""
    with path.open("rb") as file:
        try:
            length = header_length(file.read(LENGTH_BYTES))
            if LENGTH_BYTES + length > path.stat().st_size:
                raise ValueError("it is shorter than its header says")
        except ValueError as error:
            raise RejectedModelError(
                f"not a safetensors file, or a truncated one: {first_line(error)}"
            ) from error
        text = file.read(length)
        body = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        described = stored_tensors(text)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they cannot be written, nor are they
            return {
                name: _mapped(body, one, LENGTH_BYTES + length) for name, one in described.items()
            }
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise RejectedModelError(f"its safetensors header is wrong: {first_line(error)}") from error


def _mapped(body: mmap.mmap, tensor: StoredTensor, data: int) -> Tensor:
    """A tensor of the file. data : where the data begin."""
    import torch

    known = DTYPES.get(tensor.dtype)
    if known is None or known.name is None:
        raise ValueError(f"torch has no type '{tensor.dtype[:20]}'")
    dtype: torch.dtype = getattr(torch, known.name)
    if not tensor.elements:
        return torch.empty(tensor.shape, dtype=dtype)
    found = torch.frombuffer(body, dtype=dtype, count=tensor.elements, offset=data + tensor.start)
    return found.reshape(tensor.shape)
