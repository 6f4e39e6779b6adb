"""Whether an ONNX file answers as the model that it was made of; for every converter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.conversion.tolerance import FLOOR, allowance
from sommelier.analysis.execution import open_session
from sommelier.errors import RejectedModelError, first_line

TOLERANCE = 1e-4
"""Of an element plus a tenth of its channel's scale (tolerance.py); float32 sums in another order
give 1e-6 of both. A class that leads by more than four times that of the scale stays the
likeliest."""
HALF_TOLERANCE = 1e-2  # float16 keeps three digits
HALF_FLOOR = 1.0  # and where large numbers cancelled, what is left is as inexact as they were

Feed = Mapping[str, NDArray[np.generic]]
Original = Callable[[Feed], Sequence[NDArray[np.generic]]]


def largest_difference(model: Path, original: Original, feeds: Sequence[Feed]) -> float:
    """Largest |ours - theirs| / (|theirs| + scale / 10) of an element of any output; 0 if exact.

    scale : of the element's channel (tolerance.py). original : the outputs for one feed (name of
    an ONNX input -> array), in the order of the model's. Integers, booleans and texts must be
    equal, and what is not finite the same.
    Raises RejectedModelError with the figures where types, shapes or numbers differ by more than
    1e-4 (float16: 1e-2), and where an output has no finite element to compare in all feeds.
    """
    session = open_session(model, 1)
    names = [node.name for node in session.get_outputs()]
    worst, elements = 0.0, dict.fromkeys(names, 0)
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
            elements[name] += _comparable(truth)
    _require_compared(elements)
    return worst


def _require_compared(elements: Mapping[str, int]) -> None:
    """elements : how many were compared of each output."""
    for name, count in elements.items():
        if not count:
            raise RejectedModelError(
                f"output '{name}' has no finite element for any input that was tried, so there is "
                "nothing to compare"
            )


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
    if not _is_rounded(truth):
        _require_equal(name, answer, truth)
        return 0.0
    ours, theirs = _reals(answer), _reals(truth)
    if truth.itemsize == 2:
        return _relative(name, ours, theirs, HALF_TOLERANCE, HALF_FLOOR)
    return _relative(name, ours, theirs, TOLERANCE, FLOOR)


def _relative(
    name: str, ours: NDArray[Any], theirs: NDArray[Any], tolerance: float, floor: float
) -> float:
    for kind in (np.isnan, np.isposinf, np.isneginf):
        if not np.array_equal(kind(ours), kind(theirs)):
            raise RejectedModelError(f"converted, output '{name}' is finite elsewhere than before")
    finite = np.isfinite(theirs)
    if not finite.any():
        return 0.0
    found, truth = ours[finite], theirs[finite]
    away = np.abs(found - truth) / allowance(theirs, floor=floor)[finite]
    place = int(away.argmax())
    if away[place] > tolerance:
        raise RejectedModelError(
            f"converted, output '{name}' differs from the original's by {away[place]:.2g}: it has "
            f"{found[place]:.6g} for {truth[place]:.6g}; at most {tolerance:g} of an "
            "element and a tenth of its channel's scale is accepted"
        )
    return float(away[place])


def _comparable(truth: NDArray[np.generic]) -> int:
    """How many elements say anything of whether another answer is the same."""
    return int(np.isfinite(_reals(truth)).sum()) if _is_rounded(truth) else truth.size


def _is_rounded(truth: NDArray[np.generic]) -> bool:
    """Whether its numbers may differ by rounding: integers, booleans and texts may not."""
    exact = np.issubdtype(truth.dtype, np.integer) or truth.dtype == np.bool_
    return not (exact or _is_text(truth))


def _reals(values: NDArray[np.generic]) -> NDArray[np.float64]:
    """In double precision; of complex numbers both parts, as two channels."""
    if np.iscomplexobj(values):
        return np.stack([values.real, values.imag], axis=-1).astype(np.float64)
    return values.astype(np.float64)


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
