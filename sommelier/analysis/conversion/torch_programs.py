"""Converter of .pt2 files: programs of torch.export, whose inputs and open axes they state."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sommelier.analysis.conversion import torch_inputs
from sommelier.analysis.conversion.torch_export import BATCHES, LENGTHS, SEEDS, compared, runs
from sommelier.analysis.conversion.torch_inputs import Examples
from sommelier.analysis.conversion.torch_requests import (
    FILE,
    force_weights_only,
    require_torch,
    require_trust,
    source_of,
)
from sommelier.analysis.conversion.torch_writing import OPSET, quiet_exporter, write_program
from sommelier.analysis.conversion.values import ConversionRequest, ConvertedModel
from sommelier.errors import RejectedModelError, first_line
from sommelier.storage.zips import opened_zip

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram

OBJECTS = ("custom_obj", "opaque_obj")  # names of such members; torch finds them by name

Lengths = Mapping[str, int]
"""Of open axes by the expression the program has for each, {'s77': 3, '2*s77': 6}."""


def convert_program(request: ConversionRequest) -> ConvertedModel:
    """A .pt2 file of torch.export.save. Needs trust: torch evaluates expressions it holds.

    Its pickled members must hold tensors only, trusted or not.
    """
    program, path = _loaded(request), request.folder / FILE
    import torch

    from sommelier.analysis.conversion.torch_caller import output_names

    caller = _Caller(program)
    examples = _examples(program)
    outputs = output_names(caller.answer(*examples.tensors), examples.names)
    try:
        with quiet_exporter():
            kept = torch.onnx.export(
                program, dynamo=True, verbose=False, opset_version=OPSET,
                input_names=list(examples.names), output_names=outputs,
            )  # fmt: skip
    except Exception as error:  # torch raises what it likes
        raise RejectedModelError(f"torch cannot export it: {first_line(error)}") from error
    assert kept is not None
    write_program(kept, path)
    examples = torch_inputs.with_ranges(examples, lambda inputs: runs(caller, inputs))
    tried = [examples.tensors, *_others(caller, examples, program)]
    closed = not any(0 in axes for axes in examples.axes)
    note = "it takes one batch size, which it was exported with" if closed else None
    return compared(caller, tried, path, examples, note=note)


def load_program(request: ConversionRequest) -> nn.Module:
    """The program as a module."""
    return _loaded(request).module()


def _loaded(request: ConversionRequest) -> ExportedProgram:
    require_trust(request, "torch evaluates expressions that a .pt2 file holds")
    require_torch()
    import torch

    source = source_of(request)
    _check_members(source)
    force_weights_only()
    try:
        with quiet_exporter():
            return torch.export.load(source)
    except Exception as error:  # torch raises what it likes for a broken file
        raise RejectedModelError(f"torch cannot load it: {first_line(error)}") from error


class _Caller:
    """A program called with its tensors in order; what else it takes is as it was exported."""

    def __init__(self, program: ExportedProgram) -> None:
        self._module = program.module()
        self._spec = program.call_spec.in_spec
        self._flat = [None if _is_tensor(spec) else spec.arg.value for spec in _inputs(program)]
        self._places = [place for place, spec in enumerate(_inputs(program)) if _is_tensor(spec)]

    def answer(self, *tensors: Tensor) -> object:
        """What the program answers, in its own containers."""
        import torch
        from torch.utils import _pytree

        flat: list[object] = list(self._flat)
        for place, tensor in zip(self._places, tensors, strict=True):
            flat[place] = tensor.clone()  # the program may change what it is given
        args, kwargs = _pytree.tree_unflatten(flat, self._spec)
        with torch.no_grad():
            return self._module(*args, **kwargs)

    __call__ = answer


def _examples(program: ExportedProgram) -> Examples:
    """The inputs a program keeps, or random ones shaped as it says; its open axes.

    Raises RejectedModelError for an input that is a number of any value.
    """
    from torch.utils import _pytree

    inputs = _inputs(program)
    for spec in inputs:
        if not _is_tensor(spec) and not hasattr(spec.arg, "value"):
            raise RejectedModelError(f"its input '{spec.arg.name}' is not a tensor")
    names = tuple(str(spec.arg.name) for spec in inputs if _is_tensor(spec))
    fakes = _fakes(program)
    axes = tuple(
        {axis: str(size) for axis, size in enumerate(fake.shape) if not isinstance(size, int)}
        for fake in fakes
    )
    if program.example_inputs:
        flat = _pytree.tree_leaves(program.example_inputs)
        tensors = [one for one, spec in zip(flat, inputs, strict=True) if _is_tensor(spec)]
    else:
        import torch

        lengths = _lengths(program, torch_inputs.BATCH, torch_inputs.FREE_LENGTH)
        tensors = [
            torch.zeros([lengths.get(str(size), size) for size in fake.shape], dtype=fake.dtype)
            for fake in fakes
        ]
        tensors = list(torch_inputs.alike(Examples(tuple(tensors), names, axes), {}))
    if not tensors:
        raise RejectedModelError("it takes no tensor")
    return Examples(tuple(tensors), names, axes)


def _others(
    caller: _Caller, examples: Examples, program: ExportedProgram
) -> list[tuple[Tensor, ...]]:
    """Random inputs of other lengths within the ranges the program states, where it takes them."""
    made = []
    for batch, length, seed in zip(BATCHES, LENGTHS, SEEDS, strict=True):
        lengths = _lengths(program, batch, length)
        inputs = torch_inputs.alike(examples, lengths, seed=seed)
        if not runs(caller, inputs):  # a length that only its guards exclude
            inputs = torch_inputs.alike(examples, {}, seed=seed)
        made.append(inputs)
    return made


def _lengths(program: ExportedProgram, batch: int, length: int) -> Lengths:
    """A length of each open axis: `batch` of first ones, `length` of others, moved into range."""
    sizes = [
        (axis, size)
        for fake in _fakes(program)
        for axis, size in enumerate(fake.shape)
        if not isinstance(size, int)
    ]
    first = {str(size) for axis, size in sizes if axis == 0}
    chosen = {}
    for symbol, limits in program.range_constraints.items():
        wanted = batch if str(symbol) in first else length
        low = int(limits.lower) if wanted < limits.lower else wanted
        chosen[symbol] = int(limits.upper) if low > limits.upper else low
    return {str(size): int(size.node.expr.subs(chosen)) for _, size in sizes}


def _fakes(program: ExportedProgram) -> list[Any]:
    """Of each tensor that is an input: a tensor without numbers, its open lengths as symbols."""
    nodes = {node.name: node for node in program.graph.nodes}
    return [nodes[spec.arg.name].meta["val"] for spec in _inputs(program) if _is_tensor(spec)]


def _inputs(program: ExportedProgram) -> list[Any]:
    """What the user passes, flat and in order."""
    from torch.export.graph_signature import InputKind

    specs = program.graph_signature.input_specs
    return [spec for spec in specs if spec.kind is InputKind.USER_INPUT]


def _is_tensor(spec: Any) -> bool:
    from torch.export.graph_signature import TensorArgument

    return isinstance(spec.arg, TensorArgument)


def _check_members(source: Path) -> None:
    """Raises RejectedModelError for an archive with objects that torch would unpickle in full."""
    try:
        with opened_zip(source) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise RejectedModelError(f"not a file of torch.export.save: {error}") from error
    found = [name for name in names if any(kind in name for kind in OBJECTS)]
    if found:
        raise RejectedModelError(f"it pickles an object that is no tensor, '{found[0]}'")
