"""A model rewritten for fusion: open batch, constants as initializers, one weight per reader.

Exporters fix the batch in the targets of Reshape, in the arithmetic before them, and in constants
that are joined to every sample. All of it is rewritten by what the shapes at one sample say, and
what comes out is compared with the original in ONNX Runtime, sample by sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sommelier.analysis.execution import open_session
from sommelier.analysis.fusion.batch_axis import Factor, follow
from sommelier.analysis.graph import Graph, Node, opset_imports
from sommelier.analysis.segments.canonical import RESHAPES
from sommelier.analysis.segments.constants import Constants
from sommelier.analysis.segments.editing import by_output, tensor
from sommelier.analysis.segments.normalising import load
from sommelier.analysis.signature import Binding, input_specs
from sommelier.analysis.synthetic_inputs import synthetic_inputs
from sommelier.analysis.tracing import trace
from sommelier.errors import AnalysisError, first_line

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

BATCH = "batch"
SAMPLES = 3  # the batch at which a rewritten model is compared with single samples
TOLERANCE = 1e-3  # of the largest element; ONNX Runtime adds up otherwise for one sample: 1e-4
QUANTISING = ("QuantizeLinear", "Integer")  # and not DequantizeLinear, which weights need
WITHOUT_EFFECT = frozenset({"Identity", "Dropout"})


def prepared(
    model: ModelProto | Path | str, *, dims: Mapping[str, int] | None, opset: int | None
) -> ModelProto:
    """The rewritten model. Raises AnalysisError when it cannot be done or does not answer alike."""
    original = _with_lengths(_in_opset(load(model), opset), dims)
    try:
        found = _Rewriting(original).result()
        problem = _difference(original, found)
    except AnalysisError as error:
        raise AnalysisError(f"cannot be fused: {error.message}", hint=error.hint) from error
    if problem is not None:
        raise AnalysisError(
            f"cannot be fused: its samples cannot be told apart in one batch ({problem})",
            hint="export it with an open batch axis (torch: dynamic_shapes, dynamic_axes)",
        )
    return found


def is_weight(graph: Graph, name: str) -> bool:
    """Whether a name is a stored array of real numbers, more than one."""
    from onnx import TensorProto

    weight = graph.weights.get(name)
    real = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)
    return weight is not None and weight.tensor.dtype in real and weight.stored > 1


def _in_opset(model: ModelProto, opset: int | None) -> ModelProto:
    own = opset_imports(model)[""]
    if opset is None or own == opset:
        return model
    from onnx import version_converter

    try:
        return version_converter.convert_version(model, opset)
    except Exception as error:  # the converter raises whatever its C++ raised
        raise AnalysisError(
            f"its operators of opset {own} cannot be written in opset {opset}: {first_line(error)}",
            hint="export the models with the same opset",
        ) from error


def _with_lengths(model: ModelProto, dims: Mapping[str, int] | None) -> ModelProto:
    """A copy whose inputs have open batches or batches of 1, and fixed lengths else."""
    from onnx import ModelProto

    copy = ModelProto()
    copy.CopyFrom(model)
    _, binding = trace(copy, batch=1, dims=dims)
    if binding.assumed:
        axes = ", ".join(sorted(binding.assumed))
        raise AnalysisError(
            f"cannot be fused: the lengths of {axes} are open", hint="say them: dims={'name': 128}"
        )
    inputs = {spec.name for spec in input_specs(copy.graph)}
    for value in copy.graph.input:
        if value.name not in inputs:
            continue
        shape = binding.shapes[value.name]
        if not shape or shape[0] != 1:
            raise AnalysisError(
                f"cannot be fused: the first axis of input '{value.name}' {list(shape or ())} is "
                "no batch",
                hint="export it with an open batch axis (torch: dynamic_shapes, dynamic_axes)",
            )
        for dim, length in zip(value.type.tensor_type.shape.dim[1:], shape[1:], strict=True):
            dim.dim_value = length
        first = value.type.tensor_type.shape.dim[0]
        if first.WhichOneof("value") != "dim_value":
            first.dim_param = BATCH
    return copy


class _Rewriting:
    """Takes a model node by node, from the first to the last."""

    def __init__(self, model: ModelProto) -> None:
        self.model = model
        self.one, _ = trace(model, batch=1)
        _refuse(self.one)
        self.open = all(self._is_open(name) for name in self.one.inputs)
        self.many = trace(model, batch=SAMPLES)[0] if self.open else None
        self.constants = Constants(model, self.one)
        self.protos = by_output(model.graph)
        self.nodes: list[NodeProto] = []
        self.stored: dict[str, Any] = {}
        self.names: dict[str, str] = {}
        self.factors: dict[str, Factor] = {name: Factor(0, 1) for name in self.one.inputs}
        self.uses: Counter[str] = Counter()

    def result(self) -> ModelProto:
        for node in self.one.nodes:
            if all(self._constant(name) for name in node.outputs if name):
                continue
            if node.op in WITHOUT_EFFECT and not node.domain and not any(node.outputs[1:]):
                self.names[node.outputs[0]] = self._named(node.inputs[0])
                self._track(node)
                continue
            self._take(node)
        return self._written()

    def _take(self, node: Node) -> None:
        from onnx import NodeProto

        copy = NodeProto()
        copy.CopyFrom(self.protos[next(name for name in node.outputs if name)])
        self._track(node)
        target = self._target(node)
        if target is not None:
            copy = self._reshape(copy, node, target)
        else:
            for i, name in enumerate(node.inputs):
                copy.input[i] = self._operand(name)
            if node.op == "Concat" and not self.open:
                self._spread(copy, node)
        self.nodes.append(copy)

    def _reshape(self, copy: NodeProto, node: Node, target: list[int]) -> NodeProto:
        from onnx import helper

        name = f"{node.outputs[0]}/shape"
        self.stored[name] = np.array(target, np.int64)
        data = self._operand(node.inputs[0])
        return helper.make_node("Reshape", [data, name], list(node.outputs[:1]), name=copy.name)

    def _target(self, node: Node) -> list[int] | None:
        """The target of a change of form with the batch at -1; None when the node stays."""
        if node.op not in RESHAPES or node.domain or (self.open and node.op != "Reshape"):
            return None
        made = self.one.tensor(node.outputs[0]).shape
        if made is None or None in made:
            return None
        shape = [d or 0 for d in made]
        if self.many is None:
            factor = self.factors.get(node.outputs[0])
            if factor is None:
                return None
            shape[factor.axis] = -1
            return shape
        more = self.many.tensor(node.outputs[0]).shape
        if more is None or len(more) != len(shape):
            return None
        grown = [i for i, (a, b) in enumerate(zip(shape, more, strict=True)) if a != b]
        if len(grown) != 1:
            return None
        shape[grown[0]] = -1
        return shape

    def _operand(self, name: str) -> str:
        """What a node reads instead: a weight of its own, or the number that it always is."""
        if not name:
            return ""
        if self._constant(name):
            array = self.constants.array(name)
            private = array.dtype.kind == "f" and array.size > 1
            kept = name if not private or not self.uses[name] else f"{name}/{self.uses[name]}"
            self.uses[name] += 1
            self.stored[kept] = array
            return kept
        return self._named(name)

    def _constant(self, name: str) -> bool:
        """Whether a name stands for the same numbers at every batch."""
        if self.constants.learned(name):
            return True
        if name not in self.one.values:
            return False
        if self.many is None:
            return True
        return name in self.many.values and np.array_equal(
            np.asarray(self.one.values[name]), np.asarray(self.many.values[name])
        )

    def _named(self, name: str) -> str:
        return self.names.get(name, name)

    def _track(self, node: Node) -> None:
        if not self.open:
            self.factors.update(follow(node, self.one, self.factors))

    def _spread(self, copy: NodeProto, node: Node) -> None:
        """Constants that are joined to every sample are repeated for every sample."""
        from onnx import helper

        factor = self.factors.get(node.outputs[0])
        if factor is None:
            return
        for i, name in enumerate(node.inputs):
            if name in self.factors or not self._constant(name):
                continue
            sides = [1 if d is None else d for d in self.one.tensor(name).shape or ()]
            if sides[factor.axis] != 1:
                continue
            like, made = node.inputs[1 - i if i < 2 else 0], f"{node.outputs[0]}/{i}"
            if like not in self.factors:
                raise AnalysisError(f"'{node.outputs[0]}' joins constants to the samples")
            parts = [
                np.array(v, np.int64) for v in (sides[: factor.axis], sides[factor.axis + 1 :])
            ]
            cut = [np.array([v], np.int64) for v in (factor.axis, factor.axis + 1)]
            for key, array in zip(("before", "after", "from", "to"), (*parts, *cut), strict=True):
                self.stored[f"{made}/{key}"] = array
            self.nodes += [
                helper.make_node("Shape", [self._named(like)], [f"{made}/all"]),
                helper.make_node(
                    "Slice", [f"{made}/all", f"{made}/from", f"{made}/to"], [f"{made}/batch"]
                ),
                helper.make_node(
                    "Concat", [f"{made}/before", f"{made}/batch", f"{made}/after"],
                    [f"{made}/shape"], axis=0,
                ),
                helper.make_node("Expand", [copy.input[i], f"{made}/shape"], [f"{made}/spread"]),
            ]  # fmt: skip
            copy.input[i] = f"{made}/spread"

    def _is_open(self, name: str) -> bool:
        value = next(v for v in self.model.graph.input if v.name == name)
        return bool(value.type.tensor_type.shape.dim[0].WhichOneof("value") != "dim_value")

    def _written(self) -> ModelProto:
        from onnx import helper

        wanted = {self._named(name) for name in self.one.outputs}
        made = {name for node in self.nodes for name in node.output}
        missing = sorted(wanted - made)
        if missing:
            raise AnalysisError(f"its output '{missing[0]}' does not depend on its input")
        if wanted != set(self.one.outputs):
            self._restore_names()
        alive = []
        for node in reversed(self.nodes):
            if wanted & set(node.output):
                alive.append(node)
                wanted |= set(node.input)
        graph = helper.make_graph(
            alive[::-1],
            self.model.graph.name or "model",
            [self._info(name) for name in self.one.inputs],
            [self._info(name) for name in self.one.outputs],
            [tensor(name, array) for name, array in self.stored.items() if name in wanted],
        )
        imports = [helper.make_opsetid(d, v) for d, v in opset_imports(self.model).items()]
        return helper.make_model(
            graph, opset_imports=imports, ir_version=max(self.model.ir_version, 4)
        )

    def _restore_names(self) -> None:
        """Outputs keep their names where the node that named them is gone."""
        back = {self._named(n): n for n in self.one.outputs if self._named(n) != n}
        for node in self.nodes:
            for names in (node.input, node.output):
                for i, name in enumerate(names):
                    names[i] = back.get(name, name)

    def _info(self, name: str) -> Any:
        from onnx import helper

        found = self.one.tensor(name)
        shape = None if found.shape is None else [BATCH, *found.shape[1:]]
        return helper.make_tensor_value_info(name, found.dtype, shape)


def _refuse(graph: Graph) -> None:
    """Raises AnalysisError for operators that cannot be trained or taken apart."""
    for node in graph.nodes:
        if "QLinear" in node.op or node.op.endswith(QUANTISING):
            raise AnalysisError(
                f"its activations are quantised ({node.title})",
                hint="fuse the float model it was made of, and quantise the fused one",
            )
        if node.subgraphs:
            raise AnalysisError(
                f"{node.title} runs a subgraph", hint="export it without control flow"
            )


def _difference(original: ModelProto, made: ModelProto) -> str | None:
    """How the rewritten model's answers to a batch differ from the original's to its samples."""
    first, second = (open_session(m.SerializeToString(), 1) for m in (original, made))
    specs = input_specs(original.graph)
    shapes = {s.name: (SAMPLES, *(int(d or 1) for d in (s.shape or ())[1:])) for s in specs}
    batch = synthetic_inputs(specs, Binding(dict(shapes), {}, {}, SAMPLES))
    samples = [{name: array[i : i + 1] for name, array in batch.items()} for i in range(SAMPLES)]
    try:
        alone = [first.run(None, sample) for sample in samples]
        found = second.run(None, batch)
    except Exception as error:  # ONNX Runtime has no common base class for its errors
        return first_line(error)[:200]
    names = [value.name for value in original.graph.output]
    for name, together, *apart in zip(names, found, *alone, strict=True):
        truth = np.concatenate(apart) if np.ndim(apart[0]) else np.stack(apart)
        if together.shape != truth.shape:
            return f"output '{name}' has no batch axis"
        scale = max(float(np.abs(np.nan_to_num(truth.astype(np.float64))).max(initial=0.0)), 1e-6)
        if not np.allclose(truth, together, rtol=0, atol=TOLERANCE * scale, equal_nan=True):
            return f"output '{name}' differs"
    return None
