"""Requests that differ in their tensors only, answered together without being read one by one.

A client that asks again and again sends the same head of HTTP and the same JSON, and raw tensors
behind it. Where such requests meet (together.py), only the bytes that differ are looked at, and one
answer's JSON does for all. Whatever is not so plain, and who comes alone, goes the usual way
(rest_requests.py).
"""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import orjson
from numpy.typing import NDArray

from sommelier.runtime.server.http_messages import HttpResponse
from sommelier.runtime.server.parameters import has_wishes
from sommelier.runtime.server.protocol import VERSION, InferResponse
from sommelier.runtime.server.rest_inference import Asked, OutputForm, Target, encode_response
from sommelier.runtime.server.rest_requests import WORTH, Place, binary_response, zipped
from sommelier.runtime.server.telling import INFER, QUEUE, TOGETHER, decision
from sommelier.runtime.server.tensors import encode_raw, plain_type

if TYPE_CHECKING:
    from sommelier.runtime.answers import Answer
    from sommelier.runtime.server.counted_stint import CountedStint
    from sommelier.runtime.server.served import Served

Array = NDArray[Any]
logger = logging.getLogger(__name__)
_HOLE = orjson.Fragment(b"\0")  # a text has none: JSON writes it \u0000
_QUICK = 16 << 10  # bytes of an answer that is written in no time, if it is not compressed
_WIDTH, _COUNT_WIDTH = 16, 8  # characters of a time, of a number of requests; blanks in front
KEPT_MS = 1.0  # that an answer is kept until others go with it, if runs take as long as its own

Own = tuple[float, float, int]
"""Of an answer: ms of waiting and of its run, and how many requests were read with its own."""


class Waiting(Protocol):
    """A connection with a request in a lane: one of these is called once, in the event loop."""

    def answer_alike(self, answer: Alike, own: Own, raw: bytes) -> None:
        """Write an answer, whose tensors are `raw`."""
        ...

    def abort(self) -> None:
        """Cut the client off."""
        ...

    def leave_lane(self, data: bytes, *, alone: bool) -> None:
        """Have the request answered as any other; alone : without others."""
        ...


class Alike:
    """What answers of one decision have in common whose tensors are of the same shapes: all but
    what is their own."""

    __slots__ = ("_parts", "_size", "head", "response", "shapes", "single", "zipped")

    def __init__(self, answer: InferResponse, form: OutputForm, *, gzip: bool) -> None:
        """answer : one of them, with holes for what is its own. gzip : their clients take
        compressed answers.

        head : of HTTP, once one of them was written; it is the same of all. shapes : of their
        tensors; None: of texts, whose bytes are as many as their characters. single : there
        is one, whose bytes are written as they are.
        """
        body, length = encode_response(answer, form)
        assert length is not None, "all outputs are binary"
        front, waited, took, rear = body[:length].split(b"\0")
        self._parts = front, waited, took, rear
        self._size = length + 2 * (_WIDTH - 1) + _COUNT_WIDTH - 1
        self.zipped = gzip and len(body) >= WORTH
        self.response = binary_response(b"", self._size)
        self.head = b""
        arrays = answer.outputs.values()
        plain = [plain_type(array.dtype) is not None for array in arrays]
        self.shapes = [array.shape for array in arrays] if all(plain) else None
        self.single = plain == [True]

    def size(self, raw: bytes) -> int:
        """Bytes of a body with these tensors."""
        return self._size + len(raw)

    def body(self, head: bytes, own: Own, raw: bytes) -> bytes:
        """The whole answer behind `head`."""
        front, between, further, rear = self._parts
        return b"%b%b%16.4f%b%16.4f%b%8d%b%b" % (
            head, front, own[0], between, own[1], further, own[2], rear, raw,
        )  # fmt: skip

    def whole(self, own: Own, raw: bytes) -> HttpResponse:
        """The answer as any other is written."""
        like = self.response
        whole = HttpResponse(like.status, self.body(b"", own, raw), like.content_type, like.headers)
        return zipped(whole) if self.zipped else whole


