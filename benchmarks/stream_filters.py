"""Frame filtering as Reducto does it: all models run on a frame that differs from the last ones.

Four cheap features, as the MLink paper tried them, each compared with the previous frame or with
the last one that was processed; the best of the first period is used. The threshold follows the
stream so that the share of frames processed stays what the budget allows. Source: Li et al. 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.stream_links import LinkedStream, Plan, best_ms
from benchmarks.stream_methods import Outcome

Array = NDArray[Any]
Feature = Callable[[Array], Array]

STEP = 0.1  # by how much a decision moves the logarithm of the threshold
LEVELS = np.linspace(-2, 2, 17)
CHANGED = 0.5  # standard deviations by which a pixel counts as another
TIMED = 50  # frames


@dataclass(frozen=True, slots=True)
class Filter:
    """feature : of a picture (height, width). distance : between the features of two. since : the
    frame compared with, 'previous' or 'processed'."""

    name: str
    feature: Feature
    distance: Callable[[Array, Array], float]
    since: str

    def processed(self, features: Array, share: float, threshold: float) -> tuple[Array, float]:
        """Which frames are processed, bool (n,), and the threshold in the end."""
        found = np.zeros(len(features), dtype=np.bool_)
        found[0], last = True, features[0]
        for place in range(1, len(features)):
            far = self.distance(features[place], last)
            found[place] = far >= threshold
            threshold *= np.exp(STEP * (found[place] - share))
            if found[place] or self.since == "previous":
                last = features[place]
        return found, threshold


def _mean_difference(one: Array, other: Array) -> float:
    return float(np.abs(one - other).mean())


def _changed_area(one: Array, other: Array) -> float:
    return float((np.abs(one - other) > CHANGED).mean())


def _as_it_is(picture: Array) -> Array:
    return picture


def _edges(picture: Array) -> Array:
    return np.abs(np.diff(picture, axis=0))[:, 1:] + np.abs(np.diff(picture, axis=1))[1:]


def _histogram(picture: Array) -> Array:
    return np.bincount(np.digitize(picture.ravel(), LEVELS), minlength=len(LEVELS) + 1) / (
        picture.size
    )


FEATURES: Mapping[str, tuple[Feature, Callable[[Array, Array], float]]] = {
    "pixel": (_as_it_is, _mean_difference),
    "area": (_as_it_is, _changed_area),
    "edge": (_edges, _mean_difference),
    "histogram": (_histogram, _mean_difference),
}


def filtered(linked: LinkedStream, share: float) -> Outcome:
    """Filtering that processes this share of the frames.

    What looking at a frame takes is counted in its time but not in its budget, to its advantage.
    """
    first = np.flatnonzero(linked.stream.period == 0)
    pictures = linked.stream.pictures(linked.stream.frames)
    tried: list[tuple[float, Filter, float]] = []
    for name, (feature, distance) in FEATURES.items():
        features = np.stack([feature(picture) for picture in pictures[first]])
        typical = distance(features[0], features[-1])
        for since in ("previous", "processed"):
            one = Filter(f"{name}, {since}", feature, distance, since)
            _, threshold = one.processed(features, share, typical)
            found, threshold = one.processed(features, share, threshold)
            tried.append((float(_reused(linked, first, found).mean()), one, threshold))
    _, best, threshold = max(tried, key=lambda one: one[0])
    later = linked.later
    features = np.stack([best.feature(picture) for picture in pictures[later]])
    found, _ = best.processed(features, share, threshold)
    executed = np.repeat(found[:, None], len(linked.names), axis=1).astype(np.float64)
    everything = Plan(linked.names, {})
    return Outcome(
        f"frame filtering ({best.name})", _reused(linked, later, found), executed,
        [(everything, int(found.sum()))], looking_ms=_looking_ms(linked, best),
    )  # fmt: skip


def _reused(linked: LinkedStream, rows: Array, processed: Array) -> Array:
    """Whether the answers to the last processed frames are those to these, (rows, models)."""
    last = np.maximum.accumulate(np.where(processed, np.arange(len(rows)), 0))
    own = np.stack([a.values[rows].argmax(axis=1) for a in linked.answers.values()], axis=1)
    return np.asarray(own == own[last], dtype=np.float64)


def _looking_ms(linked: LinkedStream, best: Filter) -> float:
    """The median time of making a picture, its feature, and the distance to another."""
    stream = linked.stream
    last = best.feature(stream.pictures(stream.frames[:1])[0])

    def look(place: int) -> None:
        feature = best.feature(stream.pictures(stream.frames[place : place + 1])[0])
        best.distance(feature, last)

    return float(np.median([best_ms(partial(look, place)) for place in range(TIMED)]))
