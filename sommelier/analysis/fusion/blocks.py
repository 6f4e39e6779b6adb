"""A model as a row of blocks, cut where a single tensor is all that the rest depends on.

What lies between two such cut points is indivisible: a residual or an attention region is one
block however many operators it has. A block holds one learned region; activations, normalisations
and pooling that follow belong to it, and what makes a vector of a map (global pooling, flattening,
the choice of a class token) to the next one, so that heads read maps. Source: GMorph 4.1 and 4.2,
algorithms.md F.6.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sommelier.analysis.graph import Graph
from sommelier.errors import AnalysisError

if TYPE_CHECKING:
    from onnx import ModelProto

OpType = Literal["Conv", "Linear", "Embedding", "Residual", "Attention", "Region", "Head"]


@dataclass(frozen=True, slots=True)
class Features:
    """A tensor between two blocks. shape : without the batch.

    channel_axis : the axis of `shape` that linear operators mix; None when the tensor cannot be
    made from another one: token ids, or images whose channels come last.
    """

    shape: tuple[int, ...]
    channel_axis: int | None

    @property
    def channels(self) -> int:
        """Length of the channel axis; 1 when there is none."""
        return 1 if self.channel_axis is None else self.shape[self.channel_axis]

    @property
    def sides(self) -> tuple[int, ...]:
        """The other axes: height and width, number of tokens, or nothing for a vector."""
        return tuple(d for i, d in enumerate(self.shape) if i != self.channel_axis)

    @property
    def positions(self) -> int:
        """How many vectors of `channels` numbers there are."""
        return math.prod(self.sides)

    def convertible(self, other: Features) -> bool:
        """Whether resizing and mixing channels make one of the other."""
        known = self.channel_axis is not None and self.channel_axis == other.channel_axis
        return known and len(self.shape) == len(other.shape)

    def similar(self, other: Features) -> bool:
        """Whether at least one dimension is the same (GMorph, Definition 2)."""
        pairs = zip(self.sides, other.sides, strict=False)
        return self.channels == other.channels or any(a == b for a, b in pairs)


@dataclass(frozen=True, slots=True)
class Absorber:
    """A learned linear operator that reads a block's entry and can take a channel map into it.

    node : its position in the graph. weight, bias : initializers; bias None when it has none or
    when padding with zeros would make a shift of the entry differ. Inputs of the weight are
    (before, channels, after) in row-major order, along `axis` of it. targets : (initializer, place)
    of the lengths in Reshape targets on the way that count the channels.
    """

    node: int
    weight: str
    bias: str | None
    axis: int
    before: int
    after: int
    targets: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Block:
    """A run of operators with one entry and one exit, learned ones among them.

    op_id : its place in the model. entry, exit : tensors; '' at the ends of the model, where inputs
    and outputs may be several. nodes : positions in `Blocks.graph.nodes`. capacity : weights.
    flops : 2 x MACs of one sample. absorbers : operators that take a map of the entry's channels
    into their weights, with entry_capacity weights and entry_flops FLOPs; empty when some operator
    reads the entry in another way, as the skip of a residual block does.
    """

    op_id: int
    op_type: OpType
    entry: str
    exit: str
    nodes: tuple[int, ...]
    takes: Features
    makes: Features
    capacity: int
    flops: float
    absorbers: tuple[Absorber, ...] = ()
    entry_capacity: int = 0
    entry_flops: float = 0.0

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of the entry, without the batch."""
        return self.takes.shape

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Shape of the exit, without the batch; of the first output for the last block."""
        return self.makes.shape


@dataclass(frozen=True, slots=True)
class Blocks:
    """A model in blocks. model : rewritten so that its batch is open and every number that does
    not depend on an input is an initializer of one block only. graph : its view at batch 1.

    side : positions of operators that depend on inputs and on nothing learned (masks, lengths);
    every block may read what they make. inputs : name -> (element type, shape without batch).
    """

    model: ModelProto
    graph: Graph
    blocks: tuple[Block, ...]
    side: tuple[int, ...]
    inputs: Mapping[str, tuple[int, tuple[int, ...]]]
    outputs: tuple[str, ...]


def linearised(
    model: ModelProto | Path | str,
    *,
    dims: Mapping[str, int] | None = None,
    opset: int | None = None,
) -> Blocks:
    """The model in blocks, in order; a model without any cut point is one block.

    dims : lengths of open axes other than the batch, which the result has fixed. opset : to write
    it in; by default its own. The rewritten model was found to answer as the original does.
    Raises AnalysisError when the batch cannot be opened, the opset not be reached, or nothing in
    the model is learned.
    """
    from sommelier.analysis.fusion.cutting import cut
    from sommelier.analysis.fusion.preparing import prepared

    return cut(prepared(model, dims=dims, opset=opset))


def linearised_together(
    models: Mapping[str, ModelProto | Path | str], *, dims: Mapping[str, int] | None = None
) -> dict[str, Blocks]:
    """Every model in blocks, all in the newest opset among them. models : task -> model.

    Raises AnalysisError as `linearised` does, with the task.
    """
    from sommelier.analysis.graph import opset_imports
    from sommelier.analysis.segments.normalising import load

    loaded = {task: load(model) for task, model in models.items()}
    newest = max((opset_imports(model)[""] for model in loaded.values()), default=None)
    found = {}
    for task, model in loaded.items():
        try:
            found[task] = linearised(model, dims=dims, opset=newest)
        except AnalysisError as error:
            raise AnalysisError(f"{task} {error.message}", hint=error.hint) from error
    return found
