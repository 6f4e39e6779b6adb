"""The one input that all fused models take."""

from __future__ import annotations

from collections.abc import Mapping

from sommelier.analysis.fusion.blocks import Blocks
from sommelier.errors import AnalysisError


def shared_inputs(models: Mapping[str, Blocks]) -> tuple[dict[str, str], ...]:
    """Per task, name of an input of the first task -> name of the task's own input.

    Inputs of equal names belong together, inputs of other names in their order. Raises
    AnalysisError where a type or a shape differs. Equal preprocessing is the caller's to see.
    """
    if not models:
        raise AnalysisError("no models to fuse")
    first, host = next(iter(models.items()))
    found = []
    for task, blocks in models.items():
        named = set(blocks.inputs) == set(host.inputs)
        own = list(host.inputs if named else blocks.inputs)
        if [blocks.inputs[name] for name in own] != list(host.inputs.values()):
            raise AnalysisError(
                f"'{task}' takes {_shapes(blocks)} and '{first}' takes {_shapes(host)}",
                hint="only models that take the same input can be fused",
            )
        found.append(dict(zip(host.inputs, own, strict=True)))
    return tuple(found)


def _shapes(blocks: Blocks) -> str:
    from sommelier.analysis.signature import dtype_name

    return ", ".join(f"{dtype_name(t)}{[*shape]}" for t, shape in blocks.inputs.values())
