"""External data is judged once, by the same rules for who fetches a model and who reads it."""

from __future__ import annotations

import time
from pathlib import Path

import onnx
import pytest

from sommelier.analysis.inspection import inspect
from sommelier.connectors.registry import connector
from sommelier.errors import RejectedModelError
from sommelier.records import Artifact, Rejection
from sommelier.storage import external_data
from sommelier.storage.artifacts import ArtifactStore
from sommelier.storage.external_data import MAX_PARTS, external_files, files_of
from tests.factories import external_data_model


def restated(path: Path, **entries: str) -> Path:
    """The model, where its tensors state these entries about their external data."""
    model = onnx.load(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = entries.get(entry.key, entry.value)
    path.write_bytes(model.SerializeToString())
    return path


def fetched(path: Path) -> Artifact | Rejection:
    (item,) = connector("folder").fetch((str(path),), options={}, progress=None)
    return item


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"location": "/etc/passwd"}, "outside the model's folder"),
        ({"location": "../x.bin"}, "outside the model's folder"),
        ({"location": "none.bin"}, "is missing"),
        ({"location": "folder"}, "is not a regular file"),
        ({"length": "4"}, "but claims 4 in"),
        ({"length": "many"}, "impossible length"),
        ({"offset": "-1"}, "impossible offset"),
        ({"offset": "1000000000"}, "is cut short"),
        ({"offset": "4", "length": "0"}, "is cut short"),  # the shape says how much is needed
    ],
)
def test_who_fetches_and_who_reads_a_model_give_the_same_reason(
    tmp_path: Path, entries: dict[str, str], reason: str
) -> None:
    (tmp_path / "folder").mkdir()
    path = restated(external_data_model(tmp_path / "m.onnx"), **entries)
    item = fetched(path)
    assert isinstance(item, Rejection)
    assert reason in item.reason
    with pytest.raises(RejectedModelError) as caught:
        inspect(path)
    assert caught.value.message == item.reason


def test_a_claim_hidden_in_training_information_is_found_by_both(tmp_path: Path) -> None:
    path = external_data_model(tmp_path / "m.onnx")
    model = onnx.load(str(path), load_external_data=False)
    hidden = model.training_info.add().initialization.initializer.add(name="h", data_type=1)
    hidden.data_location = onnx.TensorProto.EXTERNAL
    hidden.external_data.add(key="location", value="/etc/passwd")
    for ask in (lambda: list(files_of(model, tmp_path)), lambda: external_files(save(model, path))):
        with pytest.raises(RejectedModelError, match="absolute path"):
            ask()


def save(model: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


def test_a_model_in_a_folder_behind_a_link_can_be_kept(tmp_path: Path) -> None:
    """The files are named as the model is: below the link, not where it leads."""
    (tmp_path / "real").mkdir()
    external_data_model(tmp_path / "real" / "m.onnx")
    (tmp_path / "link").symlink_to("real")
    path = tmp_path / "link" / "m.onnx"
    files = external_files(path)
    assert files == [tmp_path / "link" / "m.onnx.data"]
    store = ArtifactStore(tmp_path / "store")
    store.verify(store.put(path, external=files))


def test_a_graph_of_too_many_parts_is_refused_before_they_are_looked_at(tmp_path: Path) -> None:
    model = onnx.ModelProto(ir_version=8)
    model.graph.ParseFromString(b"\x0a\x00" * (MAX_PARTS + 1))  # empty nodes
    assert len(model.graph.node) > MAX_PARTS
    before = time.monotonic()
    with pytest.raises(RejectedModelError, match="more than 1000000 nodes"):
        files_of(model, tmp_path)
    assert time.monotonic() - before < 1


@pytest.mark.parametrize("where", ["initializer", "attribute", "tensors", "graphs"])
def test_all_parts_of_a_graph_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr(external_data, "MAX_PARTS", 10)
    model = onnx.ModelProto(ir_version=8)
    node = model.graph.node.add()
    many = {"initializer": model.graph.initializer, "attribute": node.attribute}
    if where not in many:
        many[where] = getattr(node.attribute.add(), where)
    for _ in range(10):
        many[where].add()
    with pytest.raises(RejectedModelError, match="nodes, attributes and weights"):
        files_of(model, tmp_path)
    del many[where][-3:]
    assert files_of(model, tmp_path) == []