@dataclass(frozen=True, slots=True)
class _Tensor:
    """An input, as each request has it. start : of its bytes. count : of its numbers."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    count: int


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
            answered = 0
            if served is not None and len(group) > 1:
                answered = self._answered(served, group)
            elif place.stints:
                place.end_stint(target.model)
            for waiting, data in group[answered:]:
                waiting.leave_lane(data, alone=len(group) > 1)

    def _answered(self, served: Served, group: list[tuple[Waiting, bytes]]) -> int:
        """How many have their answers, the first ones."""
        place, name, inputs = self._place, self._target.model, self._inputs(group)
        stint, writer, further = place.stints.get(name), None, None
        if stint is not None and stint.served is served and stint.open:
            writer = stint.writer
        if stint is not None and writer is not None and writer.lane is self:
            further = inputs
        else:
            stint = place.open_stint(served, inputs, self._asked.outputs, same=True)
            if stint is None:
                return 0
            writer = stint.writer = _Writer(self)
        writer.begin(group, stint)
        try:
            place.run(name, stint, writer.tell, further)
        finally:
            told: int = writer.end()
        if stint.lasts:  # whether it may go on is asked with the next group, or very soon
            soon = place.loop.call_soon
            soon(soon, self._look_after, stint)  # by then the sockets were looked at
        else:
            place.end_stint(name)
        return told

    def _look_after(self, stint: CountedStint) -> None:
        """Whether requests came meanwhile that go on with it."""
        name = self._target.model
        if not self._met and self._place.stints.get(name) is stint:
            self._place.end_stint(name)

    def _inputs(self, group: Sequence[tuple[Waiting, bytes]]) -> list[dict[str, Array]]:
        """The tensors of each."""
        found: list[dict[str, Array]] = []
        for _, data in group:
            own: dict[str, Array] = {}
            for tensor in self._tensors:  # a comprehension is a call more
                flat = np.frombuffer(data, tensor.dtype, tensor.count, tensor.start)
                own[tensor.name] = flat.reshape(tensor.shape)
            found.append(own)
        return found

    def aside(self, stint: CountedStint, tell: Callable[[], None]) -> None:
        """As of Place."""
        self._place.aside(self._target.model, stint, tell)

    def alike(self, answer: Answer) -> Alike:
        """What answers of one decision have in common with this one."""
        told: dict[str, Any] = decision(answer)
        told[QUEUE] = told[INFER] = told[TOGETHER] = _HOLE
        name, asked = self._target.model, self._asked
        response = InferResponse(name, VERSION, asked.id, answer.outputs, told)
        return Alike(response, asked.form, gzip=self._gzip)


class _Writer:
    """Writes the answers of a stint, several at once: each after a run of its own would find
    nothing of the code for it in the processor's caches, and wake the client's processor again."""

    __slots__ = ("_alike", "_group", "_kept", "_since_ms", "_stint", "_told", "lane")

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self._alike: Alike | None = None
        self._stint: CountedStint | None = None
        self._group: Sequence[tuple[Waiting, bytes]] = ()
        self._kept: deque[tuple[Waiting, Alike, Own, bytes]] = deque()
        self._since_ms = 0.0  # when the first of them was there
        self._told = 0

    def begin(self, group: Sequence[tuple[Waiting, bytes]], stint: CountedStint) -> None:
        """These are answered now."""
        self._group, self._stint, self._told = group, stint, 0

    def tell(self, outputs: Mapping[str, Array], queue_ms: float, infer_ms: float) -> None:
        """The answer to the next one; it is kept for KEPT_MS, if the next run takes as long."""
        alike, arrays, shapes, stint = self._alike, outputs.values(), [], self._stint
        assert stint is not None, "it was begun"
        for array in arrays:  # a comprehension is a call more
            shapes.append(array.shape)
        if alike is None or shapes != alike.shapes:
            answer = stint.as_answer(outputs, queue_ms, infer_ms)
            alike = self._alike = self.lane.alike(answer)
        # of a single one the loop has left `array`
        raw = array.tobytes() if alike.single else b"".join(map(encode_raw, arrays))
        now_ms, kept, group = queue_ms + infer_ms, self._kept, self._group
        if not kept:
            self._since_ms = now_ms
        kept.append((group[self._told][0], alike, (queue_ms, infer_ms, len(group)), raw))
        self._told += 1
        if now_ms + infer_ms - self._since_ms > KEPT_MS and not stint.joins:
            if alike.zipped or len(raw) > _QUICK:
                self.lane.aside(stint, self._flush)
            else:
                self._flush()

    def end(self) -> int:
        """How many of the group were answered; nothing of it is kept."""
        self._flush()
        self._group, self._stint = (), None
        return self._told

    def _flush(self) -> None:
        """Write what is kept."""
        while self._kept:
            waiting, alike, own, raw = self._kept.popleft()
            try:
                waiting.answer_alike(alike, own, raw)
            except Exception:  # it shall not wait for ever, and nor shall the others
                logger.exception("an answer cannot be written")
                waiting.abort()


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
        count = math.prod(given.shape)
        tensors.append(_Tensor(given.name, dtype, given.shape, start, count))
        start += given.size
    samples = {tensor.shape[0] for tensor in tensors}
    if start != size or len(samples) != 1 or 0 in samples:
        return None
    return Lane(place, target, asked, tensors, prefix, gzip=gzip)
