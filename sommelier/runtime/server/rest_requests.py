"""One request for inference over REST, from its bytes to those of its answer."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from threading import get_ident
from typing import TYPE_CHECKING, Any

import orjson

from sommelier.runtime.batching import LONGEST_MS, SLOWEST_MS
from sommelier.runtime.server.compression import accepts_gzip, compressed, decompressed
from sommelier.runtime.server.http_messages import HttpRequest, HttpResponse, Reply
from sommelier.runtime.server.parameters import has_wishes
from sommelier.runtime.server.protocol import INTERNAL, InferRequest, InferResponse, ProtocolError
from sommelier.runtime.server.rest_inference import (
    HEADER_LENGTH,
    OutputForm,
    Target,
    decode_request,
    encode_response,
)
from sommelier.runtime.server.sentinel import Sentinel
from sommelier.runtime.server.served import Served
from sommelier.runtime.server.service import ModelService
from sommelier.runtime.server.telling import as_protocol_error
from sommelier.runtime.server.together import grouped, responses_to

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sommelier.runtime.jobs import Told
    from sommelier.runtime.server.counted_stint import CountedStint

    Array = NDArray[Any]

logger = logging.getLogger(__name__)

HEAVY = 1 << 20  # bytes; what is larger, or compressed, is read and written in another thread
AWAY_S = 1.0
LONGEST_AWAY_S = 300.0
HELD_S, MOST_HELD = 0.001, 10
"""How long, and how often, a request to a model that runs in the event loop is kept while another
thread still answers some of before. If it joined them at once, so would the next one, and under
load they would never be rid of that thread: a few times the work, and requests meet no more."""
OFTEN, OFTEN_S = 3, 3.0
"""So many runs of a name that were noticed, though not ended, in so long a time: it leaves the
event loop. Half of its runs may be quick, or more, and the others hold up everybody."""
FORGIVEN = 10.0  # times as long in the event loop as it was away, and a name may take long again
WORTH = 1 << 10  # bytes; smaller answers are not compressed
_BINARY = b"application/octet-stream"
_AS_JSON = OutputForm({})


@dataclass(frozen=True, slots=True)
class Place:
    """Where requests are worked on. body : most bytes of one, once it is decompressed. away : names
    that took long in the event loop, until when (s, monotonic) they stay out of it, and for how
    long that was. slow : when their last runs were that took long. met : requests of this round of
    the event loop. stints : that are open, by name."""

    service: ModelService
    loop: asyncio.AbstractEventLoop
    body: int
    thread: int = field(default_factory=get_ident)  # of the event loop
    sentinel: Sentinel = field(default_factory=Sentinel)
    away: dict[str, tuple[float, float]] = field(default_factory=dict)
    slow: dict[str, deque[float]] = field(default_factory=dict)
    met: list[_Met] = field(default_factory=list)
    stints: dict[str, CountedStint] = field(default_factory=dict)
    threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(2, thread_name_prefix="rest")
    )

    def meet(self, asked: InferRequest, served: Served, inference: Inference) -> None:
        """Answer a request with those that are read in the same round of the event loop."""
        self.met.append((asked, served, inference))
        if len(self.met) == 1:
            self.loop.call_soon(self._answer_met)

    def _answer_met(self) -> None:
        met = [one for one in self.met if not one[2].cancelled]
        self.met.clear()
        while met:
            served = met[0][1]
            same = [one for one in met if one[1] is served]
            met = [one for one in met if one[1] is not served]
            for group in grouped([asked for asked, _, _ in same], served.running.together):
                self._answer_group([same[place] for place in group])

    def _answer_group(self, group: list[_Met]) -> None:
        """By one decision, or one by one."""
        served, name = group[0][1], group[0][0].model
        left = deque(group)
        if len(group) > 1 and not (self.away and self.is_away(name)):
            requests = [asked for asked, _, _ in group]
            inputs, outputs = [dict(asked.inputs) for asked in requests], requests[0].outputs
            stint = self.open_stint(served, inputs, outputs)
            if stint is not None:
                tell = responses_to(requests, lambda answer: left.popleft()[2].tell(answer))

                def each(*told: Any) -> None:
                    self.aside(name, stint, lambda: tell(stint.as_answer(*told)))

                self.run(name, stint, each)
                self.end_stint(name)
        for asked, _, inference in left:
            inference.go(asked, served)

    def open_stint(
        self, served: Served, requests: Sequence[dict[str, Array]], outputs: Sequence[str],
        *, same: bool = False,
    ) -> CountedStint | None:  # fmt: skip
        """What answers so many requests to a name in the event loop; as of ModelService. It is to
        be ended soon. None too where something goes wrong with all of them together."""
        name, open_stint = served.running.name, self.service.open_stint
        at_most_ms = min(SLOWEST_MS * len(requests), LONGEST_MS)  # as one by one
        try:
            self.end_stint(name)
            found = open_stint(served, requests, outputs, at_most_ms=at_most_ms, same=same)
        except Exception:  # nobody else would answer them
            logger.exception("requests to %s are answered one by one", name)
            return None
        if found is not None:
            self.stints[name] = found
        return found

    def run(
        self,
        name: str,
        stint: CountedStint,
        each: Told,
        requests: Sequence[dict[str, Array]] | None = None,
    ) -> None:
        """Let a stint answer requests to a name, as CountedStint does."""
        self.sentinel.begun(stint.watched())
        try:
            stint.answer(each, requests)
        except Exception:  # nobody else would answer them
            logger.exception("requests to %s are answered one by one", name)
        finally:
            self.run_ended(name)
            stint.unwatched()

    def aside(self, name: str, stint: CountedStint, tell: Callable[[], None]) -> None:
        """Tell answers between two runs of a stint: their JSON and the sockets take time that is
        not the model's."""
        self.run_ended(name)
        stint.unwatched()
        try:
            tell()
        finally:
            self.sentinel.begun(stint.watched())

    def end_stint(self, name: str) -> None:
        """That of a name, if there is one: others wait for its server."""
        stint = self.stints.pop(name, None)
        if stint is not None:
            try:
                stint.end()
            except Exception:  # others wait for their answers
                logger.exception("what was answered of %s is not counted", name)

    def run_ended(self, name: str) -> None:
        """In the event loop; the name leaves it if the run had to be cut short, or if some of its
        runs took long lately."""
        if self.sentinel.ended():
            self.send_away(name)
        elif self.sentinel.noticed:
            self.took_long(name)

    def took_long(self, name: str) -> None:
        """A run was noticed that was not cut short."""
        self.sentinel.noticed = False
        times = self.slow.setdefault(name, deque(maxlen=OFTEN))
        times.append(time.monotonic())
        if len(times) == OFTEN and times[-1] - times[0] <= OFTEN_S:
            times.clear()
            self.send_away(name)

    def is_away(self, name: str) -> bool:
        """Whether a name stays out of the event loop."""
        return name in self.away and time.monotonic() < self.away[name][0]

    def send_away(self, name: str) -> None:
        """A name took long: it leaves the event loop, longer each time, for it may have been the
        machine that was busy and not the model. What was long ago does not count."""
        self.sentinel.noticed = False
        now = time.monotonic()
        until, before_s = self.away.get(name, (now, 0.0))
        if now - until > FORGIVEN * before_s:
            before_s = 0.0
        away_s = min(max(AWAY_S, 2 * before_s), LONGEST_AWAY_S)
        self.away[name] = now + away_s, away_s
        logger.info("%s may take long: it leaves the event loop for %g s", name, away_s)

    def close(self) -> None:
        """End the threads."""
        for name in tuple(self.stints):
            self.end_stint(name)
        self.sentinel.close()
        self.threads.shutdown(wait=False, cancel_futures=True)


