"""One ModelStreamInfer call: many requests, each answered as soon as its answer is there."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

from sommelier.runtime.server.grpc_received import Received
from sommelier.runtime.server.grpc_status import failure
from sommelier.runtime.server.grpc_tensors import infer_response, is_typed
from sommelier.runtime.server.messages import message
from sommelier.runtime.server.protocol import InferResponse

if TYPE_CHECKING:
    import grpc

IN_FLIGHT = 64  # requests of one stream that wait for their answers; more are not read yet

_Found = Future[InferResponse] | str  # the answer to come, or what is wrong with the request
Submit = Callable[[Any, "grpc.ServicerContext"], Future[InferResponse]]


def answers(
    asked: Iterator[Received], context: grpc.ServicerContext, submit: Submit
) -> Iterator[Any]:
    """ModelStreamInferResponses in the order they are ready, until all requests have theirs.

    What goes wrong with one request is told in its `error_message`; the stream goes on.
    """
    stream = _Stream(context, submit)
    if not context.add_callback(stream.cancel):
        return
    reader = threading.Thread(target=stream.read, args=(asked,), name="grpc-stream", daemon=True)
    reader.start()
    yield from stream.answers()


@dataclass(frozen=True, slots=True, eq=False)
class _Asked:
    """What is kept of a request until it is answered; its tensors are not."""

    id: str
    model: str
    typed: bool


class _Stream:
    """A thread reads requests, another one writes answers; a queue lies between."""

    def __init__(self, context: grpc.ServicerContext, submit: Submit) -> None:
        self._context, self._submit = context, submit
        self._ready: SimpleQueue[tuple[_Asked, _Found] | None] = SimpleQueue()
        self._places = threading.Semaphore(IN_FLIGHT)
        self._lock = threading.Lock()
        self._open: set[Future[InferResponse]] = set()
        self._read_all = self._cancelled = False

    def read(self, asked: Iterator[Received]) -> None:
        """Submit requests until the client has no more, or the call has ended."""
        try:
            for received in asked:
                self._places.acquire()
                self._begin(received)
                del received  # the next one may be long in coming
        except Exception as error:  # how grpcio tells that the call was cancelled
            if self._context.is_active():
                failure(error)
        finally:
            self._read_all = True
            self._ready.put(None)

    def answers(self) -> Iterator[Any]:
        while not self._cancelled:
            item = self._ready.get()
            if item is not None:
                asked, found = item
                if isinstance(found, Future):
                    with self._lock:
                        self._open.discard(found)
                self._places.release()
                yield _answer(asked, found)
            if self._read_all and not self._open and self._ready.empty():
                return

    def cancel(self) -> None:
        """End what is running; called whenever the call is over."""
        self._cancelled = True
        with self._lock:
            running = tuple(self._open)
        for future in running:
            future.cancel()
        self._places.release()
        self._ready.put(None)

    def _begin(self, received: Received) -> None:
        given, received.message = received.message, None  # freed before the answer is there
        asked = _Asked(given.id, given.model_name, is_typed(given))
        try:
            received.check()
            future = self._submit(given, self._context)
        except Exception as error:  # not kept: its traceback would keep the tensors
            received.let_go()
            self._ready.put((asked, failure(error)[1]))
            return
        future.add_done_callback(lambda _: received.let_go())
        with self._lock:
            self._open.add(future)
        future.add_done_callback(lambda done: self._ready.put((asked, done)))
        if self._cancelled:
            future.cancel()


def _answer(asked: _Asked, found: _Found) -> Any:
    sent = message("ModelStreamInferResponse")
    if isinstance(found, Future):
        error = found.exception()
        try:
            if error is None:
                return sent(infer_response=infer_response(found.result(), typed=asked.typed))
            found = failure(error)[1]
        except Exception as unforeseen:
            found = failure(unforeseen)[1]
    told = {"id": asked.id, "model_name": asked.model}
    return sent(error_message=found, infer_response=told)
