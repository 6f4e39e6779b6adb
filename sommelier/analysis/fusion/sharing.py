"""Several models in one file that keeps identical layers once: less memory, the same answers.

Weights with the same bytes are stored once; operators that read the same tensors with the same
settings are run once, as the common trunk of models that were fine-tuned with it frozen. No weight
is changed and nothing has to be certified. Paper 001 has no such fusion.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sommelier.analysis import signature
from sommelier.analysis.fusion.same_answers import check_answers
from sommelier.analysis.graph import opset_imports, ordered_nodes
from sommelier.analysis.segments.constants import RANDOM
from sommelier.analysis.segments.editing import all_names, free_names, prune, renamed
from sommelier.analysis.segments.normalising import load
from sommelier.errors import AnalysisError, first_line

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

TOLERANCE = 1e-5  # of the largest answer: the same operators, which a runtime may fuse differently


@dataclass(frozen=True, slots=True)
class Shared:
    """model : answers '<task>/<output>' of every task. saved_bytes : of weights that it keeps once
    and the models keep several times; shared_weights : how many of them are gone.

    shared_operators : how many runs of an operator are gone.
    """

    model: ModelProto
    saved_bytes: int
    shared_weights: int
    shared_operators: int


def share_identical(models: Mapping[str, ModelProto | Path | str]) -> Shared:
    """One model of several for the same input, by task; it was run and answers as they do.

    Raises AnalysisError where their inputs differ, where they cannot be written in one opset, and
    where the result answers differently.
    """
    if not models:
        raise AnalysisError("nothing to share: no models were given")
    protos = _alike({task: load(model) for task, model in models.items()})
    first = next(iter(protos.values()))
    joining = _Joining(first)
    for task, proto in protos.items():
        joining.add(task, proto)
    joined = joining.finish()
    for task, proto in protos.items():
        outputs = {output.name: f"{task}/{output.name}" for output in proto.graph.output}
        what = f"of '{task}' once its layers are shared"
        check_answers(joined, proto, outputs, what, TOLERANCE)
    return Shared(joined, joining.saved_bytes, joining.shared_weights, joining.shared_operators)


class _Joining:
    """A model to which others are added; what it has already is not added again."""

    def __init__(self, first: ModelProto) -> None:
        from onnx import ModelProto

        self.saved_bytes = self.shared_weights = self.shared_operators = 0
        self._model = ModelProto()
        self._model.CopyFrom(first)
        graph = self._model.graph
        for field in (
            "node", "output", "initializer", "sparse_initializer", "value_info", "input",
        ):  # fmt: skip
            graph.ClearField(field)
        graph.input.extend(_inputs(first))
        self._weights: dict[bytes, str] = {}
        self._nodes: dict[tuple[Any, ...], tuple[str, ...]] = {}

    def add(self, task: str, proto: ModelProto) -> None:
        """Adds a model whose names become '<task>/<name>'."""
        names = {theirs.name: ours.name for ours, theirs in _paired_inputs(self._model, proto)}
        name_of = free_names(task, all_names(self._model.graph), names)
        graph = self._model.graph
        for weight in proto.graph.initializer:
            self._add_weight(weight, names, name_of(weight.name))
        for sparse in proto.graph.sparse_initializer:
            graph.sparse_initializer.add().CopyFrom(sparse)
            graph.sparse_initializer[-1].values.name = name_of(sparse.values.name)
        available = {*names, *(s.values.name for s in proto.graph.sparse_initializer)}
        for node in ordered_nodes(proto.graph, available):
            value = _stored_constant(node)
            if value is not None:
                self._add_weight(value, names, name_of(node.output[0]))
                names[node.output[0]] = names.get(node.output[0], name_of(node.output[0]))
            else:
                self._add_node(node, names, name_of)
        for output in proto.graph.output:
            self._add_output(output, f"{task}/{output.name}", name_of(output.name))

    def finish(self) -> ModelProto:
        """The model, without what nothing needs."""
        self._model.ir_version = max(self._model.ir_version, 4)  # weights are no inputs
        prune(self._model)
        return self._model

    def _add_weight(self, weight: TensorProto, names: dict[str, str], name: str) -> None:
        content = _content(weight)
        known = self._weights.setdefault(content, name)
        names[weight.name] = known
        if known != name:
            self.saved_bytes += _nbytes(weight)
            self.shared_weights += 1
            return
        self._model.graph.initializer.add().CopyFrom(weight)
        self._model.graph.initializer[-1].name = name

    def _add_node(self, node: NodeProto, names: dict[str, str], name_of: Any) -> None:
        copy = renamed(node, name_of)
        settings = sorted((a.name, a.SerializeToString(deterministic=True)) for a in node.attribute)
        key = (node.op_type, node.domain, tuple(copy.input), *settings,
               tuple(bool(name) for name in node.output))  # fmt: skip
        inside = any(a.HasField("g") or a.graphs for a in node.attribute)
        known = None if inside or node.op_type in RANDOM else self._nodes.get(key)
        if known is not None:
            self.shared_operators += 1
            names.update((name, made) for name, made in zip(node.output, known, strict=True))
            return
        self._nodes[key] = tuple(copy.output)
        copy.name = name_of(node.name) if node.name else ""
        self._model.graph.node.append(copy)

    def _add_output(self, output: Any, name: str, made: str) -> None:
        """An answer under its own name, also where another task has the same."""
        graph = self._model.graph
        if made != name:
            graph.node.add(op_type="Identity", input=[made], output=[name])
        graph.output.add().CopyFrom(output)
        graph.output[-1].name = name


def _alike(protos: dict[str, ModelProto]) -> dict[str, ModelProto]:
    """The models in the newest of their opsets. Raises AnalysisError where their inputs differ."""
    tasks = list(protos)
    for task in tasks[1:]:
        _check_inputs(tasks[0], protos[tasks[0]], task, protos[task])
    newest = max(opset_imports(proto)[""] for proto in protos.values())
    return {task: _in_opset(task, proto, newest) for task, proto in protos.items()}


def _check_inputs(name: str, ours: ModelProto, other: str, theirs: ModelProto) -> None:
    sides = [signature.input_specs(proto.graph) for proto in (ours, theirs)]
    fit = len(sides[0]) == len(sides[1])
    pairs = _paired_inputs(ours, theirs) if fit else []
    for a, b in ((signature.spec(one), signature.spec(two)) for one, two in pairs):
        shapes = a.shape, b.shape
        same = shapes[0] is None or shapes[1] is None or _fit(shapes[0], shapes[1])
        fit = fit and a.dtype == b.dtype and same
    if not fit:
        listed = (", ".join(str(spec) for spec in side) for side in sides)
        raise AnalysisError(
            f"'{name}' takes {next(listed)} and '{other}' takes {next(listed)}",
            hint="only models for the same input become one",
        )


def _fit(ours: tuple[Any, ...], theirs: tuple[Any, ...]) -> bool:
    """Whether axes of stated length are as long as each other."""
    pairs = zip(ours, theirs, strict=False)
    stated = [(a, b) for a, b in pairs if isinstance(a, int) and isinstance(b, int)]
    return len(ours) == len(theirs) and all(a == b for a, b in stated)


def _in_opset(task: str, proto: ModelProto, version: int) -> ModelProto:
    if opset_imports(proto)[""] == version:
        return proto
    from onnx import version_converter

    try:
        return version_converter.convert_version(proto, version)
    except Exception as error:  # the converter raises its own kinds
        raise AnalysisError(
            f"'{task}' cannot be written in opset {version}: {first_line(error)}",
            hint="export all models with the same opset",
        ) from error


def _inputs(proto: ModelProto) -> list[Any]:
    """Graph inputs that are not weights."""
    stored = {t.name for t in proto.graph.initializer}
    stored |= {t.values.name for t in proto.graph.sparse_initializer}
    return [value for value in proto.graph.input if value.name not in stored]


def _paired_inputs(ours: ModelProto, theirs: ModelProto) -> list[tuple[Any, Any]]:
    """Inputs of equal names belong together, inputs of other names in their order."""
    first, second = _inputs(ours), _inputs(theirs)
    named = {value.name: value for value in second}
    if {value.name for value in first} == set(named):
        second = [named[value.name] for value in first]
    return list(zip(first, second, strict=True))


def _stored_constant(node: NodeProto) -> TensorProto | None:
    """What a Constant node stores as a tensor, under the name of its output."""
    if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
        return None
    for attribute in node.attribute:
        if attribute.name == "value":
            from onnx import TensorProto

            found = TensorProto()
            found.CopyFrom(attribute.t)
            found.name = node.output[0]
            return found
    return None


def _content(weight: TensorProto) -> bytes:
    """Equal for tensors of equal type, shape and bytes."""
    found = hashlib.blake2b(f"{weight.data_type}{list(weight.dims)}".encode(), digest_size=20)
    found.update(_bytes(weight))
    return found.digest()


def _bytes(weight: TensorProto) -> bytes:
    from onnx import TensorProto, numpy_helper

    if weight.data_type == TensorProto.STRING:
        return repr(list(weight.string_data)).encode()
    return numpy_helper.to_array(weight).tobytes()


def _nbytes(weight: TensorProto) -> int:
    return len(_bytes(weight))
