"""How sure a model is of an answer: one number an input, higher is surer. Only numpy is loaded.

What the scores rank best is for a calibration to find out (selection.py): free energy, which EBJR
proposes, was the worst of these on three of three data sets (algorithms.md G.1). An input that has
no answer has the score NaN, which no threshold keeps.
Source: EBJR equations 3, 19, 22; Granese et al. 2021 (DOCTOR); algorithms.md G.1.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sommelier.analysis.links.formats import AnswerFormat, natural
from sommelier.analysis.probabilities import softmax
from sommelier.errors import AnalysisError

Array = NDArray[Any]
Floats = NDArray[np.float64]


def free_energy(logits: ArrayLike, *, temperature: float = 1.0) -> Floats:
    """F = -T log sum_i exp(logits_i / T) along the last axis; the score is -F.

    It depends on a shift of all logits, so that it says nothing of log-probabilities (F = 0).
    """
    scaled = np.asarray(logits, dtype=np.float64) / temperature
    top = scaled.max(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):
        total = np.log(np.exp(scaled - top).sum(axis=-1)) + top[..., 0]
    return np.asarray(-temperature * total)


def max_probability(probabilities: Floats) -> Floats:
    """The largest probability."""
    return np.asarray(probabilities.max(axis=-1))


def negative_entropy(probabilities: Floats) -> Floats:
    """Sum of p log p, in nats: 0 for one certain class, -log(classes) for none."""
    logs = np.log(probabilities, out=np.zeros_like(probabilities), where=probabilities > 0)
    return np.asarray((probabilities * logs).sum(axis=-1))


def margin(probabilities: Floats) -> Floats:
    """The largest probability minus the second."""
    two = np.partition(probabilities, -2, axis=-1)[..., -2:]
    return np.asarray(two[..., 1] - two[..., 0])


def doctor(probabilities: Floats) -> Floats:
    """Sum of p^2, which orders inputs as DOCTOR's D-alpha does, the surest first."""
    return np.asarray((probabilities**2).sum(axis=-1))


def popular(probabilities: Floats) -> Floats:
    """The largest probability but that of the last class, 'other' of a specialised student."""
    return np.asarray(probabilities[..., :-1].max(axis=-1))


OF_PROBABILITIES: dict[str, Callable[[Floats], Floats]] = {
    "margin": margin,
    "softmax": max_probability,
    "doctor": doctor,
    "entropy": negative_entropy,
    "popular": popular,
}
ENERGY = "free_energy"
SCORES = ("margin", "softmax", "doctor", "entropy", ENERGY)  # of any classifier


def class_score(name: str, logits: ArrayLike, *, temperature: float = 1.0) -> Floats:
    """The scores (n,) of answers (n, classes): logits, or logarithms of probabilities.

    Rows with NaN have the score NaN. Raises AnalysisError for an unknown score.
    """
    values = np.asarray(logits, dtype=np.float64)
    if name == ENERGY:
        return -free_energy(values, temperature=temperature)
    if name not in OF_PROBABILITIES:
        raise AnalysisError(
            f"there is no score '{name}'", hint=f"one of {', '.join((*OF_PROBABILITIES, ENERGY))}"
        )
    if values.shape[-1] < 2:
        raise AnalysisError(f"answers of {values.shape[-1]} class have no score '{name}'")
    if temperature != 1.0:
        values = values / temperature
    return OF_PROBABILITIES[name](softmax(values))


def available(format: AnswerFormat) -> tuple[str, ...]:
    """The scores of answers of this format: free energy only of logits, none of class ids."""
    if format.kind != "classes" or format.form == "ids":
        return ()
    return SCORES if format.form == "logits" else SCORES[:-1]


def as_logits(raw: Array, format: AnswerFormat) -> Floats:
    """Raw answers of a classifier as float64 (n, classes): its logits, or logarithms of its
    probabilities, however it writes them. Raises AnalysisError for other answers."""
    if not available(format):
        raise AnalysisError(
            f"answers that are {format.kind} given as {format.form} have no score",
            hint="a student needs logits or probabilities of classes",
        )
    if format.form == "logits":
        return np.asarray(raw, dtype=np.float64).reshape(len(raw), -1)
    shares = natural(raw, format).values.astype(np.float64)
    with np.errstate(divide="ignore"):
        return np.log(shares)


def agreement(ids: Sequence[ArrayLike]) -> Floats:
    """The share (n,) of the earlier models that answer as the last one does.

    ids : of two models or more, (n,) each. A score for a later stage of a cascade, or for several
    students. NaN where the last one has no answer (below 0).
    """
    votes = np.asarray(ids)
    if len(votes) < 2:
        raise AnalysisError("agreement is that of two models or more")
    share = (votes[:-1] == votes[-1]).mean(axis=0)
    return np.where(votes[-1] < 0, np.nan, share)
