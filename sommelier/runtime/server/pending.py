"""The answer of a ticket, as the protocol's."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

from sommelier.runtime.answers import Answer
from sommelier.runtime.server.protocol import InferResponse, ProtocolError

Told = Callable[["Future[Answer]"], "InferResponse | ProtocolError"]


class Pending(Future["InferResponse"]):
    """A ticket's answer as the protocol's; cancelled with it.

    The ticket refers to it, so it lets go of the ticket, and of the request, once it is answered:
    tensors are to be freed then, and not when the interpreter looks for cycles.
    """

    def __init__(self, ticket: Future[Answer], told: Told) -> None:
        super().__init__()
        self._ticket: Future[Answer] | None = ticket
        self._told: Told | None = told
        ticket.add_done_callback(self._finish)

    def cancel(self) -> bool:
        """End the inference; the future then raises ProtocolError 499."""
        ticket = self._ticket
        return ticket is not None and ticket.cancel()

    def _finish(self, ticket: Future[Answer]) -> None:
        told, self._told, self._ticket = self._told, None, None
        assert told is not None, "a ticket is answered once"
        answer = told(ticket)
        if isinstance(answer, ProtocolError):
            self.set_exception(answer)
        else:
            self.set_result(answer)
