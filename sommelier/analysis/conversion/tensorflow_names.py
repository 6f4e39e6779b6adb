"""Gives an ONNX file that tf2onnx wrote the names of the model's own inputs and outputs.

Runs in TensorFlow's environment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sommelier.errors import RejectedModelError


def finish(path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> tuple[str, ...]:
    """The names the inputs have now; open axes have names that do not change from run to run.

    An output that would be called as an input, or as another output, gets a number. Raises
    RejectedModelError where tf2onnx left operators that ONNX does not have: it only logs.
    """
    import onnx

    model = onnx.load(path)
    graph = model.graph
    graphs = list(_graphs(graph))
    nodes = [node for part in graphs for node in part.node]
    unknown = {n.op_type for n in nodes if not n.domain and not onnx.defs.has(n.op_type)}
    if unknown:
        raise RejectedModelError(f"ONNX has nothing for {', '.join(sorted(unknown))}")
    found, wanted = (len(graph.input), len(graph.output)), (len(inputs), len(outputs))
    if found != wanted:  # what the function captured and is no variable stays open
        raise RejectedModelError(
            f"tf2onnx made {found[0]} inputs and {found[1]} outputs of {wanted[0]} and {wanted[1]}"
        )
    names = _distinct((*inputs, *outputs))
    renamed = dict(zip([v.name for v in (*graph.input, *graph.output)], names, strict=True))
    inner = {name for part in graphs for name in _values(part)} - renamed.keys()
    taken = inner | set(names)
    for name in sorted(inner & set(names)):  # what is inside gives way
        renamed[name] = _unused(name, taken)
        taken.add(renamed[name])
    for part in graphs:
        _rename(part, renamed)
    _name_axes((*graph.input, *graph.output))
    onnx.save(model, path)
    return tuple(names[: len(inputs)])


def _graphs(graph: Any) -> Iterator[Any]:
    """The graph and the bodies of its loops and branches, at any depth."""
    waiting = [graph]
    while waiting:
        part = waiting.pop()
        yield part
        for node in part.node:
            for attribute in node.attribute:
                waiting += [attribute.g] if attribute.HasField("g") else []
                waiting += attribute.graphs


def _values(graph: Any) -> Iterator[str]:
    """The names of all values of a graph, not of those inside of it."""
    for node in graph.node:
        yield from (*node.input, *node.output)
    for named in (*graph.input, *graph.output, *graph.initializer):
        yield named.name


def _rename(graph: Any, renamed: Mapping[str, str]) -> None:
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for named in (*graph.input, *graph.output, *graph.initializer):
        named.name = renamed.get(named.name, named.name)
    del graph.value_info[:]


def _distinct(names: Iterable[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        found.append(name if name not in found else _unused(name, set(found)))
    return found


def _unused(name: str, taken: set[str]) -> str:
    number = 1
    while f"{name}_{number}" in taken:
        number += 1
    return f"{name}_{number}"


def _name_axes(values: Iterable[Any]) -> None:
    axes: dict[str, str] = {}
    for value in values:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_param:
                dim.dim_param = axes.setdefault(dim.dim_param, f"N{len(axes)}" if axis else "N")
