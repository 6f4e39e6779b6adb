"""Tensors of the protocol, held against tritonclient's own codec."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import orjson
import pytest

from sommelier.runtime.server.protocol import ProtocolError
from sommelier.runtime.server.tensors import (
    BF16,
    BYTES,
    DATATYPES,
    ONLY_BINARY,
    checked_shape,
    datatype_of,
    decode_json,
    decode_raw,
    encode_json,
    encode_raw,
    numpy_type,
)

triton = pytest.importorskip("tritonclient.utils")
NUMERIC = [name for name in DATATYPES if name not in (BYTES, BF16)]


def some(datatype: str, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(7)
    if datatype == BYTES:
        texts = ["", "a", "zwölf", "日本", "x" * 70_000, "\n"]
        return rng.choice(np.array(texts, object), shape)
    dtype = numpy_type(datatype)
    if dtype.kind == "f":
        return rng.normal(size=shape).astype(dtype)
    if dtype.kind == "b":
        return rng.random(shape) < 0.5
    bounds = np.iinfo(dtype)
    return rng.integers(bounds.min, bounds.max, shape, dtype, endpoint=True)


@pytest.mark.parametrize("datatype", NUMERIC)
def test_names_of_types_are_tritons(datatype: str) -> None:
    assert datatype_of(numpy_type(datatype)) == triton.np_to_triton_dtype(numpy_type(datatype))


@pytest.mark.parametrize("shape", [(), (0,), (1,), (3, 4), (2, 0, 3), (2, 1, 3, 2)])
@pytest.mark.parametrize("datatype", [*NUMERIC, BYTES])
def test_raw_bytes_come_back(datatype: str, shape: tuple[int, ...]) -> None:
    array = some(datatype, shape)
    back = decode_raw(datatype, shape, encode_raw(array))
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize("datatype", [name for name in DATATYPES if name not in ONLY_BINARY])
@pytest.mark.parametrize("shape", [(0,), (1,), (3, 4), (2, 1, 3, 2)])
def test_json_comes_back_flat_and_nested(datatype: str, shape: tuple[int, ...]) -> None:
    array = some(datatype, shape)
    flat = orjson.loads(orjson.dumps(encode_json(array), option=orjson.OPT_SERIALIZE_NUMPY))
    for data in (flat, array.tolist()):
        back = decode_json("x", datatype, shape, data)
        assert back.dtype == array.dtype
        np.testing.assert_array_equal(back, array)


def test_texts_are_tritons() -> None:
    texts = some(BYTES, (5, 2))
    assert encode_raw(texts) == triton.serialize_byte_tensor(texts).item()
    back = decode_raw(BYTES, (5, 2), triton.serialize_byte_tensor(texts).item())
    np.testing.assert_array_equal(back, texts)


def test_bf16_is_the_upper_half_of_float32_rounded_to_even() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    rng = np.random.default_rng(3)
    values = np.concatenate([rng.normal(size=1000) * 10.0**e for e in (-30, -3, 0, 3, 30)])
    values = np.concatenate([values, [0.0, -0.0, np.inf, -np.inf, np.nan]]).astype(np.float32)
    rounded = values.astype(ml_dtypes.bfloat16)
    raw = encode_raw(values, BF16)
    finite = ~np.isnan(values)
    assert (np.frombuffer(raw, "<u2")[finite] == rounded.view(np.uint16)[finite]).all()
    np.testing.assert_array_equal(decode_raw(BF16, values.shape, raw), rounded.astype(np.float32))


@pytest.mark.parametrize(
    ("datatype", "shape", "data", "told"),
    [
        ("FP32", (2,), [1.0], "takes 2 values, got 1"),
        ("FP32", (2,), [1.0, "a"], "FP32"),
        ("FP32", (2,), [[1.0], [2.0, 3.0]], "FP32"),
        ("FP32", (1,), ["1.5"], "no FP32: there are values that are no numbers"),
        ("FP64", (2, 1), [[1.0], [True]], "no FP64: there are values that are no numbers"),
        ("FP32", (2,), [1, [["2"]]], "no FP32: there are values that are no numbers"),
        ("FP32", (2,), [1.0, 1e39], "no FP32: there are values that are too large for it"),
        ("FP32", (2,), [[-(10**39)], [1]], "no FP32: there are values that are too large for it"),
        ("FP64", (1,), [10**400], "no FP64"),
        ("FP32", (1,), {"a": 1}, "no data, a list"),
        ("FP32", (1,), None, "no data, a list"),
        ("FP32", (1,), [{"a": 1}], "FP32"),
        ("INT32", (1,), [1.5], "no whole numbers"),
        ("INT32", (1,), [True], "no whole numbers"),
        ("INT8", (1,), [128], "INT8"),
        ("UINT8", (1,), [-1], "UINT8"),
        ("UINT64", (1,), [10**30], "UINT64"),
        ("BOOL", (1,), [1], "no truth values"),
        ("BYTES", (1,), [1], "no texts"),
        ("FP16", (1,), [1.0], "binary data only"),
        ("BF16", (1,), [1.0], "binary data only"),
        ("FP33", (1,), [1.0], "unknown datatype 'FP33'"),
    ],
)
def test_json_that_is_no_tensor_is_refused(
    datatype: str, shape: tuple[int, ...], data: object, told: str
) -> None:
    with pytest.raises(ProtocolError, match=told) as caught:
        decode_json("x", datatype, shape, data)
    assert caught.value.status == 400


def test_numbers_as_large_as_their_type_and_null_are_taken() -> None:
    most = float(np.finfo(np.float32).max)
    found = decode_json("x", "FP32", (2, 2), [[most, -most], [None, 7]])
    np.testing.assert_array_equal(found, np.array([[most, -most], [np.nan, 7]], np.float32))


def test_a_long_text_among_numbers_takes_no_memory() -> None:
    data = ["x" * 1_000_000, *[1] * 1_000_000]  # numpy would make a terabyte of it
    for datatype in ("FP32", "INT64", "BOOL"):
        with pytest.raises(ProtocolError):
            decode_json("x", datatype, (len(data),), data)


def test_lists_nested_without_end_are_refused() -> None:
    data: list[Any] = []
    for _ in range(1000):
        data = [data]
    for datatype in ("FP32", "INT64", "BYTES"):
        with pytest.raises(ProtocolError):
            decode_json("x", datatype, (1,), data)


@pytest.mark.parametrize(
    ("datatype", "shape", "raw"),
    [
        ("FP32", (2,), b"1234"),
        ("FP32", (2**62, 4), b""),
        ("BYTES", (1,), b"\xff\xff\xff\xff"),
        ("BYTES", (2,), struct.pack("<I", 1) + b"a"),
        ("BYTES", (1,), struct.pack("<I", 1) + b"ab"),
        ("BYTES", (10**9,), b""),
        ("BYTES", (1,), struct.pack("<I", 1) + b"\xff"),
    ],
)
def test_raw_bytes_that_are_no_tensor_are_refused(
    datatype: str, shape: tuple[int, ...], raw: bytes
) -> None:
    with pytest.raises(ProtocolError) as caught:
        decode_raw(datatype, shape, raw)
    assert caught.value.status == 400


@pytest.mark.parametrize("shape", [
    None, "12", [1.0], [-1], [True], [2**70], [1] * 33, {"a": 1},
    [0, 2**62, 2**62], [2**30, 0, 2**30],
])  # fmt: skip
def test_shapes_that_are_none_are_refused(shape: object) -> None:
    with pytest.raises(ProtocolError):
        checked_shape("x", shape)
