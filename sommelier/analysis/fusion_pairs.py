"""How models are cut into blocks, and which could share: what EXPLAIN SELECT FUSIONS tells.

Nothing is run; call it inside a sandbox, for it reads model files.
"""

from __future__ import annotations

from collections import Counter

from sommelier.analysis.fusion_data import FusionData
from sommelier.fusion_records import FusionBlocks


def blocks_of(data: FusionData) -> FusionBlocks:
    """The numbers of blocks and of input-shareable pairs (GMorph 4.2), by model and pair of models.

    Raises AnalysisError when a model cannot be cut into blocks.
    """
    from sommelier.analysis.fusion.abs_graph import AbsGraph
    from sommelier.analysis.fusion_lessons import inputs_of
    from sommelier.analysis.fusion_work import in_blocks

    models = in_blocks(data, () if data.probes is None else inputs_of(data, 1))
    pairs = AbsGraph.original(models).input_shareable_pairs()
    counts = Counter((pair.host.task_id, pair.guest.task_id) for pair in pairs)
    return FusionBlocks(
        tuple(len(model.blocks) for model in models.values()),
        tuple((*ends, count) for ends, count in sorted(counts.items())),
    )
