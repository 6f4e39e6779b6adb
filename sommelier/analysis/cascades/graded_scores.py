"""How sure a regressor or a detector is of an answer; higher is surer. Only numpy is loaded.

Regression. EBJR (equations 8-11) scores by -F(x) = log of the integral of exp S(x, y) over y. That
needs S to be a model of how well y fits x; a point regressor has none. With the usual Gaussian
S = -(y - f)^2 / 2 sigma^2 it is log(sigma sqrt(2 pi)): the LESS sure the model is, the higher its
score, so that the paper's rule keeps the worst inputs on the student (AUROC .177 where -sigma has
.823). Use `negative_sigma` where there is a sigma, and the integrals for true energy models only.
Source: algorithms.md G.3.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sommelier.analysis.cascades.scores import free_energy
from sommelier.errors import AnalysisError

Floats = NDArray[np.float64]

QUANTILE = 0.2  # of the boxes' margins: one unsure box of five is enough to ask the teacher
NODES = 65  # of a trapezoid over the targets: error 2e-7 where importance sampling has sd .04-.12


def energy_by_quadrature(scores: ArrayLike, nodes: ArrayLike) -> Floats:
    """F (n,) = -log of the integral of exp S(x, y), by the trapezoidal rule over one target y.

    scores : S (n, m) at the `nodes` (m,), which rise and cover the targets that fit at all.
    """
    values, at = np.asarray(scores, np.float64), np.asarray(nodes, np.float64)
    if at.ndim != 1 or len(at) < 2 or values.shape[-1] != len(at) or (np.diff(at) <= 0).any():
        raise AnalysisError(
            f"scores of shape {list(values.shape)} at {at.size} nodes",
            hint="give two nodes or more, rising, and a score at each",
        )
    steps = np.diff(at)
    weights = (np.append(steps, 0.0) + np.append(0.0, steps)) / 2
    return free_energy(values + np.log(weights))


def energy_by_sampling(scores: ArrayLike, log_densities: ArrayLike) -> Floats:
    """F (n,) = -log of the integral of exp S(x, y), by importance sampling; an estimate.

    scores : S (n, m) of m targets drawn for each input. log_densities : of drawing them.
    """
    values = np.asarray(scores, np.float64) - np.asarray(log_densities, np.float64)
    return np.asarray(free_energy(values) + np.log(values.shape[-1]))


def negative_sigma(sigma: ArrayLike) -> Floats:
    """-sigma (n,): the predicted standard deviation of the error, of an ensemble or of dropout."""
    found = np.asarray(sigma, dtype=np.float64)
    if (found < 0).any():
        raise AnalysisError("a standard deviation is 0 or more")
    return np.asarray(-found)


def detection_score(
    margins: Sequence[float] | Floats, *, hidden: float = 0.0, cut: float = 0.5
) -> float:
    """How sure a detector is of a picture, in [0, 1]; NaN without a box, so that it is sent on.

    margins : of each box's classes, p1 - p2, or of one class 2 p - 1. hidden : the best score that
    fell below the detector's threshold `cut`: an object that is nearly seen may be missed.
    The 20 % quantile of the margins, at most 1 - hidden / cut; a sum over boxes would depend on
    how many there are.
    """
    found = np.asarray(margins, dtype=np.float64)
    if not found.size:
        return float("nan")
    if not 0 <= hidden <= cut:
        raise AnalysisError(f"a hidden score of {hidden:g} is not below the threshold {cut:g}")
    return float(min(np.quantile(found, QUANTILE), 1.0 - hidden / cut))


def detection_free_energy(class_logits: ArrayLike, corner_energies: ArrayLike = ()) -> float:
    """F of a picture as EBJR has it (equations 12 and 13): means over the boxes; NaN without one.

    class_logits : (boxes, classes). corner_energies : F of each corner (boxes, 4), if the boxes
    come from energy models; see this module's text for what they are worth else.
    """
    logits = np.asarray(class_logits, dtype=np.float64)
    if not logits.size:
        return float("nan")
    corners = np.asarray(corner_energies, dtype=np.float64)
    return float(free_energy(logits).mean() + (corners.mean() if corners.size else 0.0))
