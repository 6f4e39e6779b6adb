"""Answers as frames of other libraries: types, NULL and units stay; numbers are not copied."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

import sommelier as sm
from sommelier.engine.result import Result
from tests.factories import mlp_classifier

QUESTION = "SELECT MODELS name, memory, latency, accuracy, tags, license, params ORDER BY name"


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Result]:
    folder = tmp_path_factory.mktemp("frames")
    for name, width in (("large", 64), ("small", 4)):
        mlp_classifier(folder / f"{name}.onnx", hidden=(width,))
    with sm.connect(folder / "zoo.sommelier") as db:
        db.import_models("folder", str(folder / "*.onnx"))
        answer = db.execute(QUESTION)
        assert isinstance(answer, Result)
        yield answer


def test_arrow_keeps_types_unknowns_and_units(result: Result) -> None:
    table = result.arrow()
    types = {field.name: str(field.type) for field in table.schema}
    assert types == {
        "name": "string", "memory": "double", "latency": "double", "accuracy": "double",
        "tags": "list<item: string>", "license": "string", "params": "double",
    }  # fmt: skip
    units = {f.name: f.metadata[b"unit"].decode() for f in table.schema if f.metadata}
    assert units == {"memory": "B", "latency": "ms"}
    for name in ("latency", "accuracy", "license"):
        assert table[name].to_pylist() == [None, None]
    assert table["memory"].to_pylist() == [result[0].memory, result[1].memory]
    assert table["tags"].to_pylist() == [[], []]


def test_arrow_and_polars_share_the_memory_of_numbers(result: Result) -> None:
    held = result.column("memory").__array_interface__["data"][0]
    (chunk,) = result.arrow()["memory"].chunks
    assert chunk.buffers()[1].address == held
    pytest.importorskip("polars", reason="pip install 'sommelier-db[polars]'")
    assert result.pl()["memory"].to_arrow().buffers()[1].address == held


def test_polars_keeps_types_and_unknowns(result: Result) -> None:
    pl = pytest.importorskip("polars", reason="pip install 'sommelier-db[polars]'")
    frame = result.pl()
    assert dict(frame.schema) == {
        "name": pl.String, "memory": pl.Float64, "latency": pl.Float64, "accuracy": pl.Float64,
        "tags": pl.List(pl.String), "license": pl.String, "params": pl.Float64,
    }  # fmt: skip
    assert frame["name"].to_list() == ["large", "small"]
    assert frame["latency"].null_count() == 2  # unknown is null, not NaN
    assert frame.filter(pl.col("memory") < 1000)["name"].to_list() == ["small"]


def test_pandas_has_its_own_memory_for_it_may_be_written(result: Result) -> None:
    frame = result.df()
    assert frame["memory"].dtype == np.float64
    assert frame["accuracy"].isna().all()
    frame.loc[0, "memory"] = -1.0
    assert result.column("memory")[0] > 0
