"""Measured latency comes with its spread; estimated latency with its error."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binom

from sommelier.analysis import latency, operator_timing, operators
from sommelier.analysis.graph import read_model
from sommelier.analysis.operator_timing import ModelTimes, OperatorTime
from sommelier.analysis.operators import OperatorTable, estimate
from sommelier.analysis.sandbox import Sandbox
from sommelier.analysis.signature import bind
from sommelier.analysis.synthetic_inputs import SMALL_IDS, synthetic_inputs
from sommelier.errors import AnalysisError, NotFittedError, WorkerCrashedError, WorkerTimeoutError
from sommelier.records import Measurement, Provenance, TensorSpec
from tests import factories as make

FEW = {"runs": 12, "warmup": 1}


def by_metric(found: list[Measurement]) -> dict[tuple[str, int | None], Measurement]:
    return {(m.metric, m.percentile): m for m in found}


def test_latency_is_a_distribution_with_bounds(tmp_path: Path) -> None:
    path = make.mlp_classifier(tmp_path / "m.onnx", features=64, hidden=(256, 256))
    found = by_metric(latency.measure(path, runs=60, warmup=2, model_id="sha256:1"))
    p50, p90, p99 = (found["latency", p] for p in (50, 90, 99))
    assert 0 < p50.value <= p90.value <= p99.value
    assert p50.low is not None
    assert p50.high is not None
    assert p50.low <= p50.value <= p50.high
    assert p99.high is None  # sixty runs bound no 99th percentile from above
    assert (p50.device, p50.batch, p50.threads, p50.count) == ("cpu", 1, 1, 60)
    assert {m.provenance for m in found.values()} == {Provenance.MEASURED}
    assert {m.model_id for m in found.values()} == {"sha256:1"}
    assert found["throughput", None].value == pytest.approx(1e3 / p50.value)
    assert "timer noise" in str(p50.source)


def test_more_work_takes_longer(tmp_path: Path) -> None:
    small = make.mlp_classifier(tmp_path / "a.onnx", features=32, hidden=(32,))
    large = make.mlp_classifier(tmp_path / "b.onnx", features=32, hidden=(2048, 2048))
    times = [by_metric(latency.measure(p, **FEW))["latency", 50].value for p in (small, large)]
    assert times[1] > 5 * times[0]  # 4.3 million weights against two thousand


def test_loaded_weights_show_in_measured_memory(tmp_path: Path) -> None:
    path = make.tiny_classifier(tmp_path / "m.onnx", features=2000, classes=5000)
    with Sandbox(time_limit_s=30) as box:
        found = by_metric(box.call(latency.measure, path, **FEW))
    weights = 4 * 2000 * 5000
    assert 0.9 * weights < found["measured_memory", None].value < 4 * weights


def test_what_the_runtime_takes_once_is_not_the_first_models_memory(tmp_path: Path) -> None:
    path = make.tiny_classifier(tmp_path / "m.onnx")  # some hundred weights; the runtime has 36 MB
    with Sandbox(time_limit_s=30) as box:
        first, second = (by_metric(box.call(latency.measure, path, **FEW)) for _ in range(2))
    assert first["measured_memory", None].value < 12e6
    assert second["measured_memory", None].value < 12e6


def test_order_statistics_cover_the_quantile_at_95_percent() -> None:
    """The bounds' ranks against the binomial distribution they approximate."""
    ordered = np.arange(1.0, 1001.0)
    low, high = latency.quantile_bounds(ordered, 0.5)
    assert low is not None
    assert high is not None
    inside = binom.cdf(high - 1, 1000, 0.5) - binom.cdf(low - 1, 1000, 0.5)
    assert 0.94 < inside < 0.97


@pytest.mark.parametrize(
    "factory",
    [
        make.conv_classifier,
        make.class_id_model,
        make.recurrent_state_model,
        make.sequence_model,
        make.if_subgraph_model,
        make.loop_model,
        make.nan_model,
        make.external_data_model,
    ],
)
def test_every_kind_of_signature_can_be_fed(tmp_path: Path, factory: object) -> None:
    path = factory(tmp_path / "m.onnx")  # type: ignore[operator]
    assert by_metric(latency.measure(path, **FEW))["latency", 50].value > 0


def test_batches_are_run_and_recorded(tmp_path: Path) -> None:
    path = make.conv_classifier(tmp_path / "m.onnx")
    found = by_metric(latency.measure(path, batch=8, **FEW))
    p50 = found["latency", 50]
    assert p50.batch == 8
    assert found["throughput", None].value == pytest.approx(8e3 / p50.value)


