"""Requests and answers of the gRPC protocol as values, and back.

A request sends all its tensors raw or all as typed contents, and is answered in the same way; raw
where a type has no typed field (FP16).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sommelier.runtime.server.messages import message
from sommelier.runtime.server.parameters import DEADLINE, wishes
from sommelier.runtime.server.protocol import (
    BAD_REQUEST,
    InferRequest,
    InferResponse,
    Parameter,
    ProtocolError,
)
from sommelier.runtime.server.tensors import (
    DATATYPES,
    checked_shape,
    datatype_of,
    decode_raw,
    encode_raw,
    numpy_type,
)

CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""The field of InferTensorContents for each datatype that has one."""

SENT_AS = {"INT8": "INT32", "INT16": "INT32", "UINT8": "UINT32", "UINT16": "UINT32"}
"""Types that the protocol has no field for are sent as wider numbers."""

Array = NDArray[Any]


def infer_request(received: Any, left_s: float | None) -> InferRequest:
    """What a ModelInferRequest asks. left_s : until the call's own deadline; None: it has none.

    The sooner of that deadline and the one in the parameters counts. Raises ProtocolError for
    tensors that are not what their shape and datatype say.
    """
    asked = parameters(received.parameters)
    if left_s is not None:
        _shorten(asked, left_s)
    return InferRequest(
        model=received.model_name,
        version=received.model_version,
        id=received.id,
        inputs=_inputs(received),
        outputs=tuple(output.name for output in received.outputs),
        parameters=asked,
    )


def infer_response(answer: InferResponse, *, typed: bool) -> Any:
    """The ModelInferResponse of an answer. typed : as typed contents, not raw."""
    sent = message("ModelInferResponse")(
        model_name=answer.model, model_version=answer.version, id=answer.id
    )
    for name, value in answer.parameters.items():
        _set(sent.parameters[name], value)
    datatypes = [datatype_of(array.dtype) for array in answer.outputs.values()]
    typed = typed and all(datatype in CONTENTS for datatype in datatypes)
    for datatype, (name, array) in zip(datatypes, answer.outputs.items(), strict=True):
        output = sent.outputs.add(name=name, datatype=datatype, shape=array.shape)
        if typed:
            getattr(output.contents, CONTENTS[datatype]).extend(_elements(array, datatype))
        else:
            sent.raw_output_contents.append(encode_raw(array, datatype))
    return sent


def is_typed(received: Any) -> bool:
    """Whether a request sends its tensors as typed contents."""
    return bool(received.inputs) and not received.raw_input_contents


def parameters(received: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a request or a tensor; those without a value are left out."""
    found: dict[str, Parameter | bytes] = {}
    for name, parameter in received.items():
        choice = parameter.WhichOneof("parameter_choice")
        if choice is not None:
            found[name] = getattr(parameter, choice)
    return found


def _shorten(asked: dict[str, Any], left_s: float) -> None:
    """Let the parameters' deadline be no later than the call's. What is no deadline stays as it is:
    the service refuses it, and counts that."""
    left_us = max(round(left_s * 1e6), 1)  # 0 would mean: no timeout
    name, left = (DEADLINE, left_us / 1e3) if DEADLINE in asked else ("timeout", left_us)
    told = asked.get(name, left)
    if type(told) in (int, float) and 0 < told < math.inf:  # mostly; nothing else is to be checked
        asked[name] = min(told, left)
        return
    try:
        told_ms = wishes({name: told})["deadline_ms"]
    except ProtocolError:
        return
    if told_ms is None or told_ms * 1e3 > left_us:
        asked[name] = left


def _inputs(received: Any) -> dict[str, Array]:
    raw = received.raw_input_contents
    if raw and len(raw) != len(received.inputs):
        raise ProtocolError(
            BAD_REQUEST, f"{len(received.inputs)} inputs, but {len(raw)} raw contents"
        )
    found: dict[str, Array] = {}
    for i, tensor in enumerate(received.inputs):
        name = tensor.name
        if name in found:
            raise ProtocolError(BAD_REQUEST, f"input '{name}' is given twice")
        if "shared_memory_region" in tensor.parameters:
            raise ProtocolError(BAD_REQUEST, f"input '{name}': there is no shared memory here")
        if raw and tensor.HasField("contents"):
            raise ProtocolError(BAD_REQUEST, f"input '{name}' has raw and typed contents")
        shape = checked_shape(name, tuple(tensor.shape))
        if raw:
            found[name] = _raw(name, tensor.datatype, shape, raw[i])
        else:
            found[name] = _typed(name, tensor.datatype, shape, tensor.contents)
    return found


def _raw(name: str, datatype: str, shape: tuple[int, ...], content: bytes) -> Array:
    try:
        return decode_raw(datatype, shape, content)
    except ProtocolError as error:
        raise ProtocolError(error.status, f"input '{name}': {error.message}") from None


def _typed(name: str, datatype: str, shape: tuple[int, ...], contents: Any) -> Array:
    """The tensor of typed contents; everything else in them is refused."""
    if datatype not in CONTENTS:
        why = "is sent raw only" if datatype in DATATYPES else "is no datatype"
        raise ProtocolError(BAD_REQUEST, f"input '{name}': {datatype or 'none'} {why}")
    wanted = CONTENTS[datatype]
    others = [field.name for field, _ in contents.ListFields() if field.name != wanted]
    if others:
        raise ProtocolError(
            BAD_REQUEST, f"input '{name}' is {datatype}, its elements belong in {wanted}, not in "
            f"{', '.join(others)}"
        )  # fmt: skip
    values = getattr(contents, wanted)
    if len(values) != math.prod(shape):
        raise ProtocolError(
            BAD_REQUEST,
            f"input '{name}' of shape {list(shape)} takes {math.prod(shape)} elements, "
            f"got {len(values)} in {wanted}",
        )
    if datatype == "BYTES":
        return _texts(name, values).reshape(shape)
    array = np.array(values, numpy_type(SENT_AS.get(datatype, datatype)))
    return _narrowed(name, datatype, array).reshape(shape)


def _narrowed(name: str, datatype: str, array: Array) -> Array:
    dtype = numpy_type(datatype)
    narrow = array.astype(dtype, copy=False)
    if dtype.itemsize < array.dtype.itemsize and not np.array_equal(narrow, array):
        raise ProtocolError(BAD_REQUEST, f"input '{name}' has values that {datatype} does not hold")
    return narrow


def _texts(name: str, values: Any) -> Array:
    texts = np.empty(len(values), object)
    for i, value in enumerate(values):
        try:
            texts[i] = value.decode()
        except UnicodeDecodeError:
            raise ProtocolError(
                BAD_REQUEST, f"input '{name}': element {i} is no UTF-8 text"
            ) from None
    return texts


def _elements(array: Array, datatype: str) -> list[Any]:
    if datatype == "BYTES":
        return [item if isinstance(item, bytes) else str(item).encode() for item in array.flat]
    elements: list[Any] = array.ravel().tolist()
    return elements


def _set(parameter: Any, value: Parameter) -> None:
    """Put a value into an InferParameter; bool first, for it is an int as well."""
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, int):
        parameter.int64_param = value
    elif isinstance(value, float):
        parameter.double_param = value
    else:
        parameter.string_param = value
