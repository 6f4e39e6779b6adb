"""Tensors and parameters of gRPC messages as values, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("google.protobuf")

from sommelier.runtime.server.grpc_tensors import CONTENTS, infer_request, infer_response, is_typed
from sommelier.runtime.server.messages import message
from sommelier.runtime.server.protocol import InferResponse, ProtocolError
from sommelier.runtime.server.tensors import DATATYPES, datatype_of, decode_raw, numpy_type

NUMERIC = [datatype for datatype in CONTENTS if datatype != "BYTES"]


@pytest.mark.parametrize("datatype", NUMERIC)
def test_the_extreme_values_of_a_type_come_and_go_unchanged_typed_and_raw(datatype: str) -> None:
    array = _extremes(datatype)
    for typed in (True, False):
        sent = infer_response(_answer(y=array), typed=typed)
        assert bool(sent.raw_output_contents) != typed
        request = message("ModelInferRequest")(raw_input_contents=sent.raw_output_contents)
        output = sent.outputs[0]
        assert (output.datatype, tuple(output.shape)) == (datatype, array.shape)
        request.inputs.add().ParseFromString(output.SerializeToString())  # the same fields
        assert is_typed(request) == typed
        back = infer_request(request, None).inputs["y"]
        assert back.dtype == array.dtype
        assert np.array_equal(back, array)


@pytest.mark.parametrize("typed", [True, False])
def test_texts_come_and_go_unchanged(typed: bool) -> None:
    texts = np.array([["", "ä"], ["a\0b", "x" * 300]], object)
    output = infer_response(_answer(y=texts), typed=typed)
    request = message("ModelInferRequest")(raw_input_contents=output.raw_output_contents)
    request.inputs.add().ParseFromString(output.outputs[0].SerializeToString())
    assert infer_request(request, None).inputs["y"].tolist() == texts.tolist()


def test_an_answer_with_a_type_that_has_no_field_is_raw_altogether() -> None:
    half, single = np.ones(2, np.float16), np.ones(3, np.float32)
    sent = infer_response(_answer(a=single, b=half), typed=True)
    assert [len(raw) for raw in sent.raw_output_contents] == [12, 4]
    assert not any(output.HasField("contents") for output in sent.outputs)
    assert np.array_equal(decode_raw("FP16", [2], sent.raw_output_contents[1]), half)


def test_parameters_keep_their_types() -> None:
    given = {"sommelier_model": "m", "sommelier_queue_ms": 0.5, "count": 3, "warm": True}
    sent = infer_response(InferResponse("m", "1", "i", {}, given), typed=False)
    request = message("ModelInferRequest")(id="i")
    for name, value in sent.parameters.items():
        request.parameters[name].CopyFrom(value)
    found = infer_request(request, None).parameters
    assert found == given
    assert [type(found[name]) for name in given] == [type(value) for value in given.values()]


@pytest.mark.parametrize(
    ("told_us", "left_s", "counts_us"),
    [
        (None, None, None),
        (5_000, None, 5_000),
        (None, 0.25, 250_000),
        (5_000, 0.25, 5_000),
        (900_000, 0.25, 250_000),
        (0, 0.25, 250_000),  # 0 is no timeout
        (None, -1.0, 1),  # over, but 0 would mean none
    ],
)
def test_the_sooner_of_the_calls_deadline_and_the_parameter_counts(
    told_us: int | None, left_s: float | None, counts_us: int | None
) -> None:
    request = message("ModelInferRequest")()
    if told_us is not None:
        request.parameters["timeout"].int64_param = told_us
    assert infer_request(request, left_s).parameters.get("timeout") == counts_us


@pytest.mark.parametrize(("told_ms", "counts_ms"), [(100.0, 100.0), (900.0, 250.0)])
def test_the_calls_deadline_is_no_later_for_our_own_parameter(
    told_ms: float, counts_ms: float
) -> None:
    request = message("ModelInferRequest")()
    request.parameters["sommelier_deadline_ms"].double_param = told_ms
    found = infer_request(request, 0.25).parameters
    assert found == {"sommelier_deadline_ms": counts_ms}


def _mixed(request: Any) -> None:
    _add(request, "x", "FP32", [1]).contents.fp32_contents.append(1)
    request.raw_input_contents.append(b"\0" * 4)


def _two_for_one(request: Any) -> None:
    _add(request, "x", "FP32", [1])
    request.raw_input_contents.extend([b"\0" * 4] * 2)


def _cut_short(request: Any) -> None:
    _add(request, "x", "FP32", [2])
    request.raw_input_contents.append(b"\0" * 4)


def _too_few(request: Any) -> None:
    _add(request, "x", "FP32", [2]).contents.fp32_contents.append(1)


def _in_another_field(request: Any) -> None:
    _add(request, "x", "FP32", [1]).contents.fp64_contents.append(1)


def _in_two_fields(request: Any) -> None:
    contents = _add(request, "x", "FP32", [1]).contents
    contents.fp32_contents.append(1)
    contents.fp64_contents.append(1)


def _too_large(request: Any) -> None:
    _add(request, "x", "INT8", [1]).contents.int_contents.append(128)


def _half(request: Any) -> None:
    _add(request, "x", "FP16", [1]).contents.fp32_contents.append(1)


def _unknown_type(request: Any) -> None:
    _add(request, "x", "FP33", [1]).contents.fp32_contents.append(1)


def _negative(request: Any) -> None:
    _add(request, "x", "FP32", [-1]).contents.fp32_contents.append(1)


def _endless(request: Any) -> None:
    _add(request, "x", "FP32", [2**62, 2**62]).contents.fp32_contents.append(1)


def _twice(request: Any) -> None:
    for _ in range(2):
        _add(request, "x", "FP32", [1]).contents.fp32_contents.append(1)


def _shared(request: Any) -> None:
    _add(request, "x", "FP32", [1]).parameters["shared_memory_region"].string_param = "r"


def _no_text(request: Any) -> None:
    _add(request, "x", "BYTES", [1]).contents.bytes_contents.append(b"\xff")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_mixed, "raw and typed"),
        (_two_for_one, "1 inputs, but 2 raw"),
        (_cut_short, "takes 8 bytes, got 4"),
        (_too_few, "takes 2 elements, got 1"),
        (_in_another_field, "belong in fp32_contents, not in fp64_contents"),
        (_in_two_fields, "not in fp64_contents"),
        (_too_large, "INT8 does not hold"),
        (_half, "FP16 is sent raw only"),
        (_unknown_type, "FP33 is no datatype"),
        (_negative, "-1 in its shape"),
        (_endless, "absurd shape"),
        (_twice, "given twice"),
        (_shared, "no shared memory"),
        (_no_text, "no UTF-8"),
    ],
)
def test_what_a_client_did_wrong_is_told_with_the_inputs_name(spoil: Any, told: str) -> None:
    request = message("ModelInferRequest")(model_name="m")
    spoil(request)
    with pytest.raises(ProtocolError, match=told) as caught:
        infer_request(request, None)
    assert caught.value.status == 400
    assert "'x'" in caught.value.message or spoil is _two_for_one


def test_every_datatype_of_the_protocol_is_sent_typed_or_raw() -> None:
    assert set(DATATYPES) - set(CONTENTS) == {"FP16", "BF16"}


def _extremes(datatype: str) -> np.ndarray[Any, Any]:
    dtype = numpy_type(datatype)
    if dtype.kind == "b":
        values = [True, False]
    elif dtype.kind == "f":
        info = np.finfo(dtype)
        values = [info.min, info.max, np.inf, -0.0, info.tiny, 1 / 3]
    else:
        bounds = np.iinfo(dtype)
        values = [bounds.min, bounds.max]
    array = np.array([values], dtype)
    assert datatype_of(array.dtype) == datatype
    return array


def _answer(**outputs: np.ndarray[Any, Any]) -> InferResponse:
    return InferResponse("m", "1", "id", outputs, {})


def _add(request: Any, name: str, datatype: str, shape: list[int]) -> Any:
    return request.inputs.add(name=name, datatype=datatype, shape=shape)
