from __future__ import annotations

import csv
import gzip
import json
import os
from pathlib import Path

import duckdb
import pytest

from sommelier.connectors.table import TableConnector
from sommelier.connectors.table_rows import Row, read_table
from sommelier.errors import ConnectorError
from sommelier.records import Artifact, Measurement, Provenance, Rejection
from tests.connectors.loopback import Page, serving

RESULTS = "model,img_size,top1,top1_err,top5,top5_err,param_count,crop_pct,interpolation\n"
BENCHMARK = (
    "model,infer_img_size,infer_samples_per_sec,infer_step_time,infer_batch_size,"
    "param_count,infer_gmacs,infer_macts\n"
)
RTX = "benchmark-infer-amp-nchw-pt291-cu128-4090.csv"
CPU = "benchmark-infer-fp32-nchw-pt240-cpu-i9_10940x-dynamo.csv"


def fetch(*locations: Path | str, **options: object) -> list[Artifact | Rejection]:
    return list(TableConnector().fetch(tuple(map(str, locations)), options=options))


def rows(*locations: Path | str, **options: object) -> dict[str, Artifact]:
    """By name; none may be rejected."""
    found = fetch(*locations, **options)
    artifacts = {item.name: item for item in found if isinstance(item, Artifact)}
    assert len(artifacts) == len(found), found
    return artifacts


def values(item: Artifact, metric: str) -> list[Measurement]:
    return [m for m in item.measurements if m.metric == metric]


def value(item: Artifact, metric: str, **context: object) -> float:
    (found,) = [
        m for m in values(item, metric) if all(getattr(m, k) == v for k, v in context.items())
    ]
    return found.value


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


# ---- timm


@pytest.fixture
def timm(tmp_path: Path) -> Path:
    write(
        tmp_path / "results-imagenet.csv",
        RESULTS + 'net.a_in1k,288,81.5,18.5,95.5,4.5,"1,025.50",0.95,bicubic\n'
        "net.a_in1k,224,80.0,20.0,95.0,5.0,25.56,0.95,bicubic\n"
        "net.b_in1k,224,78.0,22.0,94.0,6.0,25.56,0.95,bicubic\n",
    )
    write(
        tmp_path / "results-imagenet-a.csv",
        RESULTS + "net.a_in1k,224,20.0,80.0,50.0,50.0,25.56,0.95,bicubic\n"
        "net.a_in1k,288,10.0,90.0,40.0,60.0,25.56,0.95,bicubic\n",
    )
    write(
        tmp_path / RTX,
        BENCHMARK + "net,224,4000.0,256.0,1024,25.56,4.11,11.0\n"
        "net,288,2000.0,512.0,1024,25.56,,18.0\n"
        "net,160,8000.0,128.0,1024,25.56,2.1,5.7\n"
        "lone,96,9.0,1.5,8,0.37,0.04,1.0\n",
    )
    write(tmp_path / CPU, BENCHMARK + "net,224,50.0,20.0,1,25.56,4.11,11.0\n")
    return tmp_path


def test_tables_of_one_import_merge_by_model(timm: Path) -> None:
    found = rows(timm / "*.csv")
    assert set(found) == {"net.a_in1k", "net.a_in1k/224", "net.b_in1k", "net/160", "lone"}
    assert all(item.path is None for item in found.values())
    b = found["net.b_in1k"]
    assert b.declared["family"] == "net"
    assert b.declared["task"] == "image-classification"
    assert {m.method for m in b.measurements} == {"results-imagenet.csv", RTX, CPU}
    assert {m.provenance for m in b.measurements} == {Provenance.DECLARED}


def test_declared_numbers_are_in_base_units_with_their_context(timm: Path) -> None:
    b = rows(timm / "*.csv")["net.b_in1k"]
    assert value(b, "accuracy", dataset="imagenet") == 0.78
    assert value(b, "top5_accuracy", dataset="imagenet") == 0.94
    assert value(b, "latency", device="rtx-4090", batch=1024, precision="amp") == 256.0
    assert value(b, "throughput", device="rtx-4090", batch=1024) == 4000.0
    assert value(b, "latency", device="cpu-i9-10940x", batch=1, precision="fp32") == 20.0
    assert value(b, "flops") == 2 * 4.11e9
    assert value(b, "params") == 25.56e6


