"""What clients are told: errors, decisions and tensors in the words of the protocol."""

from __future__ import annotations

from concurrent.futures import CancelledError as TicketCancelledError
from typing import Any

from sommelier.errors import (
    AnalysisError,
    CancelledError,
    InputError,
    MemoryBudgetError,
    RejectedError,
    UnknownNameError,
)
from sommelier.records import TensorSpec
from sommelier.runtime.answers import Answer
from sommelier.runtime.server.protocol import (
    BAD_REQUEST,
    CANCELLED,
    INTERNAL,
    NOT_FOUND,
    UNAVAILABLE,
    Parameter,
    ProtocolError,
)
from sommelier.runtime.server.tensors import datatype_of

QUEUE, INFER, TOGETHER = "sommelier_queue_ms", "sommelier_infer_ms", "sommelier_together"


def as_protocol_error(error: BaseException) -> ProtocolError:
    """What a client is told of any error: nothing of the inside if it is our fault."""
    match error:
        case ProtocolError():
            return error
        case RejectedError():
            return ProtocolError(error.status, error.message, retry_after_ms=error.retry_after_ms)
        case InputError():
            hint = f"; {error.hint}" if error.hint else ""
            return ProtocolError(BAD_REQUEST, f"{error.message}{hint}")
        case TicketCancelledError() | CancelledError():
            return ProtocolError(CANCELLED, "the request was cancelled")
        case UnknownNameError():
            return ProtocolError(NOT_FOUND, error.message)
        case MemoryBudgetError():
            return ProtocolError(UNAVAILABLE, error.message)
        case AnalysisError():
            return ProtocolError(INTERNAL, error.message)
    return ProtocolError(INTERNAL, "internal error; the server's log says more")


def decision(answer: Answer) -> dict[str, Parameter]:
    """Who answered and why, as parameters of the response."""
    told: dict[str, Parameter] = {
        "sommelier_model": answer.model,
        "sommelier_reason": answer.reason,
        QUEUE: round(answer.queue_ms, 4),
        INFER: round(answer.infer_ms, 4),
    }
    if answer.stage is not None:
        told["sommelier_stage"] = answer.stage
    if answer.models:  # lists are no parameters of the protocol
        told["sommelier_models"] = ", ".join(answer.models)
        told["sommelier_stages"] = ", ".join(map(str, answer.stages))
        told["sommelier_scores"] = ", ".join(f"{score:.4g}" for score in answer.scores)
    if answer.predicted:
        told["sommelier_predicted"] = ", ".join(answer.predicted)
    return told


def tensor_metadata(spec: TensorSpec) -> dict[str, Any]:
    """An input or output as metadata tell of it; open dimensions are -1."""
    shape = [size if isinstance(size, int) else -1 for size in spec.shape or (-1,)]
    if spec.shape == ():
        shape = []
    return {"name": spec.name, "datatype": datatype_of(spec.dtype), "shape": shape}
