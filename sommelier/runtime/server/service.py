"""The Open Inference Protocol v2 without a transport: what REST and gRPC both ask.

A name of the protocol is a deployment; a model served alone is a deployment of one.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError as TicketCancelledError
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from sommelier.errors import SommelierError
from sommelier.runtime.deployment import RunningDeployment
from sommelier.runtime.server.counted_stint import CountedStint
from sommelier.runtime.server.metrics import Metrics
from sommelier.runtime.server.parameters import wishes
from sommelier.runtime.server.pending import Pending
from sommelier.runtime.server.protocol import (
    BAD_REQUEST,
    CANCELLED,
    INTERNAL,
    UNAVAILABLE,
    VERSION,
    InferRequest,
    InferResponse,
    ProtocolError,
)
from sommelier.runtime.server.served import LeftOut, Served, not_found
from sommelier.runtime.server.statistics import RefusalLog
from sommelier.runtime.server.telling import as_protocol_error, decision, tensor_metadata

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from sommelier.runtime.answers import Answer, Cancellable
    from sommelier.runtime.pool import ModelPool
    from sommelier.runtime.server.statistics import Tally

    Array = NDArray[Any]

logger = logging.getLogger(__name__)

PLATFORM = "onnxruntime_onnx"
EXTENSIONS = ("binary_tensor_data", "model_repository", "statistics", "parameters")
LOAD_S = 300.0  # a load that a client asked for; the first one prepares the model
UNLOAD_S = 30.0


class ModelService:
    """Answers the protocol's questions, as dicts in the form of its JSON. Safe for threads. It does
    not close its deployments."""

    def __init__(
        self,
        pool: ModelPool,
        deployments: Iterable[RunningDeployment],
        *,
        metrics: Metrics | None = None,
    ) -> None:
        """pool : of the deployments' models."""
        self.pool = pool
        self.metrics = metrics or Metrics()
        self.draining = False
        self.draining_from_s: float | None = None  # time.monotonic()
        self._refusing = False
        self._begun = False  # every deployment was ready, or could not be
        self._log = RefusalLog()
        self._served: dict[str, Served] = {}  # replaced, never changed: others are reading it
        self._left_out: dict[str, LeftOut] = {}  # the same
        for deployment in deployments:
            self.add(deployment)
        self._loading = threading.Lock()  # loads and unloads, one at a time

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._served)

    @property
    def deployments(self) -> tuple[RunningDeployment, ...]:
        """Everything that is served."""
        return tuple(served.running for served in self._served.values())

    def add(self, running: RunningDeployment) -> None:
        """Serve a deployment from now on. One thread at a time adds and removes."""
        name = running.name
        self._served = {**self._served, name: Served(running, self.metrics.tally(name))}
        self._left_out = _without(self._left_out, name)

    def remove(self, name: str) -> None:
        """Serve a name no more: 404 to requests from now on. What was accepted is answered, for
        whoever closes the deployment drains it."""
        self._served = _without(self._served, name)
        self._left_out = _without(self._left_out, name)

    def leave_out(self, name: str, reason: str) -> None:
        """Answer 503 to requests for a name that is not served, until it is added or removed."""
        self._left_out = {**self._left_out, name: LeftOut(name, reason)}

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """What should be served and cannot."""
        return tuple(self._left_out.values())

    # ---- about the server

    def server_metadata(self) -> dict[str, Any]:
        from sommelier import __version__

        return {"name": "sommelier", "version": __version__, "extensions": list(EXTENSIONS)}

    def live(self) -> bool:
        return True  # also while it drains

    def ready(self, name: str | None = None, version: str = "") -> bool:
        """Whether requests are welcome: to one name, or to the server.

        The server is ready when each deployment is or cannot be, and one is; from then on when one
        is, for those that are added later are no reason to send clients elsewhere. While it drains
        nothing is, whatever is still answered: probes ask by name as well. Raises ProtocolError for
        a name that is not served.
        """
        if name is not None:
            if name in self._left_out:
                return False
            return not self.draining and self._find(name, version).ready
        served = self._served.values()
        self._begun = self._begun or all(s.ready or s.hopeless for s in served)
        some = any(s.ready for s in served) or not served
        return not self.draining and some and self._begun

    def metadata(self, name: str, version: str = "") -> dict[str, Any]:
        """`name`, `versions`, `platform`, `inputs`, `outputs`. Raises ProtocolError: 404 unknown,
        400 as long as no model of it was loaded."""
        if (out := self._left_out.get(name)) is not None:
            raise out.not_ready
        served = self._find(name, version)
        running = served.running
        if not running.inputs:
            raise served.not_ready
        return {
            "name": name,
            "versions": [VERSION],
            "platform": PLATFORM,
            "inputs": [tensor_metadata(spec) for spec in running.inputs],
            "outputs": [tensor_metadata(spec) for spec in running.outputs],
        }

    def expect(self, name: str, version: str = "") -> Served:
        """Who answers requests for this name; before they are read. Raises ProtocolError where none
        are taken."""
        return self.open_to(name, version) or self._expect(name, version)

    def open_to(self, name: str, version: str = "") -> Served | None:
        """Who answers requests for this name; None, and nothing is counted, where `expect` would
        say why none are taken."""
        served = self._served.get(name)
        if served is None or self._refusing or served.unloaded or version not in ("", VERSION):
            return None
        return served

    def _expect(self, name: str, version: str) -> Served:
        """The same of a name that may not be served."""
        if (out := self._left_out.get(name)) is not None:
            tally = self.metrics.tally(name)
            raise self._refused(name, tally, time.perf_counter_ns(), out.refusal)
        served = self._find(name, version)
        if self._refusing or served.unloaded:
            refused = (
                ProtocolError(UNAVAILABLE, "the server is shutting down")
                if self._refusing
                else served.not_ready
            )
            raise self._failed(served, time.perf_counter_ns(), refused)
        return served

    def statistics(self, name: str | None = None, version: str = "") -> dict[str, Any]:
        """`model_stats` of one name or of all."""
        served = [self._find(name, version)] if name else list(self._served.values())
        return {"model_stats": [s.tally.to_json(s.running.name, VERSION) for s in served]}

    def metrics_text(self) -> str:
        """What Prometheus reads."""
        return self.metrics.text([d.state() for d in self.deployments], self.pool)

    # ---- the repository

    def index(self, ready: bool = False) -> list[dict[str, Any]]:
        """`name`, `version`, `state`, `reason` of what is served; only what is ready if asked."""
        entries = []
        for name, served in self._served.items():
            state, reason = served.state
            if not ready or state == "READY":
                entries.append({"name": name, "version": VERSION, "state": state, "reason": reason})
        for out in () if ready else self.left_out:
            told = {"state": "UNAVAILABLE", "reason": out.reason}
            entries.append({"name": out.name, "version": VERSION, **told})
        return entries

    def load(self, name: str, parameters: Mapping[str, Any] | None = None) -> None:
        """Load every model of a deployment, and wait. Raises ProtocolError: 400 if it does not
        load or other parameters than none are given."""
        served = self._find(name)
        if parameters:
            known = ", ".join(parameters)
            raise ProtocolError(
                BAD_REQUEST, f"{known}: what is served comes from the database, not from requests"
            )
        with self._loading:
            try:
                for model in served.running.models:
                    self.pool.load(model, timeout_s=LOAD_S)
            except (SommelierError, TimeoutError) as error:
                raise ProtocolError(BAD_REQUEST, f"failed to load '{name}': {error}") from error
            served.running.restore()
            served.unloaded = False

    def unload(self, name: str, parameters: Mapping[str, Any] | None = None) -> None:
        """Take a name out of service and give its memory back, but for models others need. What was
        accepted is answered first; where that takes too long the name goes on as it was.

        parameters : only `unload_dependents`, of which there are none. Raises ProtocolError.
        """
        if unknown := set(parameters or ()) - {"unload_dependents"}:
            raise ProtocolError(BAD_REQUEST, f"unknown parameters: {', '.join(sorted(unknown))}")
        served = self._find(name)
        with self._loading:
            before, served.unloaded = served.unloaded, True
            try:
                others = [s.running for s in self._served.values() if not s.unloaded]
                served.give_back(others, UNLOAD_S)
            except (SommelierError, TimeoutError) as error:
                served.unloaded = before
                if not before:
                    served.running.restore()
                raise ProtocolError(BAD_REQUEST, f"failed to unload '{name}': {error}") from error

    # ---- inference

    def submit(self, request: InferRequest, served: Served | None = None) -> Future[InferResponse]:
        """The answer to come. Cancelling the future ends an inference that runs.

        served : as `expect` has said. Raises ProtocolError, at once or by the future.
        """
        started = request.since_ns
        served = served or self.expect(request.model, request.version)
        try:
            wish = wishes(request.parameters)
            outputs, held = request.outputs or None, request.held
            ticket = served.running.submit(request.inputs, outputs=outputs, held=held, **wish)
        except Exception as error:
            raise self._failed(served, started, error) from error
        submitted = time.perf_counter_ns()
        return Pending(ticket, partial(self._answer, served, request, started, submitted))

    def infer(self, request: InferRequest) -> InferResponse:
        """The answer, in the caller's thread where nothing waits. Raises ProtocolError."""
        started = time.perf_counter_ns()
        served = self.expect(request.model, request.version)
        try:
            wish = wishes(request.parameters)
            answer = served.running.infer(request.inputs, outputs=request.outputs or None, **wish)
        except Exception as error:
            raise self._failed(served, started, error) from error
        return self._succeeded(served, request, answer, started, started)

    def answer_now(
        self,
        request: InferRequest,
        *,
        at_most_ms: float,
        begun: Callable[[Cancellable], None],
        served: Served | None = None,
    ) -> InferResponse | None:
        """The answer if it can be had in this thread at once, in at most so long on average; None,
        and nothing has happened, if not.

        begun : gets what ends the run when it takes longer after all; then the answer is None too.
        served : as `expect` has just said. Raises ProtocolError.
        """
        started = request.since_ns
        if served is None:
            served = self.expect(request.model, request.version)
        try:
            wish = wishes(request.parameters)
            answer = served.running.try_infer(
                request.inputs, at_most_ms=at_most_ms, outputs=request.outputs or None,
                begun=begun, held=request.held, **wish,
            )  # fmt: skip
        except TicketCancelledError:
            return None
        except Exception as error:
            raise self._failed(served, started, error) from error
        if answer is None:
            return None
        return self._succeeded(served, request, answer, started, started)

    def open_stint(
        self,
        served: Served,
        requests: Sequence[dict[str, Array]],
        outputs: Sequence[str],
        *,
        at_most_ms: float,
        same: bool = False,
    ) -> CountedStint | None:
        """What is to answer requests of several clients now, by one decision; None as of
        `answer_now`, and where each is to be asked alone.

        requests : tensors by name, of each. outputs : those wanted; empty: all. The rest as of
        `RunningDeployment.open_stint`.
        """
        open_stint = served.running.open_stint
        with suppress(TicketCancelledError, SommelierError):
            stint = open_stint(requests, at_most_ms=at_most_ms, outputs=outputs or None, same=same)
            return None if stint is None else CountedStint(served, stint)
        return None

    # ---- the end

    def begin_drain(self) -> None:
        """Not ready from now on, but everything is still answered."""
        self.draining, self.draining_from_s = True, time.monotonic()

    def refuse(self) -> None:
        """Answer 503 to what comes from now on."""
        self.draining = self._refusing = True

    def drained(self, timeout_s: float) -> int:
        """Wait for what was taken; how many requests are left."""
        until = time.monotonic() + timeout_s
        return sum(
            s.running.drain(max(0.0, until - time.monotonic())) for s in self._served.values()
        )

    # ---- inside

    def _find(self, name: str, version: str = "") -> Served:
        served = self._served.get(name)
        if served is None or version not in ("", VERSION):
            if (out := self._left_out.get(name)) is not None:
                raise out.refusal
            raise not_found(name, version, self._served)
        return served

    def _answer(
        self,
        served: Served,
        request: InferRequest,
        started: int,
        submitted: int,
        ticket: Future[Answer],
    ) -> InferResponse | ProtocolError:
        """Of a ticket that is done. Errors are values here: a traceback would keep the inputs."""
        error = TicketCancelledError() if ticket.cancelled() else ticket.exception()
        if error is not None:
            return self._failed(served, started, error)
        return self._succeeded(served, request, ticket.result(), started, submitted)

    def _succeeded(
        self, served: Served, request: InferRequest, answer: Answer, started: int, submitted: int
    ) -> InferResponse:
        made = time.perf_counter_ns()
        told = decision(answer)
        response = InferResponse(request.model, VERSION, request.id, answer.outputs, told)
        served.count(answer, (started, submitted, made))
        return response

    def _failed(self, served: Served, started: int, error: BaseException) -> ProtocolError:
        """What the client is told of an error, which is counted."""
        return self._refused(served.running.name, served.tally, started, error)

    def _refused(
        self, name: str, tally: Tally, started: int, error: BaseException
    ) -> ProtocolError:
        failure = as_protocol_error(error)
        tally.failed(failure.status, time.perf_counter_ns() - started)
        if failure.status == INTERNAL:
            logger.error("%s failed", name, exc_info=error)
        elif failure.status not in (BAD_REQUEST, CANCELLED):
            self._log.refused(name, failure.status, failure.message)
        return failure


def _without(names: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {other: value for other, value in names.items() if other != name}