def test_numbers_of_different_image_sizes_are_never_mixed(timm: Path) -> None:
    """The plain name goes to the size with the best accuracy on ImageNet, not on ImageNet-A."""
    found = rows(timm / "*.csv")
    large, small = found["net.a_in1k"], found["net.a_in1k/224"]
    assert value(large, "accuracy", dataset="imagenet") == 0.815
    assert value(large, "accuracy", dataset="imagenet-a") == 0.1
    assert value(large, "latency", device="rtx-4090") == 512.0
    assert value(small, "accuracy", dataset="imagenet") == 0.8
    assert value(small, "latency", device="rtx-4090") == 256.0
    assert value(found["net/160"], "latency") == 128.0
    assert "288px" in large.declared["tags"]  # type: ignore[operator]  # object


def test_a_missing_cell_is_no_measurement_and_never_zero(timm: Path) -> None:
    large = rows(timm / "*.csv")["net.a_in1k"]
    assert values(large, "flops") == []
    assert value(large, "latency", device="rtx-4090") == 512.0


def test_thousands_separators_and_rounding_are_understood(timm: Path) -> None:
    (params,) = values(rows(timm / "results-imagenet.csv")["net.a_in1k"], "params")
    assert (params.low, params.value, params.high) == (1025.495e6, 1025.5e6, 1025.505e6)
    (flops,) = values(rows(timm / RTX)["lone"], "flops")
    assert (flops.low, flops.value, flops.high) == (0.07e9, 0.08e9, 0.09e9)


