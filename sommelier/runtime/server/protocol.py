"""Values of the Open Inference Protocol v2 as every transport sees them, and its errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from sommelier.errors import SommelierError

if TYPE_CHECKING:
    from sommelier.runtime.jobs import Held

Parameter = bool | int | float | str

VERSION = "1"  # a deployment is what it is now; versions of models are the catalog's
BAD_REQUEST, NOT_FOUND = 400, 404
OVERLOADED, CANCELLED, INTERNAL, UNAVAILABLE, TOO_LATE = 429, 499, 500, 503, 504


class ProtocolError(SommelierError):
    """A request that is not answered; each transport tells its status in its own way.

    status : of HTTP: 400 malformed or the model is not ready, 404 unknown, 429 too much to do (try
    again after `retry_after_ms`), 499 cancelled, 500 our fault, 503 draining or nothing can
    answer, 504 deadline.
    """

    code = "protocol"
    title = "Protocol Error"

    def __init__(self, status: int, message: str, *, retry_after_ms: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after_ms = retry_after_ms

    def __reduce__(self) -> tuple[Any, ...]:
        """As a value for other processes: handles of Ray Serve."""
        make = partial(ProtocolError, retry_after_ms=self.retry_after_ms)
        return make, (self.status, self.message)


@dataclass(slots=True)
class InferRequest:
    """A request for inference. inputs : tensors by name. outputs : names of those wanted; empty:
    all. parameters : of the request (`priority`, `timeout`, `sommelier_...`). meets : as
    `together.meeting` says, where that is known already. held : once it was."""

    model: str
    inputs: Mapping[str, NDArray[Any]]
    outputs: tuple[str, ...] = ()
    version: str = ""
    id: str = ""
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    meets: tuple[object, int] | None = None
    held: Held | None = None

    @property
    def since_ns(self) -> int:
        """When it came to the deployment: now, or when it was held first (perf_counter_ns)."""
        return perf_counter_ns() if self.held is None else self.held.since_ns


@dataclass(slots=True)
class InferResponse:
    """Its answer. outputs : in the order they were asked for. parameters : who answered and why."""

    model: str
    version: str
    id: str
    outputs: Mapping[str, NDArray[Any]]
    parameters: Mapping[str, Parameter]
