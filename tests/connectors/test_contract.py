"""What holds for every connector, whoever wrote it; runs over all that are installed."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from sommelier.connectors.base import DECLARED_KEYS, Connector
from sommelier.connectors.registry import connector, connector_names
from sommelier.errors import ConnectorError
from sommelier.metrics import METRICS
from sommelier.records import Artifact, Provenance, Rejection
from tests.connectors.wheels import write_wheel
from tests.factories import tiny_classifier


def _folder(tmp_path: Path) -> str:
    tiny_classifier(tmp_path / "good.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"")
    return str(tmp_path)


def _wheel(tmp_path: Path) -> str:
    model = tiny_classifier(tmp_path / "source.onnx").read_bytes()
    return str(write_wheel(tmp_path, {"toy/good.onnx": model, "toy/bad.onnx": b"junk"}))


def _table(tmp_path: Path) -> str:
    path = tmp_path / "models.csv"
    path.write_text("name,params,accuracy,latency_ms,task\na,10,0.5,1.5,x\nb,-1,,,y\nc,,,2,\n")
    return str(path)


SOURCES: dict[str, Callable[[Path], str]] = {"folder": _folder, "wheel": _wheel, "table": _table}
"""A location with acceptable and unacceptable models, for each connector we ship."""


@pytest.fixture(params=connector_names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def source(name: str) -> Connector:
    return connector(name)


@pytest.fixture
def location(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    if name not in SOURCES:
        pytest.skip(f"no local sample for the third-party connector '{name}'")
    return SOURCES[name](tmp_path)


def test_our_three_connectors_are_installed() -> None:
    assert set(SOURCES) <= set(connector_names())


def test_a_connector_is_called_as_its_entry_point_and_describes_itself(
    name: str, source: Connector
) -> None:
    assert isinstance(source, Connector)
    assert source.name == name
    assert source.describe().strip()
    assert all(text.strip() for text in source.options.values())


def test_every_model_is_yielded_as_artifact_or_rejection_with_its_origin(
    name: str, source: Connector, location: str
) -> None:
    found = list(source.fetch((location,), options={}))
    assert {type(item) for item in found} == {Artifact, Rejection}
    for item in found:
        assert item.source == name
        assert item.revision
        if isinstance(item, Rejection):
            assert item.reason
            continue
        assert item.name
        assert item.path is None or item.path.is_file()
        assert set(item.declared) <= DECLARED_KEYS


def test_artifacts_travel_to_a_worker_process(source: Connector, location: str) -> None:
    for item in source.fetch((location,), options={}):
        assert pickle.loads(pickle.dumps(item)) == item


def test_numbers_of_a_source_are_declared_and_in_known_metrics(
    source: Connector, location: str
) -> None:
    for item in source.fetch((location,), options={}):
        for measurement in item.measurements if isinstance(item, Artifact) else ():
            assert measurement.provenance is Provenance.DECLARED
            assert measurement.metric in METRICS
            assert measurement.method
            assert measurement.value >= 0


def test_the_same_import_twice_finds_the_same(source: Connector, location: str) -> None:
    assert list(source.fetch((location,), options={})) == list(
        source.fetch((location,), options={})
    )


def test_listing_names_every_model_that_fetch_accepts(source: Connector, location: str) -> None:
    listed = {item.name for item in source.list((location,), options={})}
    fetched = {i.name for i in source.fetch((location,), options={}) if isinstance(i, Artifact)}
    assert fetched <= listed


def test_progress_ends_at_its_total(source: Connector, location: str) -> None:
    calls: list[tuple[str, int, int | None]] = []
    list(
        source.fetch((location,), options={}, progress=lambda *call: calls.append(call))  # type: ignore[arg-type]  # a star lambda
    )
    counts = [done for _, done, _ in calls]
    assert counts == sorted(counts)
    assert calls[-1][1] == calls[-1][2]


def test_an_unknown_option_is_refused_with_the_nearest_name(
    source: Connector, location: str
) -> None:
    with pytest.raises(ConnectorError) as caught:
        source.fetch((location,), options={"max_sise": 5})
    assert "max_size" in caught.value.suggestions


def test_a_location_that_leads_nowhere_is_refused_before_the_first_model(
    source: Connector, name: str, tmp_path: Path
) -> None:
    suffix = {"wheel": ".whl", "table": ".csv"}.get(name, ".onnx")
    with pytest.raises(ConnectorError, match="nowhere"):
        source.fetch((str(tmp_path / f"nowhere{suffix}"),), options={})


def test_no_location_is_refused_with_an_example(source: Connector, name: str) -> None:
    with pytest.raises(ConnectorError) as caught:
        source.fetch((), options={})
    assert f"FROM {name}" in str(caught.value.hint)


def test_an_unknown_connector_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(ConnectorError) as caught:
        connector("whele")
    assert caught.value.suggestions[0] == "wheel"
    assert "folder" in str(caught.value.hint)


def test_no_connector_loads_a_neural_network_runtime_or_onnx_at_import() -> None:
    program = (
        "import sys\n"
        "from sommelier.connectors.registry import connector, connector_names\n"
        "[connector(name) for name in connector_names()]\n"
        "heavy = {'torch', 'onnxruntime', 'onnx', 'pandas', 'duckdb', 'numpy'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
