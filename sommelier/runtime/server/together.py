"""Requests that a server got at once, answered in one run where that is faster.

Nobody waits for others: what was read from the sockets in one round of the event loop is put
together, and a request that came alone is answered alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sommelier.runtime.server.parameters import has_wishes
from sommelier.runtime.server.protocol import VERSION, InferRequest, InferResponse

if TYPE_CHECKING:
    from sommelier.runtime.answers import Cancellable
    from sommelier.runtime.server.served import Served
    from sommelier.runtime.server.service import ModelService

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


def answer_together(
    service: ModelService,
    requests: Sequence[InferRequest],
    served: Served,
    *,
    at_most_ms: float,
    begun: Callable[[Cancellable], None],
) -> list[InferResponse] | None:
    """The answers to requests of one form, by one run, as of `ModelService.answer_now`. None also
    where it fails: then each is to be asked alone, which says which of them it was."""
    found = service.run_together(
        served, concatenated(requests), requests[0].outputs, requests=len(requests),
        at_most_ms=at_most_ms, begun=begun,
    )  # fmt: skip
    if found is None:
        return None
    outputs, told = found
    parts = divided(outputs, [meeting(request)[1] for request in requests])
    return [
        InferResponse(request.model, VERSION, request.id, part, told)
        for request, part in zip(requests, parts, strict=True)
    ]


def concatenated(requests: Sequence[InferRequest]) -> dict[str, Array]:
    """The inputs of requests of one form, one behind the other."""
    first = requests[0].inputs
    return {name: np.concatenate([r.inputs[name] for r in requests]) for name in first}


def of_samples(outputs: Mapping[str, Array], inputs: Mapping[str, Array]) -> bool:
    """Whether each output has as many samples in front as the inputs."""
    samples = next(iter(inputs.values())).shape[0]
    return all(array.ndim > 0 and array.shape[0] == samples for array in outputs.values())


def divided(outputs: Mapping[str, Array], sizes: Sequence[int]) -> list[dict[str, Array]]:
    """The outputs of each request. sizes : samples of each."""
    found, start = [], 0
    for size in sizes:
        found.append({name: array[start : start + size] for name, array in outputs.items()})
        start += size
    return found


def _form(request: InferRequest) -> object:
    inputs = tuple((name, a.dtype, a.shape[1:]) for name, a in request.inputs.items())
    return request.outputs, inputs
