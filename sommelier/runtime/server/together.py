"""Requests that a server got at once, decided about together and answered in one run or in turn.

Nobody waits for others to come: what was read from the sockets in one round of the event loop is
put together, and a request that came alone is answered alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sommelier.runtime.server.parameters import has_wishes
from sommelier.runtime.server.protocol import VERSION, InferRequest, InferResponse
from sommelier.runtime.server.telling import TOGETHER, decision

if TYPE_CHECKING:
    from sommelier.runtime.answers import Answer


def grouped(requests: Iterable[InferRequest], most: int) -> list[list[int]]:
    """Positions of requests that can be answered together, in order; most : samples of a group.

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


def responses_to(
    requests: Sequence[InferRequest], tell: Callable[[InferResponse], None]
) -> Callable[[Answer], None]:
    """Makes the answers of a stint, which come in order, responses to these requests."""
    left = iter(requests)

    def each(answer: Answer) -> None:
        told = {**decision(answer), TOGETHER: len(requests)}
        request = next(left)
        tell(InferResponse(request.model, VERSION, request.id, answer.outputs, told))

    return each


def _form(request: InferRequest) -> object:
    inputs = tuple((name, a.dtype, a.shape[1:]) for name, a in request.inputs.items())
    return request.outputs, inputs
