"""What holds for every connector, whoever wrote it; runs over all that are installed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from sommelier.connectors.base import Connector
from sommelier.connectors.registry import GROUP, connector, connector_names
from sommelier.connectors.testing import CHECKS, HEAVY, Check, Sample
from sommelier.errors import ConnectorError
from tests.connectors.hub import write_repository
from tests.connectors.hub_server import Repository, hub
from tests.connectors.loopback import Page, serving
from tests.connectors.mlflow_registry import ONNX_MLMODEL, FakeVersion, lying_server
from tests.connectors.oci_registry import push, registry
from tests.connectors.saved_models import classifier, tar_of
from tests.connectors.wheels import write_wheel
from tests.factories import tiny_classifier


@contextmanager
def _folder(tmp_path: Path) -> Iterator[Sample]:
    tiny_classifier(tmp_path / "good.onnx")
    (tmp_path / "bad.onnx").write_bytes(b"")
    yield Sample((str(tmp_path),), str(tmp_path / "nowhere.onnx"))


@contextmanager
def _wheel(tmp_path: Path) -> Iterator[Sample]:
    model = tiny_classifier(tmp_path / "source.onnx").read_bytes()
    wheel = write_wheel(tmp_path, {"toy/good.onnx": model, "toy/bad.onnx": b"junk"})
    yield Sample((str(wheel),), str(tmp_path / "nowhere.whl"))


@contextmanager
def _table(tmp_path: Path) -> Iterator[Sample]:
    path = tmp_path / "models.csv"
    path.write_text("name,params,accuracy,latency_ms,task\na,10,0.5,1.5,x\nb,-1,,,y\nc,,,2,\n")
    yield Sample((str(path),), str(tmp_path / "nowhere.csv"))


@contextmanager
def _torchhub(tmp_path: Path) -> Iterator[Sample]:
    good, bad = tmp_path / "good", tmp_path / "bad"
    write_repository(good, tmp_path / "executed", "class Net:\n    pass\n")
    bad.mkdir()
    (bad / "hubconf.py").write_text("def broken(:")
    yield Sample((str(good), str(bad)), str(tmp_path / "nowhere"))
    assert not (tmp_path / "executed").exists()


@contextmanager
def _mlflow(tmp_path: Path) -> Iterator[Sample]:
    model = Page(tiny_classifier(tmp_path / "source.onnx").read_bytes())
    description = Page(ONNX_MLMODEL.encode())
    good = FakeVersion("good", "1", {"MLmodel": description, "model.onnx": model})
    bad = FakeVersion("bad", "1", {"MLmodel": description, "model.onnx": Page(b"junk")})
    with lying_server([good, bad]) as server:
        yield Sample((server.url,), "nowhere", {"tracking_uri": server.url})


@contextmanager
def _tfhub(_: Path) -> Iterator[Sample]:
    good = Page(tar_of({"./saved_model.pb": classifier()}), etag='"1"')
    with serving({"/good/model/1": good, "/bad/model/1": Page(b"gone", 404)}) as server:
        good_and_bad = (f"{server.url}/good/model/1", f"{server.url}/bad/model/1")
        yield Sample(good_and_bad, "./nowhere.tflite")


@contextmanager
def _huggingface(tmp_path: Path) -> Iterator[Sample]:
    pytest.importorskip("huggingface_hub")
    model = tiny_classifier(tmp_path / "source.onnx").read_bytes()
    good = Repository("acme/good", {"model.onnx": model}, task="image-classification")
    bad = Repository("acme/bad", {"model.onnx": b""})
    with hub(good, bad) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", server.url)
        yield Sample(("acme/good", "acme/bad"), "acme/nowhere")


@contextmanager
def _oci(tmp_path: Path) -> Iterator[Sample]:
    pytest.importorskip("oras")
    model = tiny_classifier(tmp_path / "source.onnx").read_bytes()
    with registry() as server:
        push(server, "models/good:v1", {"model.onnx": model})
        push(server, "models/bad:v1", {"model.gguf": b"GGUF"})
        yield Sample(("good:v1", "bad"), "nowhere:v1", {"registry": f"{server.host}/models"})


@contextmanager
def _torchvision(tmp_path: Path) -> Iterator[Sample]:
    models = tmp_path / "vision" / "torchvision" / "models"
    models.mkdir(parents=True)
    (models / "net.py").write_text(
        "class Net_Weights(WeightsEnum):\n"
        '    GOOD = Weights(meta={"num_params": 7, "_metrics": {"ImageNet-1K": {"acc@1": 50.0}}})\n'
        "    BAD = Weights(meta=load())\n"
        "def net(*, weights: Net_Weights): ...\n"
    )
    yield Sample((str(tmp_path / "vision"),), str(tmp_path / "nowhere"))


SAMPLES: dict[str, Callable[[Path], AbstractContextManager[Sample]]] = {
    "folder": _folder,
    "huggingface": _huggingface,
    "mlflow": _mlflow,
    "oci": _oci,
    "torchvision": _torchvision,
    "wheel": _wheel,
    "table": _table,
    "torchhub": _torchhub,
    "tfhub": _tfhub,
}
"""A sample for each connector we ship, and the server it needs."""


@pytest.fixture(params=connector_names())
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def source(name: str) -> Connector:
    return connector(name)


@pytest.fixture
def sample(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sample]:
    monkeypatch.setenv("SOMMELIER_CACHE", str(tmp_path / "cache"))
    if name not in SAMPLES:
        pytest.skip(f"no local sample for the third-party connector '{name}'")
    with SAMPLES[name](tmp_path) as sample:
        yield sample


def test_each_of_our_connectors_has_a_sample() -> None:
    installed = entry_points(group=GROUP)
    assert set(SAMPLES) == {e.name for e in installed if e.value.startswith("sommelier.")}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_every_connector_keeps_the_contract(
    check: Check, name: str, source: Connector, sample: Sample
) -> None:
    assert source.name == name
    check(source, sample)


def test_an_unknown_connector_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(ConnectorError) as caught:
        connector("whele")
    assert caught.value.suggestions[0] == "wheel"
    assert "folder" in str(caught.value.hint)


def test_all_connectors_together_load_nothing_heavy_either() -> None:
    program = (
        "import sys\n"
        "from sommelier.connectors.registry import connector, connector_names\n"
        "[connector(name) for name in connector_names()]\n"
        f"heavy = set({HEAVY!r}) & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