class Inference:
    """A request on its way. `reply` is called once, in the thread of the event loop."""

    __slots__ = (
        "_cancelled", "_form", "_future", "_held", "_place", "_reply", "_request", "_target",
    )  # fmt: skip

    def __init__(self, place: Place, request: HttpRequest, target: Target, reply: Reply) -> None:
        self._place = place
        self._request = request
        self._target = target
        self._reply = reply
        self._form = _AS_JSON
        self._held = 0
        self._future: Future[InferResponse] | None = None
        self._cancelled = False

    def start(self) -> None:
        """Read the request and have it answered; large ones in another thread."""
        told = self._request.headers.get(b"content-encoding")
        encoding = b"" if told is None else told.strip().lower()
        if encoding == b"identity":
            encoding = b""
        if encoding or len(self._request.body) > HEAVY:
            self._place.threads.submit(self._begin, encoding)
        else:
            self._begin(encoding)

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for it any more."""
        return self._cancelled

    def cancel(self) -> None:
        """The client is gone: end the inference."""
        self._cancelled = True
        future = self._future
        if future is not None:
            future.cancel()

    def _begin(self, encoding: bytes) -> None:
        try:
            served = self._place.service.expect(self._target.model, self._target.version)
            body = self._request.body
            if encoding:
                body = decompressed(body, encoding, self._place.body)
            length = self._request.headers.get(HEADER_LENGTH)
            target = self._target
            if length == b"0":
                metadata = self._place.service.metadata(target.model, target.version)
                target = replace(target, inputs=tuple(metadata["inputs"]))
            asked, self._form = decode_request(body, length, target)
        except Exception as error:
            self._send(failure_response(error))
            return
        meets = served.running.together > 1 and not self._request.alone
        if meets and get_ident() == self._place.thread:
            self._place.meet(asked, served, self)
        else:
            self.go(asked, served)

    def go(self, asked: InferRequest, served: Served) -> None:
        """Have it answered, alone."""
        try:
            answer = self._at_once(asked, served)
            if answer is not None:
                self.tell(answer)
                return
            if self._is_held(asked, served):
                return
            known = None if asked.held is None else served  # else it may have been unloaded
            self._future = future = self._place.service.submit(asked, known)
        except Exception as error:
            self._send(failure_response(error))
            return
        if self._cancelled:
            future.cancel()
        future.add_done_callback(self._done)

    def _at_once(self, asked: InferRequest, served: Served) -> InferResponse | None:
        """The answer of a model so quick that to wake another thread would take longer."""
        place = self._place
        if get_ident() != place.thread or (place.away and place.is_away(asked.model)):
            return None
        if place.stints:
            place.end_stint(asked.model)
        begun = place.sentinel.begun
        try:
            return place.service.answer_now(
                asked, at_most_ms=SLOWEST_MS, begun=begun, served=served
            )
        finally:
            place.run_ended(asked.model)

    def _is_held(self, asked: InferRequest, served: Served) -> bool:
        """Whether it is tried again soon, rather than in another thread."""
        place, running = self._place, served.running
        if self._held >= MOST_HELD or running.together <= 1 or has_wishes(asked.parameters):
            return False
        if get_ident() != place.thread or place.is_away(asked.model):
            return False
        held = running.hold(asked.held)
        if held is None:
            return False
        asked.held = held
        self._held += 1
        place.loop.call_later(HELD_S, self._go_on, asked, served)
        return True

    def _go_on(self, asked: InferRequest, served: Served) -> None:
        held = self._held
        if not self._cancelled:
            self.go(asked, served)
        if self._held == held:  # it is not held again
            served.running.let_go()

    def _done(self, future: Future[InferResponse]) -> None:
        """In whichever thread the answer was made: leave it soon."""
        self._future = None  # which refers to this: the body is to be freed with the answer
        error = future.exception()
        if error is not None:
            self._send(failure_response(error))
        elif sum(array.nbytes for array in future.result().outputs.values()) > HEAVY:
            self._place.threads.submit(self.tell, future.result())
        else:
            self._place.loop.call_soon_threadsafe(self.tell, future.result())

    def tell(self, answer: InferResponse) -> None:
        """Write its answer; in any thread."""
        try:
            response = self._response(answer)
        except Exception as error:
            response = failure_response(error)
        self._send(response)

    def _response(self, answer: InferResponse) -> HttpResponse:
        body, header_length = encode_response(answer, self._form)
        if header_length is None:
            response = HttpResponse(200, body)
        else:
            response = binary_response(body, header_length)
        if len(body) >= WORTH and accepts_gzip(self._request.headers):
            return zipped(response)
        return response

    def _send(self, response: HttpResponse) -> None:
        if get_ident() == self._place.thread:
            self._reply(response)
        else:
            self._place.loop.call_soon_threadsafe(self._reply, response)


def binary_response(body: bytes, header_length: int) -> HttpResponse:
    """JSON of so many bytes and raw tensors behind it."""
    return HttpResponse(200, body, _BINARY, ((HEADER_LENGTH, b"%d" % header_length),))


def zipped(response: HttpResponse) -> HttpResponse:
    """The response with its body as gzip."""
    response.body = compressed(response.body)
    response.headers = (*response.headers, (b"content-encoding", b"gzip"))
    return response


_Met = tuple[InferRequest, Served, Inference]
"""A request that was read, of what it asks, and who writes its answer."""


def json_response(value: Any, *, status: int = 200) -> HttpResponse:
    """A value as JSON."""
    return HttpResponse(status, orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY))


def error_response(status: int, message: str) -> HttpResponse:
    """An error as the protocol has it."""
    return json_response({"error": message}, status=status)


def failure_response(error: BaseException) -> HttpResponse:
    """An exception as the protocol has it; what we did not foresee is logged."""
    known = as_protocol_error(error)
    if known.status == INTERNAL and not isinstance(error, ProtocolError):
        logger.error("a request failed", exc_info=error)
    response = error_response(known.status, known.message)
    if known.retry_after_ms is not None:
        seconds = max(1, math.ceil(known.retry_after_ms / 1e3))
        response.headers = ((b"retry-after", b"%d" % seconds),)
    return response
