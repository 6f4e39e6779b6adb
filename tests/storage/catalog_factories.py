"""Records for the tests of the catalog, and real processes that open databases."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from sommelier.records import (
    Measurement,
    ModelRecord,
    OutputKind,
    Preprocessing,
    Provenance,
    TensorSpec,
)
from tests import over_postgres

ROOT = Path(__file__).parents[2]


def content_id(content: object) -> str:
    """The id of a model whose bytes are `content`."""
    return f"sha256:{hashlib.sha256(str(content).encode()).hexdigest()}"


def plain_model(name: str, content: object = None, **fields: Any) -> ModelRecord:
    """A model that is known by little more than its name; other `content`, other bytes."""
    given = {"version": "", "source": "folder"} | fields
    return ModelRecord(id=content_id(name if content is None else content), name=name, **given)


def rich_model(name: str = "resnet50") -> ModelRecord:
    """A model of which everything is known, odd characters and dynamic dimensions included."""
    return ModelRecord(
        id=content_id(name),
        name=name,
        version="1.0",
        source="wheel",
        revision="zoo==1.0:models/réseau.onnx",
        task="image-classification",
        family="resnet",
        license="Apache-2.0",
        tags=("mobile", 'with "quotes"', "a, b"),
        format="onnx",
        inputs=(
            TensorSpec("data", "float32", (None, 3, "height", 224)),
            TensorSpec("n", "str", ()),
        ),
        outputs=(TensorSpec("scores", "float32", None),),
        output_kind=OutputKind.CLASSIFICATION,
        output_kind_inferred=False,
        label_space_id="labels:1",
        preprocessing=Preprocessing(
            (("resize", {"size": [224, 224]}), ("normalize", {"mean": [0.5], "note": "ß"})),
            assumed=True,
        ),
        opset=17,
        producer="pytorch 2.13",
        graph_hash="graph:1",
        weight_hash="weights:1",
        minhash=b"\x00\xff'\\",
        artifact=content_id(name),
        note="it's\ta note",
        homepage="https://example.org/réseau",
        created=datetime(2024, 5, 17, 12, 30, 1, 250),
        aliases=("rn50",),
    )


def number(model_id: str, metric: str, value: float, **context: Any) -> Measurement:
    given = {"provenance": Provenance.MEASURED, "method": "test"} | context
    return Measurement(model_id=model_id, metric=metric, value=value, **given)


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    """A Python process that runs `program`; sys.argv[1:] are the arguments."""
    return subprocess.Popen(
        [sys.executable, "-c", over_postgres.program(program), *map(str, arguments)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(program: str, *arguments: object) -> str:
    """What a Python process printed; it has to succeed."""
    process = start(program, *arguments)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out.strip()
