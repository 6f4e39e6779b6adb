"""Ridge stacking of any subset of links in closed form, from products that are computed once.

The links' answers enter only through their Gram matrices, and a subset's are submatrices of them:
a fit costs one small linear system for each penalty. Source: algorithms.md E.2; Breiman 1996,
"Stacked regressions".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.links.formats import AnswerFormat
from sommelier.errors import AnalysisError

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

MAX_FEATURES = 256  # of all links of a subset together; beyond that each link has one weight
PENALTIES = (1e-3, 1e-2, 1e-1, 1.0)  # times the number of samples, of features of variance 1


@dataclass(frozen=True, slots=True)
class Stacking:
    """The products of all links' features over the training and over the validation samples.

    columns : each source's features. unit : float64 (features,), by which features are divided.
    gram, cross : Z'Z and Z'Y of centred training features and targets; checked_gram,
    checked_cross : of validation samples, less the training means.
    """

    columns: Mapping[str, slice]
    samples: int
    feature_mean: Floats
    target_mean: Floats
    unit: Floats
    gram: Floats
    cross: Floats
    checked_gram: Floats
    checked_cross: Floats

    def width(self, sources: Sequence[str]) -> int:
        """How many features these sources have together."""
        return sum(self.columns[name].stop - self.columns[name].start for name in sources)

    def fit(self, sources: Sequence[str], *, penalty: float | None = None) -> tuple[Floats, Floats]:
        """(weights (features, outputs), bias (outputs,)) for the sources' features in this order.

        Minimises |Y - ZW|^2 + penalty * samples * |W|^2 on centred features of unit variance; the
        bias is not penalised. penalty None : the one of PENALTIES with the least squared error on
        the validation samples.
        """
        chosen = np.concatenate([np.arange(*self.columns[n].indices(10**9)) for n in sources])
        gram, cross = self.gram[np.ix_(chosen, chosen)], self.cross[chosen]
        tried = np.array(PENALTIES if penalty is None else (penalty,)) * self.samples
        lifted = gram + tried[:, None, None] * np.eye(len(chosen))
        found = np.linalg.solve(lifted, np.broadcast_to(cross, (len(tried), *cross.shape)))
        best = found[0] if len(tried) == 1 else found[self._best(found, chosen)]
        weights = best / self.unit[chosen, None]
        return weights, self.target_mean - self.feature_mean[chosen] @ weights

    def _best(self, found: Floats, chosen: Indices) -> int:
        """Which weights (penalties, features, outputs) predict the validation samples best."""
        gram, cross = self.checked_gram[np.ix_(chosen, chosen)], self.checked_cross[chosen]
        errors = ((gram @ found - 2 * cross) * found).sum(axis=(1, 2))
        return int(np.argmin(errors))


@dataclass(frozen=True, slots=True)
class Weighing:
    """One weight a source: the products of whole answers, for targets with many outputs.

    gram (sources, sources), cross (sources,) : inner products over all samples and outputs.
    """

    sources: tuple[str, ...]
    gram: Floats
    cross: Floats
    checked_gram: Floats
    checked_cross: Floats

    def fit(self, sources: Sequence[str]) -> Floats:
        """Weights (sources,) that are pulled towards an even average; pull by validation."""
        at = [self.sources.index(name) for name in sources]
        gram, cross = self.gram[np.ix_(at, at)], self.cross[at]
        pull = np.array(PENALTIES) * np.trace(gram) / len(at)
        lifted = gram + pull[:, None, None] * np.eye(len(at))
        wanted = cross + pull[:, None] / len(at)
        found = np.linalg.solve(lifted, wanted[..., None])[..., 0]
        checked, crossed = self.checked_gram[np.ix_(at, at)], self.checked_cross[at]
        errors = ((found @ checked - 2 * crossed) * found).sum(axis=1)
        return np.asarray(found[int(np.argmin(errors))])


def stacking(
    features: Mapping[str, Floats],
    target: Floats,
    format: AnswerFormat,
    rows: tuple[Indices, Indices],
) -> Stacking:
    """The Stacking of features (n, outputs) by source and targets (n, outputs).

    rows : training and validation samples; those with a NaN on any side are left out.
    Raises AnalysisError when that leaves no training sample.
    """
    train, checked = _known(features, target, rows)
    joined = np.concatenate(list(features.values()), axis=1)
    stops = np.cumsum([value.shape[1] for value in features.values()])
    columns = {
        name: slice(int(stop) - value.shape[1], int(stop))
        for (name, value), stop in zip(features.items(), stops, strict=True)
    }
    unit = np.tile(_unit(target[train], format), len(features))
    mean, centre = joined[train].mean(axis=0), target[train].mean(axis=0)
    z, y = (joined[train] - mean) / unit, target[train] - centre
    zv, yv = (joined[checked] - mean) / unit, target[checked] - centre
    return Stacking(columns, len(train), mean, centre, unit, z.T @ z, z.T @ y, zv.T @ zv, zv.T @ yv)


def weighing(
    features: Mapping[str, Floats], target: Floats, rows: tuple[Indices, Indices]
) -> Weighing:
    """The Weighing of features (n, outputs) by source; as `stacking`."""
    train, checked = _known(features, target, rows)
    products = []
    for part in (train, checked):
        wanted = target[part]
        seen = {name: value[part] for name, value in features.items()}
        products.append(np.array([[np.vdot(a, b) for b in seen.values()] for a in seen.values()]))
        products.append(np.array([np.vdot(a, wanted) for a in seen.values()]))
    return Weighing(tuple(features), *products)


def _unit(target: Floats, format: AnswerFormat) -> Floats:
    """The spread of the target (outputs,): of each number its own, of probabilities one for all."""
    spread = target.std(axis=0)
    if format.kind not in ("numbers", "box"):
        spread = np.full_like(spread, np.sqrt((spread**2).mean()))
    return np.where(spread > 1e-12 * np.abs(target).max(initial=1e-300), spread, 1.0)


def _known(
    features: Mapping[str, Floats], target: Floats, rows: tuple[Indices, Indices]
) -> tuple[Indices, Indices]:
    """The rows of both parts without a NaN on any side."""
    sides = [np.isfinite(value).all(axis=1) for value in (target, *features.values())]
    known = np.logical_and.reduce(sides)
    train, checked = (part[known[part]] for part in rows)
    if not len(train):
        raise AnalysisError(
            "there is no training sample that the target and all of its links answered",
            hint="leave the link out that never answers, or give more samples",
        )
    return train, checked
