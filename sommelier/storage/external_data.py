"""Which files an ONNX model keeps its weights in, and whether they are where they may be.

A hostile model may point anywhere on the disk (GHSA-538c-55jv-c5g9), so a location is accepted only
when it is a plain relative path to a regular file that really lies in the model's own folder, and
is long enough for what the tensors claim. Connectors ask before they fetch, the analysis asks again
before it reads: both ask here. Weights are never read, and onnx is loaded by the first question.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from sommelier.errors import RejectedModelError
from sommelier.units import Dimension, format_value

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto

MAX_EXTERNAL_FILES = 10_000
MAX_PARTS = 1_000_000  # nodes, attributes and tensors of a model: to look at each takes 10 us


@dataclass(frozen=True, slots=True)
class Extent:
    """A stretch of an external file a tensor claims. end : None when its length is not known."""

    tensor: str
    location: str
    offset: int
    end: int | None


def external_files(path: Path, *, max_size: int | None = None) -> list[Path]:
    """Files beside `path` that belong to it, in order of first use; [] for a self-contained model.

    max_size : bytes allowed for the model and these files together; None: any.
    Raises RejectedModelError if the bytes are no ONNX model, or a location is unacceptable.
    """
    size = path.stat().st_size
    if max_size is not None and size > max_size:
        raise too_large(size, max_size)
    return files_of(read_model(path), path.parent, max_size=max_size, size=size)


def files_of(
    model: ModelProto, folder: Path, *, max_size: int | None = None, size: int = 0
) -> list[Path]:
    """Like external_files, of a model that is read already and lies in `folder`. size : its own."""
    files: dict[str, Path] = {}
    for extent in extents(model):
        if extent.location not in files:
            if len(files) == MAX_EXTERNAL_FILES:
                raise RejectedModelError(f"more than {MAX_EXTERNAL_FILES} external files")
            files[extent.location] = _inside(folder, extent.location)
            size += files[extent.location].stat().st_size
            if max_size is not None and size > max_size:
                raise too_large(size, max_size)
        _check_extent(extent, files[extent.location].stat().st_size)
    return list(files.values())


def read_model(path: Path) -> ModelProto:
    """The graph of an ONNX file; external weights stay unread. RejectedModelError if it is none."""
    import onnx  # 0.2 s, only paid by an import of models
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(path), format="protobuf", load_external_data=False)
    except (DecodeError, ValueError, OSError, RuntimeError) as error:
        raise RejectedModelError(
            f"not an ONNX file: {str(error) or type(error).__name__}"
        ) from error
    if not model.HasField("graph"):
        raise RejectedModelError("not an ONNX file: it holds no graph")
    return model


def extents(model: ModelProto) -> Iterator[Extent]:
    """Every claim on an external file, subgraphs and functions included.

    Raises RejectedModelError for a location that check_location refuses, a place that is no number,
    or a length that is not what the tensor's shape and type take.
    """
    for tensor in tensors(model):
        if tensor.data_location == 1 or tensor.external_data:  # TensorProto.EXTERNAL
            entries = {entry.key: entry.value for entry in tensor.external_data}
            location = entries.get("location", "")
            check_location(location)
            offset = _count(entries, "offset") or 0
            length, needed = _count(entries, "length"), _nbytes(tensor)
            if length and needed is not None and length != needed:
                raise RejectedModelError(
                    f"the weight {tensor.name[:100]!r} takes {needed} bytes, but claims {length} "
                    f"in {location!r}"
                )
            length = length or needed
            end = None if length is None else offset + length
            yield Extent(tensor.name[:100], location, offset, end)


def check_location(location: str) -> None:
    """Raises RejectedModelError unless `location` is a plain relative path without '..'."""
    shown = location if len(location) <= 100 else location[:100] + "..."
    if not location or "\0" in location:
        raise RejectedModelError("a tensor says its data is external, but not in which file")
    if location.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", location):
        raise RejectedModelError(
            f"external data at an absolute path, outside the model's folder: {shown!r}"
        )
    if ".." in PurePosixPath(location.replace("\\", "/")).parts:
        raise RejectedModelError(f"external data outside the model's folder: {shown!r}")


def too_large(size: int, max_size: int) -> RejectedModelError:
    """The refusal of something larger than the limit."""
    return RejectedModelError(
        f"too large: {format_value(size, Dimension.BYTES)}, "
        f"the limit is {format_value(max_size, Dimension.BYTES)} (USING max_size = ...)"
    )


def _inside(folder: Path, location: str) -> Path:
    path = folder / location
    try:
        target = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise RejectedModelError(f"external data file {location!r} is missing") from error
    if not target.is_relative_to(folder.resolve()):
        raise RejectedModelError(f"external data {location!r} is a link out of the model's folder")
    if not target.is_file():
        raise RejectedModelError(f"external data {location!r} is not a regular file")
    return path


def _check_extent(extent: Extent, size: int) -> None:
    needed = max(extent.offset, extent.end or 0)
    if needed > size:
        raise RejectedModelError(
            f"external data {extent.location!r} is cut short: the weight {extent.tensor!r} needs "
            f"{needed} bytes of it, it has {size}"
        )


def element_bits(dtype: int) -> int | None:
    """Bits of an element of an ONNX type; None for strings and unknown types."""
    from onnx import TensorProto, helper

    if dtype in (TensorProto.UNDEFINED, TensorProto.STRING):
        return None
    name = TensorProto.DataType.Name(dtype) if dtype in TensorProto.DataType.values() else ""
    for bits, names in ((4, ("INT4", "UINT4", "FLOAT4E2M1")), (2, ("INT2", "UINT2"))):
        if name in names:
            return bits
    try:
        return int(helper.tensor_dtype_to_np_dtype(dtype).itemsize) * 8
    except (KeyError, ValueError):
        return None


def _nbytes(tensor: TensorProto) -> int | None:
    bits = element_bits(tensor.data_type)
    return None if bits is None else -(-math.prod(tensor.dims) * bits // 8)


def _count(entries: dict[str, str], key: str) -> int | None:
    text = entries.get(key)
    if text is None or text == "":
        return None
    if not re.fullmatch(r"\d{1,19}", text):
        raise RejectedModelError(f"external data with an impossible {key}: {text[:40]!r}")
    return int(text)


def tensors(model: ModelProto) -> Iterator[TensorProto]:
    """All tensors of a model, subgraphs and functions included, as they lie in it.

    An explicit stack: a hostile file may nest its subgraphs deeply. Raises RejectedModelError for
    more than MAX_PARTS of them before they are looked at: a node may take two bytes of a file.
    """
    left = MAX_PARTS
    stack: list[Any] = [model.graph]
    stack.extend(
        step for info in model.training_info for step in (info.initialization, info.algorithm)
    )
    stack.extend(model.functions)
    while stack:
        part = stack.pop()
        left = _counted(left, part.node)
        if hasattr(part, "initializer"):  # a graph; functions have nodes only
            left = _counted(left, part.initializer, part.sparse_initializer)
            yield from part.initializer
            yield from _sparse(part.sparse_initializer)
        for node in part.node:
            left = _counted(left, node.attribute)
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                left = _counted(left, attribute.tensors, attribute.sparse_tensors, attribute.graphs)
                yield from attribute.tensors
                sparse = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else []
                yield from _sparse((*sparse, *attribute.sparse_tensors))
                if attribute.HasField("g"):
                    stack.append(attribute.g)
                stack.extend(attribute.graphs)


def _counted(left: int, *parts: Sized) -> int:
    """What of MAX_PARTS is left after these."""
    left -= sum(map(len, parts))
    if left < 0:
        raise RejectedModelError(
            f"its graph has more than {MAX_PARTS} nodes, attributes and weights"
        )
    return left


def _sparse(tensors: Iterable[Any]) -> Iterator[TensorProto]:
    for sparse in tensors:
        yield sparse.values
        yield sparse.indices
