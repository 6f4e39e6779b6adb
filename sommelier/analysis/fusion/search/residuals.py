"""How well each block's features can be made of another's: one linear map, fitted once.

The residual of that map foretells the drop after fine-tuning better than anything else that costs
no training (Spearman .78; algorithms.md F.3).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from sommelier.analysis.fusion.abs_graph import AbsGraph, NodeId
from sommelier.analysis.fusion.module import FusedModule, feature_rows
from sommelier.analysis.fusion.rescale import Regression
from sommelier.analysis.fusion.steps import resized

KEPT_BYTES = 512 * 2**20  # of decomposed features
ROWS = 2048  # feature vectors a map is fitted to; a rank does not need the 16 384 of a weight


class Residuals:
    """Squared errors of maps between features of the original models, each fitted when asked for.

    inputs : samples, one array an input of the models.
    """

    def __init__(self, module: FusedModule, inputs: Sequence[NDArray[Any]]) -> None:
        self._module = module
        self._inputs = [torch.from_numpy(given) for given in inputs]
        self._exits = module.exits(self._inputs)
        self._known: dict[tuple[NodeId, NodeId], float] = {}
        self._kept: dict[tuple[Any, ...], Regression] = {}  # the oldest first

    def of(self, host: NodeId, guest: NodeId) -> float:
        """What of the guest's features a linear map of the host's exit does not explain, in
        variances: 0 for all, about 1 for a useless host; infinite where too few samples leave it
        unknown, so that what is unknown ranks last."""
        pair = (host, guest)
        if pair not in self._known:
            self._known[pair] = self._fitted(*pair)
        return self._known[pair]

    def risk(self, graph: AbsGraph) -> float:
        """The largest sum of residuals on a task's way, an estimate of how much it will lose: maps
        are fitted as if the blocks before them were still the original ones."""
        return max(self._along(graph, (head, *graph.ancestors(head))) for head in graph.heads)

    def _along(self, graph: AbsGraph, way: Iterable[NodeId]) -> float:
        changed = (node for node in way if node in graph.adapters)
        return sum(self.of(parent, n) for n in changed if (parent := graph.parents[n]))

    def _fitted(self, host: NodeId, guest: NodeId) -> float:
        module = self._module
        block, source = module.graph.blocks[guest], module.graph.blocks[host].makes
        sized = resized(self._exits[host], source, block.takes, module.opset, module.image)
        a, b = feature_rows(sized, self._reads(guest), block.takes, 0, rows=ROWS)
        shifted = all(absorber.bias is not None for absorber in block.absorbers)
        key = (host, block.takes.sides, block.takes.channel_axis, shifted)
        found, _ = self._regression(key, a, shifted).held_out_error(b)
        return math.inf if math.isnan(found) else found

    def _regression(self, key: tuple[Any, ...], source: NDArray[Any], shifted: bool) -> Regression:
        """Of a host's features for all guests that take them alike; the oldest are forgotten."""
        if key not in self._kept:
            self._kept[key] = Regression(source, shifted=shifted)
            while len(self._kept) > 1 and sum(r.nbytes for r in self._kept.values()) > KEPT_BYTES:
                del self._kept[next(iter(self._kept))]
        return self._kept[key]

    def _reads(self, node: NodeId) -> Tensor:
        """What a block of the original models reads."""
        if node.op_id:
            return self._exits[NodeId(node.task_id, node.op_id - 1)]
        own = list(self._module.renamed[node.task_id].values())
        return self._inputs[own.index(self._module.graph.blocks[node].entry)]
