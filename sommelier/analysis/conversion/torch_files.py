"""Converters of what torch writes: exported programs, TorchScript, weights, and hub repositories.

These run in a sandbox. Weights are read without unpickling anything but tensors. A program's file
is code, and so is a repository: both are loaded only if the user said `trust = yes`.
"""

from __future__ import annotations

import json
import os
import sys
import zipfile
from collections.abc import Mapping, Sequence
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sommelier.analysis.conversion.torch_export import (
    compared,
    export_module,
    quiet_exporter,
    require_torch,
    write_program,
)
from sommelier.analysis.conversion.torch_inputs import (
    alike,
    assumed_inputs,
    parse_inputs,
    random_inputs,
)
from sommelier.analysis.conversion.torch_weights import read_weights
from sommelier.analysis.conversion.values import ConversionRequest, ConvertedModel
from sommelier.errors import RejectedModelError, SommelierError, first_line
from sommelier.records import TensorSpec

if TYPE_CHECKING:
    from torch import nn

FILE = "model.onnx"
BATCH = 2  # of the inputs that a module is traced with; 1 would be taken for a fixed length
OBJECTS = ("custom_obj", "opaque_obj")  # names of such members; torch finds them by name


def convert_program(request: ConversionRequest) -> ConvertedModel:
    """A .pt2 file of torch.export.save. Needs trust: torch evaluates expressions it holds.

    Its pickled members must hold tensors only, trusted or not.
    """
    _require_trust(request, "torch evaluates expressions that a .pt2 file holds")
    require_torch()
    import torch

    source = _source(request)
    _check_members(source)
    _force_weights_only()
    try:
        with quiet_exporter():
            program = torch.export.load(source)
            kept = torch.onnx.export(program, dynamo=True, verbose=False)
    except Exception as error:  # torch raises what it likes for a broken file
        raise RejectedModelError(f"torch cannot load or export it: {first_line(error)}") from error
    assert kept is not None
    path = request.folder / FILE
    write_program(kept, path)
    if not program.example_inputs or program.example_inputs[1]:
        raise RejectedModelError("it keeps no example inputs, or named ones; export it again")
    examples = list(program.example_inputs[0])
    names = [value.name for value in kept.model.graph.inputs]
    shapes = [value.shape for value in kept.model.graph.inputs]
    closed = all(shape is None or isinstance(shape[0], int) for shape in shapes)
    tried = [examples]
    for batch, seed in ((len(examples[0]), 1), (len(examples[0]) if closed else 5, 2)):
        tried.append(alike(examples, batch=batch, seed=seed))
    note = "it takes one batch size, which it was exported with" if closed else None
    return compared(program.module(), tried, path, [str(name) for name in names], note=note)


def convert_torchscript(request: ConversionRequest) -> ConvertedModel:
    """A TorchScript archive. Needs trust: loading and running it runs the program it is."""
    _require_trust(request, "TorchScript is a program, which may also write files")
    specs = _stated_inputs(request)
    require_torch()
    import torch

    try:
        module = torch.jit.load(str(_source(request)), map_location="cpu")  # type: ignore[no-untyped-call]  # torch ships it untyped
    except Exception as error:  # torch raises what it likes for a broken file
        raise RejectedModelError(f"torch cannot load it: {first_line(error)}") from error
    return _exported(module, specs, request)


def convert_weights(request: ConversionRequest) -> ConvertedModel:
    """Weights of a .pt, .pth or .safetensors file in the module that `module` makes.

    options : module 'file.py:callable' or 'package.module:callable', which the user named, so it
    runs; arguments, a JSON object; inputs.
    """
    named = request.options.get("module")
    if not named:
        raise RejectedModelError(
            "it holds weights without the module they are of",
            hint="name what makes the module: USING module = 'nets.py:Net'",
        )
    weights = read_weights(_source(request))
    module = _made(_callable(str(named)), _arguments(request), str(named))
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise RejectedModelError(
            f"its weights do not fit {named}: {' '.join(lines[:3])}"
        ) from error
    return _exported(module, _inputs(request, module), request)


