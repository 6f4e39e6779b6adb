"""Large bodies are read by another library, and nobody can tell."""

from __future__ import annotations

import json
import math
import threading
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sommelier.runtime.server import large_json, rest_inference
from sommelier.runtime.server.protocol import ProtocolError
from sommelier.runtime.server.rest_inference import Target, decode_request

pytest.importorskip("simdjson")

TARGET = Target("m", "")
PADDING = "x" * large_json.SMALLEST  # makes a body large
SHAPES = [[6], [2, 3], [1, 6]]


def _body(data: Any, datatype: str = "FP32", shape: list[int] | None = None, **more: Any) -> bytes:
    item = {"name": "a", "datatype": datatype, "shape": shape or [len(data)], "data": data}
    return json.dumps({"inputs": [item], "id": PADDING, **more}).encode()


def _outcome(body: bytes) -> Any:
    """What a body is read as, to be compared; errors by status and text."""
    try:
        asked, form = decode_request(body, None, TARGET)
    except ProtocolError as error:
        return error.status, error.message
    inputs = {name: (a.dtype.str, a.shape, a.tobytes()) for name, a in asked.inputs.items()}
    return inputs, asked.outputs, asked.id, asked.parameters, form.binary, form.other


def _both(body: bytes, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    fast = _outcome(body)
    monkeypatch.setattr(rest_inference, "read_large", lambda _: None)
    slow = _outcome(body)
    monkeypatch.undo()
    return fast, slow


numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(width=32, allow_nan=False, allow_infinity=False),
    st.integers(-300, 300),
    st.integers(-(2**64), 2**64),
    st.sampled_from([0, 1, -0.0, 1e39, 255, 256, -129, 2**31, 2**63, 2**64 - 1, 5e-324]),
)
oddities = st.one_of(st.none(), st.booleans(), st.text(max_size=3), st.just([]), st.just({}))
DATATYPES = ("FP32", "FP64", "INT8", "INT32", "INT64", "UINT8", "UINT64", "BOOL", "BYTES", "FP16")


@settings(max_examples=300, deadline=None)
@given(
    data=st.lists(numbers, min_size=6, max_size=6),
    odd=st.one_of(st.just(()), st.tuples(st.integers(0, 5), oddities)),
    nested=st.booleans(),
    datatype=st.sampled_from((*DATATYPES, "INT7")),
    shape=st.sampled_from([*SHAPES, [7], []]),
)
def test_a_body_is_read_alike_by_both(
    data: list[Any], odd: tuple[Any, ...], nested: bool, datatype: str, shape: list[int]
) -> None:
    if odd:
        data[odd[0]] = odd[1]
    given_: Any = [data[:3], data[3:]] if nested else data
    with pytest.MonkeyPatch.context() as patch:
        fast, slow = _both(_body(given_, datatype, shape), patch)
    assert fast == slow


@pytest.mark.parametrize(
    "text",
    [
        b'{"inputs": [], "inputs": [{"name": "a", "datatype": "INT8", "shape": [1], "data": [1]}]}',
        b'{"inputs": [{"name": "a", "name": "b", "datatype": "INT8", "shape": [1], "data": [1]}]}',
        b'{"inputs": [{"name": "a", "datatype": "FP32", "shape": [1], "data": [1e400]}]}',
        b'{"inputs": [{"name": "a", "datatype": "FP32", "shape": [1], "data": [1.0e]}]}',
        b'{"inputs": [{"name": "a", "datatype": "FP32", "shape": [1], "data": [NaN]}]}',
        b'{"inputs": [{"name": "a", "datatype": ["FP32"], "shape": [1], "data": [1.5]}]}',
        b'{"inputs": [{"name": "a", "datatype": "FP32", "shape": [1], "data": {"b": 1}}]}',
        b'{"inputs": {"name": "a", "datatype": "FP32", "shape": [1], "data": [1.5]}}',
        b'{"inputs": [1, "b", null]}',
        b'{"inputs": [{"name": "\xff", "datatype": "FP32", "shape": [1], "data": [1.5]}]}',
        b'[{"name": "a"}]',
        b'"text"',
        b"{",
        b"",
        b"[" * 5000,
        b'{"inputs": [{"name": "a", "datatype": "FP32", "shape": [1], "data": [1.5]}]} behind',
    ],
)
def test_unusual_texts_are_read_alike_by_both(text: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    fast, slow = _both(text + b" " * large_json.SMALLEST, monkeypatch)
    assert fast == slow


def test_numbers_of_a_usual_body_never_become_objects() -> None:
    rng = np.random.default_rng(0)
    values = rng.random(1000, np.float32)
    found = large_json.read_large(_body(values.astype(float).tolist(), shape=[10, 100]))
    assert found is not None
    (item,) = found["inputs"]
    assert isinstance(item["data"], np.ndarray)
    assert item["data"].astype(np.float32).tobytes() == values.tobytes()
    assert item["shape"] == [10, 100]


def test_other_keys_are_as_orjson_reads_them() -> None:
    more = {"parameters": {"a": 1, "b": 1.5, "c": "d"}, "outputs": [{"name": "o"}], "x": [1, {}]}
    body = _body([1.5, 2], **more)
    found = large_json.read_large(body)
    assert found is not None
    found["inputs"][0]["data"] = found["inputs"][0]["data"].tolist()
    assert found == orjson.loads(body)


@pytest.mark.parametrize("data", [[[1.5, 2], [3, 4]], [[1.5, 2], []], [1.5, [2]]])
def test_nested_lists_are_left_to_orjson(data: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert large_json.read_large(_body(data)) is None
    fast, slow = _both(_body(data, shape=[2]), monkeypatch)
    assert fast == slow


def test_what_is_small_or_very_large_is_left_to_orjson() -> None:
    assert large_json.read_large(b'{"inputs": []}') is None
    assert large_json.read_large(_body([1.5] * 300_000)) is None
    assert len(_body([1.5] * 300_000)) > large_json.LARGEST


def test_threads_do_not_disturb_each_other() -> None:
    bodies = [_body([float(n)] * 500) for n in range(8)]
    wrong: list[int] = []

    def read(n: int) -> None:
        for _ in range(200):
            found = large_json.read_large(bodies[n])
            if found is None or not math.isclose(found["inputs"][0]["data"].mean(), n):
                wrong.append(n)

    threads = [threading.Thread(target=read, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_without_the_library_bodies_are_read_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_json, "simdjson", None)
    assert large_json.read_large(_body([1.5] * 6)) is None
    asked, _ = decode_request(_body([1.5] * 6), None, TARGET)
    assert asked.inputs["a"].tolist() == [1.5] * 6
