"""The linear link: ridge regression in closed form, tried before any network.

Two classifiers of the same thing differ little more than by a linear map of their logits, and then
nothing that is trained step by step beats this. Source: algorithms.md E.1.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.links.features import Activation, Features, Readout, log_probabilities
from sommelier.analysis.links.formats import LinkAnswers
from sommelier.analysis.links.networks import Layer, VectorLink
from sommelier.analysis.links.splits import Split, answered

Array = NDArray[Any]
Floats = NDArray[np.float64]

# a sample, of features of variance 1; the last leaves nothing but the mean answer, or the copy
PENALTIES = (*(10.0**power for power in range(-5, 4)), float("inf"))


def fit_linear(source: LinkAnswers, target: LinkAnswers, split: Split) -> VectorLink:
    """The linear link that does best on the validation rows.

    Chosen on them are the penalty and what is regressed: for classes and labels their
    probabilities, or the logarithms with an activation after them; where source and target are
    answers of one kind and width, also what a copy of the source leaves over. See `_chosen` for
    what is best. Samples the target has no answer to are left out. Raises AnalysisError where
    either model answered too few.
    """
    started = time.perf_counter()
    rows = answered(target, split)
    features = Features.of(source, rows.train)
    inputs, seen = (features(source.values[part]) for part in (rows.train, rows.validation))
    wanted = target.values[rows.validation]
    tried = [
        _Candidate.of(readout, ridge, penalty, readout(outputs), wanted)
        for readout, ridge in _forms(features, inputs, target, rows.train)
        for penalty, outputs in zip(PENALTIES, ridge.outputs(seen, PENALTIES), strict=True)
    ]
    best = _chosen(tried, classes=target.format.kind == "classes")
    layer = best.ridge.layer(best.penalty)
    seconds = time.perf_counter() - started
    return VectorLink(source.format, target.format, features, (layer,), best.readout, 0, seconds)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A linear link on validation rows. error : mean square. right : float64 (n,), 1 where its top
    class is the target's."""

    readout: Readout
    ridge: Ridge
    penalty: float
    error: float
    right: Floats

    @classmethod
    def of(
        cls, readout: Readout, ridge: Ridge, penalty: float, found: Array, wanted: Array
    ) -> _Candidate:
        error = float(np.square(found - wanted).mean())
        right = (found.argmax(axis=1) == wanted.argmax(axis=1)).astype(np.float64)
        return cls(readout, ridge, penalty, error, right)

    @property
    def copies(self) -> bool:
        """Whether nothing is left of it but the answers of the source."""
        return self.ridge.slope != 0 and np.isinf(self.penalty)


def _chosen(tried: Sequence[_Candidate], *, classes: bool) -> _Candidate:
    """The least squared error; of classes, where it can be blind to which one is the likeliest,
    among those within a standard error of the most right answers. A copy of the source stays
    unless that is better by more than a standard error of the difference.
    """
    if not classes:
        return min(tried, key=lambda one: one.error)
    top = max(float(one.right.mean()) for one in tried)
    near = top - np.sqrt(top * (1 - top) / len(tried[0].right))
    best = min((one for one in tried if one.right.mean() >= near), key=lambda one: one.error)
    copy = next((one for one in tried if one.copies), None)
    if copy is None:
        return best
    gains = best.right - copy.right
    return best if gains.mean() > gains.std() / np.sqrt(len(gains)) else copy


@dataclass(frozen=True, slots=True)
class Axes:
    """The principal axes of inputs (n, width): what all ridge regressions on them share.

    mean : float64 (width,). energy : (axes,), n times the variance along each. basis (width, axes)
    and codes (axes, n) are such that the weights for centred y are basis @ (codes @ y / (energy +
    n * penalty)). Cost: cubic in the smaller of n and width.
    """

    mean: Floats
    energy: Floats
    basis: Floats
    codes: Floats

    @classmethod
    def of(cls, inputs: Array) -> Axes:
        """inputs : (n, width), finite."""
        mean = inputs.mean(axis=0, dtype=np.float64)
        x = inputs - mean
        samples, width = x.shape
        if width <= samples:
            energy, basis = np.linalg.eigh(x.T @ x)
            codes = basis.T @ x.T
        else:  # (x'x + a)^-1 x' = x' (xx' + a)^-1
            energy, vectors = np.linalg.eigh(x @ x.T)
            basis, codes = x.T @ vectors, vectors.T
        return cls(mean, np.maximum(energy, 0.0), basis, codes)


@dataclass(frozen=True, slots=True)
class Ridge:
    """Least squares plus penalty * n * |weights - slope * identity|^2, for any penalty; the bias is
    free. slope : 0, or that of the regression on nothing but the input of the same place."""

    axes: Axes
    mean: Floats
    coded: Floats
    slope: float = 0.0

    @classmethod
    def of(cls, axes: Axes, taught: Array, copied: Array | None = None) -> Ridge:
        """taught : (n, outputs). copied : the inputs, as they would stand for `taught`."""
        mean = taught.mean(axis=0, dtype=np.float64)
        y, slope = taught - mean, 0.0
        if copied is not None:
            x = copied - copied.mean(axis=0, dtype=np.float64)
            energy = float(np.square(x).sum())
            slope = float((x * y).sum()) / energy if energy > 0 else 0.0
            y = y - slope * x
        return cls(axes, mean, axes.codes @ y, slope)

    def outputs(self, inputs: Array, penalties: Sequence[float]) -> Iterator[Floats]:
        """What the layer of each penalty answers, (n, outputs), without making the layers."""
        x = inputs - self.axes.mean
        turned = x @ self.axes.basis
        known = self.mean + self.slope * x if self.slope else self.mean
        for penalty in penalties:
            yield turned @ self._shrunk(penalty) + known

    def layer(self, penalty: float) -> Layer:
        """The fitted layer."""
        weight = self.axes.basis @ self._shrunk(penalty)
        if self.slope:
            weight = weight + self.slope * np.eye(len(weight))
        bias = self.mean - self.axes.mean @ weight
        return Layer(weight.astype(np.float32), bias.astype(np.float32))

    def _shrunk(self, penalty: float) -> Floats:
        samples = self.axes.codes.shape[1]
        return np.asarray(self.coded / (self.axes.energy + samples * penalty)[:, None])


def _forms(
    features: Features, inputs: Array, target: LinkAnswers, rows: Array
) -> Iterator[tuple[Readout, Ridge]]:
    """Each way to read answers out of linear outputs, with the regression that gives these."""
    readout, axes = Readout.of(target, rows), Axes.of(inputs)
    kind, taught = target.format.kind, readout.taught(target.values[rows])
    if kind in ("classes", "labels"):
        plain: Activation = "shares" if kind == "classes" else "unit"
        yield replace(readout, activation=plain), Ridge.of(axes, taught)
        taught = log_probabilities(target, rows)[rows]
    yield readout, Ridge.of(axes, taught)
    if features.kind == kind and inputs.shape[1] == taught.shape[1]:
        # a softmax does not see what all of a sample's outputs have in common
        common = inputs.mean(axis=1, keepdims=True) if kind == "classes" else 0.0
        yield readout, Ridge.of(axes, taught, inputs - common)
