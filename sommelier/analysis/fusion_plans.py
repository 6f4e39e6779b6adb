"""What CREATE MODEL ... AS FUSION OF asks for: the models, the data and the options of one search.

The row of the fusion says all that decides how its search comes out; its id is the hash of that.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from sommelier.analysis.fusion.certifying import samples_needed
from sommelier.analysis.fusion.distillation import FineTuning
from sommelier.analysis.fusion.lessons import CERTIFY
from sommelier.analysis.fusion.search.options import FINALISTS, SearchOptions
from sommelier.analysis.fusion_data import DataOptions, FusionData, fusion_data
from sommelier.analysis.fusion_limits import CostLimit
from sommelier.analysis.fusion_outcomes import more_samples
from sommelier.analysis.sandbox import MODEL_BYTES
from sommelier.errors import AnalysisError
from sommelier.fusion_records import FusedModel, FusionTask
from sommelier.records import OutputKind
from sommelier.storage.versions import fusion_id, version_of

if TYPE_CHECKING:
    from sommelier.records import ModelRecord
    from sommelier.storage.catalog import Catalog

METHODS = (
    "auto", "gain first", "annealing", "random", "all shared", "merged weights", "equal layers",
)  # fmt: skip
"""How a fusion is found. 'auto': averaged weights where the models are of one architecture, and if
these lose too much, the search that reaches most in the least time."""

BUDGET_S = 600.0  # of a search, where neither time nor epochs nor steps are given
UNTRAINED = ("merged weights", "equal layers")


@dataclass(frozen=True, slots=True)
class FusionOptions:
    """What is asked of a fusion. tolerance : what each task may lose, a fraction.

    budget_s, epochs, steps : the search ends with the first; all None: BUDGET_S. time_limit_s : of
    the whole statement, None: the budget and what follows. device : of training. workers :
    candidates that are trained side by side, each in a process with that limit of memory.
    """

    method: str = "auto"
    tolerance: float = 0.01
    upper_end: bool = False
    confidence: float = 0.95
    limits: tuple[CostLimit, ...] = ()
    budget_s: float | None = None
    epochs: int | None = None
    steps: int | None = None
    data: DataOptions = field(default_factory=DataOptions)
    threads: int = 1
    device: str = "cpu"
    time_limit_s: float | None = None
    memory_limit_bytes: float = 2 * MODEL_BYTES
    workers: int = 1

    @property
    def search(self) -> SearchOptions:
        """As the search takes them; limits are told to it once costs are known."""
        budget = self.budget_s
        if budget is None and self.epochs is None and self.steps is None:
            budget = BUDGET_S
        return SearchOptions(
            tolerance=self.tolerance, upper_end=self.upper_end, budget_s=budget,
            epochs=self.epochs, steps=self.steps, seed=self.data.seed, confidence=self.confidence,
            training=FineTuning(device=self.device, threads=self.threads), workers=self.workers,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class FusionRequest:
    """fusion : the row as it is when the search begins. replaced : the model of that name, which
    goes once the new one is there. version : of the new model."""

    fusion: FusedModel
    data: FusionData
    options: FusionOptions
    version: str | None = None
    replaced: ModelRecord | None = None


def plan_fusion(
    catalog: Catalog,
    models: Sequence[ModelRecord],
    options: FusionOptions,
    *,
    name: str,
    version: str | None = None,
    replaced: ModelRecord | None = None,
) -> FusionRequest:
    """What will be searched for; nothing is run.

    Raises AnalysisError for models that cannot be fused, for no data to learn from, and for options
    that make no search; DatasetError for data that cannot be read.
    """
    if options.method not in METHODS:
        raise AnalysisError(f"there is no method '{options.method}'", hint=", ".join(METHODS))
    data = fusion_data(catalog, models, options.data)
    search = options.search
    if data.probes is None and options.method != "equal layers":
        raise AnalysisError(
            f"a fusion learns from data: {data.notes[0]}",
            hint="REGISTER DATASET d FROM 'file.npz' (labels are not needed), or FOR MEMORY, which"
            " needs none",
        )
    tasks = tuple(
        FusionTask(record.id, task, version_of(record))
        for record, task in zip(data.records, data.tasks, strict=True)
    )
    fusion = FusedModel(
        id="", name=name, state="searching", tasks=tasks,
        method=options.method if options.method in UNTRAINED else "search",
        options=_decisive(options, data, replaced), drop_threshold=options.tolerance,
        confidence=options.confidence, dataset=data.dataset,
        probe_set_id=None if data.probes is None else data.probes.record.id,
        seed=options.data.seed,
        budget_ms=None if search.budget_s is None else search.budget_s * 1e3, device="cpu",
    )  # fmt: skip
    return FusionRequest(replace(fusion, id=fusion_id(fusion)), data, options, version, replaced)


def sample_shortage(request: FusionRequest) -> str | None:
    """What `upper_end` cannot show on so few samples, whatever is answered; None where it can, or
    where nobody knows before: of answers that are right in part."""
    options, data = request.options, request.data
    if not options.upper_end or data.probes is None or options.method == "equal layers":
        return None
    if options.tolerance == 0:
        return "upper_end: no number of samples shows that nothing at all is lost"
    labelled = [
        labels is not None and labels.verified  # others may not be used
        for record, labels in zip(data.records, data.labels, strict=True)
        if record.output_kind is OutputKind.CLASSIFICATION
    ]
    if not labelled:
        return None
    needed, certain = (
        samples_needed(options.tolerance, labelled=any(labelled), confidence=1 - risk)
        for risk in (1 - options.confidence, (1 - options.confidence) / FINALISTS)
    )
    measured = round(data.samples * CERTIFY)
    if measured >= needed:
        return None
    return (
        f"upper_end: {measured} of {data.samples} samples are measured on, which cannot show that a"
        f" task loses at most {options.tolerance:.2%}: it takes {needed}, and {certain} where there"
        f" are {FINALISTS} finalists; {more_samples(certain)}"
    )


def _decisive(options: FusionOptions, data: FusionData, replaced: ModelRecord | None) -> str:
    """What decides how a search comes out, but its budget, as JSON."""
    decides: dict[str, Any] = {
        "method": options.method,
        "upper_end": options.upper_end,
        "limits": [asdict(limit) for limit in options.limits],
        "samples": data.samples,
        "probe_set_id": None if data.probes is None else data.probes.record.id,
        "labels": options.data.labels,
        "device": options.device,
        "workers": None if options.workers == 1 else options.workers,
        # sums in another order: a search that others began would be refused, and lost
        "threads": None if options.threads == 1 else options.threads,
        # else the search for a better model would forget how the one that is there was found
        "replaced": None if replaced is None else replaced.id,
    }
    return json.dumps(decides, sort_keys=True)
