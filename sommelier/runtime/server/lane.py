"""Requests that differ in their tensors only, answered together without being read one by one.

A client that asks again and again sends the same head of HTTP and the same JSON, and raw tensors
behind it. Where such requests meet (together.py), their bytes are put together, one run answers
them, and one head is written for all. Whatever is not so plain, and who comes alone, goes the usual
way (rest_requests.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from sommelier.runtime.server.http_messages import HttpResponse
from sommelier.runtime.server.parameters import has_wishes
from sommelier.runtime.server.protocol import VERSION, InferResponse
from sommelier.runtime.server.rest_inference import Asked, Target, encode_response
from sommelier.runtime.server.rest_requests import WORTH, Place, binary_response, zipped
from sommelier.runtime.server.tensors import encode_raw, plain_type

if TYPE_CHECKING:
    from sommelier.runtime.server.served import Served

Array = NDArray[Any]


class Waiting(Protocol):
    """A connection with a request in a lane: one of the two is called once, in the event loop."""

    def answer_alike(self, answer: Alike, raw: bytes) -> None:
        """Write an answer, whose tensors are `raw`."""
        ...

    def leave_lane(self, data: bytes, *, alone: bool) -> None:
        """Have the request answered as any other; alone : without others."""
        ...


@dataclass(slots=True)
class Alike:
    """What answers that go together have in common. response : without its body. json : with which
    its body begins. zipped : bodies are to be compressed. head : of HTTP and `json`, once one of
    them was written."""

    response: HttpResponse
    json: bytes
    zipped: bool = False
    head: bytes = b""

    def whole(self, raw: bytes) -> HttpResponse:
        """The answer with these tensors."""
        like = self.response
        whole = HttpResponse(like.status, self.json + raw, like.content_type, like.headers)
        return zipped(whole) if self.zipped else whole


@dataclass(frozen=True, slots=True)
class _Tensor:
    """An input, as each request has it. start, end : of its bytes."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    end: int


class Lane:
    """prefix : with which each of its requests begins."""

    __slots__ = (
        "__weakref__", "_asked", "_gzip", "_met", "_place", "_samples", "_target", "_tensors",
        "prefix",
    )  # fmt: skip

    def __init__(
        self,
        place: Place,
        target: Target,
        asked: Asked,
        tensors: Sequence[_Tensor],
        prefix: bytes,
        *,
        gzip: bool,
    ) -> None:
        """gzip : their clients take compressed answers."""
        self._place = place
        self._target = target
        self._asked = asked
        self._tensors = tuple(tensors)
        self._samples = tensors[0].shape[0]
        self._gzip = gzip
        self._met: list[tuple[Waiting, bytes]] = []
        self.prefix = prefix

    def take(self, waiting: Waiting, data: bytes) -> None:
        """Answer a request with those that are read in the same round of the event loop."""
        self._met.append((waiting, data))
        if len(self._met) == 1:
            self._place.loop.call_soon(self._answer_met)

    def _answer_met(self) -> None:
        met, self._met = self._met, []
        place, target = self._place, self._target
        served = place.service.open_to(target.model, target.version) if len(met) > 1 else None
        most = 1
        if served is not None and not (place.away and place.is_away(target.model)):
            most = max(1, served.running.together // self._samples)
        for start in range(0, len(met), most):
            group = met[start : start + most]
            shared = served is not None and len(group) > 1
            if served is None or not shared or not self._answered(served, group):
                for waiting, data in group:
                    waiting.leave_lane(data, alone=shared)

    def _answered(self, served: Served, group: list[tuple[Waiting, bytes]]) -> bool:
        """Whether they have their answers."""
        count, name = len(group), self._target.model
        found = self._place.run_together(name, count, partial(self._run, served, group))
        if found is None:
            return False
        outputs, told = found
        first = {name: array[: self._samples] for name, array in outputs.items()}
        one = InferResponse(name, VERSION, self._asked.id, first, told)
        body, length = encode_response(one, self._asked.form)
        assert length is not None, "all outputs are binary"
        alike = Alike(
            binary_response(b"", length), body[:length], self._gzip and len(body) >= WORTH
        )
        for (waiting, _), raw in zip(group, self._divided(outputs, count), strict=True):
            waiting.answer_alike(alike, raw)
        return True

    def _run(self, served: Served, group: list[tuple[Waiting, bytes]], **limits: Any) -> Any:
        inputs = {tensor.name: self._joined(tensor, group) for tensor in self._tensors}
        run = self._place.service.run_together
        return run(served, inputs, self._asked.outputs, requests=len(group), **limits)

    def _joined(self, tensor: _Tensor, group: list[tuple[Waiting, bytes]]) -> Array:
        whole = b"".join([data[tensor.start : tensor.end] for _, data in group])
        shape = len(group) * tensor.shape[0], *tensor.shape[1:]
        return np.frombuffer(whole, tensor.dtype).reshape(shape)

    def _divided(self, outputs: Mapping[str, Array], count: int) -> list[bytes]:
        """The bytes of each answer."""
        parts = [_pieces(array, count, self._samples) for array in outputs.values()]
        return (
            parts[0] if len(parts) == 1 else [b"".join(each) for each in zip(*parts, strict=True)]
        )


def _pieces(array: Array, count: int, samples: int) -> list[bytes]:
    """The raw bytes of `count` parts of so many samples."""
    if plain_type(array.dtype) is None:
        return [encode_raw(array[i * samples : (i + 1) * samples]) for i in range(count)]
    whole = array.tobytes()
    size = len(whole) // count
    return [whole[i * size : (i + 1) * size] for i in range(count)]


def lane_of(
    place: Place, target: Target, asked: Asked, prefix: bytes, size: int, *, gzip: bool
) -> Lane | None:
    """The lane of requests that begin with these bytes, of HTTP and of JSON, and have so many; None
    where they are not plain enough.

    asked : what the JSON says. gzip : clients take compressed answers. Plain are inputs that are
    all raw, of one number of samples and of types that numpy has, outputs that are all wanted raw,
    and nothing wished of its own.
    """
    form = asked.form
    if has_wishes(asked.parameters) or not form.other or not all(form.binary.values()):
        return None
    tensors, start = [], len(prefix)
    for given in asked.inputs:
        dtype = plain_type(given.datatype)
        if dtype is None or type(given.size) is not int or not given.shape:
            return None
        if given.size != math.prod(given.shape) * dtype.itemsize:
            return None
        tensors.append(_Tensor(given.name, dtype, given.shape, start, start + given.size))
        start += given.size
    samples = {tensor.shape[0] for tensor in tensors}
    if start != size or len(samples) != 1 or 0 in samples:
        return None
    return Lane(place, target, asked, tensors, prefix, gzip=gzip)
