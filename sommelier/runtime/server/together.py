"""Requests that a server got at once, answered in one run where that is faster.

Nobody waits for others: what was read from the sockets in one round of the event loop is put
together, and a request that came alone is answered alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.runtime.server.parameters import has_wishes
from sommelier.runtime.server.protocol import InferRequest

Array = NDArray[Any]


def grouped(requests: Iterable[InferRequest], most: int) -> list[list[int]]:
    """Positions of requests that can be answered in one run, in order; most : samples of a run.

    Alone stays who wishes something (a deadline, an accuracy), for what is true of one request is
    not of the others.
    """
    groups: list[_Group] = []
    open_: dict[object, _Group] = {}
    for place, request in enumerate(requests):
        form, samples = meeting(request)
        group = open_.get(form)
        if group is None or group.samples + samples > most:
            group = _Group()
            groups.append(group)
            if form is not None:
                open_[form] = group
        group.places.append(place)
        group.samples += samples
    return [group.places for group in groups]


@dataclass(slots=True)
class _Group:
    places: list[int] = field(default_factory=list)
    samples: int = 0


def meeting(request: InferRequest) -> tuple[object, int]:
    """(form, samples). form : equal for requests that can be put together; None for those that stay
    alone. samples : as all its inputs have them in front; 0 where they do not."""
    if request.meets is None:
        counts = {array.shape[0] if array.ndim else 0 for array in request.inputs.values()}
        samples = counts.pop() if len(counts) == 1 else 0
        alone = not samples or has_wishes(request.parameters)
        request.meets = None if alone else _form(request), samples
    return request.meets


def concatenated(requests: Sequence[InferRequest]) -> dict[str, Array]:
    """The inputs of requests of one form, one behind the other."""
    first = requests[0].inputs
    return {name: np.concatenate([r.inputs[name] for r in requests]) for name in first}


def divided(outputs: Mapping[str, Array], sizes: Sequence[int]) -> list[dict[str, Array]] | None:
    """The outputs of each request; None where an output is not of samples."""
    if any(array.ndim == 0 or array.shape[0] != sum(sizes) for array in outputs.values()):
        return None
    found, start = [], 0
    for size in sizes:
        found.append({name: array[start : start + size] for name, array in outputs.items()})
        start += size
    return found


def _form(request: InferRequest) -> object:
    inputs = tuple((name, a.dtype, a.shape[1:]) for name, a in request.inputs.items())
    return request.outputs, inputs
