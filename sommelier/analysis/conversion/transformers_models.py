"""A model of transformers, from its configuration and its safetensors files.

Runs in a sandbox. The library's own classes make it: code that comes with a repository is not run,
trusted or not, and weights are read from safetensors only. Generation is not exported: of a
language model it is one pass over a text, and a model that writes (encoder and decoder) is refused.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sommelier.analysis.conversion.torch_export import export_module
from sommelier.analysis.conversion.torch_inputs import Examples, alike, specified_examples
from sommelier.analysis.conversion.torch_requests import FILE, require_torch, source_of
from sommelier.analysis.conversion.torch_weights import SAFETENSORS
from sommelier.analysis.conversion.values import ConversionRequest, ConvertedModel
from sommelier.errors import MissingDependencyError, RejectedModelError, first_line
from sommelier.records import TensorSpec

if TYPE_CHECKING:
    from torch import nn

CONFIGURATION = "config.json"
INDEX = f"model{SAFETENSORS}.index.json"
SIDE = 224  # of an image whose size the configuration leaves open
SAMPLES = 16_000  # of sound: a second
LENGTH = "length"  # the open axis of a text


def convert_transformers(request: ConversionRequest) -> ConvertedModel:
    """A model whose config.json is the source, its safetensors files beside it."""
    model = load_transformers(request)
    return export_module(model, examples_of(model), request.folder / FILE)


def load_transformers(request: ConversionRequest) -> nn.Module:
    """The network, in evaluation mode, in single precision.

    Raises RejectedModelError for one that needs code of its repository, of an architecture that
    transformers does not have, without safetensors, or whose weights are not all there;
    MissingDependencyError without transformers.
    """
    require_torch()
    transformers, folder = _library(), source_of(request).parent
    configuration = _configuration(folder)
    names = configuration.get("architectures") or []
    if not names:
        raise RejectedModelError("its configuration names no architecture")
    kind: Any = getattr(transformers, str(names[0]), None)
    known: bool = inspect.isclass(kind) and issubclass(kind, transformers.PreTrainedModel)
    if not known:
        own = "; it is made by code of its own repository, which is not run"
        raise RejectedModelError(
            f"transformers {transformers.__version__} has no architecture '{names[0]}'"
            f"{own if configuration.get('auto_map') else ''}"
        )
    model, report = _loaded(kind, folder)
    missing = sorted(map(str, report["missing_keys"]))
    if missing:
        raise RejectedModelError(
            f"{len(missing)} of its weights are not in its files, such as {missing[0]}: they would "
            "be random"
        )
    if getattr(model.config, "is_encoder_decoder", False):
        raise RejectedModelError("it reads and then writes step by step, which is not one network")
    model.config.use_cache = False
    made: nn.Module = model.eval()
    return made


def examples_of(model: Any) -> Examples:
    """Seeded inputs by the names of its forward: a text with its mask, images, or a sound.

    A text has any length; its ids are those of the whole vocabulary. The mask hides words where the
    network answers numbers then. Raises RejectedModelError for one that takes something else.
    """
    main, config = str(model.main_input_name), model.config
    if main == "pixel_values":
        shape = ("n", getattr(config, "num_channels", 3), *_sides(config))
        return specified_examples([TensorSpec(main, "float32", shape)], [main])
    if main == "input_values":
        return specified_examples([TensorSpec(main, "float32", ("n", SAMPLES))], [main])
    if main != "input_ids":
        raise RejectedModelError(
            f"its main input is '{main}': texts, images and sounds are exported"
        )
    highest = {
        main: int(config.vocab_size) - 1,
        "attention_mask": 1,
        "token_type_ids": int(getattr(config, "type_vocab_size", 0)) - 1,
    }
    taken = inspect.signature(model.forward).parameters
    names = [name for name, most in highest.items() if name in taken and most > 0]
    found = specified_examples([TensorSpec(n, "int64", ("n", LENGTH)) for n in names], names)
    ranges = {place: (0, highest[name]) for place, name in enumerate(names)}
    found = replace(found, ranges=ranges, keywords=len(names))  # other inputs stand between them
    if "attention_mask" in names and not _answers_masked(model, found):
        ranges[names.index("attention_mask")] = (1, 1)
    return replace(found, tensors=alike(found, {}), ranges=ranges)


def _answers_masked(model: Any, examples: Examples) -> bool:
    """Whether every number is finite where the mask hides what comes first, as padding does."""
    import torch

    given = dict(zip(examples.names, alike(examples, {}), strict=True))
    given["attention_mask"] = torch.ones_like(given["attention_mask"])
    given["attention_mask"][:, 0] = 0
    with torch.no_grad():
        answers = model(**given, return_dict=True).values()
    return all(bool(one.isfinite().all()) for one in answers if isinstance(one, torch.Tensor))


def _loaded(kind: Any, folder: Path) -> tuple[Any, Mapping[str, Any]]:
    """The model, and what the library says of the weights it found."""
    _check_weights(folder)
    try:
        with _offline():
            model, report = kind.from_pretrained(
                str(folder), local_files_only=True, use_safetensors=True, dtype="float32",
                attn_implementation="eager",  # in plain operators, also where all words are hidden
                output_loading_info=True,
            )  # fmt: skip
    except Exception as error:  # the library raises what it likes
        raise RejectedModelError(f"transformers cannot load it: {first_line(error)}") from error
    return model, report


@contextmanager
def _offline() -> Iterator[None]:
    """The hub's client fetches nothing until the block ends: what a model needs is in its folder.

    The client reads HF_HUB_OFFLINE only once, when it is imported, and for the whole process.
    """
    from huggingface_hub import constants

    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _check_weights(folder: Path) -> None:
    """Raises RejectedModelError where the list of the weights' files names a pickle, which the
    library would load whatever it is told."""
    index = folder / INDEX
    if not index.exists():
        return
    try:
        named = json.loads(index.read_bytes())["weight_map"].values()
        other = [name for name in named if not str(name).endswith(SAFETENSORS)]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RejectedModelError(f"its {INDEX} cannot be read: {first_line(error)}") from error
    if other:
        raise RejectedModelError(
            f"its {INDEX} names '{str(other[0])[:80]}', which is no {SAFETENSORS} file"
        )


def _library() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise MissingDependencyError(
            "exporting models of transformers needs the library, which is not installed",
            hint="pip install 'sommelier-db[transformers]'",
        ) from error
    library: Any = transformers
    library.logging.set_verbosity_error()
    library.logging.disable_progress_bar()
    return library


def _configuration(folder: Path) -> Mapping[str, Any]:
    try:
        found = json.loads((folder / CONFIGURATION).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise RejectedModelError(
            f"its configuration cannot be read: {first_line(error)}"
        ) from error
    if not isinstance(found, dict):
        raise RejectedModelError("its configuration is not an object")
    return found


def _sides(config: Any) -> tuple[int, int]:
    """Height and width of the images a network takes; SIDE where any will do."""
    size = getattr(config, "image_size", None)
    if isinstance(size, int):
        return size, size
    if isinstance(size, list | tuple) and len(size) == 2:
        return int(size[0]), int(size[1])
    return SIDE, SIDE
