"""A fused model that can be trained: the blocks of an abs-graph as torch modules.

It begins as the original models side by side and is mutated from there; blocks keep the weights
they have in the module it is mutated from, and a block that reads other features than before is
initialised by least squares on a few inputs (algorithms.md F.3).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sommelier.analysis.fusion.abs_graph import AbsGraph, NodeId
from sommelier.analysis.fusion.blocks import Blocks, Features
from sommelier.analysis.fusion.inputs import shared_inputs
from sommelier.analysis.fusion.rescale import (
    ChannelMap,
    adapter_model,
    least_squares,
    random_map,
)
from sommelier.analysis.fusion.steps import Step, program_model, resized
from sommelier.analysis.graph import opset_imports
from sommelier.analysis.torch_graph import require_torch
from sommelier.analysis.torch_graph.module import TorchGraph
from sommelier.errors import AnalysisError

if TYPE_CHECKING:
    from onnx import ModelProto

Initialisation = Literal["least_squares", "random"]
ROWS = 16_384  # feature vectors that a map is fitted to


class FusedModule(nn.Module):
    """Several tasks' outputs from one input. graph : how the blocks hang together.

    inputs : names, those of the first task. outputs : (task, output) in the order of `forward`.
    residuals : of the blocks that this module's mutation gave other features, how badly the map
    fits (`ChannelMap.residual`); NaN where it was not fitted. Normalisation statistics are fixed.
    """

    def __init__(
        self, graph: AbsGraph, models: Mapping[str, Blocks], steps: Mapping[NodeId, Step]
    ) -> None:
        super().__init__()
        self.graph, self.models = graph, dict(models)
        self.renamed = shared_inputs(models)
        self.inputs = tuple(self.renamed[0])
        self.outputs = tuple((task, o) for task, b in self.models.items() for o in b.outputs)
        self.steps = nn.ModuleDict({_key(node): steps[node] for node in graph.nodes})
        self.side_models = [
            _side(blocks, self._steps_of(i)) for i, blocks in enumerate(self.models.values())
        ]
        self.sides = nn.ModuleList(map(TorchGraph, self.side_models))
        self.residuals: dict[NodeId, float] = {}
        self.opset = _opset(self.models)
        kinds = [len(shape) for _, shape in next(iter(self.models.values())).inputs.values()]
        self.image = kinds == [3]
        self.eval()

    @classmethod
    def original(cls, models: Mapping[str, Blocks]) -> FusedModule:
        """The models side by side, nothing shared. models : task -> its model in blocks."""
        require_torch()
        graph = AbsGraph.original(models)
        steps = {}
        for task, blocks in enumerate(models.values()):
            for block in blocks.blocks:
                outputs = [block.exit] if block.exit else list(blocks.outputs)
                program = program_model(blocks, block.nodes, block.entry, outputs)
                steps[NodeId(task, block.op_id)] = Step(block, program)
        return cls(graph, models, steps)

    @classmethod
    def restored(
        cls, graph: AbsGraph, models: Mapping[str, Blocks], state: Mapping[str, Tensor]
    ) -> FusedModule:
        """The module of a graph with the weights of a `state_dict`."""
        found = cls.original(models).mutated(graph, None)
        found.load_state_dict(dict(state))
        return found

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The outputs of all tasks, in the order of `outputs`. inputs : in that of `inputs`."""
        given = self._given(inputs)
        exits: dict[NodeId, Tensor] = {}
        answers: dict[tuple[int, str], Tensor] = {}
        for node in self.graph.nodes.values():
            made = self._run(node.id, exits, given)
            if node.id in self.graph.heads:
                answers.update({(node.task_id, name): value for name, value in made.items()})
            else:
                exits[node.id] = made[self.graph.blocks[node.id].exit]
        places = {task: i for i, task in enumerate(self.models)}
        return tuple(answers[places[task], name] for task, name in self.outputs)

    def mutated(
        self, graph: AbsGraph, samples: Sequence[Tensor] | Tensor | None, *,
        initialise: Initialisation = "least_squares", seed: int = 0,
        exits: Mapping[NodeId, Tensor] | None = None,
    ) -> FusedModule:  # fmt: skip
        """A module of another graph made from this one's, with copies of this one's weights.

        samples : 128 to 256 inputs (one tensor an input of the model) on which maps are fitted;
        None makes maps that have to be loaded. exits : `self.exits(samples)`, when it is known
        already: several mutations of one module need it only once. Raises AnalysisError for a graph
        that is no mutation of this module's.
        """
        lost = set(graph.parents) - set(self.graph.parents)
        if lost or graph.tasks != self.graph.tasks:
            raise AnalysisError(
                f"the graph has blocks that this module has lost: {', '.join(map(str, lost))}",
                hint="mutate module.graph",
            )
        steps = {node: self.step(node).clone() for node in graph.nodes}
        found = FusedModule(graph, self.models, steps)
        changed = [n for n in graph.nodes if graph.parents[n] != self.graph.parents[n]]
        with torch.no_grad():
            _Mutation(self, found, changed, initialise, seed).run(samples, exits)
        return found

    @torch.no_grad()
    def exits(
        self, inputs: Sequence[Tensor], wanted: Iterable[NodeId] | None = None
    ) -> dict[NodeId, Tensor]:
        """What blocks give for the inputs, (n, ...); those of `wanted`, else all but the heads."""
        given = self._given(inputs)
        chosen = set(self.graph.nodes) - set(self.graph.heads) if wanted is None else set(wanted)
        needed = chosen | {a for node in chosen for a in self.graph.ancestors(node)}
        found: dict[NodeId, Tensor] = {}
        for node in (n for n in self.graph.nodes if n in needed):
            found[node] = self._run(node, found, given)[self.graph.blocks[node].exit]
        return {node: found[node] for node in chosen}

    def _run(
        self, node: NodeId, exits: Mapping[NodeId, Tensor], given: Sequence[Mapping[str, Tensor]]
    ) -> dict[str, Tensor]:
        entry = self._entry(node, exits, given) if self.graph.blocks[node].entry else None
        return self.step(node).made(entry, given[node.task_id])

    def _entry(
        self, node: NodeId, exits: Mapping[NodeId, Tensor], given: Sequence[Mapping[str, Tensor]]
    ) -> Tensor:
        parent = self.graph.parents[node]
        if parent is None:
            return given[node.task_id][self.graph.blocks[node].entry]
        return self.step(node).adapted(exits[parent])

    def _given(self, inputs: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Per task, its inputs and what depends on them alone, by its own names."""
        found = []
        for names, side in zip(self.renamed, self.sides, strict=True):
            values = dict(zip(names.values(), inputs, strict=True))
            assert isinstance(side, TorchGraph)
            made = side.tensors({n: values[n] for n in side.inputs}, side.outputs)
            found.append({**values, **made})
        return found

    def step(self, node: NodeId) -> Step:
        """The operators of a block that is left."""
        found = self.steps[_key(node)]
        assert isinstance(found, Step)
        return found

    def _steps_of(self, task: int) -> list[Step]:
        return [self.step(n) for n in self.graph.nodes if n.task_id == task]


class _Mutation:
    """Gives the changed blocks of a new module adapters, parents before children."""

    def __init__(
        self, base: FusedModule, made: FusedModule, changed: Sequence[NodeId],
        initialise: Initialisation, seed: int,
    ) -> None:  # fmt: skip
        self.base, self.made, self.changed = base, made, changed
        self.initialise, self.seed = initialise, seed

    def run(
        self, samples: Sequence[Tensor] | Tensor | None, known: Mapping[NodeId, Tensor] | None
    ) -> None:
        if samples is None:
            for node in self.changed:
                self._adapt(node, None, None)
            return
        inputs = [samples] if isinstance(samples, Tensor) else list(samples)
        graph, old = self.made.graph, self.base.graph
        needed = {a for node in self.changed for a in graph.ancestors(node)}
        moved = {n for n in needed if {n, *graph.ancestors(n)} & set(self.changed)}
        seen = {a for node in self.changed for a in old.ancestors(node)} | (needed - moved)
        before = self.base.exits(inputs, seen) if known is None else known
        given, after = self.made._given(inputs), {n: before[n] for n in needed - moved}
        for node in graph.nodes:
            parent = graph.parents[node]
            if node in self.changed and parent is not None:
                self._adapt(node, after[parent], self.base._entry(node, before, given))
            if node in moved:
                after[node] = self.made._run(node, after, given)[graph.blocks[node].exit]

    def _adapt(self, node: NodeId, source: Tensor | None, seen: Tensor | None) -> None:
        graph, step, block = self.made.graph, self.made.step(node), self.made.graph.blocks[node]
        reads, takes = graph.reads(node), block.takes
        moved = graph.adapter(node) is not None
        step.adapt(None)
        if not moved and not block.absorbers:
            return
        home = next(self.made.parameters()).device
        had = self.base.graph.reads(node).channels if block.absorbers else takes.channels
        channels = self._map(node, source, seen, had)
        self.made.residuals[node] = channels.residual
        if block.absorbers:
            step.fold(channels)
        if moved and (not block.absorbers or reads.sides != takes.sides):
            kept = None if block.absorbers else channels
            step.adapt(
                adapter_model(reads, takes, kept, opset=self.made.opset, image=self.made.image)
            )
        step.to(home)

    def _map(
        self, node: NodeId, source: Tensor | None, seen: Tensor | None, had: int
    ) -> ChannelMap:
        graph = self.made.graph
        block, reads = graph.blocks[node], graph.reads(node)
        if source is None or seen is None:
            eye = np.eye(reads.channels, had, dtype=np.float32)
            return ChannelMap(eye, np.zeros(had, np.float32), float("nan"))
        if self.initialise == "random":
            return random_map(reads.channels, had, self.seed)
        sized = resized(source, reads, block.takes, self.made.opset, self.made.image)
        shifted = all(a.bias is not None for a in block.absorbers)
        a, b = feature_rows(sized, seen, block.takes, self.seed)
        return least_squares(a, b, shifted=shifted)


def feature_rows(
    source: Tensor, target: Tensor, features: Features, seed: int, *, rows: int = ROWS
) -> tuple[NDArray[Any], NDArray[Any]]:
    """(n, positions, channels) of both, at the same random positions when there are many.

    features : what the target's are, and after resizing the source's too but for its channels.
    """
    axis = (features.channel_axis or 0) + 1
    found = [x.movedim(axis, -1).reshape(len(x), -1, x.shape[axis]) for x in (source, target)]
    places = found[0].shape[1]
    kept = max(1, rows // len(source))
    if kept < places:
        chosen = torch.from_numpy(np.random.default_rng(seed).permutation(places)[:kept])
        found = [x[:, chosen.to(x.device)] for x in found]
    return found[0].cpu().numpy(), found[1].cpu().numpy()


def _side(blocks: Blocks, steps: Sequence[Step]) -> ModelProto:
    """What of a task's inputs its blocks need besides features."""
    wanted = dict.fromkeys(name for step in steps for name in step.needs)
    made = [name for name in wanted if name not in blocks.inputs]
    nodes, waiting = set(), list(made)
    makers = {n: i for i in blocks.side for n in blocks.graph.nodes[i].outputs}
    while waiting:
        i = makers.get(waiting.pop())
        if i is not None and i not in nodes:
            nodes.add(i)
            waiting += blocks.graph.nodes[i].inputs
    return program_model(blocks, sorted(nodes), "", made)


def _opset(models: Mapping[str, Blocks]) -> int:
    found = {task: opset_imports(blocks.model)[""] for task, blocks in models.items()}
    if len(set(found.values())) > 1:
        texts = ", ".join(f"{task} {opset}" for task, opset in found.items())
        raise AnalysisError(
            f"the models are written in different opsets: {texts}",
            hint="use linearised_together(models)",
        )
    return next(iter(found.values()))


def _key(node: NodeId) -> str:
    return f"{node.task_id}_{node.op_id}"
