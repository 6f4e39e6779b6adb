"""A torch module as an ONNX file with an open batch, found to answer as the module does.

torch.onnx (dynamo) is tried first; a module it cannot export is traced, for any batch, as fusion
does it; then exported for one sample at a time. What is accepted, and what was tried, is said.
"""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from sommelier.analysis.conversion.comparing import Feed, largest_difference
from sommelier.analysis.conversion.torch_inputs import alike
from sommelier.analysis.conversion.values import ConvertedModel
from sommelier.errors import (
    AnalysisError,
    MissingDependencyError,
    RejectedModelError,
    SommelierError,
    first_line,
)

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.onnx import ONNXProgram

OPSET = 18
EXTERNAL_BYTES = 15 * 10**8  # of weights; protobuf holds 2 GB in one message
BATCHES = (1, 3)  # compared, beside the examples; 1 is where a fixed batch shows
SEEDS = (1, 2)


def require_torch() -> None:
    """Raises MissingDependencyError naming the extra, where torch or its exporter is missing."""
    try:
        import onnxscript  # noqa: F401
        import torch  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(
            f"models of torch need {error.name or 'torch'}, which is not installed",
            hint="pip install 'sommelier-db[torch]'",
        ) from error


def export_module(
    module: nn.Module, examples: Sequence[Tensor], path: Path, *, names: Sequence[str] = ()
) -> ConvertedModel:
    """The module in evaluation mode, written to `path` and compared with itself.

    examples : its inputs in order, (n, ...) each. names : of the inputs, else those of forward.
    Compared on the examples and on random inputs of other batches. Raises RejectedModelError with
    what each way of exporting it said.
    """
    require_torch()
    import torch

    inputs = tuple(names) or input_names(module, len(examples))
    several = [torch.cat([one, one]) if len(one) == 1 else one for one in examples]
    trains = module.training
    module.eval()
    reasons = []
    try:
        _try_out(module, examples)
        for words, way, given in _ways(several):
            try:
                way(module, given, path, inputs)
                found = _compared(module, given, path, inputs, open_batch=given is several)
            except Exception as error:  # torch and the module raise what they like
                reasons.append(f"{words}: {first_line(error)}")
                continue
            return found
    finally:
        module.train(trains)
    raise RejectedModelError(f"the module cannot be exported; {'; '.join(reasons)}")


def example_list(module: nn.Module, examples: object) -> tuple[list[Tensor], tuple[str, ...]]:
    """(tensors in the order of forward, their names) of one tensor, several, or several by name.

    Raises RejectedModelError for anything else, and for tensors without a batch axis.
    """
    import torch

    if isinstance(examples, torch.Tensor):
        examples = (examples,)
    names: tuple[str, ...] = ()
    if isinstance(examples, Mapping):
        try:
            bound = inspect.signature(module.forward).bind(**examples)
        except TypeError as error:
            raise RejectedModelError(f"forward does not take these inputs: {error}") from error
        if bound.kwargs:
            raise RejectedModelError(f"forward takes {', '.join(bound.kwargs)} by name only")
        names, examples = tuple(bound.arguments), bound.args
    given = list(examples) if isinstance(examples, Sequence) else [examples]
    found = [one for one in given if isinstance(one, torch.Tensor) and one.ndim]
    if not found or len(found) < len(given):
        raise RejectedModelError(
            "example inputs are tensors with a batch axis: one, a sequence, or a dict by name"
        )
    return found, names or input_names(module, len(found))


def input_names(module: nn.Module, count: int) -> tuple[str, ...]:
    """Names of the first `count` parameters of forward; 'input0' and so on where it has fewer."""
    with suppress(TypeError, ValueError):
        plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
        parameters = inspect.signature(module.forward).parameters.values()
        names = tuple(one.name for one in parameters if one.kind in plain)
        if len(names) >= count:
            return names[:count]
    return tuple(f"input{place}" for place in range(count))


def answers_of(module: Callable[..., object], inputs: Sequence[Tensor]) -> list[NDArray[Any]]:
    """What a module answers, its tensors in the order of nested containers.

    Raises RejectedModelError where it gives none, or something besides.
    """
    import torch
    from torch.utils import _pytree

    with torch.no_grad():
        made = module(*inputs)
    found = _pytree.tree_leaves(made)
    if not found or not all(isinstance(one, torch.Tensor) for one in found):
        kinds = sorted({type(one).__name__ for one in found})
        raise RejectedModelError(f"it answers {', '.join(kinds) or 'nothing'} besides tensors")
    return [one.detach().cpu().numpy() for one in found]


