"""A torch module as an ONNX file with open axes, found to answer as the module does.

torch.onnx (dynamo) is tried first; a module it cannot export is traced, unless it decides by the
numbers it is given; then with fewer open axes, and last for one sample at a time. What is
accepted, and what was tried, is said.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.conversion import torch_inputs
from sommelier.analysis.conversion.comparing import Feed, largest_difference
from sommelier.analysis.conversion.torch_inputs import BATCH_AXIS, Examples
from sommelier.analysis.conversion.torch_requests import require_torch as require_torch
from sommelier.analysis.conversion.torch_writing import (
    DATA,
    state_shapes,
    write_exported,
    write_traced,
)
from sommelier.analysis.conversion.values import ConvertedModel
from sommelier.analysis.torch_evaluation import evaluation
from sommelier.errors import (
    AnalysisError,
    RejectedModelError,
    SommelierError,
    first_line,
)
from sommelier.records import TensorSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sommelier.analysis.conversion.torch_caller import Caller

BATCHES = (1, 3)  # compared, beside the examples; 1 is where a fixed batch shows
LENGTHS = (11, 7)  # of other open axes, so that one that was fixed at the examples' shows
SEEDS = (1, 2)


def export_module(module: nn.Module, examples: Examples, path: Path) -> ConvertedModel:
    """The module in evaluation mode, written to `path`, large weights beside it.

    Compared with itself on the examples and on random inputs of other lengths. It is left as it
    was found; one on a GPU is copied to the CPU. Raises RejectedModelError with what each way of
    exporting it said.
    """
    require_torch()
    from sommelier.analysis.conversion.torch_caller import on_cpu, unwrapped

    module = on_cpu(unwrapped(module))
    examples = replace(examples, tensors=tuple(one.detach().cpu() for one in examples.tensors))
    examples = torch_inputs.copied(examples)
    _check_types(module, examples)
    reasons: list[str] = []
    with evaluation(module):
        module, outputs = _callable_in_order(module, examples)
        examples = torch_inputs.with_ranges(examples, lambda inputs: runs(module, inputs))
        for way in _ways(module, torch_inputs.doubled(examples), outputs):
            path.with_name(path.name + DATA).unlink(missing_ok=True)
            try:
                way.write(torch_inputs.copied(way.examples), path)
                return _compared(module, way, path)
            except Exception as error:  # torch and the module raise what they like
                reason = f"{way.words}: {first_line(error)}"
                if reason not in reasons:
                    reasons.append(reason)
    raise RejectedModelError(f"the module cannot be exported; {'; '.join(reasons)}")


def given_examples(module: nn.Module, examples: object) -> Examples:
    """Examples of one tensor, several, or several by the names of forward.

    Raises RejectedModelError for anything else, and for tensors without a batch axis.
    """
    import torch

    from sommelier.analysis.conversion.torch_caller import (
        bound_by_name,
        parameter_names,
        unwrapped,
    )

    module = unwrapped(module)
    named: dict[str, object] = {}
    keywords: dict[str, object] = {}
    if isinstance(examples, torch.Tensor):
        examples = (examples,)
    if isinstance(examples, Mapping):
        named, keywords = bound_by_name(module, examples)
        examples = [*named.values(), *keywords.values()]
    given = list(examples) if isinstance(examples, Sequence) else [examples]
    tensors = [one for one in given if isinstance(one, torch.Tensor) and one.ndim]
    if not tensors or len(tensors) < len(given):
        raise RejectedModelError(
            "example inputs are tensors with a batch axis: one, a sequence, or a dict by name"
        )
    names = (*named, *keywords) or parameter_names(module, len(tensors))
    return torch_inputs.batched_examples(tensors, names, keywords=len(keywords))


def stated_examples(module: nn.Module, specs: Sequence[TensorSpec]) -> Examples:
    """Random examples of inputs that are stated; named ones go to the parameters of that name.

    Raises RejectedModelError for a name that forward does not have.
    """
    from sommelier.analysis.conversion.torch_caller import (
        bound_by_name,
        parameter_names,
        takes_any,
        unwrapped,
    )

    module = unwrapped(module)
    keywords: Mapping[str, TensorSpec] = {}
    named = [spec.name != f"input{place}" for place, spec in enumerate(specs)]
    if any(named) and not all(named):
        raise RejectedModelError("name all inputs, or none")
    if all(named) and not takes_any(module):
        ordered, keywords = bound_by_name(module, {spec.name: spec for spec in specs})
        specs = [*ordered.values(), *keywords.values()]
        names: tuple[str, ...] = (*ordered, *keywords)
    else:
        names = tuple(spec.name for spec in specs)
        names = names if all(named) else parameter_names(module, len(specs))
    for highest in (torch_inputs.SMALL_ID, 1):  # 1 for a module with a table of two
        found = torch_inputs.specified_examples(specs, names, highest=highest)
        found = replace(found, keywords=len(keywords))
        with evaluation(module):
            if runs(_caller(module, found), found.tensors):
                return found
    return torch_inputs.specified_examples(specs, names)


def answers_of(module: Callable[..., object], inputs: Sequence[Tensor]) -> list[NDArray[Any]]:
    """The tensors a module answers, in order. The inputs stay as they are, whatever it does.

    Raises RejectedModelError where it gives none, or something besides.
    """
    import torch

    from sommelier.analysis.conversion.torch_caller import tensors_in

    with torch.no_grad():
        made = module(*(one.clone() for one in inputs))
    return [_array(one) for _, one in tensors_in(made)]


def runs(module: Callable[..., object], inputs: Sequence[Tensor]) -> bool:
    """Whether the module takes the inputs. Raises RejectedModelError for what it answers."""
    try:
        answers_of(module, inputs)
    except SommelierError:
        raise
    except Exception:  # the module's own code raises what it likes
        return False
    return True


def compared(
    original: Callable[..., object],
    tried: Sequence[Sequence[Tensor]],
    path: Path,
    examples: Examples,
    *,
    note: str | None = None,
) -> ConvertedModel:
    """The file as a converted model, if it answers as the original to all that is tried.

    tried : inputs like the examples. Raises RejectedModelError with the figures.
    """
    import torch

    shapes, names = [], examples.names

    def answer(feed: Feed) -> list[NDArray[Any]]:
        found = answers_of(original, [torch.from_numpy(feed[name]) for name in names])
        shapes.append([one.shape for one in found])
        return found

    feeds = [dict(zip(names, map(_array, inputs), strict=True)) for inputs in tried]
    worst = largest_difference(path, answer, feeds)
    state_shapes(path, shapes)
    samples = sum(torch_inputs.samples(examples, inputs) for inputs in tried)
    return ConvertedModel(path, f"torch {torch.__version__}", worst, samples, note)


@dataclass(frozen=True, slots=True)
class _Way:
    """How a module may be exported. lengths : of open axes, for each comparison."""

    words: str
    write: Callable[[Examples, Path], None]
    examples: Examples
    lengths: Sequence[Mapping[str, int]] = ({}, {})
    note: str | None = None


def _ways(module: nn.Module, examples: Examples, outputs: Sequence[str]) -> Iterator[_Way]:
    """Best first: a trace keeps less of the module, and a fixed axis less of its use."""
    from sommelier.analysis.conversion.torch_caller import looks_at, takes_any

    def exported(given: Examples, path: Path) -> None:
        write_exported(module, given, path, outputs, variadic=takes_any(module))

    def traced(given: Examples, path: Path) -> None:
        if place := looks_at(module, given.tensors):
            raise AnalysisError(
                f"it decides by the numbers it is given ({place}), and no graph can"
            )
        write_traced(module, given, path, outputs)

    by_shapes = "traced: what it decides by shapes is as for its examples"
    others = torch_inputs.other_axes(examples)
    lengths = [
        {BATCH_AXIS: batch, **dict.fromkeys(others, length)}
        for batch, length in zip(BATCHES, LENGTHS, strict=True)
    ]
    yield _Way("for any length" if others else "for any batch", exported, examples, lengths)
    yield _Way("traced", traced, examples, lengths, by_shapes)
    if others:
        fixed = torch_inputs.only_batch(examples)
        note = f"{', '.join(others)} could not be opened: as long as in the examples"
        yield _Way("for any batch", exported, fixed, lengths, note)
        yield _Way("traced for any batch", traced, fixed, lengths, f"{by_shapes}; {note}")
    note = "it takes one sample at a time: its batch could not be opened"
    yield _Way("for one sample", exported, torch_inputs.single(examples), note=note)


def _compared(module: nn.Module, way: _Way, path: Path) -> ConvertedModel:
    pairs = zip(way.lengths, SEEDS, strict=True)
    tried = [way.examples.tensors, *(torch_inputs.alike(way.examples, n, seed=s) for n, s in pairs)]
    return compared(module, tried, path, way.examples, note=way.note)


def _callable_in_order(module: nn.Module, examples: Examples) -> tuple[nn.Module, list[str]]:
    """(a module that takes the examples in order and answers tensors only, names of these).

    Raises RejectedModelError where the module does not take the examples.
    """
    import torch

    from sommelier.analysis.conversion.torch_caller import is_plain, output_names

    caller = _caller(module, examples)
    try:
        with torch.no_grad():
            made = caller.answer(*torch_inputs.copied(examples).tensors)
    except Exception as error:  # the module's own code raises what it likes
        kinds = "; ".join(f"{str(x.dtype)[6:]}{list(x.shape)}" for x in examples.tensors)
        raise RejectedModelError(
            f"it fails on its inputs ({kinds}): {first_line(error)}",
            hint="give inputs that it takes, samples in front: example_inputs of ingest, or "
            "USING inputs = 'float32[n,3,224,224]' of an import",
        ) from error
    outputs = output_names(made, examples.names)
    return (module if is_plain(made) and not examples.keywords else caller), outputs


def _caller(module: nn.Module, examples: Examples) -> Caller:
    from sommelier.analysis.conversion.torch_caller import Caller

    return Caller(module, examples.names[len(examples.names) - examples.keywords :])


def _check_types(module: nn.Module, examples: Examples) -> None:
    """Raises RejectedModelError for numbers that ONNX Runtime has no CPU kernels for."""
    import torch

    if any(one.dtype == torch.bfloat16 for one in (*module.parameters(), *examples.tensors)):
        raise RejectedModelError(
            "ONNX Runtime does not run bfloat16 on a CPU", hint="give module.float() instead"
        )


def _array(tensor: Tensor) -> NDArray[Any]:
    """As numpy's, which has bfloat16 of ml_dtypes only."""
    import torch

    tensor = tensor.detach().cpu()
    if tensor.dtype != torch.bfloat16:
        return np.asarray(tensor.numpy())
    import ml_dtypes

    return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
