"""Converters of what torch writes: TorchScript, weights, and hub repositories.

These run in a sandbox. Weights are read without unpickling anything but tensors. A script's file
is code, and so is a repository: both are loaded only if the user said `trust = yes`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

from sommelier.analysis.conversion.torch_export import export_module, stated_examples
from sommelier.analysis.conversion.torch_inputs import assumed_inputs, parse_inputs
from sommelier.analysis.conversion.torch_requests import (
    FILE,
    force_weights_only,
    require_torch,
    require_trust,
    source_of,
)
from sommelier.analysis.conversion.torch_weights import fitting, read_weights
from sommelier.analysis.conversion.values import ConversionRequest, ConvertedModel
from sommelier.errors import RejectedModelError, SommelierError, first_line
from sommelier.records import TensorSpec

if TYPE_CHECKING:
    from torch import nn

SEED = 0
_PROGRAM = "TorchScript is a program, which may also write files"


def convert_torchscript(request: ConversionRequest) -> ConvertedModel:
    """A TorchScript archive. Needs trust: loading and running it runs the program it is."""
    require_trust(request, _PROGRAM)
    specs = _stated_inputs(request)
    return _exported(load_torchscript(request), specs, request)


def load_torchscript(request: ConversionRequest) -> nn.Module:
    """The program, which runs from here on."""
    require_trust(request, _PROGRAM)
    require_torch()
    import torch

    try:
        module: nn.Module = torch.jit.load(str(source_of(request)), map_location="cpu")  # type: ignore[no-untyped-call]  # torch ships it untyped
    except Exception as error:  # torch raises what it likes for a broken file
        raise RejectedModelError(f"torch cannot load it: {first_line(error)}") from error
    return module


def convert_weights(request: ConversionRequest) -> ConvertedModel:
    """Weights of a .pt, .pth or .safetensors file in the module that `module` makes.

    options : module 'file.py:callable' or 'package.module:callable', which the user named, so it
    runs; arguments, a JSON object; inputs.
    """
    with _importing_beside(str(request.options.get("module"))):  # also what forward imports
        module = _weighted(request)
        call = ", ".join(f"{name}={value!r}" for name, value in _arguments(request).items())
        made_by = _without_folder(request.options["module"])
        return _exported_as_asked(module, request, f"its module is made by {made_by}({call})")


def load_weights(request: ConversionRequest) -> nn.Module:
    """The module that `module` makes, with the weights of the file. Needs trust: here `module` is
    what was kept of the import, and whoever made the database may have chosen it."""
    require_trust(request, "making this model again runs the code that its module is made by")
    return _weighted(request)


def _weighted(request: ConversionRequest) -> nn.Module:
    named = request.options.get("module")
    if not named:
        raise RejectedModelError(
            "it holds weights without the module they are of",
            hint="name what makes the module: USING module = 'nets.py:Net'",
        )
    arguments = _arguments(request)
    weights = read_weights(source_of(request))
    with _importing_beside(str(named)), _seeded():
        module = _made(_callable(str(named)), arguments, str(named))
    try:
        module.load_state_dict(fitting(weights, module.state_dict().keys()))
    except RuntimeError as error:
        lines = [line.strip() for line in str(error).splitlines()]
        raise RejectedModelError(
            f"its weights do not fit {named}: {' '.join(lines[:3])}"
        ) from error
    return module


def convert_hub(request: ConversionRequest) -> ConvertedModel:
    """An entry of a hub repository, whose hubconf.py is the source. Needs trust: it is run.

    options : entry, weights (arguments that ask for them), arguments, inputs, trust. What the
    repository itself downloads is read with weights_only, whatever it asks for.
    """
    return _exported_as_asked(load_hub(request), request)


def load_hub(request: ConversionRequest) -> nn.Module:
    """The module that the entry makes."""
    require_trust(request, "making this model runs the code of its repository")
    require_torch()
    import torch

    force_weights_only()
    entry = str(request.options.get("entry"))
    folder = str(source_of(request).parent)

    def load(**arguments: object) -> object:
        return torch.hub.load(folder, entry, source="local", verbose=False, **arguments)  # type: ignore[no-untyped-call]  # torch ships it untyped

    learned = request.options.get("weights") or {}
    assert isinstance(learned, Mapping)
    with _seeded():
        return _made(load, {**learned, **_arguments(request)}, entry)


def _exported(
    module: nn.Module, specs: Sequence[TensorSpec], request: ConversionRequest, note: str = ""
) -> ConvertedModel:
    made = export_module(module, stated_examples(module, specs), request.folder / FILE)
    return replace(made, note="; ".join(filter(None, (note, made.note)))) if note else made


def _exported_as_asked(
    module: nn.Module, request: ConversionRequest, note: str = ""
) -> ConvertedModel:
    """The module with the inputs that are stated, else those its first layer takes."""
    if "inputs" in request.options:
        return _exported(module, _stated_inputs(request), request, note)
    specs = assumed_inputs(module)
    said = f"its input was taken to be {str(specs[0]).partition(':')[2]}"
    return _exported(module, specs, request, "; ".join(filter(None, (note, said))))


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
            path = Path(where).expanduser()
            spec = spec_from_file_location(_own_name(path), path)
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


def _without_folder(named: object) -> str:
    """What the user named, without the path of this machine's files."""
    return str(named).replace("\\", "/").rpartition("/")[2]


def _of_file(spec: Any) -> Any:
    """The module of a file."""
    home = module_from_spec(spec)
    sys.modules[spec.name] = home  # where its dataclasses look for it
    spec.loader.exec_module(home)
    return home


def _own_name(path: Path) -> str:
    """A name for the module of a file under which no program imports another one."""
    return f"_sommelier_{crc32(str(path.absolute()).encode()):08x}_{path.stem}"


@contextmanager
def _seeded() -> Iterator[None]:
    """A model without learned weights is the same one every time; torch's random numbers go on
    afterwards as if none had been drawn."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(SEED)
        yield


@contextmanager
def _importing_beside(named: str) -> Iterator[None]:
    """What lies beside a file is found by imports until the block ends, as it is for a script."""
    where = named.rpartition(":")[0]
    if not where.endswith(".py"):
        yield
        return
    folder = str(Path(where).expanduser().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with suppress(ValueError):  # somebody took it out already
            sys.path.remove(folder)
