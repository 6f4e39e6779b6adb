"""Inference as REST carries it: JSON, or a JSON header and raw tensors behind it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from sommelier.runtime.server.large_json import read_large
from sommelier.runtime.server.protocol import (
    BAD_REQUEST,
    InferRequest,
    InferResponse,
    ProtocolError,
)
from sommelier.runtime.server.tensors import (
    ONLY_BINARY,
    checked_shape,
    datatype_of,
    decode_json,
    decode_raw,
    encode_json,
    encode_raw,
    numpy_type,
)
from sommelier.runtime.server.together import meeting

HEADER_LENGTH = b"inference-header-content-length"
MOST_JSON = 16 << 20  # bytes: a number of 4 characters takes 32 bytes once it is read
REMEMBERED = 2 << 10  # bytes of a JSON header that is remembered: the next one is often the same
_SCALARS = (bool, int, float, str)
_NOTHING = memoryview(b"")


@dataclass(frozen=True, slots=True)
class OutputForm:
    """How outputs are to be written. binary : by name; other : of those not named."""

    binary: Mapping[str, bool]
    other: bool = False

    def is_binary(self, name: str) -> bool:
        return self.binary.get(name, self.other)


@dataclass(frozen=True, slots=True)
class Target:
    """What a path names, and what its model takes (for requests that are only bytes)."""

    model: str
    version: str
    inputs: tuple[Mapping[str, Any], ...] = ()


def decode_request(
    body: bytes, header_length: bytes | None, target: Target
) -> tuple[InferRequest, OutputForm]:
    """A request for inference. header_length : value of the protocol's header, None without it.

    Raises ProtocolError saying what is wrong with it.
    """
    if header_length is None:
        return _decoded(body, _NOTHING, target)
    size = header_size(header_length)
    if not 0 <= size <= len(body):
        told = header_length[:20].decode("latin-1")
        raise ProtocolError(
            BAD_REQUEST,
            f"inference header size should be in range (0, {len(body)}), got: {told}",
        )
    if size == 0:
        return _raw_request(body, target)
    return _decoded(body[:size], memoryview(body)[size:], target)


def header_size(length: bytes) -> int:
    """Bytes of JSON by the value of the protocol's header; -1 where that is no number."""
    return int(length) if length.isdigit() and len(length) < 12 else -1