def convert_hub(request: ConversionRequest) -> ConvertedModel:
    """An entry of a hub repository, whose hubconf.py is the source. Needs trust: it is run.

    options : entry, weights (arguments that ask for them), arguments, inputs, trust. What the
    repository itself downloads is read with weights_only, whatever it asks for.
    """
    _require_trust(request, "making this model runs the code of its repository")
    require_torch()
    import torch

    _force_weights_only()
    entry = str(request.options.get("entry"))
    torch.manual_seed(0)  # a model without learned weights is the same one every time
    folder = str(_source(request).parent)

    def load(**arguments: object) -> object:
        return torch.hub.load(folder, entry, source="local", verbose=False, **arguments)  # type: ignore[no-untyped-call]  # torch ships it untyped

    learned = request.options.get("weights") or {}
    assert isinstance(learned, Mapping)
    module = _made(load, {**learned, **_arguments(request)}, entry)
    return _exported(module, _inputs(request, module), request)


def _require_trust(request: ConversionRequest, why: str) -> None:
    if request.options.get("trust") is not True:
        raise RejectedModelError(
            f"{why}; it was not touched", hint="if you trust where it is from: USING trust = yes"
        )


def _force_weights_only() -> None:
    """From now on torch.load unpickles tensors only, whatever its caller asks for."""
    os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)  # torch refuses to have both
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"


def _source(request: ConversionRequest) -> Path:
    if request.source is None:
        raise RejectedModelError("there is no file to convert")
    return request.source


def _exported(
    module: nn.Module, specs: Sequence[TensorSpec], request: ConversionRequest
) -> ConvertedModel:
    examples = random_inputs(specs, batch=BATCH)
    named = all(spec.name != f"input{place}" for place, spec in enumerate(specs))
    names = [spec.name for spec in specs] if named else []
    return export_module(module, examples, request.folder / FILE, names=names)


def _inputs(request: ConversionRequest, module: nn.Module) -> tuple[TensorSpec, ...]:
    return assumed_inputs(module) if "inputs" not in request.options else _stated_inputs(request)


def _stated_inputs(request: ConversionRequest) -> tuple[TensorSpec, ...]:
    stated = request.options.get("inputs")
    if not stated:
        raise RejectedModelError(
            "the file does not say what its inputs are",
            hint="say it: USING inputs = 'float32[n,3,224,224]'",
        )
    return parse_inputs(str(stated))


def _arguments(request: ConversionRequest) -> dict[str, Any]:
    stated = request.options.get("arguments", {})
    try:
        found = json.loads(stated) if isinstance(stated, str) else stated
    except ValueError as error:
        raise RejectedModelError(f"arguments = '{stated}' is not JSON: {error}") from error
    if not isinstance(found, Mapping):
        raise RejectedModelError("arguments must be a JSON object, such as '{\"width\": 8}'")
    return dict(found)


def _made(make: Any, arguments: Mapping[str, Any], words: str) -> nn.Module:
    """The module that a callable answers."""
    from torch import nn

    try:
        module = make(**arguments)
    except Exception as error:  # foreign code raises what it likes
        raise RejectedModelError(
            f"{words} cannot be made: {type(error).__name__}: {first_line(error)}"
        ) from error
    if not isinstance(module, nn.Module):
        raise RejectedModelError(f"{words} makes a {type(module).__name__}, not a torch module")
    return module


def _callable(named: str) -> Any:
    """What 'file.py:name' or 'package.module:name' means. Imports it."""
    where, _, name = named.rpartition(":")
    try:
        if where.endswith(".py"):
            spec = spec_from_file_location(Path(where).stem, Path(where).expanduser())
            if spec is None or spec.loader is None:
                raise RejectedModelError(f"'{where}' cannot be imported")
            home = _of_file(spec)
        else:
            home = import_module(where)
    except SommelierError:
        raise
    except Exception as error:  # foreign code raises what it likes
        raise RejectedModelError(f"'{where}' cannot be imported: {first_line(error)}") from error
    found = getattr(home, name, None)
    if not callable(found):
        public = ", ".join(sorted(n for n, v in vars(home).items() if isinstance(v, type))[:8])
        raise RejectedModelError(f"'{where}' has nothing to call named '{name}' (it has {public})")
    return found


def _of_file(spec: Any) -> Any:
    """The module of a file, imported with its folder on the path as a script's would be."""
    home = module_from_spec(spec)
    sys.path.insert(0, str(Path(spec.origin).parent))
    sys.modules[spec.name] = home
    spec.loader.exec_module(home)
    return home


def _check_members(source: Path) -> None:
    """Raises RejectedModelError for an archive with objects that torch would unpickle in full."""
    try:
        with zipfile.ZipFile(source) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        raise RejectedModelError(f"not a file of torch.export.save: {error}") from error
    found = [name for name in names if any(kind in name for kind in OBJECTS)]
    if found:
        raise RejectedModelError(f"it pickles an object that is no tensor, '{found[0]}'")
