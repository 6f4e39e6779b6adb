"""The Open Inference Protocol v2 over gRPC: a thin layer on ModelService.

A call has a thread, because grpcio is quicker so than with asyncio (runtime.md 5: 8 200 against
6 000 requests/s) and a thread that waits costs nothing. It waits for its answer only: every request
is in the scheduler's queue from the beginning, where its deadline and priority count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from sommelier.errors import MissingDependencyError, StorageError
from sommelier.runtime.server.body_room import BodyRoom
from sommelier.runtime.server.grpc_received import Received, reader
from sommelier.runtime.server.grpc_status import failure
from sommelier.runtime.server.grpc_stream import answers
from sommelier.runtime.server.grpc_tensors import (
    infer_request,
    infer_response,
    is_typed,
    parameters,
)
from sommelier.runtime.server.keys import NO_KEY, has_key
from sommelier.runtime.server.messages import HEALTH, INFERENCE, Method, methods
from sommelier.runtime.server.protocol import (
    NOT_FOUND,
    InferRequest,
    InferResponse,
    ProtocolError,
)

if TYPE_CHECKING:
    import grpc

    from sommelier.runtime.answers import Cancellable
    from sommelier.runtime.server.service import ModelService

OPEN = frozenset({"ServerLive", "ServerReady", "Check"})  # asked by orchestrators, without a key
ENDLESS_S = 1e8  # three years; grpcio tells of far more where a call has no deadline
QUICK_MS = 1.0  # models that run in the call's own thread: handing over takes 0.03 ms
BODIES = 8  # of the largest size that may be there at the same time, unless it is told otherwise
PUSHBACK = "grpc-retry-pushback-ms"  # gRPC's own Retry-After: retrying clients obey it


@dataclass(frozen=True, slots=True)
class GrpcSettings:
    """How the gRPC server listens.

    api_keys : one of them must come as metadata `authorization: Bearer KEY` or `x-api-key: KEY`;
    none: anybody may ask. tls : (certificate chain, private key) in PEM. max_message_bytes : of a
    request. workers : calls at the same time; what is more is answered RESOURCE_EXHAUSTED.
    """

    api_keys: frozenset[str] = frozenset()
    tls: tuple[bytes, bytes] | None = None
    max_message_bytes: int = 64 * 2**20
    workers: int = 1024


def start_grpc(
    service: ModelService,
    host: str,
    port: int,
    *,
    settings: GrpcSettings | None = None,
    room: BodyRoom | None = None,
) -> GrpcServer:
    """A server that listens. port : 0 for any free one. room : that messages may take together,
    those of other servers that are given it too; None: as much as 8 of the largest.

    Raises MissingDependencyError without grpcio, StorageError if the port is taken.
    """
    settings = settings or GrpcSettings()
    room = room or BodyRoom(BODIES * settings.max_message_bytes)
    return GrpcServer(service, host, port, settings=settings, room=room)


class GrpcServer:
    """Listens until `stop`. `port` is the one it got."""

    def __init__(
        self,
        service: ModelService,
        host: str,
        port: int,
        *,
        settings: GrpcSettings,
        room: BodyRoom,
    ) -> None:
        grpc = _grpc()
        self._server = grpc.server(
            ThreadPoolExecutor(settings.workers, thread_name_prefix="grpc"),
            maximum_concurrent_rpcs=settings.workers,
            options=[
                ("grpc.max_receive_message_length", settings.max_message_bytes),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),  # a port that is taken is an error
            ],
        )
        calls = _Calls(service, settings.api_keys, room)
        self._server.add_generic_rpc_handlers(
            tuple(_handlers(grpc, calls, name) for name in (INFERENCE, HEALTH))
        )
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            self.port: int = (
                self._server.add_insecure_port(address)
                if settings.tls is None
                else self._server.add_secure_port(address, _credentials(grpc, settings.tls))
            )
        except RuntimeError as error:
            raise StorageError(
                f"gRPC cannot listen on {address}", hint="choose another port"
            ) from error
        self._server.start()

    def stop(self, grace_s: float | None = None) -> None:
        """Take no new calls, and wait for those begun; after `grace_s` they are cancelled."""
        self._server.stop(grace_s).wait()


class _Calls:
    """What each remote procedure does. Raises ProtocolError.

    plain : those that answer without the scheduler; their answers are values as in REST's JSON.
    """

    def __init__(self, service: ModelService, api_keys: frozenset[str], room: BodyRoom) -> None:
        self._service = service
        self.room = room
        self._keys = tuple(key.encode() for key in api_keys)
        self.plain: Mapping[str, Callable[[Any], Mapping[str, Any]]] = {
            "ServerLive": lambda _: {"live": service.live()},
            "ServerReady": lambda _: {"ready": service.ready()},
            "ModelReady": lambda asked: {"ready": service.ready(asked.name, asked.version)},
            "ServerMetadata": lambda _: service.server_metadata(),
            "ModelMetadata": lambda asked: service.metadata(asked.name, asked.version),
            "ModelStatistics": lambda asked: service.statistics(asked.name or None, asked.version),
            "RepositoryIndex": lambda asked: {"models": service.index(asked.ready)},
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
            "Check": self._check,
        }

    def admit(self, name: str, context: grpc.ServicerContext) -> None:
        """Raises ProtocolError (401) for a call without a valid key."""
        if not self._keys or name in OPEN:
            return
        given = dict(context.invocation_metadata())
        bearer, named = (_bytes(given.get(name, b"")) for name in ("authorization", "x-api-key"))
        if not has_key(self._keys, bearer, named):
            raise ProtocolError(401, NO_KEY)

    def infer(self, asked: Any, context: grpc.ServicerContext) -> Any:
        """ModelInfer: once the caller is gone, or its deadline over, the inference ends."""
        request = _request(asked, context)
        answer = self._service.answer_now(
            request, at_most_ms=QUICK_MS, begun=lambda ticket: _end_with(context, ticket)
        )
        if answer is None:
            waited = self._service.submit(request)
            _end_with(context, waited)
            try:
                answer = waited.result()
            finally:
                del waited  # it has the error, and the error's traceback has the tensors here
        return infer_response(answer, typed=is_typed(asked))

    def stream(self, asked: Iterator[Received], context: grpc.ServicerContext) -> Iterator[Any]:
        """ModelStreamInfer."""
        return answers(asked, context, self._submit)

    def _submit(self, asked: Any, context: grpc.ServicerContext) -> Future[InferResponse]:
        return self._service.submit(_request(asked, context))

    def _load(self, asked: Any) -> Mapping[str, Any]:
        self._service.load(asked.model_name, parameters(asked.parameters))
        return {}

    def _unload(self, asked: Any) -> Mapping[str, Any]:
        self._service.unload(asked.model_name, parameters(asked.parameters))
        return {}

    def _check(self, asked: Any) -> Mapping[str, Any]:
        try:
            ready = self._service.ready(asked.service or None)
        except ProtocolError as error:
            raise ProtocolError(NOT_FOUND, error.message) from None
        return {"status": "SERVING" if ready else "NOT_SERVING"}


def _bytes(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode()


def _request(asked: Any, context: grpc.ServicerContext) -> InferRequest:
    left_s = context.time_remaining()
    return infer_request(asked, None if left_s is None or left_s > ENDLESS_S else left_s)


def _end_with(context: grpc.ServicerContext, request: Cancellable) -> None:
    """Give a request up when its call is over, also if it is already."""
    if not context.add_callback(request.cancel):
        request.cancel()


def _handlers(grpc: Any, calls: _Calls, service: str) -> Any:
    """What grpcio serves: all methods of one service."""
    handlers = {
        name: (_stream_handler if method.stream else _handler)(grpc, calls, name, method)
        for name, method in methods(service).items()
    }
    return grpc.method_handlers_generic_handler(service, handlers)


def _handler(grpc: Any, calls: _Calls, name: str, method: Method) -> Any:
    plain = calls.plain.get(name)

    def call(received: Received, context: grpc.ServicerContext) -> Any:
        try:
            calls.admit(name, context)
            received.check()
            asked = received.message
            if plain is None:
                return calls.infer(asked, context)
            return _message(plain(asked), method.response)
        except Exception as error:
            _abort(grpc, context, error)
        finally:
            received.let_go()

    return grpc.unary_unary_rpc_method_handler(
        call, reader(calls.room, method.request.FromString), method.response.SerializeToString
    )


def _stream_handler(grpc: Any, calls: _Calls, name: str, method: Method) -> Any:
    def call(asked: Iterator[Received], context: grpc.ServicerContext) -> Iterator[Any]:
        try:
            calls.admit(name, context)
            yield from calls.stream(asked, context)
        except Exception as error:
            _abort(grpc, context, error)

    return grpc.stream_stream_rpc_method_handler(
        call,
        reader(calls.room, method.request.FromString),
        method.response.SerializeToString,
    )


def _abort(grpc: Any, context: grpc.ServicerContext, error: Exception) -> NoReturn:
    """End a call with the code of an error. Raises grpcio's own exception."""
    after_ms = getattr(error, "retry_after_ms", None)
    if after_ms is not None:
        context.set_trailing_metadata(((PUSHBACK, str(max(0, round(after_ms)))),))
    code, told = failure(error)
    context.abort(getattr(grpc.StatusCode, code), told)
    raise AssertionError("abort has raised")


def _message(values: Mapping[str, Any], kind: type[Any]) -> Any:
    from google.protobuf.json_format import ParseDict

    return ParseDict(values, kind(), ignore_unknown_fields=True)


def _credentials(grpc: Any, tls: tuple[bytes, bytes]) -> Any:
    certificate, key = tls
    return grpc.ssl_server_credentials([(key, certificate)])


def _grpc() -> Any:
    try:
        import google.protobuf
        import grpc
    except ImportError as error:
        raise MissingDependencyError(
            "grpcio is not installed, gRPC cannot be served",
            hint='pip install "sommelier-db[serve]"',
        ) from error
    assert google.protobuf, "messages need it"
    return grpc
