"""A real `sommelier serve` over a database that has everything the pages show, and who asks it."""

from __future__ import annotations

import http.client
import json
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

import sommelier as sm
from tests.factories import mlp_classifier
from tests.serve_process import ServeProcess, serve_process

HOSTILE = "<script>window.hacked=1</script>\"'><img src=x onerror=window.hacked=2>&amp;"
SOON_S = 120.0
_FEATURES, _CLASSES, _SAMPLES = 6, 4, 300
_LAYERS = (16, 16)
INPUTS = {
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 6], "data": [1, 2, 3, 4, 5, 6]}]
}
SLOW_SQL = "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range * b.range % 7 = 3"


def make_database(folder: Path) -> Path:
    """Models `base`, `tuned` (like it), `other` and one of a hostile name; equivalences, segments,
    a graft with its lineage, jobs, and the deployment `vision`."""
    for seed, name in enumerate(("base", "other")):
        mlp_classifier(
            folder / f"{name}.onnx", seed=seed, features=_FEATURES, hidden=_LAYERS, classes=_CLASSES
        )
    mlp_classifier(folder / "odd.bin", seed=9, features=_FEATURES, classes=_CLASSES)
    rng = np.random.default_rng(7)
    _tuned(folder, rng)
    inputs = rng.normal(size=(_SAMPLES, _FEATURES)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(folder / "base.onnx"))
    answers = session.run(None, {session.get_inputs()[0].name: inputs})[0].argmax(1)
    labels = np.where(rng.random(_SAMPLES) < 0.8, answers, rng.integers(0, _CLASSES, _SAMPLES))
    np.savez(folder / "points.npz", x=inputs, y=labels)
    database = folder / "zoo.sommelier"
    with sm.connect(database) as db:
        db.execute(f"IMPORT MODELS FROM folder '{folder}/*.onnx'")
        (folder / "odd.bin").rename(folder / "odd.onnx")
        name = HOSTILE.replace("'", "''")
        db.execute(f"REGISTER MODEL '{name}' FROM '{folder}/odd.onnx'")
        db.register_dataset("points", folder / "points.npz", held_out=True)
        db.execute("ANALYZE ALL FOR RESOURCES, EQUIVALENCE, ACCURACY USING dataset = 'points'")
        db.execute("ANALYZE base, tuned FOR SEGMENTS USING dataset = 'points'")
        graft = db.sql(
            "SELECT name FROM segments WHERE host = 'base' AND donor = 'tuned'"
            " AND hybrid IS NOT NULL ORDER BY name LIMIT 1"
        ).rows[0][0]
        db.execute(f"CREATE MODEL grafted AS GRAFT tuned INTO base AT SEGMENT '{graft}'")
        db.execute("DEPLOY MODELS base, tuned AS vision")
    return database


def _tuned(folder: Path, rng: np.random.Generator) -> None:
    model = onnx.load(folder / "base.onnx")
    changed = next(w for w in model.graph.initializer if tuple(w.dims) == _LAYERS)
    weights = numpy_helper.to_array(changed)
    noise = rng.normal(scale=0.02, size=weights.shape).astype(np.float32)
    changed.CopyFrom(numpy_helper.from_array(weights + noise, changed.name))
    onnx.save(model, folder / "tuned.onnx")


@dataclass(frozen=True)
class Heard:
    """An answer. headers : the names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Serve(ServeProcess):
    """What a process of these tests is asked."""

    def ask(
        self,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        method: str = "",
    ) -> Heard:
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SOON_S)
        method = method or ("GET" if body is None else "POST")
        client.request(method, path, body, headers or {})
        answer = client.getresponse()
        told = {name.lower(): value for name, value in answer.getheaders()}
        heard = Heard(answer.status, told, answer.read())
        client.close()
        return heard

    def page(self, path: str = "/", **given: str) -> Heard:
        return self.ask(path + ("?" + urlencode(given) if given else ""))

    def query(self, statement: str, /, **more: Any) -> Heard:
        body = json.dumps({"statement": statement, **more}).encode()
        return self.ask("/query", body, {"content-type": "application/json"})

    def infer(self, name: str = "vision") -> Heard:
        return self.ask(f"/v2/models/{name}/infer", json.dumps(INPUTS).encode())


def serving(
    database: Path | str, *flags: str, ready: str = "ready after"
) -> AbstractContextManager[Serve]:
    """ready : what it says once it may be asked."""
    given = ("--drain-delay", "0", "--no-write", *flags)
    return serve_process(Serve, database, given, ready=ready)
