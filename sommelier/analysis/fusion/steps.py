"""One block of a fused module: its operators as torch, and the adapter before them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from sommelier.analysis.fusion.blocks import Absorber, Block, Blocks, Features
from sommelier.analysis.fusion.rescale import ENTRY, EXIT, ChannelMap, adapter_model
from sommelier.analysis.graph import opset_imports
from sommelier.analysis.segments.editing import tensor
from sommelier.analysis.torch_graph.module import TorchGraph

if TYPE_CHECKING:
    from onnx import ModelProto

ADAPTER_LEARNS = ("map", "shift")


class Step(nn.Module):
    """A block that reads `entry` and tensors of its task in `needs`, after an adapter if it has
    one. models : program and adapter as ONNX, with the shapes and settings they have now; the
    numbers are in the torch graphs."""

    def __init__(self, block: Block, program: ModelProto) -> None:
        super().__init__()
        self.block, self.models = block, {"program": program}
        self.program = TorchGraph(program, trainable=True)
        self.adapter: TorchGraph | None = None
        _freeze(self.program, ())
        self.needs = tuple(name for name in self.program.inputs if name != block.entry)

    def made(self, entry: Tensor | None, given: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The program's outputs by name. given : the tensors in `needs`, and others."""
        values = {name: given[name] for name in self.needs}
        if entry is not None:
            values[self.block.entry] = entry
        return self.program.tensors(values, self.program.outputs)

    def adapted(self, features: Tensor) -> Tensor:
        """What the program reads of its parent's features."""
        if self.adapter is None:
            return features
        return self.adapter.tensors({ENTRY: features}, (EXIT,))[EXIT]

    def clone(self) -> Step:
        """A copy with parameters of its own; what never changes is shared."""
        graphs = [self.program] if self.adapter is None else [self.program, self.adapter]
        fixed = [self.block, *self.models.values(), *(n for graph in graphs for n in graph.nodes)]
        return copy.deepcopy(self, {id(item): item for item in fixed})

    def adapt(self, model: ModelProto | None) -> None:
        """Puts an adapter before the program, or takes it away."""
        self.adapter = None if model is None else TorchGraph(model, trainable=True)
        self.models.pop("adapter", None)
        if model is not None and self.adapter is not None:
            self.models["adapter"] = model
            _freeze(self.adapter, [n for n in self.adapter.weights if n not in ADAPTER_LEARNS])

    def fold(self, channels: ChannelMap) -> None:
        """Takes a channel map into the operators that read the entry: W' = W o S."""
        stored = {n: w.detach().cpu() for n, w in self.program.weights.items()}
        before = next(iter(self.block.absorbers))
        had = _channels(stored[before.weight], before)
        for absorber in self.block.absorbers:
            weight = stored[absorber.weight]
            if absorber.bias is not None and channels.shift.any():
                stored[absorber.bias] = stored[absorber.bias] + _shift(weight, absorber, channels)
            stored[absorber.weight] = _composed(weight, absorber, channels)
        arrays: dict[str, Any] = {name: value.numpy() for name, value in stored.items()}
        model = _copy(self.models["program"])
        for name, place in {t for a in self.block.absorbers for t in a.targets}:
            arrays[name] = _target(model, name, place, len(channels.matrix), had)
        for initializer in model.graph.initializer:
            if initializer.name in arrays:
                initializer.CopyFrom(tensor(initializer.name, arrays[initializer.name]))
        self.models["program"] = model
        self.program = TorchGraph(model, trainable=True)
        _freeze(self.program, ())


def program_model(
    blocks: Blocks, nodes: Sequence[int], entry: str, outputs: Sequence[str]
) -> ModelProto:
    """The operators as a model of their own, from what they read to `outputs`."""
    from onnx import helper

    protos = {name: node for node in blocks.model.graph.node for name in node.output if name}
    chosen = [protos[next(n for n in blocks.graph.nodes[i].outputs if n)] for i in nodes]
    made = {name for node in chosen for name in node.output}
    read = dict.fromkeys(name for node in chosen for name in node.input if name)
    weights = [t for t in blocks.model.graph.initializer if t.name in read]
    stored = {t.name for t in weights}
    needs = dict.fromkeys([*([entry] if entry else []), *read])
    infos = [
        helper.make_tensor_value_info(name, blocks.graph.tensor(name).dtype, None)
        for name in needs
        if name not in made and name not in stored
    ]
    results = [
        helper.make_tensor_value_info(name, blocks.graph.tensor(name).dtype, None)
        for name in outputs
    ]
    graph = helper.make_graph(chosen, "block", infos, results, weights)
    imports = [helper.make_opsetid(d, v) for d, v in opset_imports(blocks.model).items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=blocks.model.ir_version)


def resized(
    features: Tensor, source: Features, target: Features, opset: int, image: bool
) -> Tensor:
    """Features with the sides of others."""
    if source.sides == target.sides:
        return features
    model = adapter_model(source, target, None, opset=opset, image=image)
    return TorchGraph(model).to(features.device).tensors({ENTRY: features}, (EXIT,))[EXIT]


def _freeze(graph: TorchGraph, names: Sequence[str]) -> None:
    """Scalars of formulas and resampling matrices are no weights."""
    for name, weight in graph.weights.items():
        if weight.numel() <= 1 or name in names:
            weight.requires_grad_(False)


def _grouped(weight: Tensor, absorber: Absorber) -> Tensor:
    """(before, channels, after, the rest) of a weight's inputs."""
    first = weight.movedim(absorber.axis, 0)
    return first.reshape(absorber.before, -1, absorber.after, first[0].numel())


def _channels(weight: Tensor, absorber: Absorber) -> int:
    return weight.shape[absorber.axis] // (absorber.before * absorber.after)


def _composed(weight: Tensor, absorber: Absorber, channels: ChannelMap) -> Tensor:
    """The weight after the map; in double precision, since it is done again and again."""
    matrix = torch.from_numpy(channels.matrix).double()
    mixed = torch.einsum("ic,bcar->biar", matrix, _grouped(weight.double(), absorber))
    rest = weight.movedim(absorber.axis, 0).shape[1:]
    return mixed.reshape(-1, *rest).movedim(0, absorber.axis).contiguous().to(weight.dtype)


def _shift(weight: Tensor, absorber: Absorber, channels: ChannelMap) -> Tensor:
    """What a constant shift of the channels adds to each output."""
    constant = torch.from_numpy(channels.shift).double()
    summed = torch.einsum("c,bcar->r", constant, _grouped(weight.double(), absorber))
    outputs = weight.movedim(absorber.axis, 0).shape[1]
    return summed.reshape(outputs, -1).sum(1).to(weight.dtype)


def _target(model: ModelProto, name: str, place: int, channels: int, had: int) -> Any:
    from onnx import numpy_helper

    stored = next(t for t in model.graph.initializer if t.name == name)
    target = numpy_helper.to_array(stored).copy()
    target[place] = target[place] // had * channels
    return target


def _copy(model: ModelProto) -> ModelProto:
    from onnx import ModelProto

    found = ModelProto()
    found.CopyFrom(model)
    return found