def test_what_is_declared_does_not_depend_on_where_the_tables_lie(
    timm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else moving a folder would make every row of it a new version."""
    absolute = fetch(timm / "*.csv")
    monkeypatch.chdir(timm.parent)
    assert fetch(f"{timm.name}/*.csv") == absolute


def test_bad_rows_are_rejected_by_number_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = write(
        tmp_path / "results-imagenet.csv",
        RESULTS + "a.x,224,many,18.5,95.5,4.5,1.0,0.95,bicubic\n"
        "b.x,224,80\n"
        ",224,80,20,95,5,1,1,bicubic\n"
        "c.x,224,180,20,95,5,1,1,bicubic\n"
        "d.x,nan,80,20,95,5,1,1,bicubic\n"
        "e.x,224,80,20,95,5,1,1,bicubic\n",
    )
    found = fetch(path)
    assert [i.name for i in found if isinstance(i, Artifact)] == ["e.x"]
    rejected = [i for i in found if isinstance(i, Rejection)]
    assert {i.revision for i in rejected} == {f"{path}:{line}" for line in (2, 3, 4, 5, 6)}
    assert {i.reason.split(":")[0] for i in rejected} == {f"row {n}" for n in (2, 3, 4, 5, 6)}


@pytest.mark.zoo
def test_the_timm_tables_become_more_than_a_thousand_rows(zoo: Path) -> None:
    found = rows(zoo / "data" / "timm" / "*.csv")
    assert len(found) > 1000
    with_both = [
        item
        for item in found.values()
        if values(item, "accuracy")
        and {"rtx-4090", "rtx-5090", "cpu-i9-10940x"} <= {m.device for m in item.measurements}
    ]
    assert len(with_both) > 1000


@pytest.mark.zoo
def test_every_number_of_the_timm_tables_arrives_at_its_model_and_size(zoo: Path) -> None:
    """Read again, independently: sums over the whole table, row by row."""
    folder = zoo / "data" / "timm"
    found = list(rows(folder / "*.csv").values())
    with (folder / "results-imagenet-real.csv").open() as file:
        expected = sorted(float(row["top1"]) for row in csv.DictReader(file))
    declared = [
        m.value * 100
        for item in found
        for m in values(item, "accuracy")
        if m.dataset == "imagenet-real"
    ]
    assert sorted(declared) == pytest.approx(expected)
    with (folder / CPU).open() as file:
        times = {(r["model"], r["infer_img_size"]): float(r["infer_step_time"])
                 for r in csv.DictReader(file)}  # fmt: skip
    for item in found:
        size = str(item.declared["tags"][1]).removesuffix("px") if values(item, "latency") else ""  # type: ignore[index]  # object
        for m in values(item, "latency"):
            if m.device == "cpu-i9-10940x":
                assert m.value == times.pop((str(item.declared["family"]), size), m.value)
    assert times == {}  # no benchmark row was lost


@pytest.mark.zoo
def test_catalogs_of_the_onnx_zoo_become_rows(zoo: Path) -> None:
    found = fetch(zoo / "data" / "onnx_models_catalog.json.gz")
    assert len({(i.name, i.version) for i in found if isinstance(i, Artifact)}) == 2190
    resnet = next(i for i in found if isinstance(i, Artifact) and i.name == "timm/resnet50")
    assert value(resnet, "params") == 25_557_032
    assert value(resnet, "layers") == 122  # 53 + 49 + 16 + 4 other operators
    manifest = fetch(zoo / "data" / "ONNX_HUB_MANIFEST.json")
    assert len({(i.name, i.version) for i in manifest if isinstance(i, Artifact)}) == 184
    tasks = {i.name: i.declared["task"] for i in manifest if isinstance(i, Artifact)}
    assert tasks["SqueezeNet 1.0"] == "image-classification"


def test_a_manifest_is_read_from_its_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOMMELIER_CACHE", str(tmp_path / "cache"))
    ports = {"inputs": [{"name": "x", "shape": ["N", 3, 224, 224], "type": "tensor(float)"}]}
    metadata = {"model_bytes": 244e6, "tags": ["vision", "classification", "alexnet"]}
    entry = {
        "model": "AlexNet", "model_path": "vision/alexnet-9.onnx", "opset_version": 9,
        "metadata": {**metadata, "io_ports": ports},
    }  # fmt: skip
    with serving({"/main/ONNX_HUB_MANIFEST.json": Page.of_json([entry])}) as server:
        (item,) = fetch(f"{server.url}/main/ONNX_HUB_MANIFEST.json")
        with pytest.raises(ConnectorError, match="nothing at"):
            fetch(f"{server.url}/none.csv")
    assert isinstance(item, Artifact)
    assert (item.name, item.version, item.path) == ("AlexNet", "opset9", None)
    assert item.revision == "ONNX_HUB_MANIFEST.json:1:vision/alexnet-9.onnx"
    assert item.declared["task"] == "image-classification"
    assert value(item, "size") == 244e6


# ---- any other table


def test_columns_named_like_metrics_are_used_with_the_unit_in_their_name(tmp_path: Path) -> None:
    path = write(
        tmp_path / "m.csv",
        "name,params,size_mb,latency_ms,accuracy_pct,dataset,device,batch,task,tags,license\n"
        'a,"1,000",2,3.5,81,cifar10,laptop,4,vision,"x, y",mit\n'
        "b,1.5 M,,n/a,,,,,,,Ask Bob\n",
    )
    found = rows(path)
    a, b = found["a"], found["b"]
    assert value(a, "params") == 1000
    assert value(a, "size") == 2e6
    assert value(a, "latency", device="laptop", batch=4, dataset=None) == 3.5
    assert value(a, "accuracy", dataset="cifar10", device=None) == pytest.approx(0.81)
    assert a.declared == {"task": "vision", "tags": ("x", "y"), "license": "MIT"}
    assert a.revision == "m.csv:2"
    assert [(m.metric, m.value) for m in b.measurements] == [("params", 1.5e6)]
    assert b.declared == {"note": "licence as stated: Ask Bob"}


def test_options_map_columns_and_constants(tmp_path: Path) -> None:
    path = write(tmp_path / "m.csv", "nm,step,acc,hw\na,2,93.5,t4\n")
    options = {
        "name": "nm",
        "latency": "step s",
        "accuracy": "acc %",
        "device": "hw",
        "dataset": "imagenet",
        "percentile": "p90",
    }
    item = rows(path, **options)["a"]
    assert value(item, "latency", device="t4", percentile=90) == 2000
    assert value(item, "accuracy", dataset="imagenet", percentile=None) == pytest.approx(0.935)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "which column names the models"),
        ({"name": "nn"}, "has no column 'nn'"),
        ({"name": "nm", "latency": "step furlongs"}, "furlongs"),
        ({"name": "nm", "latency": "step MB"}, "measures bytes"),
    ],
)
def test_a_mapping_that_does_not_fit_is_refused(
    options: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = write(tmp_path / "m.csv", "nm,step\na,2\n")
    with pytest.raises(ConnectorError, match=message):
        fetch(path, **options)


@pytest.mark.parametrize(
    ("cells", "reason"),
    [
        ("a,fast,", "latency_ms is 'fast'"),
        ("a,-3,", "below 0"),
        ("a,inf,", "latency_ms is 'inf'"),
        ("a,,81", "not a fraction"),
        ("a,1e400,", "latency_ms is '1e400'"),
        (",1,0.5", "no model name"),
        ("a,1", "2 cells, the header has 3"),
    ],
)
def test_a_bad_cell_rejects_its_row(cells: str, reason: str, tmp_path: Path) -> None:
    path = write(tmp_path / "m.csv", f"name,latency_ms,accuracy\n{cells}\nok,1,0.5\n")
    bad, good = fetch(path)
    assert isinstance(bad, Rejection)
    assert reason in bad.reason
    assert bad.reason.startswith("row 2: ")
    assert isinstance(good, Artifact)


def test_a_count_of_millions_says_so_or_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "m.csv", "name,params\na,25.557\nb,4 M\n")
    bad, good = fetch(path)
    assert isinstance(bad, Rejection)
    assert "USING params = 'params M'" in bad.reason
    assert isinstance(good, Artifact)
    assert value(good, "params") == 4e6
    found = rows(path, params="params M")
    assert value(found["a"], "params") == 25_557_000
    assert value(found["b"], "params") == 4e6


def test_an_integer_beyond_every_float_rejects_its_row(tmp_path: Path) -> None:
    path = write(tmp_path / "m.json", '[{"name": "a", "params": 1%s}]' % ("0" * 400))
    (bad,) = fetch(path)
    assert isinstance(bad, Rejection)
    assert "params is '1000" in bad.reason


def test_line_breaks_of_unicode_are_text_and_end_no_row(tmp_path: Path) -> None:
    """JSON may hold U+2028 as it is (RFC 8259), and a quoted cell of CSV any character."""
    breaks = "a\u2028b\u0085c\x0bd"
    lines = json.dumps({"name": "m", "note": breaks}, ensure_ascii=False)
    write(tmp_path / "m.jsonl", f"{lines}\r\n" * 2)
    (tmp_path / "m.csv").write_bytes(f'name,note\r\nm,{breaks}\r\n"m",{breaks}\r\n'.encode())
    for name in ("m.jsonl", "m.csv"):
        assert rows(tmp_path / name)["m"].declared == {"note": breaks}, name


def test_a_row_that_lacks_a_column_is_rejected_with_its_name(tmp_path: Path) -> None:
    keys = ("img_size", "top1", "top5", "param_count")
    whole = {"model": "a.x", **dict.fromkeys(keys, 1)}
    path = write(tmp_path / "results-imagenet.json", json.dumps([dict.fromkeys(keys, 1), whole]))
    bad, good = fetch(path)
    assert isinstance(bad, Rejection)
    assert bad.reason == "row 1: it has no 'model'"
    assert isinstance(good, Artifact)


@pytest.mark.parametrize("ports", [["x"], {"inputs": 3, "outputs": {"a": 1}}])
def test_a_manifest_of_another_form_costs_its_row_at_most(tmp_path: Path, ports: object) -> None:
    metadata = {"tags": "vision", "io_ports": ports}
    entry = {"model": "m", "model_path": "m.onnx", "opset_version": 9, "metadata": metadata}
    (item,) = fetch(write(tmp_path / "m.json", json.dumps([entry])))
    if isinstance(ports, list):
        assert isinstance(item, Rejection)
        assert "io_ports is not an object" in item.reason
    else:
        assert isinstance(item, Artifact)
        assert item.declared == {"opset": 9}


def test_the_same_model_with_another_value_is_rejected(tmp_path: Path) -> None:
    path = write(tmp_path / "m.csv", "name,params\na,1\na,1\na,2\n")
    bad, good = fetch(path)
    assert isinstance(bad, Rejection)
    assert "with another params" in bad.reason
    assert isinstance(good, Artifact)
    assert value(good, "params") == 1


def test_a_table_that_contradicts_one_of_timm_is_rejected_where_they_meet(timm: Path) -> None:
    other = timm / "other" / "results-imagenet.csv"
    other.parent.mkdir()
    write(other, "name,params\nnet.b_in1k,7\nnet.c,8\n")
    found = fetch(timm / "results-imagenet.csv", other)
    (bad,) = (item for item in found if isinstance(item, Rejection))
    assert bad.reason.startswith("'net.b_in1k' again")
    params = {i.name: value(i, "params") for i in found if isinstance(i, Artifact)}
    assert params["net.b_in1k"] == 25.56e6
    assert params["net.c"] == 8


def test_a_mapping_overrules_what_is_known_of_a_header(timm: Path) -> None:
    path = timm / "results-imagenet.csv"
    item, *_ = fetch(path, name="model", version="img_size", accuracy="top5 %", dataset="own")
    assert isinstance(item, Artifact)
    assert (item.name, item.version) == ("net.a_in1k", "288")
    assert [(m.metric, m.value, m.dataset) for m in item.measurements] == [
        ("accuracy", pytest.approx(0.955), "own")
    ]


def test_all_formats_give_the_same_rows(tmp_path: Path) -> None:
    data = [{"name": "a", "params": 5, "task": "t"}, {"name": "b", "params": None, "task": "u"}]
    write(tmp_path / "m.csv", "name,params,task\na,5,t\nb,,u\n")
    write(tmp_path / "m.tsv", "name\tparams\ttask\na\t5\tt\nb\t\tu\n")
    write(tmp_path / "m.json", json.dumps(data))
    write(tmp_path / "wrapped.json", json.dumps({"version": 1, "models": data}))
    write(tmp_path / "keyed.json", json.dumps({d.pop("name"): d for d in map(dict, data)}))  # type: ignore[arg-type]  # a dict of objects
    write(tmp_path / "m.jsonl", "".join(json.dumps(d) + "\n" for d in data))
    for name in ("m.csv", "m.json", "m.jsonl"):
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    copied = duckdb.read_csv(str(tmp_path / "m.csv"))
    copied.write_parquet(str(tmp_path / "m.parquet"))
    for path in sorted(tmp_path.iterdir()):
        found = rows(path)
        assert list(found) == ["a", "b"], path.name
        assert [(m.metric, m.value) for m in found["a"].measurements] == [("params", 5.0)]
        assert found["b"].measurements == ()
        assert found["b"].declared == {"task": "u"}


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("m.csv", b"", "empty"),
        ("m.csv", b"\xff\xfe\x00", "not UTF-8"),
        ("m.csv", b"name,name\na,b\n", "same name"),
        ("m.csv", b'name,x\n"a,b\n', "not CSV"),
        ("m.json", b"[1, 2]", "no objects"),
        ("m.json", b'{"a": 1}', "no list of rows"),
        ("m.json", b"[" * 100_000, "not JSON"),
        ("m.json.gz", b"no gzip", "cannot be read"),
        ("m.parquet", b"no parquet", "cannot be read as Parquet"),
        ("m.json", b"[" + b"9" * 5000 + b"]", "not JSON"),
        ("m.xlsx", b"PK", "not a table"),
    ],
)
def test_a_file_that_is_no_table_is_rejected_and_the_others_go_on(
    name: str, content: bytes, reason: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    good = write(tmp_path / "good.csv", "name,params\na,1\n")
    bad, item = fetch(tmp_path / name, good)
    assert isinstance(bad, Rejection)
    assert reason in bad.reason
    assert isinstance(item, Artifact)


def test_a_pipe_named_like_a_table_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.csv")
    (bad,) = fetch(tmp_path / "m.csv")
    assert isinstance(bad, Rejection)
    assert "not a regular file" in bad.reason


def test_a_compressed_bomb_stops_at_the_limit(tmp_path: Path) -> None:
    (tmp_path / "m.csv.gz").write_bytes(gzip.compress(b"name\n" + b"a\n" * 10**6))
    (bad,) = fetch(tmp_path / "m.csv.gz", max_size="1 MB")
    assert isinstance(bad, Rejection)
    assert "too large" in bad.reason


# ---- sizes


def parquet(path: Path, query: str) -> Path:
    """A file with the answer to a query, packed as well as DuckDB can."""
    with duckdb.connect(":memory:") as connection:
        connection.execute(f"COPY ({query}) TO '{path}' (FORMAT parquet, COMPRESSION zstd)")
    return path


MANY_ROWS = "SELECT 'a' AS name, 5 AS params FROM range(300_000)"
LONG_TEXTS = "SELECT repeat('x', 1_000_000) AS name, 5 AS params FROM range(200)"
LONG_LISTS = "SELECT 'a' AS name, ['a', repeat('x', 1_000_000)] AS tags FROM range(50)"


@pytest.mark.parametrize(
    ("query", "limit"),
    [(MANY_ROWS, "100 kB"), (LONG_TEXTS, "20 MB"), (LONG_LISTS, "20 MB")],
    ids=["many rows", "long texts", "long lists"],
)
def test_parquet_is_as_large_as_its_cells_are_unpacked(
    tmp_path: Path, query: str, limit: str
) -> None:
    """A value that occurs often is stored once: the files have some kilobytes."""
    path = parquet(tmp_path / "m.parquet", query)
    assert path.stat().st_size < 100_000
    (bad,) = fetch(path, max_size=limit)
    assert isinstance(bad, Rejection)
    assert "too large" in bad.reason


@pytest.mark.parametrize("name", ["m.csv", "m.json", "m.jsonl", "m.parquet"])
def test_no_table_has_more_cells_than_memory_is_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("sommelier.connectors.table_rows.MAX_CELLS", 50)
    data = [{"name": f"m{i}", "params": i} for i in range(30)]
    content = {
        "m.csv": "name,params\n" + "".join(f"{d['name']},{d['params']}\n" for d in data),
        "m.json": json.dumps(data),
        "m.jsonl": "".join(json.dumps(d) + "\n" for d in data),
    }
    if name in content:
        write(tmp_path / name, content[name])
    else:
        parquet(tmp_path / name, "SELECT 'm' || i AS name, i AS params FROM range(30) t(i)")
    (bad,) = fetch(tmp_path / name)
    assert isinstance(bad, Rejection)
    assert "the limit is 50" in bad.reason


def test_nested_columns_of_parquet_are_no_cells_and_lists_of_text_are(tmp_path: Path) -> None:
    query = (
        "SELECT 'a' AS name, {'x': 1} AS \"odd \"\"name\", ['t', NULL, 'u'] AS tags, 7.5 AS flops"
    )
    (item,) = fetch(parquet(tmp_path / "m.parquet", query))
    assert isinstance(item, Artifact)
    assert item.declared == {"tags": ("t", "u")}
    assert value(item, "flops") == 7.5


def test_many_rows_of_one_model_are_merged_in_linear_time(tmp_path: Path) -> None:
    """20 000 rows take seconds; merging each with all before it took minutes."""
    lines = "".join(f"a,{i},d{i}\n" for i in range(20_000))
    (item,) = fetch(write(tmp_path / "m.csv", f"name,latency_ms,device\n{lines}"))
    assert isinstance(item, Artifact)
    assert len(item.measurements) == 20_000


@pytest.mark.parametrize("name", ["r[1].parquet", "s?.parquet", "s*.parquet"])
def test_a_name_of_parquet_is_no_pattern(tmp_path: Path, name: str) -> None:
    parquet(tmp_path / "other.parquet", "SELECT 'wanted' AS name, 1 AS params").rename(
        tmp_path / name
    )
    for other in ("s1.parquet", "r1.parquet"):
        parquet(tmp_path / other, "SELECT 'other' AS name, 2 AS params")
    (row,) = read_table(tmp_path / name, max_size=10**6).rows
    assert isinstance(row, Row)
    assert row.cells["name"] == "wanted"
