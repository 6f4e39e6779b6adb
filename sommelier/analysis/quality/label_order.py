"""Do two classifiers mean the same by class 3? A check that needs only their answers.

Source: algorithms.md A.1 step 5, with three corrections. Fitting a permutation and testing it on
the same probes finds one for any two models as soon as classes are as many as probes, so it is
fitted on one half and tested on the other. A permutation that maps one model's favourite class to
the other's explains models that always answer the same, so it has to beat what independent answers
with the same frequencies would give. And agreement need not be about chance: three of ten classes
that kept their number make it 30 %, so the renumbered agreement has to exceed it beyond doubt.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sommelier.analysis.quality.measure import Array, Floats, Indices
from sommelier.confidence import clopper_pearson
from sommelier.records import NO_ANSWER

PROBES = 64  # algorithms.md A.1: enough for some ten classes; about 1.5 a class are needed


@dataclass(frozen=True, slots=True)
class LabelOrder:
    """A suspicion: the models agree once the candidate's classes are renumbered.

    permutation : int64 (classes,), the candidate's class that goes with each of the reference's.
    agreement : share of equal answers as they are. permuted : on the half of the probes that the
    permutation was not fitted to, with `low`, its one-sided Clopper-Pearson bound.
    """

    permutation: Indices
    agreement: float
    permuted: float
    low: float

    def __str__(self) -> str:
        moved = [f"{i}->{to}" for i, to in enumerate(self.permutation) if i != to]
        shown = ", ".join(moved[:8]) + (", ..." if len(moved) > 8 else "")
        return (
            f"label order mismatch suspected: agreement {self.agreement:.1%} as numbered, "
            f"{self.permuted:.1%} with the candidate's classes renumbered ({shown})"
        )


def label_order_mismatch(
    reference: Array, candidate: Array, classes: int, *, confidence: float = 0.95
) -> LabelOrder | None:
    """The suspicion that the classes are numbered differently, None where there is no ground.

    reference, candidate : integer (n,) class ids below `classes`. Suspected when, on the half of
    the probes it was not fitted to, a permutation found by Hungarian matching of the confusion
    matrix makes most answers equal, and the lower bound of that share exceeds both the upper bound
    of the agreement as it is and what chance would give.
    """
    one, other = np.asarray(reference), np.asarray(candidate)
    answered = (one != NO_ANSWER) & (other != NO_ANSWER) & (one < classes) & (other < classes)
    one, other = one[answered].astype(np.int64), other[answered].astype(np.int64)
    if len(one) < 4:
        return None
    equal = int(np.count_nonzero(one == other))
    _, high = clopper_pearson(equal, len(one), confidence, side="upper")
    fitted = _permutation(one[::2], other[::2], classes)
    held_one, held_other = one[1::2], other[1::2]
    hits = int(np.count_nonzero(fitted[held_one] == held_other))
    low, _ = clopper_pearson(hits, len(held_one), confidence, side="lower")
    chance = _frequencies(held_one, classes) @ _frequencies(held_other, classes)[fitted]
    if hits <= len(held_one) / 2 or float(low) <= max(float(high), float(chance)):
        return None
    best = _permutation(one, other, classes)
    return LabelOrder(best, equal / len(one), hits / len(held_one), float(low))


def _permutation(one: Indices, other: Indices, classes: int) -> Indices:
    """The renumbering with most agreements; classes nobody answered keep their number if free."""
    from scipy.optimize import linear_sum_assignment

    confusion = np.zeros((classes, classes))
    np.add.at(confusion, (one, other), 1.0)
    confusion += 1e-6 * np.eye(classes)
    return np.asarray(linear_sum_assignment(confusion, maximize=True)[1], dtype=np.int64)


def _frequencies(ids: Indices, classes: int) -> Floats:
    return np.bincount(ids, minlength=classes) / len(ids)
