"""What depends on weights only, with the host's weights and with the donor's.

A graph may transpose, dequantise or normalise a weight before it uses it. Everything whose value
needs no input is computed by ONNX Runtime once with each set of weights, so that a rule sees plain
arrays: before and after.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.graph import Graph
from sommelier.analysis.propagation.extension import open_extended
from sommelier.errors import AnalysisError

if TYPE_CHECKING:
    from onnx import ModelProto

Values = NDArray[Any]

RANDOM = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Multinomial",
     "Bernoulli"}
)  # fmt: skip

SHAPES = frozenset({"Shape", "Size"})  # the twin's tensors have the host's shapes


@dataclass(frozen=True)
class Constant:
    """A value that needs no input: the host's and the twin's. No slots: `difference` is kept."""

    before: Values
    after: Values

    @property
    def changed(self) -> bool:
        """Whether the twin's differs."""
        return self.before is not self.after

    @cached_property
    def difference(self) -> NDArray[np.float64]:
        """after - before, float64."""
        return np.subtract(self.after, self.before, dtype=np.float64)


def constants(
    model: ModelProto, graph: Graph, replaced: Mapping[str, Values]
) -> dict[str, Constant]:
    """Every weight and every value computed from weights alone that some operator reads."""
    stored = _stored(graph)
    changed = check_replaced(stored, replaced)
    known = {name: Constant(value, changed.get(name, value)) for name, value in stored.items()}
    derived, touched = _derived(graph, set(known), set(changed))
    for name, value in graph.values.items():
        if name not in known and name not in touched:
            known[name] = Constant(np.asarray(value), np.asarray(value))
    wanted = [name for name in derived if name not in known]
    before = _evaluate(model, wanted, {}, known)
    moved = [name for name in wanted if name in touched]
    after = _evaluate(model, moved, changed, known)
    for name in wanted:
        twin = after.get(name, before[name])
        same = twin.shape == before[name].shape and np.array_equal(twin, before[name])
        known[name] = Constant(before[name], before[name] if same else twin)
    return known


def check_replaced(
    stored: Mapping[str, Values], replaced: Mapping[str, Values]
) -> dict[str, Values]:
    """The donor's arrays that differ from the host's, in the host's element types.

    Raises AnalysisError for a name the host does not have, another shape, or a number that is
    not finite.
    """
    changed = {}
    for name, value in replaced.items():
        if name not in stored:
            some = ", ".join(f"'{n}'" for n in list(stored)[:5])
            raise AnalysisError(
                f"the host has no weight '{name}'", hint=f"it has {len(stored)}: {some} ..."
            )
        host = stored[name]
        if np.shape(value) != host.shape:
            raise AnalysisError(
                f"weight '{name}' has shape {list(host.shape)} in the host and "
                f"{list(np.shape(value))} in the donor"
            )
        array = np.asarray(value, host.dtype)
        if not np.all(np.isfinite(array)):
            raise AnalysisError(f"the donor's weight '{name}' is not finite")
        if not np.array_equal(array, host):
            changed[name] = array
    return changed


def _stored(graph: Graph) -> dict[str, Values]:
    from onnx import TensorProto, numpy_helper

    arrays = {}
    for name, weight in graph.weights.items():
        proto = weight.proto
        if name == weight.name and isinstance(proto, TensorProto) and proto.data_type != 8:
            arrays[name] = numpy_helper.to_array(proto)
    return arrays


def _derived(graph: Graph, known: set[str], changed: set[str]) -> tuple[list[str], set[str]]:
    """Names computed from constants alone; and those of them that changed weights reach.

    A value that only a shape decides (graph.values) is a constant too: the twin has equal shapes.
    """
    constant, touched, made = set(known), set(changed), []
    for node in graph.nodes:
        inputs = [name for name in node.inputs if name]
        if node.op not in SHAPES and any(name in touched for name in inputs):
            touched.update(name for name in node.outputs if name)
        elif all(name in graph.values for name in node.outputs if name):
            constant.update(node.outputs)
            continue
        if node.op in RANDOM or node.subgraphs:
            continue
        if inputs and all(name in constant for name in inputs):
            names = [name for name in node.outputs if name]
            constant.update(names)
            made.extend(names)
    return made, touched


def _evaluate(
    model: ModelProto, names: list[str], changed: Mapping[str, Values],
    known: Mapping[str, Constant],
) -> dict[str, Values]:  # fmt: skip
    """Values of constant expressions, by ONNX Runtime, with some weights replaced."""
    if not names:
        return {}
    from onnx import ModelProto, numpy_helper

    nodes = list(model.graph.node)
    producers = {name: i for i, node in enumerate(nodes) for name in node.output}
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    part = ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    waiting, seen = list(names), set(names)
    needed: set[int] = set()
    while waiting:
        name = waiting.pop()
        if name in changed or (name in known and name not in stored):
            value = changed[name] if name in changed else known[name].before
            part.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        elif name in stored:
            part.graph.initializer.append(stored[name])
        else:
            needed.add(producers[name])
            node = nodes[producers[name]]
            seen.update(node.output)
            waiting.extend(n for n in node.input if n and n not in seen)
            seen.update(node.input)
    part.graph.node.extend(nodes[i] for i in sorted(needed))
    session = open_extended(part, (), {}, names)
    return dict(zip(names, session.run(names, {}), strict=True))
