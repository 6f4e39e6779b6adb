"""Fusions ranked, and searched for, in a sandbox: data go in, a file in a folder comes out.

Nothing here talks to a database; fusion_jobs.py plans the work and keeps what it finds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from sommelier.analysis.fusion_data import FusionData
from sommelier.analysis.fusion_requests import (
    CANCEL,
    COSTS,
    SEARCH,
    STEPS,
    FusionFinding,
    SearchRequest,
    replace_file,
)
from sommelier.analysis.fusion_requests import RankRequest as RankRequest
from sommelier.errors import StorageError, UnusableStateError
from sommelier.fusion_records import FusionCost, FusionRanking, FusionStep, RankedFusion
from sommelier.storage.catalog_measurements import OperatorCost

if TYPE_CHECKING:
    from sommelier.analysis.fusion.blocks import Blocks
    from sommelier.analysis.fusion.search.costs import CostModel
    from sommelier.analysis.fusion.search.options import MethodName, SearchOptions

# ---- ranking, without training


def rank_fusions(request: RankRequest) -> FusionRanking:
    """What could be made of the models, the most promising first.

    Raises AnalysisError when a model cannot be cut into blocks.
    """
    from sommelier.analysis.fusion.search.ranking import candidates
    from sommelier.analysis.fusion_lessons import inputs_of

    data = request.data
    inputs = None if data.probes is None else inputs_of(data, request.samples)
    models = in_blocks(data, inputs or ())
    table = _table(request.operator_costs, request.device)
    found = candidates(
        models, samples=inputs, table=table, latencies_ms=request.latencies_ms, most=request.most
    )
    costs = _cost_model(models, request)
    alone = [_cost_model({task: blocks}, request) for task, blocks in models.items()]
    fusions = tuple(RankedFusion(c.shares, _cost(c.cost), c.promise, c.risk, c.drop) for c in found)
    return FusionRanking(
        fusions, _cost(costs.cost(costs.original)), tuple(_cost(m.cost(m.original)) for m in alone),
        costs.basis, 0 if inputs is None else len(inputs[0]), len(found),
    )  # fmt: skip


def in_blocks(data: FusionData, inputs: Sequence[Any]) -> dict[str, Blocks]:
    """The models cut into blocks, by task. inputs : which open axes are as long as in these.

    Raises AnalysisError that names the model that cannot be cut.
    """
    from sommelier.analysis.fusion.blocks import linearised_together
    from sommelier.analysis.fusion_lessons import dims_of

    return linearised_together(data.files, dims=dims_of(data, tuple(inputs)) if inputs else None)


def _cost_model(models: Mapping[str, Blocks], request: RankRequest | SearchRequest) -> CostModel:
    from sommelier.analysis.fusion.search.costs import CostModel

    known = request.latencies_ms
    return CostModel.of(
        models,
        table=_table(request.operator_costs, request.device),
        latencies_ms=None if known is None else {task: known[task] for task in models},
    )


def _cost(found: Any) -> FusionCost:
    return FusionCost(found.flops, found.params, found.memory_bytes, found.latency_ms)


def _alone(task: str, blocks: Blocks, request: SearchRequest) -> FusionCost:
    model = _cost_model({task: blocks}, request)
    cost = _cost(model.cost(model.original))
    known = request.latencies_ms
    return cost if known is None else replace(cost, latency_ms=known[task])


def _table(rows: tuple[OperatorCost, ...], device: str) -> Any:
    from sommelier.analysis.operators import OperatorTable

    return OperatorTable.from_rows(rows, device=device) if rows else None


# ---- searching


def search_fusion(request: SearchRequest) -> FusionFinding:
    """The fusion that was asked for, in the folder; killed and called again it goes on.

    Raises AnalysisError for models that cannot be fused, StorageError when the folder cannot be
    written.
    """
    from sommelier.analysis.fusion_untrained import equal_layers, merged_weights

    try:
        request = _as_begun(request)
        if request.method == "equal layers":
            return equal_layers(request)
        study = _Study.of(request)
        merged = None
        if request.method in ("auto", "merged weights"):
            merged = merged_weights(request, study.taught, study.limited, study.together)
            if merged.path is not None or request.method == "merged weights":
                return replace(merged, notes=(*study.taught.notes, *merged.notes))
        return study.searched(merged)
    except OSError as error:
        raise StorageError(
            f"the search could not be kept in {request.folder}: {error.strerror or error}",
            hint="free some space, or allow writing there; the same statement then goes on",
        ) from error


def cancelled_in(folder: Path) -> Callable[[], bool]:
    """Whether somebody has asked the search of this folder to end."""
    return (folder / CANCEL).exists


def _as_begun(request: SearchRequest) -> SearchRequest:
    """The request with what latencies were predicted from when the search began: with others,
    another search would go on."""
    path = request.folder / COSTS
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        rows = tuple(OperatorCost(*row) for row in kept["operators"])
        return replace(request, operator_costs=rows, latencies_ms=kept["latencies"])
    except FileNotFoundError:
        kept = {"operators": request.operator_costs, "latencies": request.latencies_ms}
        replace_file(path, json.dumps(kept).encode())
        return request
    except (ValueError, KeyError, TypeError) as error:
        raise UnusableStateError(
            f"{path} cannot be read: {error}", hint="delete its folder"
        ) from error


@dataclass(frozen=True)
class _Study:
    """A search's models, lessons and options, ready to begin. limited : options with limits.

    together : what the models cost one after the other.
    """

    request: SearchRequest
    models: dict[str, Blocks]
    taught: Any
    limited: SearchOptions
    together: FusionCost

    @classmethod
    def of(cls, request: SearchRequest) -> _Study:
        from sommelier.analysis.fusion_lessons import inputs_of, lessons_of
        from sommelier.analysis.fusion_limits import shares_of

        data, seed = request.data, request.options.seed
        models = in_blocks(data, inputs_of(data, 1))
        taught = lessons_of(data, models, seed)
        alone = {task: _alone(task, blocks, request) for task, blocks in models.items()}
        costs = _cost_model(models, request)
        together = _cost(costs.cost(costs.original))
        if request.latencies_ms is not None:  # measured is better than estimated
            together = replace(together, latency_ms=sum(request.latencies_ms.values()))
        limits = shares_of(request.limits, alone, together)
        limited = replace(request.options, limits=limits)
        return cls(request, models, taught, limited, together)

    def searched(self, merged: FusionFinding | None) -> FusionFinding:
        """The finding of the search proper. merged : what averaging weights came to before."""
        from sommelier.analysis.fusion.search.run import Latencies, search
        from sommelier.analysis.fusion_outcomes import split_sizes, tasks_of
        from sommelier.analysis.fusion_untrained import MERGED_RISK

        request, options = self.request, self.limited
        if merged is not None and merged.certified:  # on the same samples, and may have been wrong
            options = replace(options, confidence=1 - (1 - options.confidence) * (1 - MERGED_RISK))
        if request.method != "auto":
            options = replace(options, method=cast("MethodName", request.method))
        table = _table(request.operator_costs, request.device)
        vain = self._in_vain()
        if vain is not None:
            notes = (*self.taught.notes, *(() if merged is None else merged.notes))
            return FusionFinding(
                "search", tasks_of(request.data, self.taught, None), self.together,
                samples=split_sizes(self.taught.lessons), notes=notes,
                closest=vain[0], advice=vain[1],
            )  # fmt: skip
        result = search(
            self.models, self.taught.lessons, options,
            latencies=Latencies(table, request.latencies_ms),
            on_step=_logged(request.folder), cancelled=cancelled_in(request.folder),
            folder=request.folder / SEARCH,
        )  # fmt: skip
        return self._found(result, () if merged is None else merged.notes)

    def _in_vain(self) -> tuple[str, str] | None:
        """Why nothing within the limits can be found, and what to ask; None where it may be."""
        from sommelier.analysis.fusion.search.ranking import Limits, least
        from sommelier.analysis.fusion_outcomes import out_of_reach

        limits = self.limited.limits
        if limits == Limits():
            return None
        costs, count = _cost_model(self.models, self.request), len(self.models)
        vain = out_of_reach(least(costs, thorough=False), limits, count)
        return vain and out_of_reach(least(costs), limits, count)

    def _found(self, result: Any, notes: tuple[str, ...]) -> FusionFinding:
        from sommelier.analysis.fusion.drawing import as_json
        from sommelier.analysis.fusion_outcomes import (
            closest_of,
            kept_model,
            split_sizes,
            tasks_of,
        )

        request, best = self.request, result.best
        nearest = best or min(
            (f for f in result.finalists if f.certificate is not None),
            key=lambda f: f.certificate.worst.drop,
            default=None,
        )
        certificate = None if nearest is None else nearest.certificate
        finding = FusionFinding(
            "search", tasks_of(request.data, self.taught, certificate), self.together,
            result.stopped, trace=result.trace, samples=split_sizes(self.taught.lessons),
            evaluations=result.evaluations, elapsed_ms=result.elapsed_ms,
            notes=(*self.taught.notes, *notes),
        )  # fmt: skip
        if best is None:
            closest, advice = closest_of(result, self.limited)
            return replace(finding, closest=closest, advice=advice)
        assert best.model is not None, "else it is refused"
        assert best.latency is not None, "it is measured once it is written"
        latency = best.latency
        base = replace(finding.base, latency_ms=latency.original_ms)
        path, inspection, cost = kept_model(request.data, best.model, request.name, request.folder)
        cost = replace(cost, latency_ms=latency.fused_ms)
        graph = as_json(best.graph)
        return replace(finding, base=base, path=path, inspection=inspection, cost=cost, graph=graph)


def _logged(folder: Path) -> Callable[[FusionStep], None]:
    """Appends steps to the folder's file. What a kill left of a line is cut off."""
    path = folder / STEPS
    if path.exists():
        written = path.read_bytes()
        path.write_bytes(written[: written.rfind(b"\n") + 1])

    def log(step: FusionStep) -> None:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(step)) + "\n")

    return log
