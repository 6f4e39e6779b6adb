"""One reading of safetensors headers for what is far away and for what is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from sommelier.analysis.conversion.torch_weights import read_weights
from sommelier.connectors.safetensors import parameter_counts
from sommelier.errors import ConnectorError, RejectedModelError
from sommelier.storage.safetensors import DTYPES, MAX_HEADER_BYTES, size_bytes

torch = pytest.importorskip("torch")


def written(path: Path, header: Mapping[str, object] | bytes, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def counted(path: Path) -> dict[str, int]:
    body = path.read_bytes()
    return parameter_counts(lambda first, count: body[first : first + count], path.name)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_has_the_width_that_torch_gives_it(dtype: str, tmp_path: Path) -> None:
    known = DTYPES[dtype]
    size = known.bits  # of eight elements
    entry = {"dtype": dtype, "shape": [2, 4], "data_offsets": [0, size]}
    path = written(tmp_path / "w.safetensors", {"w": entry}, bytes(size))
    assert counted(path) == {dtype: 8}
    assert size_bytes({dtype: 8}) == size
    if known.name is None:
        with pytest.raises(RejectedModelError, match=f"torch has no type '{dtype}'"):
            read_weights(path)
        return
    found = read_weights(path)["w"]
    assert found.dtype == getattr(torch, known.name)
    assert found.dtype.itemsize * 8 == known.bits
    assert found.shape == (2, 4)


def test_the_types_are_those_that_the_formats_own_library_reads() -> None:
    theirs = pytest.importorskip("safetensors.torch")._TYPES
    ours = {name: getattr(torch, known.name) for name, known in DTYPES.items() if known.name}
    assert {name: ours[name] for name in theirs} == theirs


def entry(shape: object, offsets: object, dtype: object = "F32") -> dict[str, object]:
    return {"w": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}


@pytest.mark.parametrize(
    "header",
    [
        entry([-1], [0, 4]), entry([True], [0, 4]), entry([1.0], [0, 4]), entry("2", [0, 8]),
        entry([2], [0, 4]), entry([2], [8, 0]), entry([2], [-8, 0]), entry([2], [0]),
        entry([2], "ab"), entry([2], None), entry([2], [0, 8], 5), entry([2], [0, 8], ["F32"]),
        entry([10**400], [0, 0]), entry([1 << 62, 2], [0, 0]), entry([1] * 33, [0, 4]),
        entry([2], [10**30, 10**30 + 8]), entry([2], [(1 << 63) - 8, 1 << 63]),
        {"w": 5}, {"w": {}}, b"[]", b"{", b"\xff\xff", b"[" * 100_000, b'{"w":' * 100_000,
    ],
)  # fmt: skip
def test_both_readers_refuse_the_same_headers_with_an_error_of_ours(
    header: dict[str, object] | bytes, tmp_path: Path
) -> None:
    path = written(tmp_path / "w.safetensors", header, bytes(16))
    with pytest.raises(ConnectorError, match="no safetensors file"):
        counted(path)
    with pytest.raises(RejectedModelError, match="safetensors"):
        read_weights(path)


@pytest.mark.parametrize("length", [0, 1, MAX_HEADER_BYTES + 1, 1 << 63])
def test_both_readers_have_the_same_limits_of_a_header(length: int, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    with path.open("wb") as file:
        file.write(length.to_bytes(8, "little"))
        file.truncate(MAX_HEADER_BYTES + 100)  # a hole
    said = f"its header says {length} bytes"
    with pytest.raises(ConnectorError, match=said):
        counted(path)
    with pytest.raises(RejectedModelError, match=said):
        read_weights(path)


def test_data_behind_the_end_of_the_file_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "w.safetensors", entry([2], [400, 408]), bytes(16))
    with pytest.raises(RejectedModelError, match="header is wrong"):
        read_weights(path)
    path = written(tmp_path / "w.safetensors", entry([2], [(1 << 63) - 20, (1 << 63) - 12]))
    with pytest.raises(RejectedModelError, match="header is wrong"):
        read_weights(path)
