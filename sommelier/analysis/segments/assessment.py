"""Which segments can be exchanged without changing too many answers.

Sommelier 4.2 steps ii and iii, as corrected in algorithms.md B.5: noise on a sphere is neither safe
nor tight, so it is an estimate beside what was measured. Of few segments all sets are judged by
adding up what each changes in the output, and the best are run; of many, those that change most per
cost they save are taken away, not the cheapest first. The set that is left was built and run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.segments.forms import Forms, forms
from sommelier.analysis.segments.segment import Segment
from sommelier.analysis.segments.trials import Bench, Trial
from sommelier.analysis.segments.twins import nodes_taken
from sommelier.errors import AnalysisError
from sommelier.records import OutputKind

if TYPE_CHECKING:
    from onnx import ModelProto

Array = NDArray[Any]
Steps = list[tuple[tuple[str, ...], int]]

MANY = 12  # segments up to which all sets are judged (algorithms.md B.5)
VERIFIED = 3  # promising sets that are run


@dataclass(frozen=True, slots=True)
class SegmentAssessment:
    """One segment exchanged alone, on `samples` inputs.

    difference : median relative L2 difference at the exit. estimated : share of answers that noise
    of that size changes. first_order : share that the linearised rest of the model says; None where
    outputs cannot be added up. changed : answers that did change, counted. saved : share of the
    host's FLOPs it saves ('interface'), or of its parameters that both models hold in common
    ('common'); never below 0. chosen : it is in the chosen set.
    """

    segment: Segment
    samples: int
    difference: float
    estimated: float
    first_order: float | None
    changed: int
    saved: float
    chosen: bool

    @property
    def measured(self) -> float:
        """Share of answers that changed."""
        return self.changed / self.samples


@dataclass(frozen=True, slots=True)
class Assessment:
    """Every segment alone, and the largest set found that keeps to the threshold together.

    estimated : the share of changed answers predicted for the set from each segment alone: by
    adding the changes of the output where that is possible, the noise's shares otherwise.
    changed : answers the set did change, its twin built and run. steps : the sets tried, each with
    its count. A set chosen on these samples looks better on them than on others: bound its change
    on samples that had no part in the choice (algorithms.md A.5).
    """

    segments: tuple[SegmentAssessment, ...]
    samples: int
    threshold: float
    chosen: tuple[str, ...]
    estimated: float
    changed: int
    steps: tuple[tuple[tuple[str, ...], int], ...]

    @property
    def measured(self) -> float:
        """Share of answers that the chosen set changed."""
        return self.changed / self.samples


def assess(
    host: ModelProto | Path | str,
    donor: ModelProto | Path | str,
    segments: Sequence[Segment],
    inputs: Mapping[str, Array],
    *,
    threshold: float,
    output_kind: OutputKind | None = None,
    batch: int = 64,
    threads: int = 1,
    seed: int = 0,
) -> Assessment:
    """Which of the segments can be exchanged with at most `threshold` of the answers changed.

    inputs : by input name of the host, (n, ...) ready for the model. threshold : 0..1.
    output_kind : how answers are compared (metrics.py); inferred from the graph when None. Of
    segments that overlap, the set begins with those that save most. Raises AnalysisError for
    segments of another pair, inputs that do not fit, and models that do not run.
    """
    return assessment_of(
        forms(host, donor), segments, inputs, threshold=threshold, output_kind=output_kind,
        batch=batch, threads=threads, seed=seed,
    )  # fmt: skip


def assessment_of(
    found: Forms,
    segments: Sequence[Segment],
    inputs: Mapping[str, Array],
    *,
    threshold: float,
    output_kind: OutputKind | None = None,
    batch: int = 64,
    threads: int = 1,
    seed: int = 0,
) -> Assessment:
    """`assess` of models in normal form."""
    if not 0 <= threshold <= 1:
        raise AnalysisError(f"a threshold is a share of answers between 0 and 1, not {threshold}")
    bench = Bench(found, inputs, output_kind=output_kind, batch=batch, threads=threads)
    if len({segment.name for segment in segments}) < len(segments):
        raise AnalysisError("two segments have the same name", hint="take them from one answer")
    trials = bench.trials(segments, seed)
    saved = {segment.name: _saved(found, segment) for segment in segments}
    chosen, steps = _keep(found, bench, segments, trials, saved, threshold)
    names = tuple(segment.name for segment in segments if segment in chosen)
    return Assessment(
        segments=tuple(
            _assessed(bench, s, trials[s.name], saved[s.name], s.name in names) for s in segments
        ),
        samples=bench.samples,
        threshold=threshold,
        chosen=names,
        estimated=_estimated(bench, [trials[name] for name in names]),
        changed=steps[-1][1] if steps else 0,
        steps=tuple(steps),
    )


def _keep(
    found: Forms, bench: Bench, segments: Sequence[Segment], trials: Mapping[str, Trial],
    saved: Mapping[str, float], threshold: float,
) -> tuple[list[Segment], Steps]:  # fmt: skip
    """The set that saves most of those whose twins keep to the threshold; every set that was run.

    At last segments are taken away one by one until what is left keeps to it.
    """
    steps: Steps = []

    def holds(kept: Sequence[Segment]) -> bool:
        changed = int(bench.changed(kept).sum())
        steps.append((tuple(segment.name for segment in kept), changed))
        return changed <= threshold * bench.samples

    for promising in _promising(found, bench, segments, trials, saved, threshold)[:VERIFIED]:
        if holds(promising):
            return promising, steps
    kept = _without_overlap(found, segments, saved)
    while not holds(kept) and kept:
        kept.remove(max(kept, key=lambda s: _price(trials[s.name], saved[s.name])))
    return kept, steps


def _promising(
    found: Forms, bench: Bench, segments: Sequence[Segment], trials: Mapping[str, Trial],
    saved: Mapping[str, float], threshold: float,
) -> list[list[Segment]]:  # fmt: skip
    """Sets whose changes of the output, added up, keep to the threshold; most saved first.

    [] for more segments than MANY, and where outputs cannot be added up.
    """
    shifts = {name: trial.shift for name, trial in trials.items() if trial.shift is not None}
    if len(shifts) < len(segments) or len(segments) > MANY:
        return []
    nodes = {s.name: nodes_taken(found, s) for s in segments}
    both = combinations(segments, 2)
    apart = {(a.name, b.name) for a, b in both if nodes[a.name].isdisjoint(nodes[b.name])}
    sets = (list(c) for size in range(1, len(segments) + 1) for c in combinations(segments, size))
    free = [c for c in sets if all((a.name, b.name) in apart for a, b in combinations(c, 2))]
    free.sort(key=lambda c: -sum(saved[s.name] for s in c))
    good: list[list[Segment]] = []
    for candidate in free:
        shift = np.sum([shifts[s.name] for s in candidate], axis=0)
        if bench.differs(shift).mean() <= threshold:
            good.append(candidate)
        if len(good) == VERIFIED:
            break
    return good


def _price(trial: Trial, saved: float) -> tuple[float, float]:
    """Changed answers per cost saved; of equal ones the larger difference at the exit."""
    share, size = float(trial.changed.mean()), float(np.nanmedian(trial.difference))
    return (share / saved if saved > 0 else np.inf if share > 0 else 0.0), size


def _without_overlap(
    found: Forms, segments: Sequence[Segment], saved: Mapping[str, float]
) -> list[Segment]:
    """Segments that can be exchanged together, those that save most first; in order of place."""
    kept: list[Segment] = []
    taken: set[int] = set()
    for segment in sorted(segments, key=lambda s: -saved[s.name]):
        nodes = nodes_taken(found, segment)
        if taken.isdisjoint(nodes):
            kept.append(segment)
            taken |= nodes
    return [segment for segment in segments if segment in kept]


def _saved(found: Forms, segment: Segment) -> float:
    host = found.plain[0]
    if segment.kind == "common":
        return (segment.params or 0.0) / max(1, sum(host.params))
    if segment.flops is None or segment.donor_flops is None:
        return 0.0
    total = sum(f or 0.0 for f in host.flops)
    return max(0.0, segment.flops - segment.donor_flops) / total if total else 0.0


def _assessed(
    bench: Bench, segment: Segment, trial: Trial, saved: float, chosen: bool
) -> SegmentAssessment:
    first = None if trial.linear is None else float(trial.linear.mean())
    return SegmentAssessment(
        segment=segment,
        samples=bench.samples,
        difference=float(np.nanmedian(trial.difference)),
        estimated=float(trial.noisy.mean()),
        first_order=first,
        changed=int(trial.changed.sum()),
        saved=saved,
        chosen=chosen,
    )


def _estimated(bench: Bench, trials: Sequence[Trial]) -> float:
    shifts = [trial.shift for trial in trials if trial.shift is not None]
    if trials and len(shifts) == len(trials):
        return float(bench.differs(np.sum(shifts, axis=0)).mean())
    return min(1.0, float(sum(trial.noisy.mean() for trial in trials)))
