"""External data of a model: which files, and whether they are where they may be.

A model may say that its weights are in any file of the disk (GHSA-538c-55jv-c5g9). Accepted is a
plain relative path to a regular file inside the model's folder, long enough for what it claims.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING

from sommelier.errors import RejectedModelError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto


def external_files(model: ModelProto, folder: Path) -> list[Path]:
    """The files that hold the model's external data, in order of first use.

    Raises RejectedModelError if one is outside the folder, missing, or too short.
    """
    from onnx import TensorProto

    files: dict[str, Path] = {}
    for tensor in _tensors(model):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        stated = {entry.key: entry.value for entry in tensor.external_data}
        location = stated.get("location", "")
        if location not in files:
            files[location] = _inside(folder, location)
        try:
            offset = int(stated.get("offset", 0))
            length = int(stated.get("length", 0))
        except ValueError as error:
            raise RejectedModelError(
                f"weight '{tensor.name}' has a place in '{location}' that is no number"
            ) from error
        _check_extent(tensor, offset, length, files[location])
    return list(files.values())


def _check_extent(tensor: TensorProto, offset: int, length: int, file: Path) -> None:
    from sommelier.analysis.graph import Tensor

    needed = Tensor(tensor.data_type, tuple(tensor.dims)).nbytes
    if needed is not None and length and length != needed:
        raise RejectedModelError(
            f"weight '{tensor.name}' takes {needed} bytes, but claims {length} in '{file.name}'"
        )
    end = offset + (length or needed or 0)
    if offset < 0 or length < 0 or end > file.stat().st_size:
        raise RejectedModelError(f"external data '{file.name}' is too short for '{tensor.name}'")


def _inside(folder: Path, location: str) -> Path:
    parts = PurePosixPath(location.replace("\\", "/")).parts
    absolute = PurePosixPath(location).is_absolute() or bool(PureWindowsPath(location).anchor)
    if not location or absolute or ".." in parts or "\x00" in location:
        raise RejectedModelError(f"external data '{location}' lies outside the model's folder")
    path = folder.joinpath(*parts)
    if not path.is_file():
        raise RejectedModelError(f"external data '{location}' is missing")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise RejectedModelError(f"external data '{location}' is a link out of the model's folder")
    return path


def _tensors(model: ModelProto) -> Iterator[TensorProto]:
    yield from _graph_tensors(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _node_tensors(node)


def _graph_tensors(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield sparse.values
        yield sparse.indices
    for node in graph.node:
        yield from _node_tensors(node)


def _node_tensors(node: NodeProto) -> Iterator[TensorProto]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        if attribute.HasField("sparse_tensor"):
            yield attribute.sparse_tensor.values
            yield attribute.sparse_tensor.indices
        if attribute.HasField("g"):
            yield from _graph_tensors(attribute.g)
        for graph in attribute.graphs:
            yield from _graph_tensors(graph)