def test_a_fixed_batch_is_not_overruled(tmp_path: Path) -> None:
    path = make.tiny_classifier(tmp_path / "m.onnx", batch=16)
    assert latency.measure(path, **FEW)[0].batch == 16
    with pytest.raises(AnalysisError, match="its batch is fixed at 16, so it cannot run at 4"):
        latency.measure(path, batch=4, **FEW)


def test_text_inputs_are_refused_with_a_reason(tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match="its input 'text' is text, which cannot be made up"):
        latency.measure(make.string_model(tmp_path / "m.onnx"))


def test_an_unknown_device_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AnalysisError, match="cannot be run on 'abacus' here"):
        latency.measure(make.tiny_classifier(tmp_path / "m.onnx"), device="abacus")


def test_a_file_the_runtime_refuses_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(AnalysisError, match="ONNX Runtime cannot load it") as caught:
        latency.measure(path)
    assert "\n" not in caught.value.message


def test_a_model_that_hangs_is_ended(tmp_path: Path) -> None:
    path = make.hanging_model(tmp_path / "m.onnx")
    with Sandbox(time_limit_s=3) as box:
        with pytest.raises(WorkerTimeoutError):
            box.call(latency.measure, path, **FEW)
        assert box.call(latency.measure, make.tiny_classifier(tmp_path / "ok.onnx"), **FEW)


def test_a_model_that_wants_all_memory_is_refused(tmp_path: Path) -> None:
    path = make.memory_hog_model(tmp_path / "m.onnx")
    with Sandbox(time_limit_s=30, memory_limit_bytes=2 * 10**9) as box:
        with pytest.raises(WorkerCrashedError, match="needs more memory than the limit of 2 GB"):
            box.call(latency.measure, path, **FEW)
        assert box.call(latency.measure, make.tiny_classifier(tmp_path / "ok.onnx"), **FEW)


def test_synthetic_inputs_fit_their_types() -> None:
    specs = [
        TensorSpec("image", "uint8", ("N", 4)),
        TensorSpec("ids", "int64", ("N", 50)),
        TensorSpec("state", "float32", (2, "N", 3)),
        TensorSpec("sr", "int64", ()),
        TensorSpec("flag", "bool", ()),
        TensorSpec("x", "float16", ("N", 3)),
    ]
    feed = synthetic_inputs(specs, bind(specs, batch=2), seed=3)
    again = synthetic_inputs(specs, bind(specs, batch=2), seed=3)
    assert {n: (a.dtype.name, a.shape) for n, a in feed.items()} == {
        "image": ("uint8", (2, 4)), "ids": ("int64", (2, 50)), "state": ("float32", (2, 2, 3)),
        "sr": ("int64", ()), "flag": ("bool", ()), "x": ("float16", (2, 3)),
    }  # fmt: skip
    assert all(np.array_equal(feed[n], again[n]) for n in feed)
    assert 0 <= feed["ids"].min() <= feed["ids"].max() < SMALL_IDS
    assert not feed["state"].any()


def times(flops: list[float], *, rate: float = 1e6, overhead: float = 0.01) -> ModelTimes:
    """A machine of known speed: time = overhead + flops / rate (a millisecond)."""
    items = tuple(OperatorTime("Conv", f, f / 10, overhead + f / rate) for f in flops)
    return ModelTimes("m", sum(i.milliseconds for i in items), items, (1,) * len(items))


def test_the_table_interpolates_a_machine_of_known_speed() -> None:
    models = [times([10**e, 3 * 10**e]) for e in range(5, 9)]
    table = OperatorTable.fit(models)
    for flops in (5e5, 2e6, 7e7):
        assert table.milliseconds("Conv", flops, flops / 10) == pytest.approx(
            0.01 + flops / 1e6, rel=0.25
        )
    assert table.factors_[0] == pytest.approx(1.0, abs=0.1)
    assert table.band_ is not None
    assert table.band_[0] <= 1.0 <= table.band_[1]


def test_time_never_falls_when_work_grows() -> None:
    rng = np.random.default_rng(0)
    noisy = [
        times([f], overhead=float(rng.uniform(0.01, 0.2))) for f in 10 ** rng.uniform(3, 8, 30)
    ]
    table = OperatorTable.fit(noisy)
    bigger = [table.milliseconds("Conv", 1e6 * k, 1e5 * k) for k in (1.0, 1.001, 1.002)]
    assert bigger == sorted(bigger)


