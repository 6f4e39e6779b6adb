"""Whether an ONNX file answers as the model that it was made of; for every converter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.execution import open_session
from sommelier.errors import RejectedModelError, first_line

TOLERANCE = 1e-4
"""Of an element plus a tenth of its output's scale; float32 sums in another order give 1e-6 of
both. A class that leads by more than four times that of the scale stays the likeliest."""
HALF_TOLERANCE = 1e-2  # float16 keeps three digits
SHARE = 0.1  # of the scale, that an element's own magnitude is raised by: one near zero is a sum
#              of larger numbers, and is as exact as they are
MASKS = (1e4, 1e6)
"""What masks are filled with says nothing of an output's scale. Magnitudes from the first on are
left out where they are a hundred times the median, from the second on always."""

Feed = Mapping[str, NDArray[np.generic]]
Original = Callable[[Feed], Sequence[NDArray[np.generic]]]


def largest_difference(model: Path, original: Original, feeds: Sequence[Feed]) -> float:
    """Largest |ours - theirs| / (|theirs| + scale / 10) of an element of any output; 0 if exact.

    scale : an output's largest magnitude but those of masks. original : the outputs for one feed
    (name of an ONNX input -> array), in the order of the model's. Integers, booleans and texts
    must be equal, and what is not finite the same.
    Raises RejectedModelError with the figures where types, shapes or numbers differ by more than
    1e-4 (float16: 1e-2), and where an output has no finite element to compare.
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
    if _is_text(answer) and _is_text(truth):
        _require_equal(name, _texts(answer), _texts(truth))
        return 0.0
    if answer.dtype != truth.dtype:
        raise RejectedModelError(
            f"converted, output '{name}' is {answer.dtype}, but the original's is {truth.dtype}"
        )
    if np.issubdtype(truth.dtype, np.integer) or truth.dtype == np.bool_:
        _require_equal(name, answer, truth)
        return 0.0
    ours, theirs = answer.astype(np.float64), truth.astype(np.float64)
    return _relative(name, ours, theirs, HALF_TOLERANCE if truth.itemsize == 2 else TOLERANCE)


def _relative(name: str, ours: NDArray[Any], theirs: NDArray[Any], tolerance: float) -> float:
    for kind in (np.isnan, np.isposinf, np.isneginf):
        if not np.array_equal(kind(ours), kind(theirs)):
            raise RejectedModelError(f"converted, output '{name}' is finite elsewhere than before")
    finite = np.isfinite(theirs)
    if not finite.any():
        if theirs.size == 0:
            return 0.0
        raise RejectedModelError(
            f"no element of output '{name}' is finite, so there is nothing to compare"
        )
    truth = theirs[finite]
    away = np.abs(ours[finite] - truth)
    allowed = np.abs(truth) + SHARE * _scale(truth)
    found = float((away / allowed).max())
    if found > tolerance:
        place = int((away / allowed).argmax())
        raise RejectedModelError(
            f"converted, output '{name}' differs from the original's by {found:.2g}: it has "
            f"{ours[finite][place]:.6g} for {truth[place]:.6g}; at most {tolerance:g} of an "
            "element and a tenth of its output's scale is accepted"
        )
    return found


def _scale(values: NDArray[Any]) -> float:
    """The largest magnitude that is no mask's; 1 where there is none but zero."""
    magnitudes = np.abs(values)
    limit = np.clip(100 * np.median(magnitudes), *MASKS)
    return float(magnitudes[magnitudes < limit].max(initial=0.0)) or 1.0


def _require_equal(name: str, answer: NDArray[Any], truth: NDArray[Any]) -> None:
    unequal = answer != truth
    if unequal.any():
        raise RejectedModelError(
            f"converted, output '{name}' has {answer[unequal][0]} for {truth[unequal][0]}; its "
            f"type, {truth.dtype}, must agree exactly, and {unequal.sum()} of {truth.size} do not"
        )


def _is_text(values: NDArray[np.generic]) -> bool:
    return values.dtype.kind in "OSU"


def _texts(values: NDArray[Any]) -> NDArray[Any]:
    """As objects of one kind: TensorFlow answers bytes, ONNX Runtime str."""
    texts = [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values.flat]
    made = np.empty(len(texts), object)
    made[:] = texts
    return made.reshape(values.shape)


def _described(feed: Feed) -> str:
    return ", ".join(f"{name} {list(array.shape)}" for name, array in feed.items())
