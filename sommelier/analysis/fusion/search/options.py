"""What a search for a fusion is asked, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from sommelier.analysis.fusion.distillation import FineTuning
from sommelier.analysis.fusion.search.ranking import Limits
from sommelier.errors import AnalysisError
from sommelier.fusion_records import FusionStep

if TYPE_CHECKING:
    from onnx import ModelProto

    from sommelier.analysis.bounds import Verdict
    from sommelier.analysis.fusion.abs_graph import AbsGraph
    from sommelier.analysis.fusion.certifying import Certificate
    from sommelier.analysis.fusion.module import FusedModule, Initialisation
    from sommelier.analysis.fusion.search.timing import PairedLatency

MethodName = Literal["gain first", "annealing", "random", "all shared"]
Formula = Literal["corrected", "printed", "released"]
Stopped = Literal["budget", "exhausted", "cancelled"]
FINALISTS = 4  # that a search ends with, at most


@dataclass(frozen=True, slots=True)
class SearchOptions:
    """How a fusion is searched.

    tolerance : what each task may lose, a fraction; half of it while searching, or two samples, for
    what is chosen by a score flatters it (algorithms.md F.5). upper_end : the threshold is held
    against the upper end of the certified interval. limits : relative to the originals, met as
    predicted before anything is final. budget_s, epochs, steps : the search ends with the first
    that is used up, a quarter of the epochs or seconds (half where the tolerance is within chance)
    being kept for finalists; at least one is needed, and only the last two give the same result
    again. training : of every candidate; its tolerance and seed are set by the search. formula :
    how annealing chooses elites. filtered : annealing and random sampling skip what is not
    predicted to be faster and what shares more than a failure; False trains whatever is drawn, as
    GMorph's Algorithm 1.
    samples : inputs that maps are fitted on. runs : paired runs that the latency is measured with.
    workers : candidates that are trained side by side, in processes of their own when several; with
    another number a search goes another way.
    """

    method: MethodName = "gain first"
    tolerance: float = 0.01
    upper_end: bool = False
    limits: Limits = field(default_factory=Limits)
    budget_s: float | None = None
    epochs: int | None = None
    steps: int | None = None
    seed: int = 0
    training: FineTuning = field(default_factory=FineTuning)
    initialise: Initialisation = "least_squares"
    formula: Formula = "corrected"
    filtered: bool = True
    samples: int = 128
    confidence: float = 0.95
    runs: int = 50
    workers: int = 1

    def __post_init__(self) -> None:
        """Raises AnalysisError for options that make no search."""
        if self.method not in get_args(MethodName):
            raise AnalysisError(
                f"there is no search '{self.method}'", hint=f"one of {get_args(MethodName)}"
            )
        if self.formula not in get_args(Formula):
            raise AnalysisError(
                f"there is no formula '{self.formula}'", hint=f"one of {get_args(Formula)}"
            )
        if not 0 <= self.tolerance < 1:
            raise AnalysisError(f"a tolerance of {self.tolerance}: a fraction from 0 to 1")
        if self.workers < 1:
            raise AnalysisError(f"a search with {self.workers} workers: it needs one or more")
        budgets = [b for b in (self.budget_s, self.epochs, self.steps) if b is not None]
        if not budgets or min(budgets) <= 0:
            raise AnalysisError("a search needs a budget above 0: budget_s, epochs or steps")
        limits = (self.limits.latency, self.limits.flops, self.limits.memory)
        if any(limit is not None and limit <= 0 for limit in limits):
            raise AnalysisError("a limit relative to the originals is above 0, as 0.6 for 60 %")


@dataclass(frozen=True, slots=True)
class Finalist:
    """A fusion that the search ended with. step : where it was found. drop : of the worst task on
    the samples that choose, flattered, after `epochs` whole ones more than in the search. model :
    its ONNX, compared with the module, and latency of it; None where it could not be written.
    certificate : what it loses. needed : `certify` samples that it takes where those there are
    cannot show the tolerance. refusal : why it is not the answer, or None.
    """

    step: int
    graph: AbsGraph
    module: FusedModule
    model: ModelProto | None
    drop: float
    epochs: int
    flops_share: float
    memory_share: float | None
    latency: PairedLatency | None
    certificate: Certificate | None
    verdict: Verdict | None
    refusal: str | None
    needed: int | None = None


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search found. best : within the tolerance and the limits, else None. finalists : those
    that were written, measured and certified, up to the best. elites : (step, graph) kept at the
    end. epochs : of fine-tuning in the search, without those of finalists. evaluations : how many
    candidates were trained.
    """

    method: MethodName
    best: Finalist | None
    finalists: tuple[Finalist, ...]
    elites: tuple[tuple[int, AbsGraph], ...]
    trace: tuple[FusionStep, ...]
    epochs: int
    evaluations: int
    elapsed_ms: float
    stopped: Stopped