def test_an_operator_never_measured_gets_a_roofline() -> None:
    table = OperatorTable.fit([times([1e6, 1e8])])
    peak = 1e8 / (0.01 + 100)
    assert table.milliseconds("Mystery", 1e9, 10.0) == pytest.approx(1e9 / peak, rel=0.2)


def test_the_table_survives_the_catalog() -> None:
    table = OperatorTable.fit([times([10**e]) for e in range(4, 8)], device="cpu")
    rows = table.rows()
    assert {r.device for r in rows} == {"cpu"}
    assert len({r.key for r in rows}) == len(rows)
    again = OperatorTable.from_rows(rows)
    assert (again.factors_, again.band_, again.models_) == (
        table.factors_,
        table.band_,
        table.models_,
    )
    assert again.milliseconds("Conv", 3e5, 3e4) == pytest.approx(
        table.milliseconds("Conv", 3e5, 3e4)
    )


def test_an_empty_table_names_the_call_to_make(tmp_path: Path) -> None:
    model = read_model(make.tiny_classifier(tmp_path / "m.onnx"))
    with pytest.raises(NotFittedError, match="no operator times are known") as caught:
        estimate(model, OperatorTable("cpu"))
    assert "ANALYZE" in str(caught.value.hint)


def test_the_sum_counts_all_branches_and_the_path_the_longest(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Relu", ["x"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Sum", ["a", "d"], ["y"]),
    ]
    kind = (TensorProto.FLOAT, [1, 100])
    path = make.save_model(tmp_path / "m.onnx", nodes, {"x": kind}, {"y": kind})
    one = [OperatorTime(op, 0.0, 800.0, 1.0) for op in ("Relu", "Sum")]
    table = OperatorTable.fit([ModelTimes("m", 2.0, tuple(one), (1, 1))])
    found = estimate(read_model(path), table)
    relu = table.milliseconds("Relu", 0.0, 800.0) * table.factor("Relu")
    total = table.milliseconds("Sum", 0.0, 1200.0) * table.factor("Sum")
    assert found.sum_ms == pytest.approx(4 * relu + total)
    assert found.path_ms == pytest.approx(3 * relu + total)
    assert found.low_ms is None  # one model cannot tell its own error


def test_unknown_work_is_not_estimated(tmp_path: Path) -> None:
    table = OperatorTable.fit([times([1e5])])
    with pytest.raises(AnalysisError, match=r"the size of .* is unknown"):
        estimate(read_model(make.loop_model(tmp_path / "m.onnx", trips=None)), table)


def test_operators_are_timed_by_name_inside_subgraphs_too(tmp_path: Path) -> None:
    path = make.loop_model(tmp_path / "m.onnx", trips=5, features=32)
    found = operator_timing.time_operators(path, latency.RunSettings(runs=5), model_id="m")
    matmuls = [
        (item, n)
        for item, n in zip(found.operators, found.repeats, strict=True)
        if item.operator == "MatMul"
    ]
    assert [(item.flops, n) for item, n in matmuls] == [(2 * 32 * 32, 5)]
    assert found.latency_ms > 0
    assert all(item.milliseconds >= 0 for item in found.operators)


def test_an_unmeasured_model_falls_into_the_band_of_its_kin(tmp_path: Path) -> None:
    """Real runs: a family of nets, one left out; the band holds, with slack for a busy machine."""
    settings = latency.RunSettings(runs=15, warmup=3)
    widths = (128, 256, 384, 512, 768, 1024)
    paths = [
        make.mlp_classifier(tmp_path / f"{w}.onnx", features=256, hidden=(w, w)) for w in widths
    ]
    measured = [operator_timing.time_operators(p, settings, model_id=p.stem) for p in paths]
    table = OperatorTable.fit([m for m in measured if m.model_id != "512"])
    found = estimate(read_model(paths[3]), table)
    number = found.measurement("sha256:x")
    assert (number.provenance, number.method) == (Provenance.ESTIMATED, "operator-table")
    assert found.low_ms is not None
    assert found.high_ms is not None
    assert found.low_ms / 2 <= measured[3].latency_ms <= found.high_ms * 2
    assert math.isclose(number.value, found.sum_ms)


def test_rows_fit_the_catalog_type() -> None:
    rows = OperatorTable.fit([times([1e5])]).rows()
    assert all(isinstance(row, operators.OperatorCost) for row in rows)
