"""Whether an ONNX file answers as the model that it was made of; for every converter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.execution import open_session
from sommelier.errors import RejectedModelError, first_line

TOLERANCE = 1e-4
"""Of an output's largest element; float32 sums in another order give 1e-6. A class that leads by
more than twice that stays the likeliest."""

Feed = Mapping[str, NDArray[np.generic]]
Original = Callable[[Feed], Sequence[NDArray[np.generic]]]


def largest_difference(model: Path, original: Original, feeds: Sequence[Feed]) -> float:
    """Largest difference of any output element, relative to the largest one of its output.

    original : the outputs for one feed (name of an ONNX input -> array), in the order of the
    model's. Raises RejectedModelError with the figures where shapes differ or the difference is
    above 1e-4.
    """
    session = open_session(model, 1)
    names = [node.name for node in session.get_outputs()]
    worst = 0.0
    for feed in feeds:
        truths = [np.asarray(truth) for truth in original(feed)]
        try:
            answers = session.run(None, dict(feed))
        except Exception as error:  # ONNX Runtime has no common base class for its errors
            raise RejectedModelError(
                f"converted, the model fails on {_described(feed)}: {first_line(error)}"
            ) from error
        if len(truths) != len(answers):
            raise RejectedModelError(
                f"converted, the model has {len(answers)} outputs instead of {len(truths)}"
            )
        for name, answer, truth in zip(names, answers, truths, strict=True):
            worst = max(worst, _difference(name, np.asarray(answer), truth, feed))
    return worst


def _difference(
    name: str, answer: NDArray[np.generic], truth: NDArray[np.generic], feed: Feed
) -> float:
    if answer.shape != truth.shape:
        raise RejectedModelError(
            f"converted, output '{name}' for {_described(feed)} is {answer.shape}, "
            f"but the original's is {truth.shape}"
        )
    if truth.size == 0:
        return 0.0
    ours, theirs = answer.astype(np.float64), truth.astype(np.float64)
    if not np.array_equal(np.isfinite(ours), np.isfinite(theirs)):
        raise RejectedModelError(f"converted, output '{name}' is finite elsewhere than before")
    finite = np.isfinite(theirs)
    scale = float(np.abs(theirs[finite]).max(initial=0.0)) or 1.0
    found = float(np.abs(ours - theirs)[finite].max(initial=0.0)) / scale
    if found > TOLERANCE:
        raise RejectedModelError(
            f"converted, output '{name}' differs from the original's by {found:.2g} of its largest "
            f"element; at most {TOLERANCE:g} is accepted"
        )
    return found


def _described(feed: Feed) -> str:
    return ", ".join(f"{name} {list(array.shape)}" for name, array in feed.items())
