"""Tensors inside a model, read while it runs, a bounded number of bytes at a time.

The tensors of a group become outputs of the graph; a group holds no more than the budget allows,
and the model is run once for each group.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.analysis.differences.layers import Tap
from sommelier.analysis.differences.subjects import Subject
from sommelier.analysis.propagation.extension import open_extended
from sommelier.errors import AnalysisError, first_line

if TYPE_CHECKING:
    from onnx import ModelProto

Array = NDArray[Any]
Values = Mapping[str, Array]

MEMORY = 128 * 2**20  # bytes of activations kept at once, of both models together
BATCH = 32


@dataclass(frozen=True, slots=True)
class Extent:
    """How much is looked at. samples : of the inputs. memory : bytes of activations kept at once.
    progress : called with (samples run, samples to run) of all runs together."""

    samples: int
    memory: int = MEMORY
    progress: Callable[[int, int], None] | None = None


def groups(sizes: Sequence[int], budget: int) -> list[list[int]]:
    """Positions in order, in groups of at most `budget` bytes (or of one that is larger).

    >>> groups([4, 4, 9, 1], budget=8)
    [[0, 1], [2], [3]]
    """
    found: list[list[int]] = []
    room = -1
    for position, size in enumerate(sizes):
        if size > room:
            found.append([])
            room = budget
        found[-1].append(position)
        room -= size
    return found


def batch_within(size: int, budget: int) -> int:
    """Samples a run may hold whose activations take `size` bytes each."""
    return max(1, min(BATCH, budget // max(1, size)))


def read(
    model: ModelProto, subject: Subject, taps: Sequence[Tap], *, samples: int, batch: int
) -> Iterator[Values]:
    """By tensor name the values of each batch of samples, (n, ...); integers dequantised.

    batch : samples a run; 1 for tensors whose first axis is not the samples'.
    Raises AnalysisError where the model does not run.
    """
    names = list(dict.fromkeys(tap.tensor for tap in taps))
    scales = {tap.tensor: tap.scale for tap in taps}
    session = open_extended(model, [], {}, names)
    for feed, count in subject.feeds(samples, batch):
        try:
            outputs = session.run(names, feed)
        except Exception as error:  # ONNX Runtime has no common base class for its errors
            raise AnalysisError(
                f"'{subject.name}' failed on its input: {first_line(error)}"
            ) from error
        run = len(next(iter(feed.values())))
        found = {}
        for name, value in zip(names, outputs, strict=True):
            array, scale = np.asarray(value), scales[name]
            if scale is not None:
                array = scale.real(array)
            found[name] = _by_sample(array, run)[:count]
        yield found


def _by_sample(array: Array, run: int) -> Array:
    """(run, ...); a tensor in which samples cannot be told apart becomes NaN."""
    if array.ndim and len(array) == run:
        return array
    if run == 1:
        return array[None]
    whole = array.size % run == 0 and array.dtype.kind == "f"
    return array.reshape(run, -1) if whole else np.full((run, 1), np.nan)
