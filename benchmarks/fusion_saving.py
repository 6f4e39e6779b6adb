"""What plain annealing takes beside the search of the product."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from benchmarks.fusion_runs import Run


class Saving(NamedTuple):
    """How many times cheaper gain first is, both searches from beginning to end; 0 where it finds
    less. whole : for what counts in the end. predicted : for what the searches end with. until,
    epochs : until it has what annealing ends with, in processor time and in epochs."""

    whole: float
    predicted: float
    until: float
    epochs: float


def saving(ours: Run, annealing: Run) -> Saving:
    """What the search saves for a fusion as good as annealing's best, or better."""
    ratio = annealing.seconds / ours.seconds
    whole = ratio if ours.found and ours.speedup >= annealing.speedup else 0.0
    best = annealing.best
    point = None
    if ours.points:
        point = ours.reaching(best.share) if annealing.points else ours.points[0]
    if point is None:
        return Saving(whole, 0.0, 0.0, 0.0)
    # a first child may need no epoch at all
    epochs = best.epochs / max(point.epochs, 1)
    return Saving(whole, ratio, best.seconds / point.seconds, epochs)


def in_full(annealing: Run, most_s: float | None) -> Run:
    """With all its time: where it was cut, the candidate it was at is no step, but took time."""
    if most_s is None or not annealing.cut:
        return annealing
    return replace(annealing, seconds=max(annealing.seconds, most_s))
