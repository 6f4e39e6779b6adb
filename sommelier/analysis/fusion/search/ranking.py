"""Fusions that are possible, ranked in seconds and without training: what SELECT FUSIONS shows.

A beam of abs-graphs grows from the original models, one shared block a step, and everything it
meets is a candidate. Predictions are estimates; only a search with fine-tuning says what a
candidate really loses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from sommelier.analysis.fusion.abs_graph import AbsGraph, Capacity, NodeId
from sommelier.analysis.fusion.blocks import Blocks
from sommelier.analysis.fusion.search.costs import Basis, Cost, CostModel

if TYPE_CHECKING:
    from sommelier.analysis.operators import OperatorTable

BEAM = 12
RISK_WEIGHT = 3.0  # of a residual against a gain; algorithms.md F.5
SAMPLES = 128  # inputs on which residuals are fitted
DROP, RISKIEST = 0.035, 2.0  # calibrated: see Candidate.drop


@dataclass(frozen=True, slots=True)
class Candidate:
    """A fusion that was not trained. shares : what reads what it did not read before, as text.

    flops_share, memory_share, latency_share : relative to the originals; latency is None when
    nothing is known about it, else an estimate from `basis`. risk : residuals along the task that
    loses most (0 none, 1 a block's whole features); None without samples, or with too
    few. lost : of the weights of a task's own model, how many fewer it has now, for the task where
    that is most; 0 to 1. feasible : within the limits that were asked for, None when one cannot be
    judged.
    """

    graph: AbsGraph
    shares: tuple[str, ...]
    cost: Cost
    basis: Basis
    flops_share: float
    memory_share: float | None
    latency_share: float | None
    risk: float | None
    lost: float
    feasible: bool | None

    @property
    def capacity(self) -> Capacity:
        return self.graph.capacity

    @property
    def promise(self) -> float:
        """What it is ranked by: what it saves, discounted for its risk."""
        share = self.flops_share if self.latency_share is None else self.latency_share
        return promise(share, self.risk or 0.0)

    @property
    def drop(self) -> float | None:
        """Accuracy that the worst task is expected to lose after twelve epochs of fine-tuning, a
        fraction; a weak estimate, None without samples.

        0.035 x risk, at most 2, x the share of its weights that the leanest task has lost. Fitted
        to 36 fusions of three small suites (three VGG, two VGG, two ViT; digits and spoken digits;
        one seed, one that collapsed left out). On the suite left out of the fit it is off by 1.0 pp
        in the median and by more than 7.0 pp in a tenth, no better than to predict no drop at all
        (0.15 and 5.4 pp): most lose next to nothing, few collapse, and nothing known before
        training tells which. Within a suite it orders them with a Spearman correlation of 0.16 to
        0.51. ResNets were not among them, and rates of learning were higher than today's.
        """
        if self.risk is None:
            return None
        return DROP * min(self.risk, RISKIEST) * self.lost


@dataclass(frozen=True, slots=True)
class Limits:
    """The most that is allowed, relative to the originals; None for no limit."""

    latency: float | None = None
    flops: float | None = None
    memory: float | None = None

    def allow(
        self, *, latency: float | None, flops: float | None, memory: float | None
    ) -> bool | None:
        """Whether shares are within the limits; None when one is needed and unknown."""
        pairs = ((self.latency, latency), (self.flops, flops), (self.memory, memory))
        asked = [(limit, share) for limit, share in pairs if limit is not None]
        if any(share is not None and share > limit for limit, share in asked):
            return False
        return None if any(share is None for _, share in asked) else True


def promise(share: float, risk: float) -> float:
    """The share of the cost that is saved, times exp(-3 risk)."""
    return (1 - share) * math.exp(-RISK_WEIGHT * risk)


def candidates(
    models: Mapping[str, Blocks],
    *,
    samples: Sequence[NDArray[Any]] | None = None,
    limits: Limits = Limits(),
    table: OperatorTable | None = None,
    latencies_ms: Mapping[str, float] | None = None,
    most: int = 20,
) -> tuple[Candidate, ...]:
    """At most `most` fusions of the models, feasible ones first, the most promising first of those.

    samples : inputs (n, ...), one array an input, of which the first 128 are used; None leaves
    risks unknown, and then graphs are ranked by cost alone. No output of a model is looked at.
    Raises AnalysisError for models that do not take the same input.
    """
    costs = CostModel.of(models, table=table, latencies_ms=latencies_ms)
    risk_of = _risks(models, samples)

    def rank(graph: AbsGraph) -> float:
        return promise(costs.share(graph), risk_of(graph) or 0.0)

    met = beam(costs, rank)
    if limits == Limits():  # else what is feasible comes first, which only costs tell
        met = sorted(met, key=lambda graph: (-rank(graph), graph.signature))[:most]
    found = [_candidate(graph, costs, risk_of(graph), limits) for graph in met]
    order = {True: 0, None: 1, False: 2}
    found.sort(key=lambda c: (order[c.feasible], -c.promise, c.graph.signature))
    return tuple(found[:most])


def beam(costs: CostModel, rank: Callable[[AbsGraph], float]) -> list[AbsGraph]:
    """Every graph met that is cheaper than the originals, each once."""
    front, met = [costs.original], {costs.original.signature: costs.original}
    while front:
        made = {g.signature: g for base in front for g in _children(base)}
        fresh = [g for s, g in made.items() if s not in met and costs.share(g) < 1]
        met.update((g.signature, g) for g in fresh)
        front = sorted(fresh, key=lambda g: (-rank(g), g.signature))[:BEAM]
    return [g for g in met.values() if g != costs.original]


def least(costs: CostModel, *, thorough: bool = True) -> Limits:
    """The shares of the cheapest fusions that are met, each metric by itself; none without any.

    thorough : a beam by cost alone too: greedy, so that others may be cheaper yet; else only the
    fusions with one trunk, which takes no time.
    """
    found = [*all_shared(costs.original)]
    if thorough:
        found += beam(costs, lambda graph: -costs.share(graph))
    if not found:
        return Limits()
    flops, memory = zip(*(costs.relative(graph) for graph in found), strict=True)
    known = [share for share in memory if share is not None]
    latency = min(costs.share(graph) for graph in found) if costs.block_ms else None
    return Limits(latency, min(flops), min(known, default=None))


def all_shared(original: AbsGraph) -> tuple[AbsGraph, ...]:
    """One graph a task: every head reads that task's last features, where shapes allow."""
    found = []
    for host in original.heads:
        pairs = {(p.host, p.guest): p for p in original.input_shareable_pairs(similar=False)}
        wanted = [pairs[host, g] for g in original.heads if (host, g) in pairs]
        graph, applied = original.mutation_pass(wanted)
        if applied:
            found.append(graph)
    return tuple(found)


def shares(graph: AbsGraph) -> tuple[str, ...]:
    """'parity 2 reads digit 1': every block that reads other features than in its own model."""

    def name(node: NodeId) -> str:
        return f"{graph.tasks[node.task_id]} {node.op_id}"

    return tuple(
        f"{name(node)} reads {name(parent)}"
        for node in sorted(graph.adapters)
        if (parent := graph.parents[node]) is not None
    )


def _children(base: AbsGraph) -> Iterable[AbsGraph]:
    return (base.mutate(pair) for pair in base.input_shareable_pairs())


def _risks(
    models: Mapping[str, Blocks], samples: Sequence[NDArray[Any]] | None
) -> Callable[[AbsGraph], float | None]:
    if samples is None:
        return lambda _: None
    from sommelier.analysis.fusion.module import FusedModule
    from sommelier.analysis.fusion.search.residuals import Residuals

    residuals = Residuals(FusedModule.original(models), [given[:SAMPLES] for given in samples])

    def risk_of(graph: AbsGraph) -> float | None:
        risk = residuals.risk(graph)
        return risk if math.isfinite(risk) else None  # of too few samples

    return risk_of


def _candidate(graph: AbsGraph, costs: CostModel, risk: float | None, limits: Limits) -> Candidate:
    cost, whole = costs.cost(graph), costs.cost(costs.original)
    flops, memory = costs.relative(graph)
    latency = None
    if cost.latency_ms is not None and whole.latency_ms:
        latency = cost.latency_ms / whole.latency_ms
    pairs = zip(graph.capacity.per_task, costs.original.capacity.per_task, strict=True)
    lost = max(0.0, max(1 - now / max(had, 1) for now, had in pairs))
    feasible = limits.allow(latency=latency, flops=flops, memory=memory)
    return Candidate(
        graph, shares(graph), cost, costs.basis, flops, memory, latency, risk, lost, feasible
    )
