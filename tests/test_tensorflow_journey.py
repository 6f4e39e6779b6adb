"""One small classifier in five formats is one family to the database, and its members equal.

TensorFlow and a loopback server that speaks TF-Hub's protocol are real; both are needed once.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import sommelier as sm
from sommelier.analysis.conversion.tensorflow_environment import VARIABLE
from sommelier.engine.result import Table
from sommelier.errors import ConnectorError
from tests import tensorflow_models as toys
from tests.connectors.loopback import Page, serving
from tests.connectors.saved_models import packed_folder
from tests.onnx_writer import FLOAT, save_model

PYTHON = toys.tensorflow_python()
SAMPLES = 300
HANDLE = "toys/classifier/1"
MEMBERS = ("by_hand", "keras", "lite", "torch", "toys/classifier")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PYTHON is None, reason="no TensorFlow environment here"),
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert PYTHON is not None
    return toys.build(PYTHON, tmp_path_factory.mktemp("tensorflow"))


@pytest.fixture(scope="module")
def db(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[sm.Connection]:
    """The five members, imported by statements and analysed on seeded points, and a stranger."""
    folder = tmp_path_factory.mktemp("members")
    weights = dict(np.load(models / "weights.npz"))
    by_hand(folder / "by_hand.onnx", weights)
    other = {name: -value for name, value in weights.items()}
    by_hand(folder / "stranger.onnx", other)
    (models / "classifier.keras").rename(folder / "keras.keras")
    (models / "classifier.tflite").rename(folder / "lite.tflite")
    program(folder / "torch.pt2", weights)
    entries = [{"match": [*MEMBERS, "toys/*"], "family": "toys"}]
    card = folder / "card.json"
    card.write_text(json.dumps({"models": entries}))
    x = np.random.default_rng(4).normal(size=(SAMPLES, toys.FEATURES)).astype(np.float32)
    np.savez(folder / "points.npz", x=x, y=np.arange(SAMPLES) % toys.CLASSES)
    with pytest.MonkeyPatch.context() as patch, serving({}) as server:
        patch.setenv(VARIABLE, str(PYTHON))
        patch.setenv("SOMMELIER_CACHE", str(folder / "cache"))
        server.routes[f"/{HANDLE}"] = Page(packed_folder(models / "classifier"))
        with sm.connect(folder / "models.sommelier") as db:
            db.execute(
                f"IMPORT MODELS FROM tfhub '{HANDLE}', '{HANDLE}-dead' "
                f"USING endpoint = '{server.url}', card = '{card}'"
            )
            db.execute(f"IMPORT MODELS FROM folder '{folder}' USING trust = yes")
            db.register_dataset("points", folder / "points.npz")
            db.execute("ANALYZE ALL FOR EQUIVALENCE USING dataset = 'points'")
            yield db


def by_hand(path: Path, weights: dict[str, np.ndarray]) -> None:
    """The classifier written in ONNX's own operators."""
    from onnx import helper

    nodes = [
        helper.make_node("Gemm", ["x", "w0", "b0"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w1", "b1"], ["s"]),
        helper.make_node("Softmax", ["s"], ["probs"], axis=-1),
    ]
    inputs = {"x": (FLOAT, ["N", toys.FEATURES])}
    save_model(path, nodes, inputs, {"probs": (FLOAT, ["N", toys.CLASSES])}, weights)


def program(path: Path, weights: dict[str, np.ndarray]) -> None:
    """The classifier as a program of torch.export."""
    layers = [nn.Linear(toys.FEATURES, toys.HIDDEN), nn.Linear(toys.HIDDEN, toys.CLASSES)]
    for i, layer in enumerate(layers):
        layer.weight.data = torch.from_numpy(weights[f"w{i}"].T.copy())
        layer.bias.data = torch.from_numpy(weights[f"b{i}"].copy())
    module = nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.Softmax(dim=-1)).eval()
    shapes = ({0: torch.export.Dim("batch")},)
    example = (torch.zeros(2, toys.FEATURES),)
    torch.export.save(torch.export.export(module, example, dynamic_shapes=shapes), path)


def test_every_format_is_a_member_of_one_family(db: sm.Connection) -> None:
    table = db.execute("SELECT family, count(*) AS models FROM models GROUP BY family")
    assert isinstance(table, Table)
    assert {row["family"]: row["models"] for row in table.dicts()} == {"toys": 5, None: 1}
    assert {name for name in MEMBERS if db.model(name).record.family == "toys"} == set(MEMBERS)


def test_the_dead_link_was_told_and_stopped_nothing(db: sm.Connection) -> None:
    rejected = db.execute("SHOW REJECTIONS")
    assert isinstance(rejected, Table)
    assert any("a dead link" in str(row) for row in rejected.dicts())


@pytest.mark.parametrize("reference", MEMBERS)
def test_the_database_finds_all_members_equivalent_and_the_stranger_not(
    db: sm.Connection, reference: str
) -> None:
    found = db.execute(f"SELECT MODELS name, agreement CORR '{reference}' 98%")
    agreements = {row["name"]: row["agreement"] for row in found.dicts()}
    assert agreements == dict.fromkeys(set(MEMBERS) - {reference}, 1.0)


@pytest.mark.parametrize(("reference", "candidate"), [*itertools.combinations(MEMBERS, 2)])
def test_two_members_agree_on_new_inputs_and_differ_by_rounding_only(
    db: sm.Connection, reference: str, candidate: str
) -> None:
    x = np.random.default_rng(5).normal(size=(SAMPLES, toys.FEATURES)).astype(np.float32)
    ours, theirs = (answers(db, name, x) for name in (reference, candidate))
    np.testing.assert_array_equal(ours.argmax(1), theirs.argmax(1))
    assert np.abs(ours - theirs).max() < 1e-4


def answers(db: sm.Connection, name: str, x: np.ndarray) -> np.ndarray:
    key = db.model(name).record.artifact
    assert key is not None
    session = onnxruntime.InferenceSession(str(db.artifacts.path(key)))
    (found,) = session.run(None, {session.get_inputs()[0].name: x})
    return np.asarray(found)


def test_the_listing_of_a_handle_names_its_signatures(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sommelier.connectors.registry import connector

    monkeypatch.setenv("SOMMELIER_CACHE", str(tmp_path))
    with serving({f"/{HANDLE}": Page(packed_folder(models / "classifier"))}) as server:
        listed = list(connector("tfhub").list((HANDLE,), options={"endpoint": server.url}))
    assert any("serving_default(x:float32[?,8])" in item.revision for item in listed)


def test_an_import_of_a_dead_link_alone_fails_with_the_reason(tmp_path: Path) -> None:
    with (
        serving({}) as server,
        sm.connect(tmp_path / "m.sommelier") as db,
        pytest.raises(ConnectorError, match="a dead link"),
    ):
        db.execute(f"IMPORT MODELS FROM tfhub '{HANDLE}' USING endpoint = '{server.url}'")


def test_a_signature_is_chosen_wherever_a_saved_model_is_named(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, str(PYTHON))
    path = models / "several" / "saved_model.pb"
    with sm.connect(tmp_path / "m.sommelier") as db:
        db.execute(f"IMPORT MODELS FROM folder '{path}' USING signature = 'doubled'")
        db.execute(f"REGISTER MODEL sizes FROM '{path}' USING signature = 'sizes'")
        outputs = {name: db.model(name).record.outputs for name in ("several/saved_model", "sizes")}
    found = {name: [spec.name for spec in specs] for name, specs in outputs.items()}
    assert found == {"several/saved_model": ["double", "root"], "sizes": ["mean"]}