def write_program(program: ONNXProgram, path: Path) -> None:
    """The program as a file, large weights beside it, without traces of the machine it is from."""
    for graph in (program.model.graph, *(f.graph for f in program.model.functions.values())):
        for node in graph:
            node.metadata_props.clear()  # stack traces: paths and lines of source code
    constants = program.model.graph.initializers.values()
    size = sum(one.const_value.nbytes for one in constants if one.const_value is not None)
    program.save(str(path), external_data=size > EXTERNAL_BYTES)


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Mutes what torch says of libraries it lacks and of modules it cannot export."""
    logger = logging.getLogger("torch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _try_out(module: Callable[..., object], inputs: Sequence[Tensor]) -> None:
    """Raises RejectedModelError where the module does not take these inputs."""
    try:
        answers_of(module, inputs)
    except SommelierError:
        raise
    except Exception as error:  # the module's own code raises what it likes
        kinds = "; ".join(f"{str(x.dtype)[6:]}{list(x.shape)}" for x in inputs)
        raise RejectedModelError(
            f"it fails on its inputs ({kinds}): {first_line(error)}",
            hint="say what they are: USING inputs = 'float32[n,3,224,224]'",
        ) from error


_Way = Callable[["nn.Module", "Sequence[Tensor]", Path, tuple[str, ...]], None]


def _ways(several: Sequence[Tensor]) -> Iterator[tuple[str, _Way, Sequence[Tensor]]]:
    """(words, function, examples): how a module may be exported, best first."""
    yield "for any batch", _exported_open, several
    yield "traced", _traced, several
    yield "for one sample", _exported_fixed, [one[:1] for one in several]


def _exported_open(
    module: nn.Module, examples: Sequence[Tensor], path: Path, names: tuple[str, ...]
) -> None:
    from torch.export import Dim

    batch = Dim("batch")
    _export(module, examples, path, names, tuple({0: batch} for _ in examples))


def _exported_fixed(
    module: nn.Module, examples: Sequence[Tensor], path: Path, names: tuple[str, ...]
) -> None:
    _export(module, examples, path, names, None)


def _export(
    module: nn.Module,
    examples: Sequence[Tensor],
    path: Path,
    names: tuple[str, ...],
    shapes: tuple[object, ...] | None,
) -> None:
    import torch

    outputs = output_names(module, examples)
    try:
        with quiet_exporter():
            program = torch.onnx.export(
                module, tuple(examples), dynamo=True, verbose=False, opset_version=OPSET,
                input_names=list(names), output_names=outputs, dynamic_shapes=shapes,
            )  # fmt: skip
    except Exception as error:  # torch raises what it likes
        raise AnalysisError(_cause(error)) from error
    assert program is not None
    write_program(program, path)


def _traced(
    module: nn.Module, examples: Sequence[Tensor], path: Path, names: tuple[str, ...]
) -> None:
    import onnx

    from sommelier.analysis.fusion.exporting import exported

    onnx.save_model(exported(module, examples, names=names, opset=OPSET), str(path))


def output_names(module: Callable[..., object], examples: Sequence[Tensor]) -> list[str]:
    """'output', or 'output0' and so on, or the keys of a flat dict."""
    import torch

    with torch.no_grad():
        made = module(*examples)
    if isinstance(made, Mapping) and all(isinstance(v, torch.Tensor) for v in made.values()):
        return [str(key) for key in made]
    count = len(answers_of(module, examples))
    return ["output"] if count == 1 else [f"output{place}" for place in range(count)]


def _compared(
    module: Callable[..., object],
    examples: Sequence[Tensor],
    path: Path,
    names: tuple[str, ...],
    *,
    open_batch: bool,
) -> ConvertedModel:
    batches = BATCHES if open_batch else (1, 1)
    batch_of = zip(batches, SEEDS, strict=True)
    tried = [examples, *(alike(examples, batch=batch, seed=seed) for batch, seed in batch_of)]
    note = None if open_batch else "it takes one sample at a time: its batch could not be opened"
    return compared(module, tried, path, names, note=note)


def compared(
    original: Callable[..., object],
    tried: Sequence[Sequence[Tensor]],
    path: Path,
    names: Sequence[str],
    *,
    note: str | None = None,
) -> ConvertedModel:
    """The file as a converted model, if it answers as the original to all that is tried.

    tried : inputs in the order of `names`. Raises RejectedModelError with the figures.
    """
    import torch

    def answer(feed: Feed) -> list[NDArray[Any]]:
        return answers_of(original, [torch.from_numpy(feed[name]) for name in names])

    feeds = [
        dict(zip(names, (one.detach().cpu().numpy() for one in inputs), strict=True))
        for inputs in tried
    ]
    worst = largest_difference(path, answer, feeds)
    samples = sum(len(inputs[0]) for inputs in tried)
    return ConvertedModel(path, f"torch {torch.__version__}", worst, samples, note)


def _cause(error: BaseException) -> str:
    """The first line of what the exporter met, which it wraps in advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
