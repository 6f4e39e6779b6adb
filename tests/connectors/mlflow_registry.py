"""MLflow servers for tests: a real one in an environment of its own, and one that lies.

The real one runs where SOMMELIER_MLFLOW names a Python with mlflow, onnx and onnxruntime (else
/tmp/mlvenv has one). The other speaks as much of the REST API as reading a registry takes, with
answers of the shape that MLflow 3.17 gives, and hands out what no honest server would.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.connectors.loopback import Page, Request, Route, Server, serving

API = "/api/2.0/mlflow/"
FILES = "/api/2.0/mlflow-artifacts/artifacts"
START_SECONDS = 240.0  # the server imports for half a minute on a busy machine

ONNX_MLMODEL = "flavors:\n  onnx:\n    data: model.onnx\n    onnx_version: 1.23.2\n"
PYTORCH_MLMODEL = "flavors:\n  pytorch:\n    model_data: data\n    pytorch_version: 2.13.0\n"

SEED = """
import json, sys, mlflow, onnx
from mlflow.models import Model
from mlflow.tracking import MlflowClient
mlflow.set_tracking_uri(sys.argv[1])
mlflow.set_experiment("seeded")
client = MlflowClient()
for item in json.loads(sys.argv[2]):
    with mlflow.start_run() as run:
        mlflow.set_tags(item.get("run_tags", {}))
        mlflow.log_metrics(item.get("metrics", {}))
        if "onnx" in item:
            logged = mlflow.onnx.log_model(onnx.load(item["onnx"]), name="model",
                                           pip_requirements=["onnx"], metadata=item.get("metadata"))
            source = f"models:/{logged.model_id}"
        else:
            model = Model()
            for flavor, facts in item["flavors"].items():
                model.add_flavor(flavor, **facts)
            mlflow.log_text(model.to_yaml(), "model/MLmodel")
            for path, place in item["files"].items():
                mlflow.log_artifact(path, f"model/{place}")
            source = f"runs:/{run.info.run_id}/model"
    made = mlflow.register_model(source, item["name"])
    for key, value in item.get("tags", {}).items():
        client.set_model_version_tag(item["name"], made.version, key, value)
    for alias in item.get("aliases", []):
        client.set_registered_model_alias(item["name"], alias, made.version)
    for key, value in item.get("model_tags", {}).items():
        client.set_registered_model_tag(item["name"], key, value)
"""


def mlflow_python() -> Path:
    """The interpreter with mlflow; the test is skipped where there is none."""
    python = Path(os.environ.get("SOMMELIER_MLFLOW", "/tmp/mlvenv/bin/python"))
    if not python.is_file():
        pytest.skip("no Python with mlflow: set SOMMELIER_MLFLOW")
    return python


@contextmanager
def mlflow_server(folder: Path, items: Sequence[Mapping[str, object]]) -> Iterator[str]:
    """The address of a real MLflow server whose registry holds `items`; its files in `folder`."""
    python = mlflow_python()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment = {**os.environ, **quiet}
    environment.pop("PYTHONPATH", None)
    command = [str(python), "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--workers", "1"]
    command += ["--artifacts-destination", str(folder / "artifacts")]
    url = f"http://127.0.0.1:{port}"
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, cwd=folder, start_new_session=True
        )
        try:
            _wait(server, f"{url}/health", folder / "server.log")
            subprocess.run(
                [str(python), "-c", SEED, url, json.dumps(items)],
                env=environment, cwd=folder, check=True, timeout=START_SECONDS,
            )  # fmt: skip
            yield url
        finally:
            os.killpg(server.pid, 15)
            server.wait(30)


def _wait(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"the MLflow server does not answer: {log.read_text()[-2000:]}")


@dataclass
class FakeVersion:
    """A version of the lying server. files : by path below the model's folder."""

    name: str
    version: str
    files: Mapping[str, Route]
    root: str | None = None  # the artifact URI it claims; None: an honest one
    status: str = "READY"
    stage: str = "None"
    run: Mapping[str, object] | None = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def path(self) -> str:
        return f"1/models/m-{self.name}{self.version}/artifacts"

    def as_json(self) -> dict[str, object]:
        tags = [{"key": key, "value": value} for key, value in self.tags.items()]
        return {
            "name": self.name, "version": self.version, "creation_timestamp": 1795309133715,
            "current_stage": self.stage, "description": "", "source": f"models:/{self.version}",
            "run_id": f"run-{self.name}-{self.version}", "status": self.status, "tags": tags,
        }  # fmt: skip


@contextmanager
def lying_server(
    versions: Sequence[FakeVersion], routes: Mapping[str, Route] | None = None
) -> Iterator[Server]:
    """A registry of these versions; `routes` are answered instead of, or beside, the API's."""
    registry = _Registry(versions)
    given: dict[str, Route] = {
        f"{API}registered-models/search": registry.models,
        f"{API}model-versions/search": registry.versions,
        f"{API}model-versions/get-download-uri": registry.root,
        f"{API}runs/get": registry.run,
        FILES: registry.listing,
    }
    for version in versions:
        for path, page in version.files.items():
            given[quote(f"{FILES}/{version.path}/{path}")] = page
    with serving({**given, **(routes or {})}) as server:
        yield server


@dataclass
class _Registry:
    known: Sequence[FakeVersion]

    def models(self, request: Request) -> Page:
        """Two names a page, so that clients have to follow the token."""
        names = sorted({v.name for v in self.known})
        asked = _asked(request)
        names = names if asked is None else [name for name in names if name == asked]
        start = int(request.query.get("page_token", ["0"])[0])
        answer: dict[str, object] = {
            "registered_models": [
                {"name": name, "aliases": [{"alias": "first", "version": "1"}]}
                for name in names[start : start + 2]
            ]
        }
        if len(names) > start + 2:
            answer["next_page_token"] = str(start + 2)
        return Page.of_json(answer)

    def versions(self, request: Request) -> Page:
        found = [v.as_json() for v in self.known if v.name == _asked(request)]
        return Page.of_json({"model_versions": found})

    def root(self, request: Request) -> Page:
        version = self._one(request.query["name"][0], request.query["version"][0])
        honest = f"mlflow-artifacts:/{version.path}"
        return Page.of_json({"artifact_uri": honest if version.root is None else version.root})

    def run(self, request: Request) -> Page:
        _, name, number = request.query["run_id"][0].split("-")
        run = self._one(name, number).run
        if run is None:
            return Page(b'{"error_code": "RESOURCE_DOES_NOT_EXIST"}', 404)
        return Page.of_json({"run": {"data": run}})

    def listing(self, request: Request) -> Page:
        folder = request.query["path"][0] + "/"
        paths = [f"{v.path}/{path}" for v in self.known for path in v.files]
        files = [{"path": p.removeprefix(folder)} for p in paths if p.startswith(folder)]
        return Page.of_json({"files": files})

    def _one(self, name: str, number: str) -> FakeVersion:
        return next(v for v in self.known if (v.name, v.version) == (name, number))


def _asked(request: Request) -> str | None:
    """The name in a filter such as name = 'digits'."""
    (condition,) = request.query.get("filter", [""])
    match = re.fullmatch(r"name = (['\"])(.*)\1", condition)
    return match[2] if match else None
