"""ONNX files that torch's exporters write, without traces of where they were written."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from sommelier.analysis.conversion.torch_inputs import Examples
from sommelier.errors import AnalysisError, first_line

if TYPE_CHECKING:
    from onnx import GraphProto
    from torch import nn
    from torch.onnx import ONNXProgram

OPSET = 18
EXTERNAL_BYTES = 15 * 10**8  # of weights; protobuf holds 2 GB in one message
DATA = ".data"  # what the file beside is called more, which has large weights


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Mutes what torch says, to stdout and stderr too, of libraries it lacks and of what it cannot
    export: that is in the error."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        said = io.StringIO()
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def write_exported(
    module: nn.Module, examples: Examples, path: Path, outputs: Sequence[str], *, variadic: bool
) -> None:
    """The module as torch.export sees it. variadic : forward is forward(*inputs).

    Raises AnalysisError with torch's reason.
    """
    import torch
    from torch.export import Dim

    dims = {name: Dim(name) for axes in examples.axes for name in axes.values()}
    shapes = tuple({axis: dims[name] for axis, name in axes.items()} for axes in examples.axes)
    given = ((shapes,) if variadic else shapes) if dims else None
    try:
        with quiet_exporter():
            program = torch.onnx.export(
                module, examples.tensors, dynamo=True, verbose=False, opset_version=OPSET,
                input_names=list(examples.names), output_names=list(outputs), dynamic_shapes=given,
            )  # fmt: skip
    except Exception as error:  # torch raises what it likes
        raise AnalysisError(_cause(error)) from error
    assert program is not None
    write_program(program, path)


def write_program(program: ONNXProgram, path: Path) -> None:
    """The program as a file, large weights beside it."""
    from onnx_ir.traversal import RecursiveGraphIterator

    for graph in (program.model.graph, *(f.graph for f in program.model.functions.values())):
        for node in RecursiveGraphIterator(graph):
            node.metadata_props.clear()  # stack traces: paths and lines of source code
    constants = program.model.graph.initializers.values()
    size = sum(one.const_value.nbytes for one in constants if one.const_value is not None)
    program.save(str(path), external_data=size > EXTERNAL_BYTES)


def write_traced(module: nn.Module, examples: Examples, path: Path, outputs: Sequence[str]) -> None:
    """The module as one run of it goes. Raises AnalysisError with torch's reason."""
    import onnx
    import torch

    axes: dict[str, Mapping[int, str]] = dict(zip(examples.names, examples.axes, strict=True))
    axes |= {name: {0: "batch"} for name in outputs}
    try:
        # of a large model it writes each weight as a file
        with quiet_exporter(), TemporaryDirectory(dir=path.parent, prefix="traced-") as folder:
            made = Path(folder) / path.name
            torch.onnx.export(
                module, examples.tensors, str(made), dynamo=False, opset_version=OPSET,
                input_names=list(examples.names), output_names=list(outputs), dynamic_axes=axes,
            )  # fmt: skip
            model = onnx.load(made)
    except Exception as error:  # torch raises what it likes
        raise AnalysisError(_cause(error)) from error
    _strip(model.graph)
    large = sum(len(tensor.raw_data) for tensor in model.graph.initializer) > EXTERNAL_BYTES
    onnx.save_model(model, path, save_as_external_data=large, location=f"{path.name}{DATA}")


def state_shapes(path: Path, seen: Sequence[Sequence[tuple[int, ...]]]) -> None:
    """Opens the axes of outputs that the file states a length of, and that had another.

    seen : shapes of the outputs, one list a comparison. Exporters take the length that an axis
    had for fixed where they cannot follow it, as in the sequence of an LSTM.
    """
    import onnx

    model = onnx.load(path, load_external_data=False)
    wrong = [
        dim
        for value, shapes in zip(model.graph.output, zip(*seen, strict=True), strict=True)
        for axis, dim in enumerate(value.type.tensor_type.shape.dim)
        if dim.HasField("dim_value") and any(shape[axis] != dim.dim_value for shape in shapes)
    ]
    for dim in wrong:
        dim.Clear()
    if wrong:
        onnx.save_model(model, path)


def _strip(graph: GraphProto) -> None:
    for node in graph.node:
        node.doc_string = ""
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                _strip(inner)


def _cause(error: BaseException) -> str:
    """The first line of what the exporter met, which it wraps in advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