def encode_response(response: InferResponse, form: OutputForm) -> tuple[bytes, int | None]:
    """(body, bytes of its JSON header; None if it is all JSON)."""
    outputs, raw = [], []
    for name, array in response.outputs.items():
        datatype = datatype_of(array.dtype)
        output: dict[str, Any] = {"name": name, "datatype": datatype, "shape": array.shape}
        if form.is_binary(name) or datatype in ONLY_BINARY:
            raw.append(encode_raw(array, datatype))
            output["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            output["data"] = encode_json(array)
        outputs.append(output)
    told: dict[str, Any] = {"model_name": response.model, "model_version": response.version}
    if response.id:
        told["id"] = response.id
    told["parameters"] = response.parameters
    told["outputs"] = outputs
    head = orjson.dumps(told, option=orjson.OPT_SERIALIZE_NUMPY)
    return (b"".join([head, *raw]), len(head)) if raw else (head, None)


def read_json(body: bytes | memoryview) -> dict[str, Any]:
    """A JSON object. Raises ProtocolError."""
    if len(body) > MOST_JSON:
        raise ProtocolError(
            413, f"{len(body)} bytes of JSON, at most {MOST_JSON} are read; send binary tensors"
        )
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ProtocolError(BAD_REQUEST, f"failed to parse the request JSON: {error}") from None
    if not isinstance(value, dict):
        raise ProtocolError(BAD_REQUEST, "the request is no JSON object")
    return value


@dataclass(frozen=True, slots=True)
class Announced:
    """An input as the JSON announces it. size : of its bytes behind it; None: `data` has it."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    size: Any
    data: object


@dataclass(slots=True)
class Asked:
    """What the JSON of a request says. meets : of every request that says it."""

    inputs: tuple[Announced, ...]
    outputs: tuple[str, ...]
    form: OutputForm
    id: str
    parameters: Mapping[str, Any]
    meets: tuple[object, int] | None = None


def _decoded(head: bytes, raw: memoryview, target: Target) -> tuple[InferRequest, OutputForm]:
    asked = _read(head) if len(head) > REMEMBERED else read_before(head)
    inputs: dict[str, NDArray[Any]] = {}
    offset = 0
    for given in asked.inputs:
        size = given.size
        if size is None:
            inputs[given.name] = decode_json(
                given.name[:200], given.datatype, given.shape, given.data
            )
            continue
        if type(size) is not int or not 0 <= size <= len(raw) - offset:
            raise ProtocolError(
                BAD_REQUEST,
                f"input '{given.name[:200]}' announces {str(size)[:40]} bytes of binary data, "
                f"{len(raw) - offset} are there",
            )
        inputs[given.name] = decode_raw(given.datatype, given.shape, raw[offset : offset + size])
        offset += size
    if offset != len(raw):
        raise ProtocolError(BAD_REQUEST, f"{len(raw) - offset} bytes behind the last input")
    request = InferRequest(
        target.model, inputs, asked.outputs, target.version, asked.id, asked.parameters, asked.meets
    )
    if asked.meets is None:
        asked.meets = meeting(request)
    return request, asked.form


def _read(head: bytes) -> Asked:
    """The JSON of a request. Raises ProtocolError."""
    asked = read_large(head) or read_json(head)
    inputs: dict[str, Announced] = {}
    for item in _objects(asked, "inputs"):
        name = _name(item, "input")
        if name in inputs:
            raise ProtocolError(BAD_REQUEST, f"input '{name[:200]}' is given twice")
        datatype, shape = item.get("datatype"), checked_shape(name[:200], item.get("shape"))
        if not isinstance(datatype, str):
            raise ProtocolError(BAD_REQUEST, f"input '{name[:200]}' has no datatype")
        size = _parameters(item, name).get("binary_data_size")
        inputs[name] = Announced(name, datatype, shape, size, item.get("data"))
    if not inputs:
        raise ProtocolError(BAD_REQUEST, "the request has no inputs")
    identity = asked.get("id", "")
    if not isinstance(identity, str):
        raise ProtocolError(BAD_REQUEST, "the id of a request is a text")
    outputs, form = _wanted(asked)
    parameters = _parameters(asked, "the request")
    return Asked(tuple(inputs.values()), outputs, form, identity, parameters)


read_before = lru_cache(maxsize=256)(_read)


def _wanted(asked: Mapping[str, Any]) -> tuple[tuple[str, ...], OutputForm]:
    """Names of the outputs that are wanted, all if none is named, and how they are written."""
    other = _parameters(asked, "the request").get("binary_data_output") is True
    binary: dict[str, bool] = {}
    for item in _objects(asked, "outputs"):
        name = _name(item, "output")
        wish = _parameters(item, name)
        if wish.get("classification"):
            raise ProtocolError(BAD_REQUEST, f"output '{name[:200]}': classification is not served")
        binary[name] = bool(wish.get("binary_data", other))
    return tuple(binary), OutputForm(binary, other)


def _raw_request(body: bytes, target: Target) -> tuple[InferRequest, OutputForm]:
    """A body that is one tensor: a batch of 1 of a model with one input, of which at most one
    dimension is open; all outputs come back binary."""
    if len(target.inputs) != 1:
        raise ProtocolError(
            BAD_REQUEST, f"a raw request needs a model with one input, not {len(target.inputs)}"
        )
    spec = target.inputs[0]
    datatype, shape = spec["datatype"], list(spec["shape"])
    if datatype == "BYTES":
        text = np.array([body.decode("utf-8", "replace")], object)
        array = text.reshape([1] * len(shape))
    else:
        if shape and shape[0] == -1:
            shape[0] = 1
        if shape.count(-1) > 1:
            raise ProtocolError(BAD_REQUEST, f"a raw request cannot tell the shape of {shape}")
        array = decode_raw(datatype, _filled(datatype, shape, len(body)), body)
    return (
        InferRequest(target.model, {spec["name"]: array}, (), target.version),
        OutputForm({}, other=True),
    )


def _filled(datatype: str, shape: list[int], size: int) -> tuple[int, ...]:
    """The shape, its open dimension as long as the bytes say."""
    if -1 not in shape:
        return tuple(shape)
    width = 2 if datatype == "BF16" else numpy_type(datatype).itemsize
    fixed = width * math.prod(s for s in shape if s != -1)
    return tuple(size // max(1, fixed) if s == -1 else s for s in shape)


def _objects(asked: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    found = asked.get(name)
    if found is None:
        return []
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise ProtocolError(BAD_REQUEST, f"'{name}' is no list of objects")
    return found


def _name(item: Mapping[str, Any], kind: str) -> str:
    name = item.get("name")
    if not isinstance(name, str):
        raise ProtocolError(BAD_REQUEST, f"an {kind} has no name")
    return name


def _parameters(item: Mapping[str, Any], owner: str) -> dict[str, Any]:
    """Parameters, which are scalars. Raises ProtocolError."""
    found = item.get("parameters")
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ProtocolError(BAD_REQUEST, f"the parameters of {owner[:200]} are no object")
    for name, value in found.items():
        if not isinstance(value, _SCALARS):
            raise ProtocolError(BAD_REQUEST, f"parameter '{name[:200]}' is no single value")
    return found
