"""What a sandbox is asked about fusions, what it answers, and the folder both ends look into."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sommelier.analysis.fusion.search.options import SearchOptions
from sommelier.analysis.fusion_data import FusionData
from sommelier.analysis.fusion_limits import CostLimit
from sommelier.fusion_records import FusionCost, FusionStep, FusionTask

if TYPE_CHECKING:
    from sommelier.analysis.inspection import Inspection
    from sommelier.storage.catalog_measurements import OperatorCost

MODEL, STEPS, CANCEL, COSTS, SEARCH = "fused.onnx", "steps.jsonl", "cancel", "costs.json", "search"
"""What is in a search's folder: the model it ended with, the steps so far, one to a line, a file
that asks it to end, what latencies were predicted from when it began, and its state's folder."""


@dataclass(frozen=True, slots=True)
class RankRequest:
    """samples : inputs on which risks are predicted. most : fusions that are wanted.

    operator_costs : the table of a device; latencies_ms : of the models, by task. The first that
    is there says what latencies are predicted from.
    """

    data: FusionData
    samples: int
    most: int
    operator_costs: tuple[OperatorCost, ...] = ()
    device: str = "cpu"
    latencies_ms: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """What is searched for, and in which folder.

    name : of the model that it becomes. method : one of fusion_plans.METHODS. options : of the
    search; its limits are those of `limits`. operator_costs, latencies_ms : as of RankRequest.
    """

    data: FusionData
    name: str
    folder: Path
    method: str
    options: SearchOptions
    limits: tuple[CostLimit, ...] = ()
    operator_costs: tuple[OperatorCost, ...] = ()
    latencies_ms: Mapping[str, float] | None = None
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class FusionFinding:
    """What came of a search. path, inspection : of the model, None where none was found.

    method : 'search', 'merged weights' or 'equal layers'. tasks : what each loses, of the model or
    of the one that came closest. cost, base : of the model and of the originals together. closest :
    a sentence on what came closest to what was asked, where it was not reached; advice : what to
    ask instead. told : a sentence on what is shared, where nothing was trained. graph : as JSON.
    samples : trained on, chosen on, measured on. stopped : 'budget', 'exhausted', 'cancelled'.
    """

    method: str
    tasks: tuple[FusionTask, ...]
    base: FusionCost
    stopped: str = "exhausted"
    path: Path | None = None
    inspection: Inspection | None = None
    cost: FusionCost | None = None
    graph: str | None = None
    closest: str | None = None
    advice: str | None = None
    told: str | None = None
    certified: bool = False
    trace: tuple[FusionStep, ...] = ()
    samples: tuple[int, int, int] = (0, 0, 0)
    evaluations: int = 0
    elapsed_ms: float = 0.0
    notes: tuple[str, ...] = ()


def replace_file(path: Path, content: bytes) -> None:
    """The file has this content, or the one before, whatever happens."""
    part = path.with_suffix(".part")
    with part.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)
