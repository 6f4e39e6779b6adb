"""A fused module as one ONNX model, written from the operators of the original files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from sommelier.analysis.execution import open_session
from sommelier.analysis.fusion.module import FusedModule
from sommelier.analysis.fusion.preparing import BATCH
from sommelier.analysis.fusion.rescale import ENTRY, EXIT
from sommelier.analysis.graph import opset_imports
from sommelier.analysis.segments.editing import renamed, tensor
from sommelier.analysis.torch_graph.module import TorchGraph
from sommelier.errors import AnalysisError, first_line

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

TOLERANCE = 1e-4  # of the largest element of an output; float32 sums in another order


def to_onnx(
    module: FusedModule, probes: Sequence[NDArray[Any]], *, tolerance: float = TOLERANCE
) -> ModelProto:
    """The module with open batch and outputs 'task/output', found to answer the probes as it does.

    probes : one array an input, of at least two samples. Raises AnalysisError when an answer of
    ONNX Runtime differs by more than the tolerance, relative to the output's largest element.
    """
    model = written(module)
    differences = compared(module, model, probes)
    for name, difference in differences.items():
        if not difference <= tolerance:
            raise AnalysisError(
                f"the fused model differs from ONNX Runtime by {difference:.2g} of the largest "
                f"element in output '{name}' (tolerance {tolerance:g})",
                hint="an operator of it is converted wrongly for these attributes",
            )
    return model


def written(module: FusedModule) -> ModelProto:
    """The same, not compared."""
    from onnx import checker, helper

    writer = _Writer(module)
    models = list(module.models.values())
    infos = [
        helper.make_tensor_value_info(name, dtype, [BATCH, *shape])
        for name, (dtype, shape) in models[0].inputs.items()
    ]
    outputs = []
    for task, name in module.outputs:
        found = module.models[task].graph.tensor(name)
        shape = None if found.shape is None else [BATCH, *found.shape[1:]]
        outputs.append(helper.make_tensor_value_info(f"{task}/{name}", found.dtype, shape))
    nodes = writer.nodes()
    graph = helper.make_graph(nodes, "fused", infos, outputs, list(writer.stored.values()))
    version = max(blocks.model.ir_version for blocks in models)
    model = helper.make_model(graph, opset_imports=_imports(module), ir_version=version)
    checker.check_model(model)
    return model


def compared(
    module: FusedModule, model: ModelProto, probes: Sequence[NDArray[Any]]
) -> dict[str, float]:
    """By output, the largest difference of ONNX Runtime's answers, relative to the largest."""
    device = next(module.parameters()).device
    with torch.no_grad():
        expected = module(*(torch.from_numpy(np.array(p)).to(device) for p in probes))
    session = open_session(model.SerializeToString(), 1)
    try:
        found = session.run(None, dict(zip(module.inputs, probes, strict=True)))
    except Exception as error:  # ONNX Runtime has no common base class for its errors
        text = first_line(error)[:200]
        raise AnalysisError(f"ONNX Runtime cannot run the fused model: {text}") from error
    differences = {}
    for (task, name), a, b in zip(module.outputs, expected, found, strict=True):
        truth, made = a.cpu().numpy().astype(np.float64), np.asarray(b, np.float64)
        if truth.shape != made.shape:
            raise AnalysisError(
                f"output '{task}/{name}' has the shape {made.shape}, not {truth.shape}"
            )
        scale = max(float(np.abs(truth).max(initial=0.0)), 1e-12)
        differences[f"{task}/{name}"] = float(np.abs(truth - made).max(initial=0.0)) / scale
    return differences


class _Writer:
    """Collects nodes and weights under names that tell the task."""

    def __init__(self, module: FusedModule) -> None:
        self.module = module
        self.tasks = list(module.models)
        self.stored: dict[str, TensorProto] = {}

    def nodes(self) -> list[NodeProto]:
        found: list[NodeProto] = []
        for task, side in enumerate(self.module.sides):
            names = {own: given for given, own in self.module.renamed[task].items()}
            assert isinstance(side, TorchGraph)
            found += self._part(self.module.side_models[task], side, task, names)
        for node in self.module.graph.nodes:
            found += self._block(node)
        return found

    def _block(self, node: Any) -> list[NodeProto]:
        graph, step = self.module.graph, self.module.step(node)
        block, parent = graph.blocks[node], graph.parents[node]
        names = {own: given for given, own in self.module.renamed[node.task_id].items()}
        found: list[NodeProto] = []
        if parent is not None:
            source = self._name(parent.task_id, graph.blocks[parent].exit)
            if step.adapter is not None:
                made = self._name(node.task_id, f"{node.op_id}/adapted")
                prefix = f"{node.op_id}/adapter"
                found += self._part(
                    step.models["adapter"],
                    step.adapter,
                    node.task_id,
                    {ENTRY: source, EXIT: made},
                    prefix,
                )
                source = made
            names[block.entry] = source
        return found + self._part(step.models["program"], step.program, node.task_id, names)

    def _part(
        self, model: ModelProto, graph: TorchGraph, task: int, fixed: Mapping[str, str],
        prefix: str = "",
    ) -> list[NodeProto]:  # fmt: skip
        def name_of(name: str) -> str:
            inner = f"{prefix}/{name}" if prefix else name
            return fixed.get(name) or self._name(task, inner)

        weights = graph.weights
        for stored in model.graph.initializer:
            name = name_of(stored.name)
            if stored.name in weights:
                array = weights[stored.name].detach().cpu().numpy()
                self.stored[name] = tensor(name, array)
            else:
                self.stored[name] = _renamed_tensor(stored, name)
        nodes = [renamed(node, name_of) for node in model.graph.node]
        for node in nodes:  # a made tensor's name is the only one that every node is sure to have
            said = "/".join(part for part in (prefix, node.name) if part)
            node.name = self._name(task, said) if node.name else next(filter(None, node.output))
        return nodes

    def _name(self, task: int, name: str) -> str:
        return f"{self.tasks[task]}/{name}"


def _renamed_tensor(stored: TensorProto, name: str) -> TensorProto:
    from onnx import TensorProto

    found = TensorProto()
    found.CopyFrom(stored)
    found.name = name
    return found


def _imports(module: FusedModule) -> list[Any]:
    from onnx import helper

    found = {d: v for b in module.models.values() for d, v in opset_imports(b.model).items()}
    return [helper.make_opsetid(domain, version) for domain, version in found.items()]
